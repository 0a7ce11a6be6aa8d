//! What a request's head says: who calls, from where, in which dialect, and whether it is sound.
//!
//! Pingora lets some heads pass that must not reach a provider; they are refused here, before a
//! byte of the body is read.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use pingora::http::RequestHeader;
use pingora::proxy::Session;

use super::socket::{KEY_PROTOCOL, SocketFacts, offered_protocols};
use super::tls::sound_client;
use crate::exchange::{CallerFacts, Refusal};
use crate::keys::KeyHash;
use crate::language::Language;
use crate::metering::{Dialect, Endpoint, classify, dialect_of_path};

/// Longest path and query taken, in bytes.
const MAX_TARGET: usize = 8 * 1024;

/// The head of one request, read once.
#[derive(Clone, Debug)]
pub struct Facts {
    pub caller: CallerFacts,
    pub endpoint: Endpoint,
    pub dialect: Dialect,
    pub method: String,
    /// Without its query.
    pub path: String,
    pub language: Language,
    pub content_type: String,
    pub expects_continue: bool,
    /// It asks for a WebSocket, with the model in its query.
    pub socket: Option<SocketFacts>,
}

impl Facts {
    /// Reads the head. The faults are about the head itself; whether the key is good is not asked.
    pub fn read(session: &Session, trusted_proxies: &[IpNet]) -> (Facts, Result<(), Refusal>) {
        let head = session.req_header();
        let path = head.uri.path().to_owned();
        let peer_ip = session
            .client_addr()
            .and_then(|addr| addr.as_inet())
            .map(|addr| addr.ip());
        let socket = SocketFacts::read(head);
        let mut facts = Facts {
            caller: CallerFacts {
                hash: None,
                ip: peer_ip.map(|ip| client_ip(head, ip, trusted_proxies)),
                origin: text(head, "origin").map(str::to_owned),
            },
            endpoint: if socket.is_some() {
                // Whatever its path, what is said in there is not seen here.
                Endpoint::Unmetered
            } else {
                classify(head.method.as_str(), &path)
            },
            dialect: dialect_of_path(&path),
            method: head.method.as_str().to_owned(),
            path,
            language: text(head, "accept-language").map_or(Language::English, Language::preferred),
            content_type: text(head, "content-type").unwrap_or_default().to_owned(),
            expects_continue: text(head, "expect")
                .is_some_and(|v| v.eq_ignore_ascii_case("100-continue")),
            socket,
        };
        let sound = sound_client(session)
            .and_then(|()| sound_head(head))
            .and_then(|()| caller_key(head))
            .map(|hash| facts.caller.hash = hash);
        (facts, sound)
    }
}

impl Facts {
    /// Whether the content type is JSON's (RFC 8259) or one built on it (RFC 6839).
    pub fn has_json_type(&self) -> bool {
        is_json_type(&self.content_type)
    }
}

/// The same of any content type.
pub fn is_json_type(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    let essence = essence.trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

/// A header's value where there is exactly one and it is text.
pub fn text<'a>(head: &'a RequestHeader, name: &str) -> Option<&'a str> {
    head.headers.get(name).and_then(|value| value.to_str().ok())
}

/// Refuses heads whose framing or target two servers could read differently (RFC 9112 section 11).
fn sound_head(head: &RequestHeader) -> Result<(), Refusal> {
    if head.method == http::Method::TRACE {
        // Its answer repeats the request, our credential included (RFC 9110 section 9.3.8).
        return Err(Refusal::bad("TRACE is not served"));
    }
    let target = head.raw_path();
    if target.len() > MAX_TARGET {
        return Err(Refusal::bad("the request target is longer than 8 KiB"));
    }
    let path = head.uri.path();
    if path.split('/').any(is_dot_segment) {
        return Err(Refusal::bad("the path has a dot segment; send it resolved"));
    }
    if head.version == http::Version::HTTP_11 && !head.headers.contains_key(http::header::HOST) {
        return Err(Refusal::bad("an HTTP/1.1 request needs a Host header"));
    }
    let mut codings = head.headers.get_all(http::header::TRANSFER_ENCODING).iter();
    if let Some(first) = codings.next()
        && (!first.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some())
    {
        return Err(Refusal::bad(
            "Transfer-Encoding must be chunked, given once",
        ));
    }
    let mut lengths = head.headers.get_all(http::header::CONTENT_LENGTH).iter();
    if let Some(first) = lengths.next() {
        let digits = !first.is_empty() && first.as_bytes().iter().all(u8::is_ascii_digit);
        if !digits || lengths.next().is_some() {
            return Err(Refusal::bad(
                "Content-Length must be one number, given once",
            ));
        }
        if head.headers.contains_key(http::header::TRANSFER_ENCODING) {
            return Err(Refusal::bad(
                "Content-Length and Transfer-Encoding exclude each other",
            ));
        }
    }
    Ok(())
}

