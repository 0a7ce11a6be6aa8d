//! Comma-separated values (RFC 4180), to read and to write.

/// The records of a text, each with the line it begins at, from 1. Blank lines are none.
///
/// # Errors
/// A quote that is not closed, or stands in the middle of a field, with its line.
pub fn read(text: &str) -> Result<Vec<(usize, Vec<String>)>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut records = Vec::new();
    let (mut line, mut begun_at) = (1, 1);
    let (mut record, mut field) = (Vec::new(), String::new());
    // Whether we are inside quotes; whether the field had any.
    let (mut quoted, mut was_quoted) = (false, false);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == '\n' {
            line += 1;
        }
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            _ if quoted => field.push(letter),
            '"' if field.is_empty() && !was_quoted => (quoted, was_quoted) = (true, true),
            '"' => return Err(format!("line {line}: a quote in the middle of a field")),
            ',' => {
                record.push(std::mem::take(&mut field));
                was_quoted = false;
            }
            '\r' if letters.peek() == Some(&'\n') => {}
            '\n' => {
                let is_blank = record.is_empty() && field.is_empty() && !was_quoted;
                record.push(std::mem::take(&mut field));
                was_quoted = false;
                let whole = std::mem::take(&mut record);
                if !is_blank {
                    records.push((begun_at, whole));
                }
                begun_at = line;
            }
            _ if was_quoted => return Err(format!("line {line}: letters after a quoted field")),
            _ => field.push(letter),
        }
    }
    if quoted {
        return Err(format!("line {begun_at}: a quote is not closed"));
    }
    if !record.is_empty() || !field.is_empty() || was_quoted {
        record.push(field);
        records.push((begun_at, record));
    }
    Ok(records)
}

/// One record with its line end.
pub fn write<'a>(fields: impl IntoIterator<Item = &'a str>) -> String {
    let fields = fields.into_iter().map(|field| {
        // A spreadsheet takes what begins like this for a formula; names come from callers.
        let field = match field.starts_with(['=', '+', '-', '@', '\t']) {
            true if field.parse::<f64>().is_err() => format!("'{field}"),
            _ => field.to_owned(),
        };
        match field.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", field.replace('"', "\"\"")),
            false => field,
        }
    });
    let fields: Vec<String> = fields.collect();
    fields.join(",") + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_and_their_lines() {
        let text = "\u{feff}a,b\r\n\r\n\"x, \"\"y\"\"\nz\",\n,last";
        let records = read(text).unwrap();
        let expected = [(1, ["a", "b"]), (3, ["x, \"y\"\nz", ""]), (5, ["", "last"])];
        let expected = expected.map(|(line, fields)| (line, fields.map(String::from).to_vec()));
        assert_eq!(records, expected);
        for (bad, at) in [
            ("a\n\"b", "line 2"),
            ("a\"b\"", "line 1"),
            ("\"a\"b", "line 1"),
        ] {
            assert!(read(bad).unwrap_err().starts_with(at), "{bad}");
        }
    }

    #[test]
    fn a_formula_is_text() {
        assert_eq!(write(["=1+1", "-2", "a,b"]), "'=1+1,-2,\"a,b\"\r\n");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(fields in proptest::collection::vec("[a-z,\"\r\n é]{1,8}", 1..5)) {
            let text = write(fields.iter().map(String::as_str));
            prop_assert_eq!(read(&text).unwrap(), vec![(1, fields)]);
        }
    }
}
