//! Upgrades that must not happen: the running process goes on as it was.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use quota_proxy::server::upgrade::Taker;
use serde_json::json;

use super::*;
use crate::support::redis_server::RedisServer;

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
async fn books_in_another_redis_take_a_restart() {
    let (first, second) = (RedisServer::start(), RedisServer::start());
    let store = |redis: &RedisServer| json!({"kind": "redis", "redis": {"urls": [redis.url()]}});
    let mut succession = Succession::start(Rig::builder().set("store", store(&first))).await;
    let key = succession.rig.admin().key(0).await;
    let mut config = succession.rig.config();
    config["store"] = store(&second);
    succession.rig.write_config(&config);
    let said = succession.refused(&[]).await;
    for redis in [&first, &second] {
        assert!(said.contains(&redis.address().to_string()), "{said}");
    }
    succession.serves(&key).await;
    config["store"] = store(&first);
    succession.rig.write_config(&config);
    succession.upgrade().await;
    succession.serves(&key).await;
    succession.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_upgrades_at_once_one_takes_place() {
    let mut succession = Succession::start(Rig::builder()).await;
    let key = succession.rig.admin().key(0).await;
    let (one, other) = tokio::join!(succession.ask(&[]), succession.ask(&[]));
    let (good, bad) = match one.status.success() {
        true => (one, other),
        false => (other, one),
    };
    assert!(good.status.success() && !bad.status.success());
    let why = texts(&bad).1;
    let known = ["another upgrade is under way", "has taken over already"];
    assert!(known.iter().any(|known| why.contains(known)), "{why}");
    succession.took_over(&good);
    succession.serves(&key).await;
    succession.end().await.books().assert_balanced();
}
