//! OpenAI's own SDK for Python over TLS. Its script is in `tests/sdk`.

use serde_json::json;

use crate::handshakes::rig;
use crate::support::sdk::PYTHON;
use crate::support::tls::Certificates;

#[tokio::test]
async fn the_python_sdk_speaks_both_protocols_and_shows_its_certificate() {
    let certificates = Certificates::of("IP:127.0.0.1");
    certificates.issue("mine", "DNS:client.example");
    let clients = json!({"client_ca": certificates.path("ca.pem")});
    let rig = rig(&certificates, &["server"], clients).await;
    let key = rig.admin().key(1_000_000).await;
    let file = |name: &str| certificates.path(name).display().to_string();
    let surroundings = [
        ("BASE_URL", format!("https://{}", rig.process().tls[0])),
        ("API_KEY", key.secret.clone()),
        ("LEDGER_URL", format!("{}/_fake/ledger", rig.fake().url())),
        ("BEHIND_PROXY", "1".to_owned()),
        ("CA_FILE", file("ca.pem")),
        ("CERT_FILE", file("mine.pem")),
        ("KEY_FILE", file("mine.key")),
    ];
    let run = tokio::task::spawn_blocking(move || PYTHON.run(&["test_tls.py"], &surroundings));
    run.await.unwrap();
    rig.admin().settled().await;
    let ledger = rig.fake().ledger().await;
    let sums = |record: &crate::support::fake::Record| record.input_tokens + record.output_tokens;
    let used: u64 = ledger.records.iter().map(sums).sum();
    assert_eq!(rig.admin().show(&key).await["token_used"], used);
    rig.end().await;
}
