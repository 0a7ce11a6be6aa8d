//! The link against real servers.

use std::time::{Duration, Instant};

use redis::Value;

use super::{Link, LinkOptions, Script, Topology};
use crate::store::contract::redis_server::{Port, RedisServer};
use crate::store::{StoreError, StoreResult};

mod fleet;
mod tls;

const TIMEOUT: Duration = Duration::from_millis(250);

fn options(url: &str) -> LinkOptions {
    LinkOptions {
        topology: Topology::Standalone,
        urls: vec![url.to_owned()],
        primary: String::from("mymaster"),
        pool_size: 2,
        timeout: TIMEOUT,
    }
}

/// For what must not depend on the speed of the machine.
fn patient(url: &str) -> LinkOptions {
    LinkOptions {
        timeout: Duration::from_secs(10),
        ..options(url)
    }
}

async fn eventually(what: &str, limit: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !holds().await {
        assert!(since.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn is_away(link: &Link) -> bool {
    matches!(link.ping().await, Err(StoreError::Unavailable(_)))
}

async fn count(link: &Link, script: &Script) -> StoreResult<Value> {
    link.run(script, &["{t}n"], &["1"]).await
}

/// The promise after a server's return.
const BACK_WITHIN: Duration = Duration::from_secs(2);

/// Wide: what a slow machine may add to a deadline.
const SLACK: Duration = Duration::from_secs(10);

fn counter() -> Script {
    Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])")
}

#[tokio::test]
async fn a_lost_script_is_sent_anew_unnoticed() {
    let server = RedisServer::start();
    let link = Link::start(&patient(&server.url())).unwrap();
    let script = counter();
    assert_eq!(count(&link, &script).await.unwrap(), Value::Int(1));
    link.ask(redis::cmd("SCRIPT").arg("FLUSH").to_owned())
        .await
        .unwrap();
    assert_eq!(count(&link, &script).await.unwrap(), Value::Int(2));
    link.ask(redis::cmd("SCRIPT").arg("FLUSH").to_owned())
        .await
        .unwrap();
    let answer = link.run_background(&script, &["{t}n"], &["1"]).await;
    assert_eq!(answer.unwrap(), Value::Int(3));
}

#[tokio::test]
async fn a_killed_server_is_back_soon_after_its_return() {
    let server = RedisServer::start();
    let link = Link::start(&patient(&server.url())).unwrap();
    let script = counter();
    count(&link, &script).await.unwrap();
    server.kill();
    eventually("the loss is known", Duration::from_secs(5), async || {
        is_away(&link).await
    })
    .await;
    server.restart();
    let back = Instant::now();
    eventually("it serves", Duration::from_secs(10), async || {
        count(&link, &script).await.is_ok()
    })
    .await;
    assert!(back.elapsed() < BACK_WITHIN + SLACK, "{:?}", back.elapsed());
}

#[tokio::test]
async fn a_frozen_server_costs_one_deadline_and_then_nothing() {
    let server = RedisServer::start();
    let link = Link::start(&options(&server.url())).unwrap();
    let script = counter();
    eventually("it serves", SLACK, async || {
        count(&link, &script).await.is_ok()
    })
    .await;
    server.pause();
    let asked = Instant::now();
    let refused = count(&link, &script).await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    assert!(asked.elapsed() >= TIMEOUT && asked.elapsed() < TIMEOUT + SLACK);
    eventually("calls fail at once", Duration::from_secs(10), async || {
        let asked = Instant::now();
        assert!(is_away(&link).await);
        asked.elapsed() < TIMEOUT / 10
    })
    .await;
    assert!(!link.is_up());
    server.resume();
    let back = Instant::now();
    eventually("it serves", Duration::from_secs(10), async || {
        count(&link, &script).await.is_ok()
    })
    .await;
    assert!(back.elapsed() < BACK_WITHIN + SLACK, "{:?}", back.elapsed());
}

#[tokio::test]
async fn a_primary_that_became_a_replica_is_dropped() {
    let (server, other) = (RedisServer::start(), RedisServer::start());
    let link = Link::start(&patient(&server.url())).unwrap();
    let script = counter();
    count(&link, &script).await.unwrap();
    let port = other.port().to_string();
    server.command(&["REPLICAOF", "127.0.0.1", &port]);
    let refused = count(&link, &script).await.unwrap_err().to_string();
    assert!(
        refused.contains("READONLY") || refused.contains("replica"),
        "{refused}"
    );
    eventually("it is known", SLACK, async || !link.is_up()).await;
    server.command(&["REPLICAOF", "NO", "ONE"]);
    eventually("it serves", Duration::from_secs(10), async || {
        count(&link, &script).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn concurrent_steps_share_one_connection() {
    let server = RedisServer::start();
    let before = received(&server);
    let link = Link::start(&patient(&server.url())).unwrap();
    let script = counter();
    let steps = (0..600).map(|_| count(&link, &script));
    let mut answers: Vec<i64> = futures_util::future::join_all(steps)
        .await
        .into_iter()
        .map(|answer| redis::from_redis_value(answer.unwrap()).unwrap())
        .collect();
    answers.sort_unstable();
    assert_eq!(answers, (1..=600).collect::<Vec<i64>>());
    // The shared one, that of the pool, and each look of the test's own.
    let connections = received(&server);
    assert!(connections <= before + 3, "{connections}, {before} before");
}

/// Connections until now, this look's own among them.
fn received(server: &RedisServer) -> u64 {
    let count = server.info("total_connections_received");
    count.and_then(|count| count.parse().ok()).unwrap()
}

#[test]
fn a_runtime_that_ends_in_the_middle_takes_no_connection_along() {
    let here = tokio::runtime::Runtime::new().unwrap();
    let server = RedisServer::start();
    let link = std::sync::Arc::new(Link::start(&patient(&server.url())).unwrap());
    let script = std::sync::Arc::new(counter());
    for round in 0..20 {
        let other = tokio::runtime::Runtime::new().unwrap();
        for _ in 0..50 {
            let (link, script) = (link.clone(), script.clone());
            other.spawn(async move {
                loop {
                    count(&link, &script).await.unwrap();
                    link.ask(redis::cmd("PING")).await.unwrap();
                }
            });
        }
        std::thread::sleep(Duration::from_millis((7 * round) % 10));
        other.shutdown_background();
        here.block_on(count(&link, &script)).unwrap();
    }
    assert!(link.is_up());
}

#[tokio::test]
async fn without_a_server_calls_fail_at_once_and_nothing_waits() {
    let free = Port::free();
    let link = Link::start(&options(&format!("redis://{}", free.address))).unwrap();
    eventually(
        "the first second is over",
        Duration::from_secs(10),
        async || {
            let asked = Instant::now();
            assert!(is_away(&link).await);
            asked.elapsed() < TIMEOUT / 10
        },
    )
    .await;
    assert!(link.ask(redis::cmd("PING")).await.is_err());
    let told = link.inspect().await.unwrap_err().to_string();
    assert!(
        told.contains("127.0.0.1") && told.contains("refused"),
        "{told}"
    );
}

#[tokio::test]
async fn a_password_is_in_no_error() {
    let server = RedisServer::start();
    server.command(&["CONFIG", "SET", "requirepass", "right-secret"]);
    // A server that knows no AUTH, and quotes what it was sent.
    let quoting = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let quoting_port = quoting.local_addr().unwrap().port();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        while let Ok((mut stream, _)) = quoting.accept().await {
            let mut sent = [0; 1_024];
            while let Ok(length @ 1..) = stream.read(&mut sent).await {
                let commands = sent[..length].iter().filter(|&&byte| byte == b'*').count();
                let answer =
                    "-ERR unknown command 'AUTH', with args beginning with: 'wrong-secret'\r\n";
                let answers = answer.repeat(commands);
                if stream.write_all(answers.as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    });
    for (port, user) in [
        (server.port(), ""),
        (server.port(), "nobody"),
        (quoting_port, ""),
    ] {
        let url = format!("redis://{user}:wrong-secret@127.0.0.1:{port}");
        let options = options(&url);
        let link = Link::start(&options).unwrap();
        eventually("the reason is known", SLACK, async || {
            let told = link.ping().await.unwrap_err().to_string();
            assert!(!told.contains("secret"), "{told}");
            told.contains("refused") || told.contains("unknown command")
        })
        .await;
        let shown = format!("{link:?} {options:?}");
        assert!(!shown.contains("secret"), "{shown}");
    }
    let unusable = Link::start(&options("redis://:wrong-secret@127.0.0.1:x/")).unwrap_err();
    assert!(!unusable.to_string().contains("secret"), "{unusable}");
    let url = format!("redis://:right-secret@127.0.0.1:{}", server.port());
    Link::start(&patient(&url)).unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn background_commands_keep_their_order_and_are_refused_together() {
    let server = RedisServer::start();
    let link = Link::start(&patient(&server.url())).unwrap();
    let echo = |n: i64| redis::cmd("ECHO").arg(n).to_owned();
    let answers = link.ask_all((0..300).map(echo).collect()).await.unwrap();
    let answers: Vec<i64> = answers
        .into_iter()
        .map(|answer| redis::from_redis_value(answer).unwrap())
        .collect();
    assert_eq!(answers, (0..300).collect::<Vec<i64>>());
    let refused = link.ask_all(vec![echo(1), redis::cmd("NONSENSE")]).await;
    assert!(matches!(refused, Err(StoreError::Fault(_))), "{refused:?}");
    assert_eq!(link.ask_all(Vec::new()).await.unwrap(), []);
}

#[tokio::test]
async fn what_is_wrong_with_the_server_is_found() {
    let server = RedisServer::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let link = Link::start(&patient(&server.url())).unwrap();
    let found = link.inspect().await.unwrap();
    let said: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 2, "{said:?}");
    assert!(said[0].contains("allkeys-lru") && said[1].contains("nothing on disk"));
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    server.command(&["CONFIG", "SET", "appendonly", "yes"]);
    assert_eq!(link.inspect().await.unwrap(), []);
    // One who may not read the configuration is told what INFO says.
    server.command(&["CONFIG", "SET", "appendonly", "no"]);
    server.command(&[
        "ACL", "SETUSER", "edge", "on", ">pw", "~*", "+@all", "-config", "-role",
    ]);
    let url = format!("redis://edge:pw@127.0.0.1:{}", server.port());
    let found = Link::start(&patient(&url))
        .unwrap()
        .inspect()
        .await
        .unwrap();
    assert!(
        found[0].to_string().contains("CONFIG GET is refused"),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_closed_link_refuses() {
    let server = RedisServer::start();
    let link = Link::start(&patient(&server.url())).unwrap();
    link.ping().await.unwrap();
    link.close();
    for refused in [
        link.ping().await,
        link.ask(redis::cmd("PING")).await.map(|_| ()),
    ] {
        assert!(refused.unwrap_err().to_string().contains("closed"));
    }
}
