//! Health checks: what they take to count, how they go out, and that they notice what is dead.

use std::time::Duration;

use quota_proxy::cli::fake_upstream::Options;
use serde_json::{Value, json};

use super::{answer_of, ask, in_order, is_in_state, one_pool, state};
use crate::support::fake::Fake;
use crate::support::fault_proxy::FaultProxy;
use crate::support::nginx::Nginx;
use crate::support::rig::{Builder, CREDENTIAL, Rig, strict_fake};
use crate::support::tls::Certificates;
use crate::support::upstream::{Manner, Upstream, json_answer};
use crate::support::wait::{PATIENCE, eventually, that};

fn answer(status: &str) -> String {
    json_answer(status, "", &answer_of(1, 1))
}

/// One peer with these settings, and these checks.
fn checking(peer: &Value, check: &Value) -> Builder {
    let peers = json!([peer]);
    one_pool(json!({"health_check": check, "peers": peers}), &[])
}

async fn checks_reach(upstream: &Upstream, count: usize) {
    eventually(PATIENCE, || async {
        that(upstream.seen().len(), |seen| *seen >= count)
    })
    .await;
}

#[tokio::test]
async fn one_bad_check_is_no_fall_and_one_good_one_no_rise() {
    let (upstream, tell) = Upstream::told(&answer("200 OK")).await;
    let check = json!({"path": "/x", "interval": "100ms", "fall": 3, "rise": 3});
    let rig = checking(&json!({"url": upstream.url()}), &check)
        .start()
        .await;
    checks_reach(&upstream, 1).await;
    tell(&answer("503 Service Unavailable"));
    let before = upstream.seen().len();
    is_in_state(&rig, 0, "resting").await;
    // The last of them may be answered and not judged yet, or the first have been under way.
    let failed = upstream.seen().len() - before;
    assert!((3..=5).contains(&failed), "{failed}");
    tell(&answer("200 OK"));
    let before = upstream.seen().len();
    is_in_state(&rig, 0, "fit").await;
    let passed = upstream.seen().len() - before;
    assert!((3..=5).contains(&passed), "{passed}");
}

#[tokio::test]
async fn what_passes_may_be_said_and_a_misspelt_path_is_told() {
    let upstream = Upstream::start(Manner::Answer(answer("404 Not Found"))).await;
    let peer = json!({"url": upstream.url()});
    let check = json!({"path": "/v1/modells", "interval": "100ms"});
    let rig = checking(&peer, &check).start().await;
    checks_reach(&upstream, 4).await;
    assert_eq!(state(&rig, 0).await["state"], "fit");
    let said = rig.process().output();
    assert_eq!(said.matches("is answered 404").count(), 1, "{said}");
    assert!(said.contains("is /v1/modells its path?"), "{said}");
    let check = json!({"path": "/x", "interval": "100ms", "expect": ["2xx", "401-403"]});
    let rig = checking(&peer, &check).start().await;
    is_in_state(&rig, 0, "resting").await;
}

/// Its check is under way when a reload ends checking: what it finds then is nobody's business.
#[tokio::test]
async fn a_check_under_way_does_not_outlive_the_reload_that_ends_checking() {
    let silent = Upstream::start(Manner::Silent).await;
    let check = json!({"path": "/x", "interval": "100ms", "timeout": "2s", "fall": 1});
    let peer = json!({"url": silent.url()});
    let rig = checking(&peer, &check).start().await;
    checks_reach(&silent, 1).await;
    let mut config = rig.config();
    let pool = config["pools"][0].as_object_mut().unwrap();
    pool.remove("health_check");
    pool.insert(String::from("models"), json!(["gpt-*"]));
    rig.write_config(&config);
    rig.process().signal("HUP");
    eventually(PATIENCE, || async {
        let shown = rig.admin().get("/admin/pools").await;
        that(shown, |shown| {
            shown["pools"][0]["models"] == json!(["gpt-*"])
        })
    })
    .await;
    // The check's time is over by then, and nothing has come of it.
    tokio::time::sleep(Duration::from_millis(2_200)).await;
    let shown = state(&rig, 0).await;
    assert_eq!(
        (&shown["state"], &shown["down"]),
        (&json!("fit"), &json!(false))
    );
}

