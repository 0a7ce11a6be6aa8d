//! The OpenAPI document: what it says does not change unnoticed, and the service does what it says.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::house::House;
use crate::support::admin::TOKEN;

const GOLDEN: &str = "tests/golden/openapi.json";
/// Set to write the golden file anew.
const REWRITE: &str = "REWRITE_GOLDEN";

async fn document(house: &House) -> Value {
    house.get(TOKEN, "/openapi.json").await.ok()
}

#[tokio::test]
async fn the_document_is_the_one_that_was_agreed_on() {
    let house = House::embedded().await;
    let now = format!("{:#}\n", document(&house).await);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(GOLDEN);
    if std::env::var_os(REWRITE).is_some() {
        std::fs::write(&golden, &now).unwrap();
    }
    let agreed = std::fs::read_to_string(&golden).unwrap();
    let differ = agreed.lines().zip(now.lines()).find(|(a, b)| a != b);
    assert!(
        agreed == now,
        "run it with {REWRITE}=1 and read the change: {differ:?}"
    );
}

#[tokio::test]
async fn every_described_endpoint_is_there() {
    let house = House::embedded().await;
    let document = document(&house).await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = if path.starts_with("/api/v1") {
                "1"
            } else {
                "none"
            };
            let place = path.replace("{id}", id);
            let reply = house
                .operate(&method.to_uppercase(), &place, Value::Null)
                .await;
            assert!(reply.status != 405, "{method} {path}");
            assert!(!reply.text.contains("path not found"), "{method} {path}");
            let known = operation["responses"].get(reply.status.to_string());
            assert!(
                known.is_some(),
                "{method} {path}: {} is not described",
                reply.status
            );
            assert!(operation["description"].is_string() || operation["summary"].is_string());
            assert!(operation["tags"][0].is_string(), "{method} {path}");
        }
    }
}

/// Schemathesis makes requests of the document and compares every answer with it. Installed once, under
/// `target`.
#[tokio::test]
async fn no_request_that_fits_the_document_is_answered_otherwise() {
    let house = House::embedded().await;
    let key = house.rig.admin().key(0).await;
    let tool = installed();
    let url = format!("http://{}/openapi.json", house.rig.process().admin);
    for (secret, paths) in [
        (TOKEN, "^/(admin|api/auth|api/v1/api-keys)"),
        (
            key.secret.as_str(),
            "^/(usage|api/usage|api/v1/(use|quota|validate|usage))",
        ),
    ] {
        let output = Command::new("timeout")
            .arg("300")
            .arg(&tool)
            .args(["run", &url, "--header"])
            .arg(format!("Authorization: Bearer {secret}"))
            .args(["--include-path-regex", paths])
            .args(["--exclude-path-regex", "/login$|/register$"])
            .args(["--checks", CHECKS, "--phases", "examples,fuzzing"])
            .args([
                "--max-examples",
                "12",
                "--seed",
                "1",
                "--no-color",
                "--workers",
                "1",
            ])
            .args([
                "--generation-database",
                "none",
                "--generation-with-security-parameters",
                "false",
            ])
            .env("NO_PROXY", "127.0.0.1")
            // It leaves its own notes where it runs.
            .current_dir(house.rig.folder())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let faults = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{paths}:\n{said}\n{faults}");
    }
}

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_schema_conformance";

/// The tool in a folder of its own, which is named by its version and made once.
fn installed() -> std::path::PathBuf {
    let wanted = std::fs::read_to_string("tests/api/users/requirements.txt").unwrap();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = target.join(wanted.trim().replace("==", "-"));
    let run = |program: &Path, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        let output = output.unwrap_or_else(|e| panic!("{program:?}: {e} (make test-tools)"));
        assert!(output.status.success(), "{program:?}: {output:?}");
    };
    if !folder.join("ready").exists() {
        let place = folder.to_str().unwrap();
        run(Path::new("python3"), &["-m", "venv", place]);
        let pip = ["-m", "pip", "install", "--quiet", wanted.trim()];
        run(&folder.join("bin/python"), &pip);
        std::fs::write(folder.join("ready"), "").unwrap();
    }
    folder.join("bin/schemathesis")
}
