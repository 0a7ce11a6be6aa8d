//! The curl lines of `conf/README.md`, run as they stand there.

use std::process::{Command, Stdio};

use crate::support::admin::TOKEN;
use crate::support::rig::Rig;

const PAGE: &str = include_str!("../../conf/README.md");

/// What stands in the page's shell blocks.
fn script() -> String {
    let blocks = PAGE.split("```sh\n").skip(1);
    let blocks = blocks.filter_map(|block| block.split("```").next());
    blocks.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn every_line_of_the_examples_page_is_answered() {
    let rig = Rig::start().await;
    let script = script();
    assert!(script.matches("curl ").count() > 30, "{script}");
    let edge = rig.url();
    let admin = format!("http://{}", rig.process().admin);
    let mut command = Command::new("bash");
    // A refused request ends it, and says what was answered.
    command
        .args(["-euo", "pipefail", "-c"])
        .arg(format!(
            "curl() {{ command curl -sS --fail-with-body --max-time 30 \"$@\"; echo; }}\nset -x\n{script}"
        ))
        .env("EDGE", edge)
        .env("ADMIN", admin)
        .env("ADMIN_TOKEN", TOKEN)
        .stdin(Stdio::null());
    let done = tokio::task::spawn_blocking(move || command.output());
    let done = done.await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    let traced = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}\n{traced}");
    assert!(said.contains("\"amountUsed\":3"), "{said}");
}