#[tokio::test]
async fn a_peer_that_hangs_is_left_out() {
    let silent = Upstream::start(Manner::Silent).await;
    let check = json!({"path": "/x", "interval": "100ms", "timeout": "100ms"});
    let rig = in_order(&[&silent.url(), "{fake0}"])
        .fake(Options::default())
        .set("pools.0.health_check", check)
        .start()
        .await;
    is_in_state(&rig, 0, "resting").await;
    let key = rig.admin().key(0).await;
    assert_eq!(ask(&rig, &key).await, 200);
    assert_eq!(
        rig.fakes()[0].ledger().await.records.last().unwrap().method,
        "POST"
    );
}

async fn healthy_then_gone_then_back(rig: &Rig, proxy: &FaultProxy, fake: &Fake) {
    fake.ledger_when(|ledger| ledger.requests >= 2).await;
    assert_eq!(state(rig, 0).await["state"], "fit");
    proxy.black_hole();
    is_in_state(rig, 0, "resting").await;
    proxy.pass();
    is_in_state(rig, 0, "fit").await;
}

/// Bytes stop to pass and no connection ends: the checks notice, over HTTP/2 too.
#[tokio::test]
async fn checks_over_http2_notice_a_silent_death_and_its_end() {
    let fake = Fake::start(strict_fake());
    for http2 in [true, false] {
        fake.forget().await;
        let proxy = FaultProxy::start(fake.address);
        let url = format!("http://{}", proxy.addr());
        let peer = json!({"url": url, "credential": CREDENTIAL, "http2": http2});
        let check = json!({"path": "/v1/models", "interval": "100ms", "timeout": "300ms"});
        let rig = checking(&peer, &check).start().await;
        healthy_then_gone_then_back(&rig, &proxy, &fake).await;
        // Each over a connection of its own.
        let requests = fake.ledger().await.requests;
        assert!(proxy.connections() >= requests, "{requests}");
    }
}

#[tokio::test]
async fn checks_over_tls_verify_their_peer() {
    let fake = Fake::start(strict_fake());
    let certificates = Certificates::of("DNS:api.inner.example");
    let check = json!({"path": "/v1/models", "interval": "100ms"});
    for http2 in [true, false] {
        let nginx = Nginx::tls(&fake.url(), &certificates, http2).await;
        let right = json!({
            "url": nginx.url, "credential": CREDENTIAL, "http2": http2,
            "sni": "api.inner.example", "ca": certificates.path("ca.pem"),
        });
        let rig = checking(&right, &check).start().await;
        eventually(PATIENCE, || async {
            that(nginx.lines().len(), |checks| *checks >= 3)
        })
        .await;
        assert_eq!(state(&rig, 0).await["state"], "fit");
        let protocol = if http2 { "HTTP/2.0" } else { "HTTP/1.1" };
        let expected = format!("{protocol} api.inner.example");
        let protocols = nginx.protocols();
        assert!(
            protocols.iter().all(|one| *one == expected),
            "{protocols:?}"
        );
        assert!(
            nginx.lines()[0].starts_with("200 GET /v1/models"),
            "{:?}",
            nginx.lines()
        );
        let mut wrong = right.clone();
        wrong["ca"] = json!(certificates.path("other.pem"));
        let rig = checking(&wrong, &check).start().await;
        is_in_state(&rig, 0, "resting").await;
    }
}

/// A connection that many exchanges share dies without a word: a ping finds out, long before the time
/// to the first byte is over, and the next exchange has a new one.
#[tokio::test]
async fn a_silent_death_of_a_shared_connection_is_found_out() {
    let fake = Fake::start(strict_fake());
    let proxy = FaultProxy::start(fake.address);
    let peer =
        json!({"url": format!("http://{}", proxy.addr()), "credential": CREDENTIAL, "http2": true});
    let rig = one_pool(json!({"peers": [peer]}), &[]).start().await;
    let key = rig.admin().key(0).await;
    assert_eq!(ask(&rig, &key).await, 200);
    proxy.black_hole();
    let begun = std::time::Instant::now();
    assert_eq!(ask(&rig, &key).await, 502);
    assert!(
        begun.elapsed() < Duration::from_secs(60),
        "{:?}",
        begun.elapsed()
    );
    proxy.pass();
    assert_eq!(ask(&rig, &key).await, 200);
    rig.end().await;
}
