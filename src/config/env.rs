//! `${NAME}` and `${NAME:-default}` in values.

/// Looks up an environment variable; `None` where it is not set.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A value after expansion, and the variables it came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    pub text: String,
    pub names: Vec<String>,
}

/// Expands `text` as a shell would: `${NAME}` must be set, `${NAME:-default}` takes the default where
/// it is unset or empty, `$${` stands for a literal `${`, any other `$` for itself. What a variable
/// holds is not expanded again.
///
/// # Errors
/// Every unset or malformed reference, as one message.
pub fn expand(text: &str, env: Env<'_>) -> Result<Expanded, String> {
    let mut expanded = Expanded::default();
    let mut faults = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, reference) = rest.split_at(at);
        if let Some(kept) = before.strip_suffix('$') {
            expanded.text.push_str(kept);
            expanded.text.push_str("${");
            rest = reference.get(2..).unwrap_or_default();
            continue;
        }
        expanded.text.push_str(before);
        let Some(end) = reference.find('}') else {
            faults.push(String::from(
                "a `${` has no closing `}`; write ${NAME}, or $${ for a literal ${",
            ));
            rest = "";
            break;
        };
        match resolve(reference.get(2..end).unwrap_or_default(), env) {
            Ok((name, value)) => {
                expanded.text.push_str(&value);
                expanded.names.push(name);
            }
            Err(fault) => faults.push(fault),
        }
        rest = reference.get(end + 1..).unwrap_or_default();
    }
    expanded.text.push_str(rest);
    if faults.is_empty() {
        Ok(expanded)
    } else {
        Err(faults.join("; "))
    }
}

/// What stands between `${` and `}`, as the variable's name and its value.
fn resolve(reference: &str, env: Env<'_>) -> Result<(String, String), String> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if default.is_some_and(|default| default.contains("${")) {
        return Err(String::from(
            "a default holds another `${`; give a plain default",
        ));
    }
    if !is_name {
        return Err(String::from(
            "between `${` and `}` stands no name of a variable; write ${NAME} or ${NAME:-default}",
        ));
    }
    let value = match (env(name), default) {
        (Some(value), None) => value,
        (Some(value), Some(_)) if !value.is_empty() => value,
        (_, Some(default)) => String::from(default),
        (None, None) => {
            return Err(format!(
                "${{{name}}} is not set; set it, or give a default as ${{{name}:-…}}"
            ));
        }
    };
    Ok((String::from(name), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Result<String, String> {
        let env = |name: &str| match name {
            "PORT" => Some(String::from("8787")),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some(String::from("${PORT}")),
            _ => None,
        };
        expand(text, &env).map(|expanded| expanded.text)
    }

    #[test]
    fn expands_as_a_shell_would() {
        assert_eq!(with("0.0.0.0:${PORT}!").as_deref(), Ok("0.0.0.0:8787!"));
        assert_eq!(with("${GONE:-9}${EMPTY:-8}${EMPTY}").as_deref(), Ok("98"));
        assert_eq!(with("${NESTED}").as_deref(), Ok("${PORT}"));
        assert_eq!(with("$argon2id$v=19$m").as_deref(), Ok("$argon2id$v=19$m"));
        assert_eq!(with("$${PORT} $5").as_deref(), Ok("${PORT} $5"));
        assert_eq!(with("${GONE:-}").as_deref(), Ok(""));
    }

    #[test]
    fn names_every_variable_that_is_not_set() {
        let message = with("${GONE}-${LOST}").unwrap_err();
        assert!(
            message.contains("${GONE} is not set; set it, or give a default as ${GONE:-…}"),
            "{message}"
        );
        assert!(message.contains("${LOST} is not set"), "{message}");
        assert!(with("${PORT").is_err());
        assert!(with("${GONE:-${PORT}}").is_err());
        assert!(with("${}").is_err());
        assert!(with("${1A}").is_err());
    }
}
