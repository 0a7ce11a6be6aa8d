//! The `model` field of a multipart upload (RFC 7578), where it comes before the file.

use std::ops::Range;

use memchr::memmem;

/// The field `model` of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormModel {
    pub name: String,
    /// Where it stands; in more than one place where it is given twice.
    pub places: Vec<Range<usize>>,
}

impl FormModel {
    /// The form with another model in it.
    pub fn replaced(&self, form: &[u8], model: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(form.len() + model.len());
        let mut at = 0;
        for place in &self.places {
            out.extend_from_slice(form.get(at..place.start).unwrap_or_default());
            out.extend_from_slice(model.as_bytes());
            at = place.end;
        }
        out.extend_from_slice(form.get(at..).unwrap_or_default());
        out
    }
}

/// Finds the form field `model` in the first bytes of a multipart body. `None` where it is not
/// whole within `head`, comes after a part that is not, or is given twice differently.
pub fn multipart_model(content_type: &str, head: &[u8]) -> Option<FormModel> {
    let boundary = boundary(content_type)?;
    let delimiter = format!("\r\n--{boundary}");
    let mut rest = after_first_delimiter(head, &delimiter)?;
    let mut model: Option<&str> = None;
    let mut places = Vec::new();
    // Each turn stands just behind a delimiter; a part counts only with the delimiter after it.
    while let Some(headers_len) = memmem::find(rest, b"\r\n\r\n") {
        let headers = &rest[..headers_len];
        let body = &rest[headers_len + 4..];
        let Some(end) = memmem::find(body, delimiter.as_bytes()) else {
            break;
        };
        if is_model_field(headers) {
            let text = std::str::from_utf8(&body[..end]).ok()?;
            let value = text.trim();
            if model.is_some_and(|model| model != value) {
                return None;
            }
            let before = text.len() - text.trim_start().len();
            let start = head.len() - body.len() + before;
            places.push(start..start + value.len());
            model = Some(value);
        }
        rest = &body[end + delimiter.len()..];
        if rest.starts_with(b"--") {
            break;
        }
    }
    let name = model.filter(|model| !model.is_empty() && model.len() <= 256)?;
    let name = name.to_owned();
    Some(FormModel { name, places })
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
        let name = |form: &str| Some(multipart_model(TYPE, form.as_bytes())?.name);
        assert_eq!(name(&before).as_deref(), Some("whisper-1"));
        assert_eq!(multipart_model(TYPE, file.as_bytes()), None);
        let late = format!("{file}\r\n{}--xx--", part("model", "m"));
        assert_eq!(name(&late).as_deref(), Some("m"));
    }

    #[test]
    fn another_model_takes_its_place_wherever_it_stands() {
        let form = |model: &str| {
            format!(
                "{}{}{}--xx--",
                part("model", model),
                part("language", "a"),
                part("model", &format!(" {model} "))
            )
        };
        let found = multipart_model(TYPE, form("a").as_bytes()).unwrap();
        let put = found.replaced(form("a").as_bytes(), "whisper-1");
        assert_eq!(String::from_utf8(put).unwrap(), form("whisper-1"));
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
