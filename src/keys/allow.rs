//! Allow lists: addresses, origins, models. An empty allow list allows all, a denial always wins.

use std::net::IpAddr;

use ipnet::IpNet;

/// Whether `ip` may call. An unknown address passes only where neither list says anything: a list
/// that cannot be checked must not be skipped.
pub fn ip_allowed(allowed: &[IpNet], denied: &[IpNet], ip: Option<IpAddr>) -> bool {
    let Some(ip) = ip else {
        return allowed.is_empty() && denied.is_empty();
    };
    if denied.iter().any(|net| covers(net, ip)) {
        return false;
    }
    allowed.is_empty() || allowed.iter().any(|net| covers(net, ip))
}

/// An IPv4 client of a dual-stack socket appears as `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2): it is the
/// IPv4 address, in a list and in a request alike.
fn covers(net: &IpNet, ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    match (net, ip) {
        (IpNet::V6(mapped), IpAddr::V4(v4)) if mapped.prefix_len() >= 96 => {
            mapped.contains(&v4.to_ipv6_mapped())
        }
        _ => net.contains(&ip),
    }
}

/// Whether a request with this `Origin` header may call. Entries are
///
/// - `example.com` or `example.com:8443`: that host under any scheme (and any port, where none is named);
/// - `https://example.com`: that origin and no other; a default port may be written or left out;
/// - `*.example.com`, with a scheme or without: every subdomain, not `example.com` itself;
/// - `*`: every origin.
///
/// A request without the header passes: only browsers send it. `null` (a sandboxed page) passes by
/// its own entry `null`, or `*`.
pub fn origin_allowed(allowed: &[String], origin: Option<&str>) -> bool {
    let Some(origin) = origin.filter(|_| !allowed.is_empty()) else {
        return true;
    };
    let asked = Origin::parse(origin).filter(|o| o.scheme.is_some() && !o.host.contains('*'));
    allowed.iter().any(|entry| match (entry.trim(), &asked) {
        ("*", _) => true,
        (entry, None) => entry == "null" && origin == "null",
        (entry, Some(asked)) => Origin::parse(entry).is_some_and(|entry| entry.covers(asked)),
    })
}

/// Whether a text can stand in an origin list.
pub fn is_origin_entry(entry: &str) -> bool {
    let entry = entry.trim();
    if entry == "*" || entry == "null" {
        return true;
    }
    Origin::parse(entry).is_some_and(|o| {
        let host = o.host.strip_prefix("*.").unwrap_or(o.host);
        !host.contains('*')
    })
}

/// An origin or an entry of an origin list, RFC 6454.
struct Origin<'a> {
    scheme: Option<&'a str>,
    host: &'a str,
    port: Option<u16>,
}

impl<'a> Origin<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, text),
        };
        let scheme_fits = scheme.is_none_or(|s| {
            !s.is_empty()
                && s.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        });
        let (host, port) = split_port(rest)?;
        let host_fits = !host.is_empty()
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._*:[]".contains(&b));
        (scheme_fits && host_fits).then_some(Origin { scheme, host, port })
    }

    fn covers(&self, asked: &Origin<'_>) -> bool {
        if let Some(scheme) = self.scheme {
            let same_scheme = asked.scheme.is_some_and(|s| s.eq_ignore_ascii_case(scheme));
            if !same_scheme || self.port_or_default() != asked.port_or_default() {
                return false;
            }
        } else if self.port.is_some() && self.port != asked.port_or_default() {
            return false;
        }
        match self.host.strip_prefix("*.") {
            Some(apex) => is_subdomain(asked.host, apex),
            None => asked.host.eq_ignore_ascii_case(self.host),
        }
    }

    fn port_or_default(&self) -> Option<u16> {
        self.port.or_else(|| match self.scheme {
            Some(s) if s.eq_ignore_ascii_case("https") => Some(443),
            Some(s) if s.eq_ignore_ascii_case("http") => Some(80),
            _ => None,
        })
    }
}

/// `host`, `host:port`, `[::1]:port`.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let after_brackets = text.rfind(']').map_or(0, |at| at + 1);
    match text[after_brackets..].find(':') {
        None => Some((text, None)),
        Some(at) => {
            let (host, port) = text.split_at(after_brackets + at);
            Some((host, Some(port[1..].parse().ok()?)))
        }
    }
}

fn is_subdomain(host: &str, apex: &str) -> bool {
    let (host, apex) = (host.as_bytes(), apex.as_bytes());
    if host.len() <= apex.len() + 1 {
        return false;
    }
    let (sub, tail) = host.split_at(host.len() - apex.len());
    sub.last() == Some(&b'.') && tail.eq_ignore_ascii_case(apex)
}

/// Whether a list of `*` globs allows a model. A request without a model passes: what needs a model
/// is refused elsewhere for lacking one.
pub fn model_allowed(allowed: &[String], model: Option<&str>) -> bool {
    let Some(model) = model.filter(|_| !allowed.is_empty()) else {
        return true;
    };
    allowed.iter().any(|pattern| glob(pattern, model))
}

