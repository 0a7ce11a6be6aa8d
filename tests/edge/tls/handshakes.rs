//! Which certificate is shown to whom, and who is let in: asked by `openssl s_client` and `curl`.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::json;

use crate::support::rig::{CHAT, Rig, chat};
use crate::support::tls::Certificates;

/// A listener with these certificates, and with these further settings.
pub async fn rig(certificates: &Certificates, names: &[&str], clients: serde_json::Value) -> Rig {
    Rig::builder()
        .set("edge.tls", entries(certificates, names, clients))
        .start()
        .await
}

/// A plain listener and one with TLS, and so much time for a request.
pub async fn rig_in_time(certificates: &Certificates, time: &str) -> Rig {
    Rig::builder()
        .set("edge.tls", entries(certificates, &["server"], json!({})))
        .set("edge.request_timeout", json!(time))
        .start()
        .await
}

/// The same as it is written; the settings go with the first entry.
pub fn entries(
    certificates: &Certificates,
    names: &[&str],
    clients: serde_json::Value,
) -> serde_json::Value {
    let entry = |name: &&str| {
        json!({
            "listen": "127.0.0.1:0",
            "cert": certificates.path(&format!("{name}.pem")),
            "key": certificates.path(&format!("{name}.key")),
        })
    };
    let mut entries: Vec<_> = names.iter().map(entry).collect();
    let first = entries[0].as_object_mut().unwrap();
    first.extend(clients.as_object().unwrap().clone());
    json!(entries)
}

/// What `openssl s_client` says of a handshake.
fn s_client(certificates: &Certificates, address: SocketAddr, more: &str) -> String {
    let done = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string(), "-CAfile"])
        .arg(certificates.path("ca.pem"))
        .args(more.split_whitespace())
        .current_dir(certificates.folder())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned()
}