fn is_dot_segment(segment: &str) -> bool {
    matches!(segment, "." | "..")
        || (segment.len() <= 6
            && segment.contains('%')
            && matches!(
                segment.to_ascii_lowercase().replace("%2e", ".").as_str(),
                "." | ".."
            ))
}

/// The key from any of its places (SPEC section 3, step 1). Two that differ are a fault.
fn caller_key(head: &RequestHeader) -> Result<Option<KeyHash>, Refusal> {
    let mut found: Option<KeyHash> = None;
    let mut take = |secret: &[u8]| {
        // An SDK whose variable is unset sends an empty header: that is no key.
        if secret.is_empty() {
            return Ok(());
        }
        let hash = KeyHash::of(secret);
        match &found {
            Some(first) if !first.same(&hash) => Err(Refusal::TwoKeys),
            _ => {
                found = Some(hash);
                Ok(())
            }
        }
    };
    for value in head.headers.get_all(http::header::AUTHORIZATION) {
        if let Some(secret) = bearer(value.as_bytes()) {
            take(secret)?;
        }
    }
    for name in ["x-api-key", "x-goog-api-key", "api-key"] {
        for value in head.headers.get_all(name) {
            take(value.as_bytes().trim_ascii())?;
        }
    }
    for secret in offered_protocols(head).filter_map(|name| name.strip_prefix(KEY_PROTOCOL)) {
        take(secret.as_bytes())?;
    }
    for secret in head.uri.query().into_iter().flat_map(query_keys) {
        take(secret.as_bytes())?;
    }
    Ok(found)
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, secret) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| secret.trim_ascii())
}

fn query_keys(query: &str) -> impl Iterator<Item = &str> {
    query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("key="))
}

/// The query without the caller's key, for the upstream and for logs.
pub fn query_without_key(query: &str) -> String {
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| !pair.starts_with("key="))
        .collect();
    kept.join("&")
}

/// The client's address: the connection's, or what trusted proxies say of it. The list is read from
/// the right, and the first address that is not a trusted proxy's own is the client. What cannot be
/// read ends the list: who wrote what stands before it is not known.
fn client_ip(head: &RequestHeader, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |ip: &IpAddr| trusted.iter().any(|net| net.contains(ip));
    let lists: Vec<_> = head.headers.get_all("x-forwarded-for").iter().collect();
    let mut hops = lists
        .iter()
        .rev()
        .flat_map(|list| list.as_bytes().rsplit(|byte| *byte == b','));
    let mut client = peer.to_canonical();
    while is_trusted(&client) {
        let Some(hop) = hops.next().and_then(address) else {
            break;
        };
        client = hop.to_canonical();
    }
    client
}

