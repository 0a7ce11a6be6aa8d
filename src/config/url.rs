//! URLs of upstream endpoints.

/// A URL split as a connector needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub tls: bool,
    /// Lower case; IPv6 in brackets, as a `Host` header has it.
    pub host: String,
    pub port: u16,
    /// `/openai`, without a slash at its end; or empty.
    pub path: String,
    /// Without the `?`; or empty.
    pub query: String,
}

/// Splits `https://host[:port][/path][?query]`.
///
/// # Errors
/// What was expected. It never repeats the URL, which may hold a password.
pub fn endpoint(url: &str) -> Result<Endpoint, String> {
    let expected =
        || String::from("expected a URL such as https://api.openai.com or http://10.0.0.5:8000");
    if url.contains('#') {
        return Err(String::from("expected a URL without a fragment (`#…`)"));
    }
    if url.contains('@') {
        return Err(String::from(
            "expected a URL without user and password; give the secret as `credential`",
        ));
    }
    let uri: http::Uri = url.parse().map_err(|_| expected())?;
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(expected()),
    };
    let authority = uri.authority().ok_or_else(expected)?;
    let host = authority.host().to_ascii_lowercase();
    let has_port = authority.as_str().len() > host.len();
    let port = match authority.port_u16() {
        Some(port) if port > 0 => port,
        None if !has_port => {
            if tls {
                443
            } else {
                80
            }
        }
        _ => {
            return Err(String::from(
                "expected a port from 1 to 65535 after the host",
            ));
        }
    };
    let path = uri.path().trim_end_matches('/');
    if host.is_empty() || path.split('/').any(|part| part == ".." || part == ".") {
        return Err(expected());
    }
    let path = String::from(path);
    let query = uri.query().unwrap_or_default();
    if query.split('&').any(|pair| pair.starts_with("key=")) {
        return Err(String::from(
            "expected a URL without `key` in its query; give the secret as `credential`",
        ));
    }
    Ok(Endpoint {
        tls,
        host,
        port,
        path,
        query: String::from(query),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_what_a_connector_needs() {
        let made = endpoint("https://My-Azure.example/openai/").unwrap();
        assert_eq!(
            made,
            Endpoint {
                tls: true,
                host: String::from("my-azure.example"),
                port: 443,
                path: String::from("/openai"),
                query: String::new(),
            }
        );
        let made = endpoint("https://a.example/deployments/X?api-version=2024-10-21").unwrap();
        assert_eq!(made.path, "/deployments/X");
        assert_eq!(made.query, "api-version=2024-10-21");
        let made = endpoint("http://[::1]:8000").unwrap();
        assert_eq!(
            (made.host.as_str(), made.port, made.tls),
            ("[::1]", 8000, false)
        );
        assert_eq!(made.path, "");
    }

    #[test]
    fn refuses_what_could_mislead() {
        for wrong in [
            "",
            "api.openai.com",
            "ftp://host",
            "https://",
            "https://host?key=pass@",
            "https://host/?a=1&key=x",
            "https://host#x",
            "https://user:pass@host",
            "https://host:0",
            "https://host:99999",
            "https://host:",
            "https://host/a/../b",
            "https://ho st",
            "https:///path",
        ] {
            let message = endpoint(wrong).expect_err(wrong);
            assert!(!message.contains("pass@"), "{message}");
        }
    }
}
