//! `rediss://`, with a certificate authority that only SSL_CERT_FILE names.

use std::path::Path;
use std::process::Command;

use super::server::{Server, free_port};
use super::{Link, patient};

/// Its place among the tests, for the process that is started with another environment.
const INNER: &str = "store::redis::link::tests::tls::over_tls_with_the_given_authority";

fn openssl(folder: &Path, args: &str) {
    let done = Command::new("openssl")
        .args(args.split_whitespace())
        .current_dir(folder)
        .output();
    let done = done.expect("openssl must be installed");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

#[tokio::test]
async fn tls_trusts_the_authorities_of_the_system_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for name in ["ca", "other"] {
        openssl(
            at,
            &format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} \
                 -days 2 -keyout {name}.key -out {name}.pem"
            ),
        );
    }
    openssl(
        at,
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
    );
    std::fs::write(
        at.join("ext"),
        "subjectAltName=DNS:localhost,IP:127.0.0.1\n",
    )
    .unwrap();
    openssl(
        at,
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem",
    );
    let path = |name: &str| at.join(name).to_str().unwrap().to_owned();
    let port = free_port();
    let server = Server::with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &path("server.pem"),
        "--tls-key-file",
        &path("server.key"),
        "--tls-auth-clients",
        "no",
        "--requirepass",
        "pw",
    ])
    .await;
    for (authority, expected) in [("ca.pem", "served"), ("other.pem", "UnknownIssuer")] {
        let inner = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", INNER, "--ignored", "--nocapture"])
            .env("SSL_CERT_FILE", path(authority))
            .env("TLS_URL", format!("rediss://:pw@localhost:{port}"))
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
    drop(server);
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
