//! `rediss://`, with a certificate authority that only SSL_CERT_FILE names.

use std::process::Command;

use super::{Link, patient};
use crate::store::contract::redis_server::{Port, RedisServer, Setup, User};

/// Its place among the tests, for the process that is started with another environment.
const INNER: &str = "store::redis::link::tests::tls::over_tls_with_the_given_authority";

#[tokio::test]
async fn tls_trusts_the_authorities_of_the_system_and_no_other() {
    let user = User {
        name: String::from("edge"),
        password: String::from("pw"),
        rules: ["~*", "+@all"].map(String::from).to_vec(),
    };
    let setup = Setup {
        is_tls: true,
        user: Some(user),
        ..Setup::default()
    };
    let server = RedisServer::launch(Port::free(), setup);
    let port = server.port();
    let other = RedisServer::start_tls();
    let cases = [
        (server.ca_path(), "served"),
        (other.ca_path(), "UnknownIssuer"),
    ];
    for (authority, expected) in cases {
        let inner = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", INNER, "--ignored", "--nocapture"])
            .env("SSL_CERT_FILE", authority)
            .env("TLS_URL", format!("rediss://edge:pw@localhost:{port}"))
            .env("TLS_EXPECTED", expected)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&inner.stdout).into_owned()
            + &String::from_utf8_lossy(&inner.stderr);
        assert!(
            inner.status.success() && said.contains("1 passed"),
            "{said}"
        );
    }
}

#[tokio::test]
#[ignore = "run by the test above, in a process of its own"]
async fn over_tls_with_the_given_authority() {
    let (Ok(url), Ok(expected)) = (std::env::var("TLS_URL"), std::env::var("TLS_EXPECTED")) else {
        return;
    };
    let link = Link::start(&patient(&url)).unwrap();
    super::eventually(&expected, super::SLACK, async || {
        let told = match link.ping().await {
            Ok(()) => String::from("served"),
            Err(error) => error.to_string(),
        };
        told.contains(&expected)
    })
    .await;
    if expected == "served" {
        link.ask(redis::cmd("PING")).await.unwrap();
    }
}
