//! RELIABILITY 18: a new process takes over from a running one, and no request notices; one that cannot
//! take over leaves the running one as it was.
#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests")]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use quota_proxy::server::upgrade::{Books, Taker};
use quota_proxy::store::embedded::SCHEMA_VERSION;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::admin::Key;
use crate::support::chance::Chance;
use crate::support::redis_server::RedisServer;
use crate::support::rig::{Builder, CHAT, Rig, chat, chat_stream};
use crate::support::soak::soak;
use crate::support::tls::Certificates;
use crate::support::wait::{PATIENCE, eventually};

const BINARY: &str = env!("CARGO_BIN_EXE_quota-proxy");

/// A proxy, and the processes that took over from it. Those are nobody's children: they end with this.
struct Succession {
    rig: Rig,
    later: Later,
}

/// Processes that were started by others.
#[derive(Default)]
struct Later(Vec<u32>);

impl Succession {
    async fn start(builder: Builder) -> Self {
        let builder = builder.set("server.upgrade_sock", json!("run/upgrade.sock"));
        let rig = builder.start().await;
        let socket = rig.folder().join("run/upgrade.sock");
        eventually(PATIENCE, || async {
            std::fs::metadata(&socket).map_err(|fault| fault.to_string())
        })
        .await;
        Succession {
            rig,
            later: Later::default(),
        }
    }

    fn socket(&self) -> PathBuf {
        self.rig.folder().join("run/upgrade.sock")
    }

    /// The process that serves.
    fn pid(&self) -> u32 {
        *self.later.0.last().unwrap_or(&self.rig.process().pid())
    }

    /// `quota-proxy upgrade` with these arguments.
    async fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command
            .arg("upgrade")
            .arg("--config")
            .arg(self.rig.config_path());
        command.args(arguments);
        output(command).await
    }

    /// One upgrade that must go well.
    async fn upgrade(&mut self) {
        let said = self.ask(&[]).await;
        let (out, err) = texts(&said);
        assert!(
            said.status.success(),
            "{out}{err}{}",
            self.rig.process().output()
        );
        let last = out.lines().last().unwrap();
        let pid = last
            .strip_prefix("process ")
            .and_then(|rest| rest.split(' ').next());
        let pid = pid.and_then(|pid| pid.parse().ok());
        self.later.0.push(pid.unwrap_or_else(|| panic!("{out}")));
    }

    /// An upgrade that must not happen; answers why, in the words of the command.
    async fn refused(&self, arguments: &[&str]) -> String {
        let before = self.pid();
        let said = self.ask(arguments).await;
        let (out, err) = texts(&said);
        assert!(!said.status.success(), "{out}{err}");
        assert!(err.contains("goes on as it was"), "{err}");
        assert!(is_alive(before), "{out}{err}");
        err
    }

    /// One request that must be answered, and the admin service too.
    async fn serves(&self, key: &Key) {
        let answer = self.rig.post(CHAT, &key.secret, &chat("gpt-4o")).await;
        assert_eq!(answer.status(), 200, "{}", self.rig.process().output());
        self.rig.admin().show(key).await;
    }

    /// Every process but the last has ended by itself, then that one ends by SIGTERM; none panicked.
    async fn end(mut self) -> Rig {
        self.rig.admin().settled().await;
        let last = self.pid();
        for pid in self.later.0.iter().filter(|pid| **pid != last) {
            gone(*pid).await;
        }
        let first = self.rig.process_mut().exited(PATIENCE).await;
        assert!(first.success(), "{first}");
        let told = Command::new("kill").arg(last.to_string()).status();
        assert!(told.unwrap().success());
        gone(last).await;
        let said = self.rig.process().output();
        assert!(
            !said.contains("panicked") && !said.contains(" ERROR "),
            "{said}"
        );
        self.rig
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        for pid in self.0.iter().filter(|pid| is_alive(**pid)) {
            let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
            killed.unwrap();
        }
    }
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

