//! What went wrong on the way to Redis, and what follows from it.

use redis::{ErrorKind, RedisError};

use crate::store::StoreError;

/// Longest text of a server that is passed on, in bytes.
const MAX_TEXT: usize = 300;

/// What an error means for the call and for its connection. The texts name the fault, never a
/// credential, and fit behind "Redis: ".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The connection is broken, or leads to a server that takes no writes: another must be made.
    Broken(String),
    /// The server cannot do this now; the connection is good.
    Refused(String),
    /// The key is on its way to another node of the cluster: to be tried again.
    Moving(String),
    /// The server does not know this script (any more).
    NoScript,
    /// The command itself is at fault.
    Fault(String),
}

impl Trouble {
    pub(super) fn of(error: &RedisError) -> Self {
        match error.code() {
            Some("NOSCRIPT") => Trouble::NoScript,
            Some("READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "NOAUTH") => {
                Trouble::Broken(text(error))
            }
            Some("MOVED" | "ASK" | "TRYAGAIN") => Trouble::Moving(text(error)),
            // MISCONF: the server stopped writes because it cannot save; NOREPLICAS: too few replicas
            // follow it; BUSY: a script of somebody's runs too long.
            Some("OOM" | "MISCONF" | "NOREPLICAS" | "BUSY" | "WRONGPASS") => {
                Trouble::Refused(text(error))
            }
            Some(_) => Trouble::Fault(text(error)),
            None => match error.kind() {
                ErrorKind::Io
                | ErrorKind::Parse
                | ErrorKind::AuthenticationFailed
                | ErrorKind::ClusterConnectionNotFound => Trouble::Broken(text(error)),
                _ => Trouble::Fault(text(error)),
            },
        }
    }
}

impl From<Trouble> for StoreError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Broken(why) | Trouble::Refused(why) | Trouble::Moving(why) => away(&why),
            Trouble::NoScript => away("it lost a script twice within one call"),
            Trouble::Fault(why) => StoreError::Fault(format!("Redis: {why}")),
        }
    }
}

pub(super) fn away(why: &str) -> StoreError {
    StoreError::Unavailable(format!("Redis: {why}"))
}

/// The error in words that may be shown. A server that does not know AUTH or HELLO quotes their
/// arguments, the password among them: that part is left out.
pub(super) fn text(error: &RedisError) -> String {
    if error.kind() == ErrorKind::AuthenticationFailed {
        return String::from("the user or password was refused");
    }
    let text = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => error.to_string(),
    };
    let unquoted = text.split(", with args").next().unwrap_or_default();
    let mut end = unquoted.len().min(MAX_TEXT);
    while !unquoted.is_char_boundary(end) {
        end -= 1;
    }
    unquoted
        .get(..end)
        .unwrap_or_default()
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use redis::{ServerErrorKind, make_extension_error};

    use super::*;

    #[test]
    fn each_error_has_its_consequence() {
        let of = |code: &str| {
            let answer = format!("-{code} some words\r\n");
            let error = redis::parse_redis_value(answer.as_bytes()).unwrap();
            Trouble::of(&error.extract_error().unwrap_err())
        };
        for code in ["READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH"] {
            assert_eq!(of(code), Trouble::Broken(format!("{code} some words")));
        }
        for code in ["OOM", "MISCONF", "NOREPLICAS", "BUSY", "WRONGPASS"] {
            assert_eq!(of(code), Trouble::Refused(format!("{code} some words")));
        }
        assert_eq!(of("NOSCRIPT"), Trouble::NoScript);
        for code in ["MOVED", "ASK", "TRYAGAIN"] {
            assert!(matches!(of(code), Trouble::Moving(_)), "{code}");
        }
        for code in ["ERR", "WRONGTYPE", "CROSSSLOT", "NOPERM"] {
            assert!(
                matches!(StoreError::from(of(code)), StoreError::Fault(_)),
                "{code}"
            );
        }
        let io = RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert!(matches!(Trouble::of(&io), Trouble::Broken(_)));
    }

    #[test]
    fn quoted_arguments_and_long_texts_are_cut() {
        let quoting = "unknown command 'AUTH', with args beginning with: 'secret'";
        let error = make_extension_error(String::from("ERR"), Some(quoting.to_owned()));
        assert_eq!(text(&error), "ERR unknown command 'AUTH'");
        let long = make_extension_error(String::from("X"), Some("é".repeat(400)));
        assert!(text(&long).len() <= MAX_TEXT);
        let refused =
            RedisError::from((ErrorKind::AuthenticationFailed, "it", "secret".to_owned()));
        assert!(!text(&refused).contains("secret"));
        let known = ErrorKind::Server(ServerErrorKind::ReadOnly);
        assert!(!text(&RedisError::from((known, "it"))).is_empty());
    }
}
