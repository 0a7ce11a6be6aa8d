//! The `model` field of a multipart upload (RFC 7578), where it comes before the file.

use memchr::memmem;

/// Finds the form field `model` in the first bytes of a multipart body. `None` where it is not
/// whole within `head`, comes after a part that is not, or is given twice differently.
pub fn multipart_model(content_type: &str, head: &[u8]) -> Option<String> {
    let boundary = boundary(content_type)?;
    let delimiter = format!("\r\n--{boundary}");
    let mut rest = after_first_delimiter(head, &delimiter)?;
    let mut model: Option<String> = None;
    // Each turn stands just behind a delimiter; a part counts only with the delimiter after it.
    while let Some(headers_len) = memmem::find(rest, b"\r\n\r\n") {
        let headers = &rest[..headers_len];
        let body = &rest[headers_len + 4..];
        let Some(end) = memmem::find(body, delimiter.as_bytes()) else {
            break;
        };
        if is_model_field(headers) {
            let value = std::str::from_utf8(&body[..end]).ok()?.trim();
            if model.as_deref().is_some_and(|model| model != value) {
                return None;
            }
            model = Some(value.to_owned());
        }
        rest = &body[end + delimiter.len()..];
        if rest.starts_with(b"--") {
            break;
        }
    }
    model.filter(|model| !model.is_empty() && model.len() <= 256)
}

fn after_first_delimiter<'h>(head: &'h [u8], delimiter: &str) -> Option<&'h [u8]> {
    let first = delimiter.as_bytes().get(2..)?;
    if let Some(rest) = head.strip_prefix(first) {
        return Some(rest);
    }
    let at = memmem::find(head, delimiter.as_bytes())?;
    head.get(at + delimiter.len()..)
}

fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let value = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("boundary")
            .then(|| value.trim().trim_matches('"').to_owned())
    })?;
    // RFC 2046 section 5.1.1: 1 to 70 characters.
    (1..=70).contains(&value.len()).then_some(value)
}

fn is_model_field(headers: &[u8]) -> bool {
    let text = String::from_utf8_lossy(headers);
    text.lines().any(|line| {
        let Some((name, value)) = line.split_once(':') else {
            return false;
        };
        let mut parameters = value.split(';').map(str::trim);
        name.trim().eq_ignore_ascii_case("content-disposition")
            && parameters
                .next()
                .is_some_and(|kind| kind.eq_ignore_ascii_case("form-data"))
            && parameters.any(|parameter| {
                parameter.split_once('=').is_some_and(|(name, value)| {
                    name.trim().eq_ignore_ascii_case("name")
                        && value.trim().trim_matches('"') == "model"
                })
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "multipart/form-data; boundary=\"xx\"";

    fn part(name: &str, value: &str) -> String {
        format!("--xx\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    }

    #[test]
    fn the_model_is_found_before_the_file_only() {
        let file =
            "--xx\r\nContent-Disposition: form-data; name=\"file\"; filename=\"model\"\r\n\r\nRIFF";
        let before = format!(
            "{}{}{file}",
            part("language", "en"),
            part("model", "whisper-1")
        );
        assert_eq!(
            multipart_model(TYPE, before.as_bytes()).as_deref(),
            Some("whisper-1")
        );
        assert_eq!(multipart_model(TYPE, file.as_bytes()), None);
        let late = format!("{file}\r\n{}--xx--", part("model", "m"));
        assert_eq!(multipart_model(TYPE, late.as_bytes()).as_deref(), Some("m"));
    }

    #[test]
    fn a_cut_field_another_type_and_two_models_are_none() {
        assert_eq!(
            multipart_model(TYPE, part("model", "whi").trim_end().as_bytes()),
            None
        );
        assert_eq!(
            multipart_model("application/json", part("model", "m").as_bytes()),
            None
        );
        let twice = format!("{}{}--xx--", part("model", "a"), part("model", "b"));
        assert_eq!(multipart_model(TYPE, twice.as_bytes()), None);
    }
}
