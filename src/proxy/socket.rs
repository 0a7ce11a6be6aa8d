//! Whether a request opens a WebSocket, and what its head says of it.

use http::header;
use pingora::http::RequestHeader;

/// What the head of a request for a WebSocket says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketFacts {
    pub model: Option<String>,
}

impl SocketFacts {
    /// `None` where the request opens none. One is opened by a GET over HTTP/1.1 that asks for an
    /// upgrade to `websocket` and to nothing else (RFC 6455 section 4.1). Whatever else names it passes
    /// as a plain request, and is what its path says.
    pub fn read(head: &RequestHeader) -> Option<SocketFacts> {
        let opens = head.method == http::Method::GET
            && head.version == http::Version::HTTP_11
            && tokens(head, &header::CONNECTION).any(|one| one.eq_ignore_ascii_case("upgrade"))
            && tokens(head, &header::UPGRADE).all(|one| one.eq_ignore_ascii_case("websocket"))
            && head.headers.contains_key(header::UPGRADE);
        opens.then(|| SocketFacts {
            model: query_model(head.uri.query().unwrap_or_default()),
        })
    }
}

/// What a list of tokens names; a value that is no text names something that nobody knows.
fn tokens<'a>(head: &'a RequestHeader, name: &header::HeaderName) -> impl Iterator<Item = &'a str> {
    let values = head.headers.get_all(name).into_iter();
    let values = values.map(|value| value.to_str().unwrap_or("?"));
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// The model that a query names. With percent escapes it is none that a pool could know; named twice,
/// or under an escaped name, it is not known which of them a provider takes.
fn query_model(query: &str) -> Option<String> {
    let mut named = query.split('&').filter_map(|pair| {
        let (name, model) = pair.split_once('=').unwrap_or((pair, ""));
        (name == "model" || name.contains('%')).then_some((name, model))
    });
    let (name, model) = named.next().filter(|_| named.next().is_none())?;
    let is_plain = name == "model" && !model.is_empty() && !model.contains(['%', '+']);
    is_plain.then(|| model.to_owned())
}

/// A page cannot give a WebSocket headers: OpenAI's clients put the key after this into the list of
/// protocols.
pub const KEY_PROTOCOL: &str = "openai-insecure-api-key.";

/// The protocols that a request for a WebSocket offers (RFC 6455 section 11.3.4).
pub fn offered_protocols(head: &RequestHeader) -> impl Iterator<Item = &str> {
    let values = head.headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let values = values.iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(',')).map(str::trim);
    names.filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opens(method: &str, headers: &[(&'static str, &str)]) -> bool {
        let mut head = RequestHeader::build(method, b"/v1/realtime?model=m", None).unwrap();
        for (name, value) in headers {
            head.append_header(*name, *value).unwrap();
        }
        SocketFacts::read(&head).is_some()
    }

    #[test]
    fn a_socket_is_opened_by_a_get_that_asks_for_it_and_for_nothing_else() {
        let upgrade = ("connection", "keep-alive, Upgrade");
        assert!(opens("GET", &[upgrade, ("upgrade", "WebSocket")]));
        assert!(!opens("POST", &[upgrade, ("upgrade", "websocket")]));
        assert!(!opens("GET", &[("upgrade", "websocket")]));
        assert!(!opens("GET", &[upgrade]));
        for other in ["x-websocket", "websocket/13", "websocket, h2c", "h2c", ""] {
            assert!(!opens("GET", &[upgrade, ("upgrade", other)]), "{other}");
        }
        let twice = [upgrade, ("upgrade", "websocket"), ("upgrade", "h2c")];
        assert!(!opens("GET", &twice));
    }

    #[test]
    fn a_query_names_one_model_or_none() {
        let model = |query| query_model(query);
        assert_eq!(model("a=b&model=gpt-4o").as_deref(), Some("gpt-4o"));
        for query in [
            "",
            "model",
            "model=",
            "model=gpt%2D4o",
            "model=a&model=b",
            "model=a&m%6fdel=b",
            "m%6fdel=b",
        ] {
            assert_eq!(model(query), None, "{query}");
        }
    }
}
