//! The admin service, as commands ask it.

use std::error::Error as _;
use std::path::PathBuf;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::{Client, Response, Url};
use serde_json::Value;

const DEFAULT: &str = "http://127.0.0.1:8788";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a whole call. The service itself waits 30 s for a body at most.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of an answer at most: a page of a thousand full records is far below it.
const MAX_ANSWER: usize = 256 << 20;

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
    http: Client,
    base: Url,
    /// Where the token came from, for messages.
    token_source: String,
}

impl Remote {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// A text for the person at the terminal: no token, no address.
    pub fn new(options: &Options) -> Result<Self, String> {
        let base = address(&options.admin)?;
        let (token, token_source) = token(options)?;
        let mut bearer = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| format!("{token_source} holds letters that no token has"))?;
        bearer.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, bearer);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        // An error says that another part of the process has installed it.
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            // The token goes where it was sent, nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|fault| fault.to_string())?;
        Ok(Remote {
            http,
            base,
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
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|e| self.unanswered(&e))?;
        let status = answer.status();
        let bytes = self.whole(answer).await?;
        let body = serde_json::from_slice::<Value>(&bytes).ok();
        match body {
            Some(body) if status == StatusCode::OK => Ok(body),
            body => Err(self.refused(status, body.as_ref())),
        }
    }

    async fn whole(&self, mut answer: Response) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.unanswered(&e))? {
            if bytes.len() + chunk.len() > MAX_ANSWER {
                return Err(Fault {
                    status: Some(answer.status()),
                    text: format!("{} answers without end", self.base),
                });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn unanswered(&self, error: &reqwest::Error) -> Fault {
        let at = &self.base;
        let text = if error.is_connect() {
            format!(
                "no admin service at {at}: {}\n\
                 Start one with `quota-proxy serve`, or say where it is with --admin URL or $QUOTA_PROXY_ADMIN",
                innermost(error)
            )
        } else if error.is_timeout() {
            format!(
                "the admin service at {at} did not answer within {} s",
                TIMEOUT.as_secs()
            )
        } else {
            format!("the admin service at {at} broke off: {}", innermost(error))
        };
        Fault { status: None, text }
    }

    fn refused(&self, status: StatusCode, body: Option<&Value>) -> Fault {
        let at = &self.base;
        let said = body.and_then(|body| {
            let coded = &body["error"]["message"];
            body["detail"].as_str().or_else(|| coded.as_str())
        });
        let text = match (status, said) {
            (StatusCode::UNAUTHORIZED, Some(said)) => format!(
                "the admin service at {at} does not know the token of {}: {said}",
                self.token_source
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

fn address(text: &str) -> Result<Url, String> {
    let text = match text.trim() {
        "" => DEFAULT,
        text => text,
    };
    let with_scheme = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    let url = Url::parse(&with_scheme)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or_else(|| {
        format!("--admin: expected a URL such as {DEFAULT} or https://proxy.example/quota")
    })?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(String::from(
            "--admin: a URL on the command line can be read by others; give the token by $ADMIN_TOKEN or --token-file",
        ));
    }
    Ok(url)
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

/// The cause at the bottom: what stands above it repeats the URL.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    let mut text = String::from("the connection was lost");
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let ok = |text: &str| address(text).unwrap().to_string();
        assert_eq!(ok("127.0.0.1:8788"), "http://127.0.0.1:8788/");
        assert_eq!(ok(" "), "http://127.0.0.1:8788/");
        assert_eq!(ok("https://p.example/quota"), "https://p.example/quota");
        for bad in ["ftp://a", "http://", "://", "http://me:secret@a"] {
            let fault = address(bad).unwrap_err();
            assert!(fault.starts_with("--admin: "), "{bad}: {fault}");
            assert!(!fault.contains("secret"), "{fault}");
        }
    }
}
