//! The link against real servers.

use std::time::{Duration, Instant};

use redis::Value;

use super::{Link, LinkOptions, Script, Topology};
use crate::store::{StoreError, StoreResult};

use server::Server;

mod server;

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

fn counter() -> Script {
    Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])")
}

#[tokio::test]
async fn a_lost_script_is_sent_anew_unnoticed() {
    let server = Server::start().await;
    let link = Link::start(&options(&server.url())).unwrap();
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
    let mut server = Server::start().await;
    let link = Link::start(&options(&server.url())).unwrap();
    let script = counter();
    count(&link, &script).await.unwrap();
    server.kill();
    eventually("the loss is known", Duration::from_secs(5), async || {
        is_away(&link).await
    })
    .await;
    server.start_again().await;
    let back = Instant::now();
    eventually("it serves", Duration::from_secs(10), async || {
        count(&link, &script).await.is_ok()
    })
    .await;
    assert!(
        back.elapsed() < Duration::from_secs(2),
        "{:?}",
        back.elapsed()
    );
}