async fn output(mut command: Command) -> Output {
    let run = move || command.output().unwrap();
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn is_alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    status.is_ok_and(|status| !status.contains("State:\tZ"))
}

async fn gone(pid: u32) {
    eventually(PATIENCE, || async {
        if is_alive(pid) { Err("alive") } else { Ok(()) }
    })
    .await;
}

/// Clients that call until they are told to stop. Each answer must be whole.
struct Crowd {
    clients: JoinSet<()>,
    over: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    tokens: Arc<AtomicU64>,
}

/// How a client calls.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// Over connections that are kept alive.
    Kept,
    /// Over a new connection each.
    Fresh,
    /// Over one HTTP/2 connection.
    Http2,
    /// Asks the admin service, over connections that are kept alive.
    Admin,
}

impl Crowd {
    fn start(rig: &Rig, key: &Key, chance: &mut Chance) -> Crowd {
        let mut crowd = Crowd {
            clients: JoinSet::new(),
            over: Arc::default(),
            good: Arc::default(),
            tokens: Arc::default(),
        };
        let manners = [Manner::Kept, Manner::Fresh, Manner::Http2, Manner::Admin];
        for at in 0..12 {
            let client = Caller {
                manner: manners[at % 4],
                url: format!("{}{CHAT}", rig.url()),
                admin: format!("http://{}/api/usage/quota", rig.process().admin),
                secret: key.secret.clone(),
                over: Arc::clone(&crowd.over),
                good: Arc::clone(&crowd.good),
                tokens: Arc::clone(&crowd.tokens),
            };
            crowd.clients.spawn(client.call(chance.fork()));
        }
        crowd
    }

    /// Waits until so many more were answered.
    async fn answers(&self, more: u64) {
        let enough = self.good.load(Relaxed) + more;
        eventually(PATIENCE, || async {
            let good = self.good.load(Relaxed);
            if good >= enough {
                Ok(())
            } else {
                Err((good, enough))
            }
        })
        .await;
    }