#[tokio::test]
async fn the_certificate_is_chosen_by_the_name_that_is_asked_for() {
    let certificates = Certificates::of("DNS:first.example");
    for (name, names) in [
        ("wild", "DNS:*.wild.example"),
        ("exact", "DNS:exact.wild.example,DNS:more.example"),
        ("late", "DNS:first.example,DNS:*.wild.example"),
    ] {
        certificates.issue(name, names);
    }
    let all = ["server", "wild", "exact", "late"];
    let rig = rig(&certificates, &all, json!({})).await;
    let [address] = rig.process().tls[..] else {
        panic!("{:?}", rig.process().tls)
    };
    for (asked, shown) in [
        ("-servername first.example", "server"),
        ("-servername FIRST.Example", "server"),
        ("-servername a.wild.example", "wild"),
        ("-servername exact.wild.example", "exact"),
        ("-servername more.example", "exact"),
        ("-servername wild.example", "server"),
        ("-servername a.b.wild.example", "server"),
        ("-servername unknown.example", "server"),
        ("-noservername", "server"),
    ] {
        for version in ["-tls1_2", "-tls1_3"] {
            let said = s_client(&certificates, address, &format!("{asked} {version}"));
            assert!(
                said.contains(&format!("subject=CN = {shown}\n")),
                "{asked}: {said}"
            );
            assert!(
                said.contains("Verify return code: 0 (ok)"),
                "{asked}: {said}"
            );
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn the_whole_chain_is_shown_and_the_protocol_is_negotiated() {
    let certificates = Certificates::of("DNS:first.example");
    certificates.intermediate("between");
    certificates.issue_by("between", "leaf", "DNS:leaf.example", 2);
    let read = |name: &str| std::fs::read_to_string(certificates.path(name)).unwrap();
    let chain = format!("{}{}", read("leaf.pem"), read("between.pem"));
    std::fs::write(certificates.path("leaf.pem"), chain).unwrap();
    let rig = rig(&certificates, &["leaf"], json!({})).await;
    let address = rig.process().tls[0];
    for (offered, negotiated) in [
        ("-alpn h2,http/1.1", "ALPN protocol: h2"),
        ("-alpn http/1.1,h2", "ALPN protocol: h2"),
        ("-alpn http/1.1", "ALPN protocol: http/1.1"),
        ("", "No ALPN negotiated"),
    ] {
        let ask = format!("-servername leaf.example -verify_return_error {offered}");
        let said = s_client(&certificates, address, &ask);
        assert!(said.contains("1 s:CN = between"), "{said}");
        assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
        assert!(said.contains(negotiated), "{said}");
    }
    let said = s_client(&certificates, address, "-tls1_1");
    assert!(said.contains("no peer certificate available"), "{said}");
    rig.end().await;
}

#[tokio::test]
async fn of_two_for_one_host_a_client_gets_what_it_can_verify() {
    let certificates = Certificates::of("DNS:first.example");
    certificates.issue("curves", "DNS:both.example");
    certificates.issue_rsa("primes", "DNS:both.example");
    let rig = rig(&certificates, &["server", "curves", "primes"], json!({})).await;
    for (verifies, shown) in [
        ("", "curves"),
        ("-sigalgs ECDSA+SHA256:rsa_pss_rsae_sha256", "curves"),
        ("-sigalgs rsa_pss_rsae_sha256", "primes"),
    ] {
        let ask = format!("-servername both.example {verifies}");
        let said = s_client(&certificates, rig.process().tls[0], &ask);
        assert!(
            said.contains(&format!("subject=CN = {shown}\n")),
            "{verifies}: {said}"
        );
    }
    rig.end().await;
}

/// What `curl` saw: the protocol's version, the status, and how it ended itself.
fn curl(certificates: &Certificates, rig: &Rig, key: &str, host: &str, more: &str) -> String {
    let port = rig.process().tls[0].port();
    let body = chat("gpt-4o").to_string();
    let done = Command::new("curl")
        .args(["--silent", "--noproxy", "*", "--max-time", "30"])
        .args([
            "--output",
            "answer",
            "--write-out",
            "HTTP/%{http_version} %{http_code}",
        ])
        .args(["--cacert", "ca.pem", "--data", &body])
        .args(["--resolve", &format!("{host}:{port}:127.0.0.1")])
        .args(["-H", &format!("authorization: Bearer {key}")])
        .args(["-H", "content-type: application/json"])
        .args(more.split_whitespace())
        .arg(format!("https://{host}:{port}{CHAT}"))
        .current_dir(certificates.folder())
        .output()
        .unwrap();
    let seen = String::from_utf8_lossy(&done.stdout);
    format!("{seen} exit {}", done.status.code().unwrap())
}

#[tokio::test]
async fn curl_is_served_over_both_protocols() {
    let certificates = Certificates::of("DNS:first.example");
    certificates.issue("other-host", "DNS:*.wild.example");
    let rig = rig(&certificates, &["server", "other-host"], json!({})).await;
    let key = rig.admin().key(0).await.secret;
    let mut served = 0;
    for (host, more, seen) in [
        ("first.example", "--http2", "HTTP/2 200 exit 0"),
        ("first.example", "--http1.1", "HTTP/1.1 200 exit 0"),
        ("a.wild.example", "--http2", "HTTP/2 200 exit 0"),
        (
            "a.wild.example",
            "--http1.1 --tls-max 1.2",
            "HTTP/1.1 200 exit 0",
        ),
        // No certificate is for this host, and curl does not take another's: 60.
        ("b.example", "--http2", "HTTP/0 000 exit 60"),
    ] {
        assert_eq!(
            curl(&certificates, &rig, &key, host, more),
            seen,
            "{host} {more}"
        );
        if seen.contains("200") {
            served += 1;
            let answer = std::fs::read(certificates.path("answer")).unwrap();
            let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
            let record = rig.fake().last_ended(served).await;
            assert_eq!(answer["usage"]["completion_tokens"], record.output_tokens);
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn clients_show_certificates_where_they_are_asked_for() {
    let certificates = Certificates::of("DNS:first.example");
    certificates.issue("mine", "DNS:client.example");
    certificates.issue_by("other", "strange", "DNS:client.example", 2);
    certificates.issue_by("ca", "old", "DNS:client.example", -1);
    let ca = certificates.path("ca.pem");
    for (auth, alone) in [("required", false), ("optional", true)] {
        let clients = json!({"client_ca": ca, "client_auth": auth});
        let rig = rig(&certificates, &["server"], clients).await;
        let key = rig.admin().key(0).await.secret;
        for protocol in ["--http2", "--http1.1", "--http1.1 --tls-max 1.2"] {
            for (own, let_in) in [
                ("--cert mine.pem --key mine.key", true),
                ("--cert strange.pem --key strange.key", false),
                ("--cert old.pem --key old.key", false),
                ("", alone),
            ] {
                let more = format!("{protocol} {own}");
                let seen = curl(&certificates, &rig, &key, "first.example", &more);
                assert_eq!(
                    seen.contains(" 200 exit 0"),
                    let_in,
                    "{auth} {more}: {seen}"
                );
                assert_eq!(
                    seen.contains(" 000 exit "),
                    !let_in,
                    "{auth} {more}: {seen}"
                );
            }
        }
        let said = s_client(
            &certificates,
            rig.process().tls[0],
            "-cert mine.pem -key mine.key",
        );
        assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
        rig.end().await;
    }
    // Where nobody asks, nobody shows one.
    let rig = rig(&certificates, &["server"], json!({})).await;
    let said = s_client(&certificates, rig.process().tls[0], "-tls1_2");
    assert!(
        said.contains("No client certificate CA names sent"),
        "{said}"
    );
    assert!(!said.contains("Client Certificate Types"), "{said}");
    rig.end().await;
}
