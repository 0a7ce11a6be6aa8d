//! Upgrades to another configuration.
#![expect(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;

use quota_proxy::server::upgrade::Books;
use quota_proxy::store::embedded::SCHEMA_VERSION;
use reqwest::Method;
use serde_json::Value;
use tokio::net::TcpStream;

use super::*;
use crate::support::process::Process;
use crate::support::rig::chat_stream;
use crate::support::tls::Certificates;
use crate::support::wait::that;

/// Addresses that nobody has just now.
fn free<const N: usize>() -> [SocketAddr; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_are_added_dropped_and_moved_to_tls() {
    let certificates = Certificates::of("DNS:first.example");
    let [moved, dropped, added] = free();
    let builder = Rig::builder().set("edge.listen", json!(["127.0.0.1:0", moved, dropped]));
    let mut succession = Succession::start(builder).await;
    let key = succession.rig.admin().key(0).await;
    let mut config = succession.rig.config();
    config["edge"]["listen"] = json!(["127.0.0.1:0", added]);
    config["edge"]["tls"] = json!([{"listen": moved, "cert": certificates.path("server.pem"),
                                    "key": certificates.path("server.key")}]);
    succession.rig.write_config(&config);
    succession.upgrade().await;
    succession.serves(&key).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let healthy = client.get(format!("http://{added}/healthz")).send().await;
    assert_eq!(healthy.unwrap().status(), 200);
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--noproxy", "*", "--cacert"]);
    curl.arg(certificates.path("ca.pem"));
    curl.args([
        "--resolve",
        &format!("first.example:{}:127.0.0.1", moved.port()),
    ]);
    curl.arg(format!("https://first.example:{}/healthz", moved.port()));
    let said = output(curl).await;
    assert!(said.status.success(), "{said:?}");
    eventually(PATIENCE, || async {
        that(TcpStream::connect(dropped).await.is_err(), |refused| {
            *refused
        })
    })
    .await;
    succession.end().await.books().assert_balanced();
}

/// The old process renews by its own lease, which is longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_lease_ends_nothing_that_runs() {
    let builder = Rig::builder().set("quota.reservation_ttl", json!("60s"));
    let mut succession = Succession::start(builder).await;
    let key = succession.rig.admin().key(100_000).await;
    let request = succession.rig.request(Method::POST, CHAT, &key.secret);
    let request = request.header("x-fake", "tokens=250,interval=20ms");
    let answer = request.json(&chat_stream("gpt-4o")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut config = succession.rig.config();
    config["quota"]["reservation_ttl"] = json!("1s");
    succession.rig.write_config(&config);
    succession.upgrade().await;
    let text = answer.text().await.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let logs = succession.rig.admin().usage_logs_when(&key, 1).await;
    assert_eq!(logs[0]["completion_tokens"], 250, "{logs:?}");
    assert!(logs[0]["reason"].is_null(), "{logs:?}");
    succession.end().await.books().assert_balanced();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_hand_it_takes_over_too() {
    let mut succession = Succession::start(Rig::builder()).await;
    let key = succession.rig.admin().key(0).await;
    let mut command = Command::new(BINARY);
    command.args(["serve", "--upgrade", "--config"]);
    let command = command.arg(succession.rig.config_path());
    let mut new = command.stderr(Stdio::null()).spawn().unwrap();
    let first = succession.rig.process_mut().exited(PATIENCE).await;
    assert!(first.success(), "{first}");
    succession.serves(&key).await;
    signal(new.id(), "TERM");
    let ended = tokio::task::spawn_blocking(move || new.wait().unwrap());
    assert!(ended.await.unwrap().success());
    succession.rig.books().assert_balanced();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_upgrade_socket_may_move() {
    let mut succession = Succession::start(Rig::builder()).await;
    let key = succession.rig.admin().key(0).await;
    let old = succession.socket();
    let mut config = succession.rig.config();
    config["server"]["upgrade_sock"] = json!("other/upgrade.sock");
    succession.rig.write_config(&config);
    let mut command = Command::new(BINARY);
    command.args(["upgrade", "--socket"]).arg(&old);
    let said = output(command).await;
    assert!(said.status.success(), "{said:?}");
    succession.took_over(&said);
    succession.serves(&key).await;
    eventually(PATIENCE, || async { that(old.exists(), |exists| !exists) }).await;
    // It is asked where the configuration says.
    succession.upgrade().await;
    succession.serves(&key).await;
    succession.end().await.books().assert_balanced();
}

/// The configuration changes, and the old process is told, when the new one has read it already.
async fn reloaded_meanwhile(change: impl FnOnce(&mut Value)) -> (Rig, Process, Key) {
    let mut rig = Rig::builder().start().await;
    let key = rig.admin().key(0).await;
    rig.kill9();
    let mut config = rig.config();
    change(&mut config);
    let changed = rig.folder().join("changed.yaml");
    std::fs::write(&changed, config.to_string()).unwrap();
    let (from, to) = (changed.display(), rig.config_path());
    let act = format!("run:cp '{from}' '{}'", to.display());
    let books = Books::File {
        file: rig.folder().join("quota.db").canonicalize().unwrap(),
        schema: SCHEMA_VERSION,
    };
    let socket = rig.folder().join("before.sock");
    let _old = halves::Old::start(&socket, "asked", &act, &books);
    eventually(PATIENCE, || async {
        std::fs::metadata(&socket).map_err(|fault| fault.to_string())
    })
    .await;
    let take_over = format!("set -- --upgrade --socket '{}' \"$@\"", socket.display());
    let new = Process::serve(&to, &[], &take_over).await;
    (rig, new, key)
}

async fn says(process: &Process, what: &str) {
    eventually(PATIENCE, || async {
        that(process.output(), |said| said.contains(what))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_changes_meanwhile_is_not_lost() {
    let change = |config: &mut Value| config["pools"][2]["models"] = json!(["new-*"]);
    let (_rig, new, key) = reloaded_meanwhile(change).await;
    says(&new, "configuration reloaded").await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.post(format!("http://{}{CHAT}", new.edge));
    let request = request.bearer_auth(&key.secret).json(&chat("new-model"));
    assert_eq!(request.send().await.unwrap().status(), 200);

    let change = |config: &mut Value| config["quota"] = json!({"admision": "strict"});
    let (_rig, new, _) = reloaded_meanwhile(change).await;
    says(&new, "admision").await;
    let admin = crate::support::admin::Admin::new(new.admin);
    let gauge = admin.metric("quota_proxy_config_last_reload_successful");
    assert_eq!(gauge.await, 0.0);
}