/// `*` matches any run of characters, everything else itself (case counts). Time is at most
/// pattern × text: on a mismatch only the last star is tried again, which is enough since an earlier
/// one has already found its leftmost place.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            star = Some((star_p, star_t + 1));
            p = star_p + 1;
            t = star_t + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|n| n.parse().unwrap()).collect()
    }

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|t| (*t).to_owned()).collect()
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn a_denied_address_is_denied_though_it_is_allowed() {
        let allowed = nets(&["10.0.0.0/8"]);
        let denied = nets(&["10.1.0.0/16"]);
        assert!(ip_allowed(&allowed, &denied, ip("10.2.3.4")));
        assert!(!ip_allowed(&allowed, &denied, ip("10.1.3.4")));
        assert!(!ip_allowed(&allowed, &denied, ip("11.0.0.1")));
        assert!(ip_allowed(&[], &denied, ip("11.0.0.1")));
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_address() {
        assert!(ip_allowed(
            &nets(&["10.0.0.0/8"]),
            &[],
            ip("::ffff:10.9.9.9")
        ));
        assert!(!ip_allowed(
            &[],
            &nets(&["10.0.0.0/8"]),
            ip("::ffff:10.9.9.9")
        ));
        assert!(!ip_allowed(
            &[],
            &nets(&["::ffff:10.0.0.0/104"]),
            ip("10.9.9.9")
        ));
        assert!(!ip_allowed(&nets(&["::/0"]), &[], ip("10.9.9.9")));
    }

    #[test]
    fn an_unknown_address_fails_any_list() {
        assert!(ip_allowed(&[], &[], None));
        assert!(!ip_allowed(&nets(&["0.0.0.0/0"]), &[], None));
        assert!(!ip_allowed(&[], &nets(&["10.0.0.0/8"]), None));
    }

    #[test]
    fn origins() {
        let cases: &[(&str, &str, bool)] = &[
            ("example.com", "https://example.com", true),
            ("example.com", "http://EXAMPLE.com:8080", true),
            ("example.com", "https://example.com.evil.org", false),
            ("example.com", "https://evilexample.com", false),
            ("example.com:8443", "https://example.com:8443", true),
            ("example.com:8443", "https://example.com", false),
            ("*.example.com", "https://a.example.com", true),
            ("*.example.com", "https://a.b.Example.com", true),
            ("*.example.com", "https://example.com", false),
            ("*.example.com", "https://.example.com", false),
            ("*.example.com", "https://aexample.com", false),
            ("https://example.com", "https://example.com:443", true),
            ("https://example.com", "http://example.com", false),
            ("https://example.com", "https://example.com:444", false),
            ("https://*.example.com", "https://x.example.com", true),
            ("https://*.example.com", "http://x.example.com", false),
            ("*", "null", true),
            ("null", "null", true),
            ("example.com", "null", false),
            ("example.com", "https://user@example.com", false),
            ("example.com", "https://example.com/path", false),
            ("example.com", "example.com", false),
            ("[::1]:3000", "http://[::1]:3000", true),
            ("*.example.com", "https://*.example.com", false),
        ];
        for (entry, origin, expected) in cases {
            let got = origin_allowed(&texts(&[entry]), Some(origin));
            assert_eq!(got, *expected, "{entry} for {origin}");
        }
        assert!(origin_allowed(&[], Some("https://anything")));
        assert!(origin_allowed(&texts(&["example.com"]), None));
    }

    #[test]
    fn entries_of_an_origin_list() {
        for good in [
            "example.com",
            "*.example.com",
            "https://a.b:1",
            "*",
            "null",
            "localhost:3000",
        ] {
            assert!(is_origin_entry(good), "{good}");
        }
        for bad in [
            "",
            "https://",
            "a b",
            "*.*.com",
            "ex*mple.com",
            "https://a/b",
            "a:99999",
        ] {
            assert!(!is_origin_entry(bad), "{bad}");
        }
    }

    #[test]
    fn model_globs() {
        let list = texts(&["gpt-4*", "claude-*-haiku"]);
        assert!(model_allowed(&list, Some("gpt-4o-mini")));
        assert!(model_allowed(&list, Some("claude-3-5-haiku")));
        assert!(!model_allowed(&list, Some("claude-3-5-sonnet")));
        assert!(!model_allowed(&list, Some("GPT-4o")));
        assert!(model_allowed(&list, None));
        assert!(model_allowed(&[], Some("anything")));
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "*a".repeat(500) + "b";
        assert!(!glob(&pattern, &"a".repeat(5_000)));
    }

    fn glob_by_definition(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => {
                (0..=text.len()).any(|skip| glob_by_definition(rest, &text[skip..]))
            }
            (Some((p, rest)), Some((t, text_rest))) if p == t => {
                glob_by_definition(rest, text_rest)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn glob_agrees_with_its_definition(pattern in "[ab*]{0,7}", text in "[ab]{0,8}") {
            let expected = glob_by_definition(pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(glob(&pattern, &text), expected);
        }

        #[test]
        fn no_origin_panics(entry in ".{0,24}", origin in ".{0,24}") {
            origin_allowed(std::slice::from_ref(&entry), Some(&origin));
            is_origin_entry(&entry);
        }
    }
}