/// An address as proxies write it: `1.2.3.4`, `::1`, `[::1]`, some of them with a port behind it.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let ip = bare.unwrap_or(text).parse::<IpAddr>().ok();
    ip.or_else(|| text.parse().ok().map(|socket: SocketAddr| socket.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(target: &str, headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build("POST", target.as_bytes(), None).unwrap();
        for (name, value) in headers {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    #[test]
    fn the_key_is_found_in_each_of_its_places() {
        let expected = KeyHash::of(b"k1");
        for headers in [
            &[("authorization", "Bearer k1")][..],
            &[("x-api-key", "k1")],
            &[("x-goog-api-key", "k1")],
            &[("api-key", "k1")],
            &[(
                "sec-websocket-protocol",
                "realtime, openai-insecure-api-key.k1, x",
            )],
        ] {
            assert_eq!(caller_key(&head("/v1/x", headers)).unwrap(), Some(expected));
        }
        assert_eq!(
            caller_key(&head("/v1/x?a=b&key=k1", &[])).unwrap(),
            Some(expected)
        );
        assert_eq!(
            caller_key(&head("/v1/x", &[("authorization", "Basic abc")])).unwrap(),
            None
        );
    }

    #[test]
    fn two_keys_that_differ_are_refused_and_two_alike_are_not() {
        let two = head("/v1/x?key=k2", &[("authorization", "Bearer k1")]);
        assert!(matches!(caller_key(&two), Err(Refusal::TwoKeys)));
        let twice = head(
            "/v1/x",
            &[
                ("authorization", "Bearer k1"),
                ("authorization", "bearer k2"),
            ],
        );
        assert!(matches!(caller_key(&twice), Err(Refusal::TwoKeys)));
        let alike = head("/v1/x?key=k1", &[("x-api-key", "k1")]);
        assert!(caller_key(&alike).unwrap().is_some());
    }

    #[test]
    fn only_trusted_proxies_speak_for_the_client() {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap());
        let of = |peer: &str, lists: &[&[u8]]| {
            let mut request = head("/", &[]);
            for list in lists {
                let list = http::HeaderValue::from_bytes(list).unwrap();
                request.append_header("x-forwarded-for", list).unwrap();
            }
            client_ip(&request, peer.parse().unwrap(), &trusted).to_string()
        };
        for (peer, lists, client) in [
            ("9.9.9.9", &[&b"1.2.3.4"[..]][..], "9.9.9.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &[b"1.2.3.4, 5.6.7.8, 10.0.0.9"], "5.6.7.8"),
            (
                "10.0.0.1",
                &[b"1.2.3.4", b"5.6.7.8", b"10.0.0.9"],
                "5.6.7.8",
            ),
            ("10.0.0.1", &[b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            // IPv4 over IPv6 sockets (RFC 4291 section 2.5.5.2), as peer, proxy and client.
            (
                "::ffff:10.0.0.1",
                &[b"::ffff:5.6.7.8,::ffff:10.0.0.9"],
                "5.6.7.8",
            ),
            ("::ffff:9.9.9.9", &[b"1.2.3.4"], "9.9.9.9"),
            ("fd00::1", &[b"2001:db8::7, fd00::2"], "2001:db8::7"),
            // With ports, and in brackets.
            ("10.0.0.1", &[b"5.6.7.8:4711"], "5.6.7.8"),
            (
                "10.0.0.1",
                &[b"[2001:db8::7]:4711 , 10.0.0.2:80"],
                "2001:db8::7",
            ),
            ("10.0.0.1", &[b"[2001:db8::7]"], "2001:db8::7"),
            // Whoever wrote the rest, it was no trusted proxy.
            ("10.0.0.1", &[b"1.2.3.4, nonsense"], "10.0.0.1"),
            ("10.0.0.1", &[b"1.2.3.4, nonsense, 10.0.0.9"], "10.0.0.9"),
            ("10.0.0.1", &[b"1.2.3.4,"], "10.0.0.1"),
            ("10.0.0.1", &[b"1.2.3.4, unknown"], "10.0.0.1"),
            ("10.0.0.1", &[b"1.2.3.4", b"\xff"], "10.0.0.1"),
            ("10.0.0.1", &[b"1.2.3.4", b"\xff, 5.6.7.8"], "5.6.7.8"),
            ("10.0.0.1", &[b"1.2.3.4", b"\xff, 10.0.0.9"], "10.0.0.9"),
            ("10.0.0.1", &[b"010.2.3.4"], "10.0.0.1"),
        ] {
            assert_eq!(of(peer, lists), client, "{peer} {lists:?}");
        }
    }

    #[test]
    fn unsound_heads_are_refused() {
        for target in ["/v1/../admin", "/v1/%2e%2E/admin", "/./v1"] {
            assert!(
                sound_head(&head(target, &[("host", "a")])).is_err(),
                "{target}"
            );
        }
        let twice = head(
            "/",
            &[
                ("host", "a"),
                ("content-length", "3"),
                ("content-length", "3"),
            ],
        );
        assert!(sound_head(&twice).is_err());
        assert!(sound_head(&head("/", &[("host", "a"), ("content-length", "3, 3")])).is_err());
        assert!(
            sound_head(&head(
                "/v1/models/..a",
                &[("host", "a"), ("content-length", "3")]
            ))
            .is_ok()
        );
    }
}
