//! Certificates and client authorities are read again on SIGHUP, all or nothing, and nothing that runs
//! notices.

use serde_json::json;
use tokio_rustls::rustls::HandshakeKind;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::client::{Client, text};
use crate::handshakes::{entries, rig};
use crate::support::rig::{CHAT, Rig, chat, chat_stream};
use crate::support::tls::Certificates;
use crate::support::wait::{PATIENCE, eventually, that};

const HOST: &str = "first.example";

/// Sends SIGHUP and waits until the process says what came of it.
pub async fn reload(rig: &Rig, outcome: &str) {
    let count = |said: &String| said.matches(outcome).count();
    let before = count(&rig.process().output());
    rig.process().signal("HUP");
    eventually(PATIENCE, || async {
        that(rig.process().output(), |said| count(said) > before)
    })
    .await;
}

pub const DONE: &str = "configuration reloaded";
pub const REFUSED: &str = "configuration not reloaded";

/// The certificate that a new handshake shows.
pub async fn shown(certificates: &Certificates, rig: &Rig) -> Vec<u8> {
    let client = Client::new(certificates, "h2", None);
    let connection = client.connect(rig.process().tls[0], HOST).await;
    connection.unwrap().certificate
}

pub fn written(certificates: &Certificates, name: &str) -> Vec<u8> {
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    let read = CertificateDer::from_pem_file(certificates.path(name));
    read.unwrap().to_vec()
}

#[tokio::test]
async fn new_handshakes_see_the_new_certificate_and_running_streams_go_on() {
    let certificates = Certificates::of(&format!("DNS:{HOST}"));
    let rig = rig(&certificates, &["server"], json!({})).await;
    let key = rig.admin().key(0).await.secret;
    let bearer = format!("Bearer {key}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-fake", "tokens=100,interval=10ms"),
    ];
    let address = rig.process().tls[0];
    let old = written(&certificates, "server.pem");
    let mut connections = Vec::new();
    for protocol in ["h2", "http/1.1"] {
        let client = Client::new(&certificates, protocol, None);
        let connection = client.connect(address, HOST).await.unwrap();
        assert_eq!(connection.certificate, old);
        let answer = connection
            .post(CHAT, &headers, &chat_stream("gpt-4o"))
            .await;
        connections.push((connection, answer.unwrap()));
    }
    certificates.issue("server", &format!("DNS:{HOST}"));
    let new = written(&certificates, "server.pem");
    assert_ne!(old, new);
    assert_eq!(
        shown(&certificates, &rig).await,
        old,
        "nobody asked for it yet"
    );
    reload(&rig, DONE).await;
    assert_eq!(shown(&certificates, &rig).await, new);
    for (connection, answer) in connections {
        assert!(text(answer).await.ends_with("data: [DONE]\n\n"));
        // The connection serves on.
        let again = connection.post(CHAT, &headers[..1], &chat("gpt-4o")).await;
        assert_eq!(again.unwrap().status(), 200);
    }
    rig.end().await;
}

#[tokio::test]
async fn bad_files_change_nothing_and_are_told() {
    let certificates = Certificates::of(&format!("DNS:{HOST}"));
    let clients = json!({"client_ca": certificates.path("ca.pem"), "client_auth": "optional"});
    let rig = rig(&certificates, &["server"], clients).await;
    let key = rig.admin().key(0).await.secret;
    let old = written(&certificates, "server.pem");
    let files = ["server.pem", "server.key", "ca.pem"];
    let whole = files.map(|name| std::fs::read(certificates.path(name)).unwrap());
    certificates.issue("fresh", &format!("DNS:{HOST}"));
    let fresh = std::fs::read(certificates.path("fresh.pem")).unwrap();
    let mut config = rig.config();
    // A price that must not come into force with a bad certificate.
    config["tiers"] = json!({"unlimited": {"requests_per_minute": 1}});
    rig.write_config(&config);
    for (at, content, fault) in [
        (0, &b"nothing"[..], "edge.tls[0].cert: "),
        (0, &fresh, "edge.tls[0].key: "),
        (1, b"nothing", "edge.tls[0].key: "),
        (2, b"nothing", "edge.tls[0].client_ca: "),
    ] {
        std::fs::write(certificates.path(files[at]), content).unwrap();
        reload(&rig, REFUSED).await;
        let said = rig.process().output();
        assert!(
            said.lines().last().unwrap().contains(fault),
            "{fault}: {said}"
        );
        std::fs::write(certificates.path(files[at]), &whole[at]).unwrap();
        assert_eq!(shown(&certificates, &rig).await, old);
    }
    std::fs::remove_file(certificates.path("server.key")).unwrap();
    reload(&rig, REFUSED).await;
    for _ in 0..3 {
        assert_eq!(rig.post(CHAT, &key, &chat("gpt-4o")).await.status(), 200);
    }
    std::fs::write(certificates.path("server.key"), &whole[1]).unwrap();
    reload(&rig, DONE).await;
    eventually(PATIENCE, || async {
        let answer = rig.post(CHAT, &key, &chat("gpt-4o")).await;
        that(answer.status().as_u16(), |&status| status == 429)
    })
    .await;
    rig.end().await;
}

