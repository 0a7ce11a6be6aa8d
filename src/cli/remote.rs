//! The admin service, as commands ask it.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::Value;

use super::wire::{Address, Lost};

const DEFAULT: &str = "http://127.0.0.1:8788";
/// For a whole call. The service itself waits 30 s for a body at most.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Where the admin service is, and who asks it.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Address of the admin service
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "QUOTA_PROXY_ADMIN",
        hide_env_values = true,
        default_value = DEFAULT
    )]
    admin: String,
    /// Read the admin token from this file, not from $ADMIN_TOKEN
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// A call that was not answered with what it asked for.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Fault {
    /// `None` where there was no answer: what the call asked for may have been done nevertheless.
    pub status: Option<StatusCode>,
    text: String,
}

impl From<Fault> for String {
    fn from(fault: Fault) -> String {
        fault.text
    }
}

/// A signed-in client.
#[derive(Debug)]
pub struct Remote {
    address: Address,
    bearer: HeaderValue,
    /// Where the token came from, for messages.
    token_source: String,
}

impl Remote {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// A text for the person at the terminal: no token, no address.
    pub fn new(options: &Options) -> Result<Self, String> {
        let address = address(&options.admin)?;
        let (token, token_source) = token(options)?;
        let mut bearer = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| format!("{token_source} holds letters that no token has"))?;
        bearer.set_sensitive(true);
        Ok(Remote {
            address,
            bearer,
            token_source,
        })
    }

    /// # Errors
    /// [`Fault`].
    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Fault> {
        self.call(Method::GET, path, query, None).await
    }

    /// # Errors
    /// [`Fault`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Fault> {
        self.call(Method::POST, path, &[], Some(body)).await
    }

    /// # Errors
    /// [`Fault`].
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, Fault> {
        let mut target = format!("{}{path}", self.address.base);
        for (at, (name, value)) in query.iter().enumerate() {
            let before = if at == 0 { '?' } else { '&' };
            target.push_str(&format!("{before}{name}={}", escaped(value)));
        }
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(AUTHORIZATION, self.bearer.clone())
            .header(ACCEPT, "application/json");
        let body = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(body)).map_err(|fault| Fault {
            status: None,
            text: fault.to_string(),
        })?;
        let answer = tokio::time::timeout(TIMEOUT, self.address.ask(request)).await;
        let answer = answer.unwrap_or(Err(Lost::TimedOut));
        let (status, bytes) = answer.map_err(|lost| self.unanswered(lost))?;
        let body = serde_json::from_slice::<Value>(&bytes).ok();
        match body {
            Some(body) if status == StatusCode::OK => Ok(body),
            body => Err(self.refused(status, body.as_ref())),
        }
    }

    fn unanswered(&self, lost: Lost) -> Fault {
        let at = &self.address;
        let text = match lost {
            Lost::NotReached(why) => format!(
                "no admin service at {at}: {why}\n\
                 Start one with `quota-proxy serve`, or say where it is with --admin URL or $QUOTA_PROXY_ADMIN"
            ),
            Lost::TimedOut => format!(
                "the admin service at {at} did not answer within {} s",
                TIMEOUT.as_secs()
            ),
            Lost::BrokeOff(why) => format!("the admin service at {at} broke off: {why}"),
        };
        Fault { status: None, text }
    }

    fn refused(&self, status: StatusCode, body: Option<&Value>) -> Fault {
        let at = &self.address;
        let said = body.and_then(|body| {
            let coded = &body["error"]["message"];
            body["detail"].as_str().or_else(|| coded.as_str())
        });
        let text = match (status, said) {
            (StatusCode::UNAUTHORIZED, Some(said)) => format!(
                "the admin service at {at} does not know the token of {}: {said}",
                self.token_source
            ),
            (_, Some("path not found")) => format!(
                "there is nothing of that kind at {at}: is this the port of the edge, or an older \
                 release? Say where the admin service is with --admin URL"
            ),
            (_, Some(said)) => said.to_owned(),
            (_, None) => format!(
                "what answers at {at} ({status}) is no admin service of quota-proxy: \
                 is this the port of the edge? Say where it is with --admin URL"
            ),
        };
        Fault {
            status: Some(status),
            text,
        }
    }
}

fn address(text: &str) -> Result<Address, String> {
    let text = match text.trim() {
        "" => DEFAULT,
        text => text,
    };
    let with_scheme = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    if with_scheme.contains('@') {
        return Err(String::from(
            "--admin: a URL on the command line can be read by others; give the token by $ADMIN_TOKEN or --token-file",
        ));
    }
    Address::parse(&with_scheme).ok_or_else(|| {
        format!("--admin: expected a URL such as {DEFAULT} or https://proxy.example/quota")
    })
}

/// A value as a query string takes it (RFC 3986, section 2.3).
fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// The token and where it came from.
fn token(options: &Options) -> Result<(String, String), String> {
    let (text, source) = match &options.token_file {
        Some(path) => {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path);
            (text.map_err(|fault| format!("{name}: {fault}"))?, name)
        }
        None => {
            let text = std::env::var("ADMIN_TOKEN").unwrap_or_default();
            (text, String::from("$ADMIN_TOKEN"))
        }
    };
    let text = text.trim();
    if text.is_empty() {
        return Err(format!(
            "no admin token: {source} is empty. Set $ADMIN_TOKEN to admin.token of the server's \
             configuration, or name a file that holds it with --token-file"
        ));
    }
    Ok((text.to_owned(), source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_in_a_query() {
        assert_eq!(escaped("a-Z 9&=+é"), "a-Z%209%26%3D%2B%C3%A9");
    }

    #[test]
    fn addresses() {
        let ok = |text: &str| address(text).unwrap().to_string();
        assert_eq!(ok("127.0.0.1:8788"), "http://127.0.0.1:8788");
        assert_eq!(ok(" "), "http://127.0.0.1:8788");
        assert_eq!(ok("https://p.example/quota"), "https://p.example/quota");
        for bad in [
            "ftp://a",
            "http://",
            "://",
            "http://a?b",
            "http://me:secret@a",
        ] {
            let fault = address(bad).unwrap_err();
            assert!(fault.starts_with("--admin: "), "{bad}: {fault}");
            assert!(!fault.contains("secret"), "{fault}");
        }
    }
}
