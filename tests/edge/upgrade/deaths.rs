//! Either process ends, hangs or talks nonsense at any step: one of them serves on, with the books whole.
#![expect(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use quota_proxy::server::upgrade::Books;
use quota_proxy::store::embedded::SCHEMA_VERSION;
use reqwest::{Method, Response};

use super::crowd::Crowd;
use super::*;
use crate::support::process::Process;
use crate::support::redis_server::RedisServer;
use crate::support::rig::chat_stream;
use crate::support::wait::that;

/// The process that the command started.
fn started(said: &Output) -> u32 {
    let (out, err) = texts(said);
    let line = out.lines().find(|line| line.ends_with(" is starting"));
    let pid = line.and_then(|line| line.split(' ').nth(1)?.parse().ok());
    pid.unwrap_or_else(|| panic!("{out}{err}"))
}

/// A stream that lasts for minutes, once it has begun.
async fn long_stream(rig: &Rig, key: &Key) -> Response {
    let request = rig.request(Method::POST, CHAT, &key.secret);
    let request = request.header("x-fake", "tokens=6000,interval=20ms");
    let mut answer = request.json(&chat_stream("gpt-4o")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.chunk().await.unwrap().unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_fails_at_any_step_leaves_the_old_one_serving() {
    let mut succession = Succession::start(Rig::builder()).await;
    let key = succession.rig.admin().key(0).await;
    let mut chance = Chance::from_env();
    let crowd = Crowd::start(&succession.rig, &key, &mut chance);
    let steps = [
        ("asked", "exit"),
        ("asked", "hang"),
        ("books", "exit"),
        ("yours", "exit"),
        ("yours", "fail"),
        ("yours", "close"),
        ("yours", "nonsense"),
        ("yours", "hang"),
        ("ready", "exit"),
        ("ready", "close"),
        ("go", "exit"),
        ("go", "hang"),
    ];
    for (step, act) in steps {
        crowd.answers(5).await;
        let binary = halves::new(succession.rig.folder(), &succession.socket(), step, act);
        let said = succession
            .ask(&["--binary", &binary, "--patience", "2"])
            .await;
        let (out, err) = texts(&said);
        assert!(!said.status.success(), "{step} {act}: {out}{err}");
        assert!(err.contains("goes on as it was"), "{step} {act}: {err}");
        assert!(!is_alive(started(&said)), "{step} {act}: it lives on");
        crowd.answers(5).await;
    }
    let said = succession.rig.process().output();
    assert!(said.contains("it has no wish to"), "{said}");
    crowd.end().await;
    succession.upgrade().await;
    succession.serves(&key).await;
    succession.end().await.books().assert_balanced();
}

/// Another process has the file for a while: a shell, a backup, one that is slow to die.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn books_that_do_not_come_back_at_once_are_waited_for() {
    let mut succession = Succession::start(Rig::builder()).await;
    let key = succession.rig.admin().key(0).await;
    let mut chance = Chance::from_env();
    let crowd = Crowd::start(&succession.rig, &key, &mut chance);
    crowd.answers(5).await;
    let folder = succession.rig.folder();
    let (lock, held) = (folder.join("quota.db.lock"), folder.join("held"));
    let act = format!(
        "run:(setsid flock '{0}' sh -c 'touch {1}; exec sleep 5' >&2 &); while ! [ -e '{1}' ]; do sleep 0.01; done; kill -9 $PPID",
        lock.display(),
        held.display()
    );
    let binary = halves::new(folder, &succession.socket(), "yours", &act);
    let said = succession.ask(&["--binary", &binary]).await;
    assert!(!said.status.success(), "{said:?}");
    let said = succession.rig.process().output();
    assert!(said.contains("which is tried on"), "{said}");
    crowd.answers(5).await;
    let (answered, _) = crowd.end().await;
    succession.serves(&key).await;
    let first = succession.rig.process().pid();
    assert!(is_alive(first));
    signal(first, "TERM");
    let status = succession.rig.process_mut().exited(PATIENCE).await;
    assert!(status.success(), "{status}");
    let books = succession.rig.books();
    books.assert_balanced();
    let events = books.number("SELECT count(*) FROM usage_events");
    assert_eq!(events, answered as i64 + 1);
}

/// The real one, by chance before, while and after it takes the books.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_is_killed_or_hangs_at_any_moment_is_undone() {
    let mut succession = Succession::start(Rig::builder()).await;
    let key = succession.rig.admin().key(0).await;
    let mut chance = Chance::from_env();
    for round in 0..6 * soak() {
        let name = if round % 2 == 0 { "KILL" } else { "STOP" };
        let delay = chance.below(80);
        let shell = format!("(sleep 0.{delay:03}; kill -{name} $$) &\nexec {BINARY} \"$@\"");
        let binary = server(succession.rig.folder(), "short-lived", &shell);
        let said = succession
            .ask(&["--binary", &binary, "--patience", "1"])
            .await;
        println!("{name} after {delay} ms: {}", texts(&said).1);
        if !said.status.success() {
            assert!(!is_alive(started(&said)));
        } else if name == "KILL" {
            // A server, not one to be: the old one ends with it, and the books are as they were.
            gone(started(&said)).await;
            succession.rig.process_mut().exited(PATIENCE).await;
            succession.rig.restart().await;
            succession.later.0.clear();
        } else {
            succession.took_over(&said);
            let pid = succession.pid();
            // It is stopped now, or soon.
            eventually(PATIENCE, || async {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
                that(status, |status| status.contains("State:\tT"))
            })
            .await;
            signal(pid, "CONT");
        }
        succession.serves(&key).await;
    }
    succession.upgrade().await;
    succession.serves(&key).await;
    succession.end().await.books().assert_balanced();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_process_that_dies_leaves_the_books_whole_and_those_who_have_them_serve() {
    let builder = Rig::builder().set("server.upgrade_sock", json!("run/upgrade.sock"));
    let mut rig = builder.start().await;
    let key = rig.admin().key(0).await;
    let running = long_stream(&rig, &key).await;
    rig.kill9();
    drop(running);
    let books = Books::File {
        file: rig.folder().join("quota.db").canonicalize().unwrap(),
        schema: SCHEMA_VERSION,
    };
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for (step, goes_on) in [
        ("asked", false),
        ("sockets", false),
        ("books", false),
        ("yours", true),
        ("ready", true),
        ("go", true),
        ("thanks", true),
    ] {
        let socket = rig.folder().join(format!("{step}.sock"));
        let _old = halves::Old::start(&socket, step, "exit", &books);
        eventually(PATIENCE, || async {
            std::fs::metadata(&socket).map_err(|fault| fault.to_string())
        })
        .await;
        if !goes_on {
            let mut command = Command::new(BINARY);
            command
                .args(["serve", "--upgrade", "--socket"])
                .arg(&socket);
            command.arg("--config").arg(rig.config_path());
            let said = output(command).await;
            assert_eq!(said.status.code(), Some(1), "{step}: {said:?}");
            let (_, err) = texts(&said);
            assert!(err.contains("cannot take over"), "{step}: {err}");
            continue;
        }
        let take_over = format!("set -- --upgrade --socket '{}' \"$@\"", socket.display());
        let new = Process::serve(&rig.config_path(), &[], &take_over).await;
        let request = client.post(format!("http://{}{CHAT}", new.edge));
        let request = request.bearer_auth(&key.secret).json(&chat("gpt-4o"));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{step}: {}", new.output());
        answer.bytes().await.unwrap();
    }
    rig.restart().await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_new_process_crashes_the_old_one_ends_too_and_the_books_are_whole() {
    let mut succession = Succession::start(Rig::builder()).await;
    let key = succession.rig.admin().key(0).await;
    let _running = long_stream(&succession.rig, &key).await;
    succession.upgrade().await;
    succession.serves(&key).await;
    signal(succession.pid(), "KILL");
    let status = succession.rig.process_mut().exited(PATIENCE).await;
    assert_eq!(status.code(), Some(1));
    succession.rig.restart().await;
    succession.rig.admin().usage_logs_when(&key, 2).await;
    succession.rig.end().await;
}

/// An edge of a fleet needs nobody to settle what it cuts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_new_process_crashes_an_edge_of_a_fleet_settles_what_it_cuts() {
    let redis = RedisServer::start();
    let store = json!({"kind": "redis", "redis": {"urls": [redis.url()], "timeout": "2s"}});
    let mut succession = Succession::start(Rig::builder().set("store", store)).await;
    let key = succession.rig.admin().key(0).await;
    let _running = long_stream(&succession.rig, &key).await;
    succession.upgrade().await;
    signal(succession.pid(), "KILL");
    let status = succession.rig.process_mut().exited(PATIENCE).await;
    assert_eq!(status.code(), Some(1));
    succession.rig.restart().await;
    let events = succession.rig.admin().usage_logs_when(&key, 1).await;
    assert_eq!(events[0]["reason"], "dropped", "{events:?}");
    succession.rig.admin().settled().await;
}