#[tokio::test]
async fn a_listener_comes_and_goes_with_a_restart() {
    let certificates = Certificates::of(&format!("DNS:{HOST}"));
    let mut rig = rig(&certificates, &["server"], json!({})).await;
    let mut config = rig.config();
    config["edge"]["tls"] = json!([]);
    rig.write_config(&config);
    let told = "edge.tls[].listen has changed; that takes effect with a restart";
    reload(&rig, told).await;
    let old = written(&certificates, "server.pem");
    assert_eq!(shown(&certificates, &rig).await, old);
    assert!(!rig.process().output().contains("edge has changed"));
    // Certificates of a listener that stays come and go without one.
    certificates.issue("more", "DNS:more.example");
    config["edge"]["tls"] = entries(&certificates, &["more", "server"], json!({}));
    rig.write_config(&config);
    reload(&rig, DONE).await;
    let client = Client::new(&certificates, "h2", None);
    let connection = client.connect(rig.process().tls[0], "more.example").await;
    assert_eq!(
        connection.unwrap().certificate,
        written(&certificates, "more.pem")
    );
    let clients = json!({"client_ca": certificates.path("ca.pem")});
    config["edge"]["tls"] = entries(&certificates, &["server"], clients);
    rig.write_config(&config);
    let told = "whether edge.tls asks clients for certificates has changed; that takes effect";
    reload(&rig, told).await;
    assert_eq!(shown(&certificates, &rig).await, old);
    rig.restart().await;
    let alone = Client::new(&certificates, "h2", None);
    let connection = alone.connect(rig.process().tls[0], HOST).await.unwrap();
    let asked = connection.post(CHAT, &[], &chat("gpt-4o")).await;
    assert!(asked.is_err(), "{asked:?}");
}

/// A session that is resumed shows no certificate again: it must not outlive what let it in.
#[tokio::test]
async fn a_resumed_session_does_not_outlive_its_authority() {
    let certificates = Certificates::of(&format!("DNS:{HOST}"));
    certificates.issue("mine", "DNS:client.example");
    certificates.issue_by("other", "theirs", "DNS:client.example", 2);
    for (version, protocol) in [(&TLS13, "h2"), (&TLS12, "h2"), (&TLS13, "http/1.1")] {
        let ca = |name: &str| json!({"client_ca": certificates.path(name)});
        let rig = rig(&certificates, &["server"], ca("ca.pem")).await;
        let key = rig.admin().key(0).await.secret;
        let bearer = format!("Bearer {key}");
        let address = rig.process().tls[0];
        let mine = Client::with(&certificates, protocol, Some("mine"), &[version]);
        let visit = async |client: &Client| {
            let connection = client.connect(address, HOST).await.ok()?;
            let headers = [("authorization", bearer.as_str())];
            let answer = connection
                .post(CHAT, &headers, &chat("gpt-4o"))
                .await
                .ok()?;
            let status = answer.status().as_u16();
            Some((connection.handshake.unwrap(), status, text(answer).await))
        };
        let first = visit(&mine).await.unwrap();
        assert_eq!((first.0, first.1), (HandshakeKind::Full, 200));
        let second = visit(&mine).await.unwrap();
        assert_eq!(
            (second.0, second.1),
            (HandshakeKind::Resumed, 200),
            "sessions are kept"
        );

        let mut config = rig.config();
        config["edge"]["tls"] = entries(&certificates, &["server"], ca("other.pem"));
        rig.write_config(&config);
        reload(&rig, DONE).await;
        // As often as it comes: each handshake gives it a session anew.
        for _ in 0..4 {
            let (kind, status, said) = visit(&mine).await.unwrap();
            assert_eq!((kind, status), (HandshakeKind::Resumed, 400), "{said}");
            assert!(said.contains("client certificate"), "{said}");
        }
        let again = Client::with(&certificates, protocol, Some("mine"), &[version]);
        assert!(visit(&again).await.is_none(), "a new session is not begun");
        let theirs = Client::with(&certificates, protocol, Some("theirs"), &[version]);
        assert_eq!(visit(&theirs).await.unwrap().1, 200);

        // And who came in without a certificate does not stay when one is required.
        let asks = |auth: &str| {
            let clients = json!({"client_ca": certificates.path("ca.pem"), "client_auth": auth});
            let mut config = rig.config();
            config["edge"]["tls"] = entries(&certificates, &["server"], clients);
            rig.write_config(&config);
        };
        asks("optional");
        reload(&rig, DONE).await;
        let nobody = Client::with(&certificates, protocol, None, &[version]);
        assert_eq!(visit(&nobody).await.unwrap().1, 200);
        asks("required");
        reload(&rig, DONE).await;
        let (kind, status, _) = visit(&nobody).await.unwrap();
        assert_eq!((kind, status), (HandshakeKind::Resumed, 400));
        rig.end().await;
    }
}
