//! Reloads under load: pools, prices, tiers, log level and certificates change many times, files that
//! are right and files that are wrong in turn, while clients of all kinds ask on. Every request is
//! counted: what clients got, what the upstreams answered, and what is in the books are the same.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::client::{Client, Connection, text};
use crate::handshakes::entries;
use crate::reload::{DONE, REFUSED, reload, shown, written};
use crate::support::chance::Chance;
use crate::support::rig::{CHAT, CREDENTIAL, Rig, chat, strict_fake};
use crate::support::soak::soak;
use crate::support::tls::Certificates;
use crate::support::wait::{PATIENCE, eventually, that};
use crate::support::wire::Wire;

const HOST: &str = "first.example";
const CLIENTS: usize = 8;
const RELOADS: usize = 24;
/// Requests that are answered between two reloads.
const BETWEEN: usize = 8;
/// Nano-USD per token in the first version of the prices; the n-th has n times as much. Output is so
/// much dearer that no sum of two versions is one of a third.
const INPUT: i64 = 1;
const OUTPUT: i64 = 10_000;
/// The version that stands in files which must not come into force.
const NEVER: usize = 10_000;

/// What one client saw of one request.
#[derive(Debug)]
struct Visit {
    sent: Instant,
    /// It was admitted before this.
    answered: Instant,
}

/// When a version of the configuration was in force at the most.
struct Version {
    /// Nobody was asked to take it before.
    from: Instant,
    /// From here on the next one is in force.
    until: Option<Instant>,
}

#[derive(Default)]
struct Load {
    over: AtomicBool,
    answered: AtomicUsize,
}

#[tokio::test]
async fn reloads_under_load_lose_and_mix_nothing() {
    let certificates = Certificates::of(&format!("DNS:{HOST}"));
    let rig = Rig::builder()
        .fake(strict_fake())
        .fake(strict_fake())
        .set("edge.tls", entries(&certificates, &["server"], json!({})))
        .start()
        .await;
    let mut chance = Chance::from_env();
    write(&rig, 1);
    reload(&rig, DONE).await;
    let key =
        json!({"name": "k", "token_limit": 0, "usd_limit": 1_000_000, "rate_limit_tier": "own"});
    let key = rig.admin().create(key).await;
    let load = Arc::new(Load::default());
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let protocol = ["h2", "http/1.1"][client % 2];
        let tls = Client::new(&certificates, protocol, None);
        let visitor = Visitor {
            number: client,
            tls,
            address: rig.process().tls[0],
            secret: key.secret.clone(),
            load: Arc::clone(&load),
        };
        clients.spawn(visitor.visits(chance.fork()));
    }
    let versions = change(&rig, &certificates, &load).await;
    load.over.store(true, Relaxed);
    let mut seen = BTreeMap::new();
    while let Some(visits) = clients.join_next().await {
        seen.extend(visits.unwrap());
    }
    assert_eq!(
        shown(&certificates, &rig).await,
        written(&certificates, "server.pem")
    );
    let mut upstream = 0;
    for fake in rig.fakes() {
        // It has ended an answer only after its client has it.
        let ended = fake.ledger_when(|ledger| ledger.requests == ledger.completed);
        let ledger = ended.await;
        assert_eq!(ledger.client_gone, 0);
        upstream += ledger.requests;
    }
    assert_eq!(upstream, seen.len() as u64);
    let books = rig.end().await;
    let events = books.rows(
        "SELECT end_user, response_status, prompt_tokens AS input, completion_tokens AS output,
         total_cost_nano AS cost, estimated FROM usage_events",
    );
    assert_eq!(events.len(), seen.len());
    let mut used = BTreeMap::new();
    for event in &events {
        let visit = seen.remove(event["end_user"].as_str().unwrap());
        let version = judge(event, &visit.unwrap(), &versions);
        *used.entry(version).or_insert(0) += 1;
    }
    assert!(seen.is_empty(), "no event of {seen:?}");
    assert!(
        used.len() > RELOADS / 2,
        "the versions were hardly used: {used:?}"
    );
}

