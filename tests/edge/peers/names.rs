//! Names with several addresses, and connections that are not made.

use std::path::Path;

use serde_json::json;
use tokio::net::TcpListener;

use super::{access_lines, ask, counts, in_order, name_of, state};
use crate::support::rig::CREDENTIAL;
use crate::support::rig::Rig;
use quota_proxy::cli::fake_upstream::Options;

/// Whether a process may have an `/etc/hosts` of its own here.
fn may_have_own_hosts() -> bool {
    let tried = std::process::Command::new("unshare")
        .args(["-rm", "true"])
        .output();
    tried.is_ok_and(|tried| tried.status.success())
}

/// A prelude by which `two.test` is 127.0.0.1 and 127.0.0.2.
fn knowing_two_addresses(folder: &Path) -> String {
    let hosts = folder.join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost two.test\n127.0.0.2 two.test\n").unwrap();
    format!(
        "exec unshare -rm sh -c 'mount --bind {} /etc/hosts && exec \"$0\" serve \"$@\"' \"$0\" \"$@\"",
        hosts.display()
    )
}

/// One of two addresses takes connections and never answers: the checks that go there fail, those
/// between them pass, and the peer stays.
#[tokio::test]
async fn one_address_that_hangs_takes_no_peer_out() {
    if !may_have_own_hosts() {
        println!("skipped: unshare -rm is not allowed here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let prelude = knowing_two_addresses(folder.path());
    let fake = crate::support::fake::Fake::start(Options::default());
    let port = fake.address.port();
    let hanging = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let check = json!({"path": "/v1/models", "interval": "100ms", "timeout": "200ms"});
    let rig = in_order(&[&format!("http://two.test:{port}")])
        .set("pools.0.health_check", check)
        .prelude(&prelude)
        .start()
        .await;
    let _hung = hanging.accept().await.unwrap();
    let before = fake.ledger().await.requests;
    fake.ledger_when(|ledger| ledger.requests > before + 5)
        .await;
    assert_eq!(state(&rig, 0).await["down"], false);
    let said = rig.process().output();
    assert!(!said.contains("out of rotation"), "{said}");
}

/// Two addresses, of which one refuses: whichever is next, the peer is reached, and nothing of it is
/// told as a failure.
#[tokio::test]
async fn a_peer_is_reached_by_the_address_that_works() {
    if !may_have_own_hosts() {
        println!("skipped: unshare -rm is not allowed here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // Nobody listens at 127.0.0.2.
    let in_a_house_of_its_own = knowing_two_addresses(folder.path());
    let fake = crate::support::fake::Fake::start(Options::default());
    let url = format!("http://two.test:{}", fake.address.port());
    let rig = in_order(&[&url])
        .set(
            "pools.0.health_check",
            json!({"path": "/v1/models", "interval": "100ms"}),
        )
        .prelude(&in_a_house_of_its_own)
        .start()
        .await;
    let key = rig.admin().key(0).await;
    for _ in 0..6 {
        assert_eq!(ask(&rig, &key).await, 200);
    }
    for line in access_lines(&rig, 6).await {
        assert_eq!(line["attempts"], 1, "{line}");
        assert!(line["failed_attempts"].is_null(), "{line}");
    }
    let shown = state(&rig, 0).await;
    assert_eq!(
        (&shown["failures"], &shown["down"]),
        (&json!(0), &json!(false))
    );
}

/// A name that leads nowhere, and then a listener that never says a word of TLS: the next peer is
/// asked, and what went wrong is told.
#[tokio::test]
async fn who_cannot_be_connected_to_is_passed_on_from() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("https://{}", silent.local_addr().unwrap());
    for url in ["http://nowhere.invalid:80", silent.as_str()] {
        let rig: Rig = in_order(&[url, "{fake0}"])
            .fake(Options::default())
            .set("pools.0.timeouts", json!({"connect": "300ms"}))
            .start()
            .await;
        let key = rig.admin().key(0).await;
        assert_eq!(ask(&rig, &key).await, 200, "{url}");
        let line = &access_lines(&rig, 1).await[0];
        let failed = json!([{"pool": "only", "peer": name_of(url), "reason": "connect"}]);
        assert_eq!(line["failed_attempts"], failed);
        let labels = format!(r#"outcome="connect",peer="{}",pool="only""#, name_of(url));
        counts(&rig, "upstream_attempts_total", &labels, 1).await;
        assert!(!rig.process().output().contains(CREDENTIAL));
    }
}
