//! What processes of two releases say to each other. Whoever changes it gives
//! `quota_proxy::server::upgrade::PROTOCOL` a new number, upon which this asks for a new file
//! (`GOLDEN=write` makes it): releases that understand each other half way would lose books.
#![expect(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::fmt::Write as _;

use quota_proxy::server::upgrade::{Asked, Books, PROTOCOL, Said, Slot};

/// Where the steps of the process before are named, with their arguments.
const HOST: &str = include_str!("../../../src/store/movable/host.rs");

/// A new variant is a new line here.
fn asked() -> [Asked; 7] {
    let all = [
        Asked::Start {
            binary: "/usr/bin/quota-proxy".into(),
            patience_s: 60,
        },
        Asked::Take {
            protocol: PROTOCOL,
            release: String::from("1.2.3"),
        },
        Asked::Books,
        Asked::Ready,
        Asked::Thanks,
        Asked::Failed(String::from("why")),
        Asked::Reload,
    ];
    for one in &all {
        match one {
            Asked::Start { .. }
            | Asked::Take { .. }
            | Asked::Books
            | Asked::Ready
            | Asked::Thanks
            | Asked::Failed(_)
            | Asked::Reload => {}
        }
    }
    all
}

fn said() -> [Said; 8] {
    let slots = vec![Slot {
        what: String::from("edge.listen"),
        asked: "127.0.0.1:8787".parse().unwrap(),
    }];
    let all = [
        Said::Progress(String::from("words")),
        Said::Done {
            pid: 7,
            release: String::from("1.2.3"),
        },
        Said::Sockets {
            slots: slots.clone(),
            books: Books::File {
                file: "/var/lib/quota-proxy/quota.db".into(),
                // Its own version says when it changes.
                schema: 0,
            },
        },
        Said::Sockets {
            slots,
            books: Books::Redis {
                servers: String::from("10.0.0.5:6379/0"),
            },
        },
        Said::Yours,
        Said::Go,
        Said::Reloaded {
            waiting: vec![String::from("server")],
        },
        Said::Refused(String::from("why")),
    ];
    for one in &all {
        match one {
            Said::Progress(_)
            | Said::Done { .. }
            | Said::Sockets { .. }
            | Said::Yours
            | Said::Go
            | Said::Reloaded { .. }
            | Said::Refused(_) => {}
        }
    }
    all
}

/// Each step by its name, and the types of what it is given.
fn steps() -> Vec<String> {
    let mut steps = Vec::new();
    for arm in HOST.split("\n        \"").skip(1) {
        let (name, rest) = arm.split_once("\" =>").unwrap();
        let arguments = rest.split('|').nth(1).unwrap();
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        steps.push(format!("{name}({})", arguments.join(" ")));
    }
    steps
}

#[test]
fn every_message_is_as_its_version_has_it() {
    let mut found = String::new();
    for asked in asked() {
        writeln!(found, "{}", serde_json::to_string(&asked).unwrap()).unwrap();
    }
    for said in said() {
        writeln!(found, "{}", serde_json::to_string(&said).unwrap()).unwrap();
    }
    let steps = steps();
    assert!(steps.len() > 30, "{steps:?}");
    for step in steps {
        writeln!(found, "{step}").unwrap();
    }
    let name = format!("upgrade_protocol_{PROTOCOL}.txt");
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var("GOLDEN").is_ok_and(|golden| golden == "write") {
        std::fs::write(&path, &found).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        found, golden,
        "the messages are not those of {name}: raise PROTOCOL and write a new file"
    );
}
