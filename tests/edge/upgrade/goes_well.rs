//! Upgrades that go well: nobody notices.

use reqwest::Method;
use serde_json::json;

use super::crowd::Crowd;
use super::*;
use crate::support::redis_server::RedisServer;
use crate::support::rig::{CHAT, chat, chat_stream};
use crate::support::tls::Certificates;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_refused_cut_or_lost() {
    let mut chance = Chance::from_env();
    let mut succession = Succession::start(Rig::builder()).await;
    let key = succession.rig.admin().key(0).await;
    let crowd = Crowd::start(&succession.rig, &key, &mut chance);
    let upgrades = if soak() > 1 { 20 } else { 4 };
    for _ in 0..upgrades {
        crowd.answers(20 + chance.below(40)).await;
        succession.upgrade().await;
    }
    crowd.answers(50).await;
    let (answered, tokens) = crowd.end().await;
    println!("{answered} answers, {upgrades} upgrades");
    let rig = succession.end().await;
    let books = rig.books();
    books.assert_balanced();
    let of = |what: &str| books.number(&format!("SELECT {what} FROM usage_events"));
    assert_eq!(of("count(*)"), answered as i64, "each is booked once");
    assert_eq!(of("sum(requests)"), answered as i64);
    assert_eq!(of("sum(completion_tokens)"), tokens as i64);
    assert_eq!(of("sum(estimated)"), 0, "each by its own report");
    let ledger = rig.fake().ledger().await;
    assert_eq!((ledger.requests, ledger.completed), (answered, answered));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_outlives_two_upgrades_and_its_leases() {
    let builder = Rig::builder().set("quota.reservation_ttl", json!("2s"));
    let mut succession = Succession::start(builder).await;
    let key = succession.rig.admin().key(100_000).await;
    let stream = |tokens: u32| {
        let request = succession.rig.request(Method::POST, CHAT, &key.secret);
        let request = request.header("x-fake", format!("tokens={tokens},interval=20ms"));
        let mut body = chat_stream("gpt-4o");
        body["max_tokens"] = json!(tokens);
        request.json(&body)
    };
    let first = stream(400).send().await.unwrap();
    assert_eq!(first.status(), 200);
    let streams = [first, {
        let request = stream(300);
        let succession = &mut succession;
        succession.upgrade().await;
        request.send().await.unwrap()
    }];
    succession.upgrade().await;
    // The first runs two processes back, the second one.
    assert!(is_alive(succession.rig.process().pid()) && is_alive(succession.later.0[0]));
    assert!(succession.rig.admin().held_tokens().await >= 700.0);
    for answer in streams {
        let text = answer.text().await.unwrap();
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    }
    let logs = succession.rig.admin().usage_logs_when(&key, 2).await;
    let counted = logs
        .iter()
        .map(|event| event["completion_tokens"].as_i64().unwrap());
    assert_eq!(counted.collect::<Vec<_>>(), [400, 300]);
    assert!(
        logs.iter().all(|event| event["reason"].is_null()),
        "{logs:?}"
    );
    succession.end().await.books().assert_balanced();
}
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_manager_follows_the_process_that_serves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let hears = || {
        let mut text = [0; 512];
        let length = manager.recv(&mut text).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    };
    let serving = |pid: u32| format!("READY=1\nMAINPID={pid}\nSTATUS=serving");
    let builder = Rig::builder().env("NOTIFY_SOCKET", &path.display().to_string());
    let mut succession = Succession::start(builder).await;
    assert_eq!(hears(), serving(succession.pid()));
    for _ in 0..2 {
        succession.upgrade().await;
        assert_eq!(hears(), serving(succession.pid()));
    }
    // The ends of those before are no end of the service.
    succession.end().await;
    assert_eq!(
        hears(),
        "STOPPING=1\nEXTEND_TIMEOUT_USEC=20000000\nSTATUS=draining"
    );
    manager.set_nonblocking(true).unwrap();
    assert!(manager.recv(&mut [0; 512]).is_err(), "nothing more is said");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_of_a_fleet_is_upgraded_with_its_journal() {
    let redis = RedisServer::start();
    let builder = Rig::builder().set(
        "store",
        json!({"kind": "redis", "redis": {"urls": [redis.url()], "on_unavailable": "allow", "timeout": "2s"}}),
    );
    let mut chance = Chance::from_env();
    let mut succession = Succession::start(builder).await;
    let key = succession.rig.admin().key(0).await;
    let crowd = Crowd::start(&succession.rig, &key, &mut chance);
    for _ in 0..2 {
        crowd.answers(30).await;
        succession.upgrade().await;
    }
    crowd.answers(30).await;
    let (answered, tokens) = crowd.end().await;
    succession.rig.admin().settled().await;
    let usage = succession.rig.admin().show(&key).await;
    assert_eq!(usage["request_count"], answered, "{usage}");
    let logs = succession
        .rig
        .admin()
        .get("/admin/usage/summary?by=model")
        .await;
    println!("{logs}, {tokens} tokens");
    // The journal came along: the new process serves while Redis is away.
    redis.pause();
    let answer = succession
        .rig
        .post(CHAT, &key.secret, &chat("gpt-4o"))
        .await;
    assert_eq!(answer.status(), 200);
    redis.resume();
    eventually(PATIENCE, || async {
        let usage = succession.rig.admin().show(&key).await;
        if usage["request_count"] == answered + 1 {
            Ok(())
        } else {
            Err(usage)
        }
    })
    .await;
    succession.end().await;
}

/// A handshake of the new process is at the old address, a stream of the old one ends whole.
#[tokio::test]
async fn tls_goes_over_with_its_address() {
    let certificates = Certificates::of("DNS:first.example");
    let tls = json!([{"listen": "127.0.0.1:0", "cert": certificates.path("server.pem"),
                      "key": certificates.path("server.key")}]);
    let mut succession = Succession::start(Rig::builder().set("edge.tls", tls)).await;
    let rig = &succession.rig;
    let key = rig.admin().key(0).await;
    let port = rig.process().tls[0].port();
    let curl = |wish: &str| {
        let mut command = Command::new("curl");
        command.args([
            "--silent",
            "--show-error",
            "--no-buffer",
            "--noproxy",
            "*",
            "--cacert",
        ]);
        command.arg(certificates.path("ca.pem"));
        command.args(["--resolve", &format!("first.example:{port}:127.0.0.1")]);
        command.args(["-H", &format!("authorization: Bearer {}", key.secret)]);
        command.args([
            "-H",
            &format!("x-fake: {wish}"),
            "-H",
            "content-type: application/json",
        ]);
        command.args(["--data", &chat_stream("gpt-4o").to_string()]);
        command.arg(format!("https://first.example:{port}{CHAT}"));
        command
    };
    let running = tokio::spawn(output(curl("tokens=150,interval=20ms")));
    rig.fake().ledger_when(|ledger| ledger.requests == 1).await;
    succession.upgrade().await;
    let later = output(curl("tokens=3")).await;
    for said in [running.await.unwrap(), later] {
        let (out, err) = texts(&said);
        assert!(out.ends_with("data: [DONE]\n\n"), "{out}{err}");
    }
    succession.end().await;
}