    /// How many were answered, and with how many tokens.
    async fn end(mut self) -> (u64, u64) {
        self.over.store(true, Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        (self.good.load(Relaxed), self.tokens.load(Relaxed))
    }
}

struct Caller {
    manner: Manner,
    url: String,
    admin: String,
    secret: String,
    over: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    tokens: Arc<AtomicU64>,
}

impl Caller {
    async fn call(self, mut chance: Chance) {
        let client = Client::builder().no_proxy();
        let client = match self.manner {
            Manner::Kept | Manner::Admin => client,
            Manner::Fresh => client.pool_max_idle_per_host(0),
            Manner::Http2 => client.http2_prior_knowledge(),
        };
        let client = client.build().unwrap();
        while !self.over.load(Relaxed) {
            if let Manner::Admin = self.manner {
                let asked = client
                    .get(&self.admin)
                    .bearer_auth(&self.secret)
                    .send()
                    .await;
                assert_eq!(asked.unwrap().status(), 200);
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            }
            let stream = chance.below(2) == 0;
            let tokens = 1 + chance.below(60);
            let mut body = if stream {
                chat_stream("gpt-4o")
            } else {
                chat("gpt-4o")
            };
            body["max_tokens"] = json!(100);
            let request = client.post(&self.url).bearer_auth(&self.secret).json(&body);
            let request = request.header("x-fake", format!("tokens={tokens},interval=2ms"));
            let answer = request.send().await;
            let answer = answer.unwrap_or_else(|fault| panic!("{:?}: {fault:?}", self.manner));
            assert_eq!(answer.status(), 200, "{:?}", self.manner);
            let text = answer.text().await;
            let text = text.unwrap_or_else(|fault| panic!("{:?}: {fault:?}", self.manner));
            if stream {
                assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
            } else {
                let whole: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(whole["usage"]["completion_tokens"], tokens);
            }
            self.good.fetch_add(1, Relaxed);
            self.tokens.fetch_add(tokens, Relaxed);
        }
    }
}

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

/// A file that is run in place of the new binary.
fn script(folder: &Path, name: &str, shell: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{shell}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_binary_that_is_broken_changes_nothing() {
    let succession = Succession::start(Rig::builder()).await;
    let key = succession.rig.admin().key(0).await;
    let folder = succession.rig.folder();
    let when_serving = |shell: &str| format!("[ \"$1\" = check ] && exec {BINARY} \"$@\"\n{shell}");
    let nowhere = folder.join("nowhere").display().to_string();
    let bad = [
        (nowhere, "nowhere"),
        (
            script(folder, "no-check", "echo what a mess >&2; exit 3"),
            "what a mess",
        ),
        (
            script(folder, "no-serve", &when_serving("exit 4")),
            "exit status: 4",
        ),
        (
            script(folder, "killed", &when_serving("kill -9 $$")),
            "signal: 9",
        ),
        (
            // It takes the sockets and the books, and finds no room for its access log.
            script(
                folder,
                "no-store",
                &when_serving(&format!("ulimit -n 24; exec {BINARY} \"$@\"")),
            ),
            "ended",
        ),
    ];
    for (binary, why) in &bad {
        let said = succession.refused(&["--binary", binary]).await;
        assert!(said.contains(why), "{binary}: {said}");
        succession.serves(&key).await;
    }
    // A bad file is found by the binary that would load it.
    let good = succession.rig.config();
    let mut config = good.clone();
    config["quota"] = json!({"admission": "maybe"});
    succession.rig.write_config(&config);
    let said = succession.refused(&[]).await;
    assert!(
        said.contains("quota.admission") && said.contains("clamp"),
        "{said}"
    );
    // One that only fails when it is used.
    let mut config = good.clone();
    config["log"] = json!({"access": "/proc/no/such/file"});
    succession.rig.write_config(&config);
    let said = succession.refused(&[]).await;
    assert!(said.contains("log.access"), "{said}");
    // Other books are no books to settle on.
    let mut config = good.clone();
    config["store"]["path"] = json!("other.db");
    succession.rig.write_config(&config);
    let said = succession.refused(&[]).await;
    assert!(
        said.contains("quota.db") && said.contains("other.db"),
        "{said}"
    );
    succession.rig.write_config(&good);
    succession.serves(&key).await;
    let mut succession = succession;
    succession.upgrade().await;
    succession.serves(&key).await;
    succession.end().await.books().assert_balanced();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_dies_at_any_moment_leaves_the_old_one_serving() {
    let mut succession = Succession::start(Rig::builder()).await;
    let key = succession.rig.admin().key(0).await;
    let mut chance = Chance::from_env();
    let crowd = Crowd::start(&succession.rig, &key, &mut chance);
    let socket = succession.socket();
    let books = Books {
        file: succession
            .rig
            .folder()
            .join("quota.db")
            .canonicalize()
            .unwrap(),
        schema: SCHEMA_VERSION,
    };
    for moment in ["asked", "has the books", "failed"] {
        crowd.answers(10).await;
        let socket = socket.clone();
        let books = books.clone();
        let act = move || {
            let mut taker = Taker::ask(&socket).unwrap();
            match moment {
                "asked" => drop(taker),
                "has the books" => taker.take_books(Some(&books)).unwrap(),
                _ => {
                    taker.take_books(Some(&books)).unwrap();
                    taker.give_up("it has no wish to");
                }
            }
        };
        // A runtime of its own: not on one of this test's.
        std::thread::spawn(act).join().unwrap();
        crowd.answers(10).await;
    }
    let said = succession.rig.process().output();
    assert!(said.contains("it has no wish to"), "{said}");
    // The real one, killed while it starts: by chance before, while and after it takes the books.
    for _ in 0..4 * soak() {
        let delay = chance.below(60);
        let shell = format!(
            "[ \"$1\" = check ] && exec {BINARY} \"$@\"\n{BINARY} \"$@\" & pid=$!\nsleep 0.{delay:03}\nkill -9 $pid"
        );
        let binary = script(succession.rig.folder(), "short-lived", &shell);
        let said = succession.ask(&["--binary", &binary]).await;
        if said.status.success() {
            println!("killed after {delay} ms: a server, not one to be");
            return;
        }
        println!("killed after {delay} ms: {}", texts(&said).1);
        crowd.answers(10).await;
    }
    crowd.end().await;
    succession.upgrade().await;
    succession.end().await.books().assert_balanced();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_signals_change_nothing() {
    let mut succession = Succession::start(Rig::builder()).await;
    let key = succession.rig.admin().key(0).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let socket = succession.socket();
    let folder = socket.parent().unwrap();
    assert_eq!((mode(folder), mode(&socket)), (0o700, 0o600));
    // Pingora's sign for an upgrade, with nobody there to take over.
    for _ in 0..3 {
        succession.rig.process().signal("QUIT");
    }
    succession.serves(&key).await;
    // Words that are none.
    for bytes in [
        &b""[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\x02{}",
        b"\xff\xff\xff\xff",
    ] {
        use std::io::Write as _;
        let mut stranger = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stranger.write_all(bytes).unwrap();
    }
    succession.serves(&key).await;
    if is_root() {
        // Open to everyone by mistake, it still gives nothing to another user.
        for path in [succession.rig.folder(), folder, &socket] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
        }
        let copy = succession.rig.folder().join("copy");
        std::fs::copy(BINARY, &copy).unwrap();
        let mut command = Command::new(&copy);
        command
            .args(["upgrade", "--socket"])
            .arg(&socket)
            .uid(65_534);
        let said = output(command).await;
        assert!(!said.status.success(), "{said:?}");
        let said = succession.rig.process().output();
        assert!(said.contains("user 65534 was refused"), "{said}");
        // And a new process gives nothing to another user's that listens in its place.
        let place = folder.join("stranger.sock");
        let listen = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); s.accept(); time.sleep(60)";
        let mut stranger = Command::new("python3")
            .args(["-c", listen])
            .arg(&place)
            .uid(65_534)
            .spawn()
            .unwrap();
        eventually(PATIENCE, || async {
            std::fs::metadata(&place).map_err(|fault| fault.to_string())
        })
        .await;
        let ask = move || Taker::ask(&place).unwrap_err().to_string();
        let why = std::thread::spawn(ask).join().unwrap();
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        assert!(why.contains("user 65534"), "{why}");
    }
    succession.serves(&key).await;
    succession.upgrade().await;
    succession.serves(&key).await;
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
    assert_eq!(hears(), "STOPPING=1\nSTATUS=draining");
    manager.set_nonblocking(true).unwrap();
    assert!(manager.recv(&mut [0; 512]).is_err(), "nothing more is said");
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt as _;
        own.uid() == 0
    })
}

#[tokio::test]
async fn where_nobody_is_there_to_take_over_from_it_says_so() {
    let rig = Rig::start().await;
    let config = rig.config_path();
    let mut other = rig.config();
    other["server"]["upgrade_sock"] = json!("nowhere/upgrade.sock");
    other["store"]["path"] = json!("other.db");
    let path = rig.folder().join("other.yaml");
    std::fs::write(&path, other.to_string()).unwrap();
    for arguments in [vec!["serve", "--upgrade"], vec!["upgrade"]] {
        let mut command = Command::new(BINARY);
        command.args(arguments).arg("--config").arg(&path);
        let said = output(command).await;
        let (_, err) = texts(&said);
        assert_eq!(said.status.code(), Some(1), "{err}");
        assert!(err.contains("nowhere/upgrade.sock"), "{err}");
    }
    // A second server at the same socket serves, and says that it cannot be upgraded.
    let mut second = rig.config();
    second["store"]["path"] = json!("second.db");
    std::fs::write(&path, second.to_string()).unwrap();
    assert_ne!(config, path);
    let second = crate::support::process::Process::serve(&path, &[], "").await;
    eventually(PATIENCE, || async {
        let said = second.output();
        if said.contains("another process answers there") {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;
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