struct Visitor {
    number: usize,
    tls: Client,
    address: SocketAddr,
    secret: String,
    load: Arc<Load>,
}

impl Visitor {
    async fn connect(&self) -> Connection {
        self.tls.connect(self.address, HOST).await.unwrap()
    }

    /// Asks until the load is over; connects anew now and then.
    async fn visits(self, mut chance: Chance) -> Vec<(String, Visit)> {
        let bearer = format!("Bearer {}", self.secret);
        let mut connection = self.connect().await;
        let mut seen = Vec::new();
        while !self.load.over.load(Relaxed) {
            if chance.below(8) == 0 {
                connection = self.connect().await;
            }
            let name = format!("{}-{}", self.number, seen.len());
            let tokens = 1 + chance.below(40);
            let wish = format!("tokens={tokens},interval=2ms");
            let headers = [("authorization", bearer.as_str()), ("x-fake", &wish)];
            let stream = chance.below(2) == 0;
            let body = json!({"model": "gpt-4o", "stream": stream, "user": name,
                          "messages": [{"role": "user", "content": "x".repeat(4 + self.number)}]});
            let sent = Instant::now();
            let answer = connection.post(CHAT, &headers, &body).await.unwrap();
            let answered = Instant::now();
            let status = answer.status();
            let said = text(answer).await;
            assert_eq!(status, 200, "{name}: {said}");
            assert_eq!(stream, said.ends_with("data: [DONE]\n\n"), "{name}: {said}");
            seen.push((name, Visit { sent, answered }));
            self.load.answered.fetch_add(1, Relaxed);
        }
        seen
    }
}

/// Reloads, a right file and a wrong one in turn; when each version was in force.
async fn change(rig: &Rig, certificates: &Certificates, load: &Load) -> Vec<Version> {
    let mut versions = vec![Version {
        from: Instant::now(),
        until: None,
    }];
    for number in 2..=RELOADS * soak() as usize {
        answers(load).await;
        spoil(rig, certificates, number);
        reload(rig, REFUSED).await;
        answers(load).await;
        certificates.issue("server", &format!("DNS:{HOST}"));
        write(rig, number);
        let from = Instant::now();
        reload(rig, DONE).await;
        versions.last_mut().unwrap().until = Some(Instant::now());
        versions.push(Version { from, until: None });
    }
    answers(load).await;
    versions
}

async fn answers(load: &Load) {
    let enough = load.answered.load(Relaxed) + BETWEEN;
    eventually(PATIENCE, || async {
        that(load.answered.load(Relaxed), |count| *count >= enough)
    })
    .await;
}

fn write_prices(rig: &Rig, number: usize) {
    let usd = |nano: i64| nano as f64 * number as f64 / 1_000.0;
    let (input, output) = (usd(INPUT), usd(OUTPUT));
    let prices = format!("models: {{gpt-4o: {{input: {input}, output: {output}}}}}\n");
    std::fs::write(rig.folder().join("prices.yaml"), prices).unwrap();
}

/// The configuration of a version: other peers, prices, limits and words each time.
fn write(rig: &Rig, number: usize) {
    let mut config = rig.config();
    let peers: Vec<Value> = rig
        .fakes()
        .iter()
        .enumerate()
        .filter(|(at, _)| number % 3 == 2 || *at == number % 3)
        .map(|(_, fake)| json!({"url": fake.url(), "credential": CREDENTIAL}))
        .collect();
    config["pools"][2]["models"] = json!(["gpt-*"]);
    config["pools"][2]["peers"] = json!(peers);
    config["pools"][2]["balance"] = json!(["round_robin", "least_connections"][number % 2]);
    config["pricing"] = json!({"file": "prices.yaml"});
    config["tiers"] = json!({"own": {"requests_per_minute": 1_000_000 + number}});
    let level = ["info", "debug"][number % 2];
    config["log"] = json!({"level": level});
    config["edge"].as_object_mut().unwrap().remove("cors");
    write_prices(rig, number);
    rig.write_config(&config);
}

/// Makes the files of the configuration wrong in one of several ways. The others would change much.
fn spoil(rig: &Rig, certificates: &Certificates, number: usize) {
    write(rig, NEVER);
    let mut config = rig.config();
    match number % 6 {
        0 => config["tiers"]["own"]["requests_per_minute"] = json!("many"),
        1 => config["pools"][2]["models"] = json!(["["]),
        2 => config["edge"]["cors"] = json!({"orgins": []}),
        3 => std::fs::write(rig.folder().join("prices.yaml"), "models: 7\n").unwrap(),
        4 => std::fs::write(certificates.path("server.pem"), "none\n").unwrap(),
        // The certificate is another's.
        _ => drop(std::fs::copy(
            certificates.path("ca.pem"),
            certificates.path("server.pem"),
        )),
    }
    rig.write_config(&config);
}

/// The one version that an event was priced by, which must have been in force when it was admitted.
fn judge(event: &Value, visit: &Visit, versions: &[Version]) -> usize {
    let number = |name: &str| event[name].as_i64().unwrap();
    assert_eq!(
        (number("response_status"), number("estimated")),
        (200, 0),
        "{event:#}"
    );
    let once = number("input") * INPUT + number("output") * OUTPUT;
    assert_eq!(number("cost") % once, 0, "a mix of prices: {event:#}");
    let version = (number("cost") / once) as usize;
    let known = version.checked_sub(1).and_then(|at| versions.get(at));
    let known = known.unwrap_or_else(|| panic!("version {version} was refused: {event:#}"));
    assert!(
        known.from <= visit.answered,
        "priced by what came later: {event:#}"
    );
    let is_current = known.until.is_none_or(|until| visit.sent <= until);
    assert!(is_current, "priced by what was gone: {event:#}");
    version
}

/// Whatever becomes of a request after it was admitted, its prices are those by which it reserved.
#[tokio::test]
async fn a_request_that_fails_over_after_a_reload_keeps_its_prices() {
    let busy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rig = Rig::builder().fake(strict_fake()).start().await;
    write(&rig, 1);
    let mut config = rig.config();
    let first = json!({"url": format!("http://{}", busy.local_addr().unwrap())});
    let second = json!({"url": rig.fake().url(), "credential": CREDENTIAL});
    config["pools"][2]["peers"] = json!([first, second]);
    config["pools"][2]["balance"] = json!("fallback");
    rig.write_config(&config);
    reload(&rig, DONE).await;
    let key = rig.admin().key(0).await;
    let (asked, is_asked) = oneshot::channel();
    let (reloaded, is_reloaded) = oneshot::channel();
    let busy = async {
        let (stream, _) = busy.accept().await.unwrap();
        let mut wire = Wire::over(stream);
        wire.request().await.unwrap();
        asked.send(()).unwrap();
        is_reloaded.await.unwrap();
        let answer = "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n";
        wire.stream_mut()
            .write_all(answer.as_bytes())
            .await
            .unwrap();
    };
    let change = async {
        is_asked.await.unwrap();
        write_prices(&rig, 2);
        reload(&rig, DONE).await;
        reloaded.send(()).unwrap();
    };
    let body = chat("gpt-4o");
    let answer = rig.post(CHAT, &key.secret, &body);
    let (answer, (), ()) = tokio::join!(answer, busy, change);
    assert_eq!(answer.status(), 200);
    answer.bytes().await.unwrap();
    let books = rig.end().await;
    let event = &books.rows("SELECT * FROM usage_events")[0];
    let number = |name: &str| event[name].as_i64().unwrap();
    let once = number("prompt_tokens") * INPUT + number("completion_tokens") * OUTPUT;
    assert_eq!(number("total_cost_nano"), once, "{event:#}");
}
