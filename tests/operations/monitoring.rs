//! The alert rules and the dashboard: they read right, they fire when they should, and they ask only for
//! what a running server shows.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};

use super::command::{repository, said};
use super::support::rig::{CHAT, Rig, chat};
use super::support::tls::Certificates;

const RULES: &str = "conf/monitoring/alerts.rules.yaml";
const SCENES: &str = "tests/operations/alerts_test.yaml";

/// How the names of our families begin.
const OURS: [&str; 8] = [
    "edge_",
    "relay_",
    "proxy_",
    "quota_",
    "store_",
    "upstream_",
    "access_log_",
    "admin_",
];

fn rules() -> Vec<Value> {
    let text = std::fs::read_to_string(repository(RULES)).unwrap();
    let file: Value = serde_yaml::from_str(&text).unwrap();
    file["groups"][0]["rules"].as_array().unwrap().clone()
}

fn dashboard() -> Value {
    let text = std::fs::read_to_string(repository("conf/monitoring/grafana.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Every expression of the dashboard, its variables filled in.
fn dashboard_expressions() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array());
    let filled_in = targets.flatten().map(|target| {
        let expr = target["expr"].as_str().unwrap();
        let filled = [
            ("$__rate_interval", "5m"),
            ("$__range", "1h"),
            ("$instance", ".*"),
            ("$pool", ".*"),
        ];
        filled
            .iter()
            .fold(String::from(expr), |expr, (name, value)| {
                expr.replace(name, value)
            })
    });
    filled_in.collect()
}

#[test]
fn the_rules_fire_on_what_they_are_for_and_on_nothing_else() {
    said(
        Command::new("promtool")
            .args(["check", "rules"])
            .arg(repository(RULES)),
    );
    said(
        Command::new("promtool")
            .args(["test", "rules"])
            .arg(repository(SCENES)),
    );
    let scenes = std::fs::read_to_string(repository(SCENES)).unwrap();
    for rule in rules() {
        let name = rule["alert"].as_str().unwrap();
        assert!(
            scenes.contains(&format!("\"{name}\"")),
            "{name} is in no scene"
        );
        for text in ["summary", "description", "runbook"] {
            let text = rule["annotations"][text].as_str();
            assert!(text.is_some_and(|text| text.len() > 15), "{name}: {rule:#}");
        }
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(
            ["critical", "warning"].contains(&severity),
            "{name}: {severity}"
        );
    }
}

#[test]
fn the_dashboard_reads_right() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<i64> = panels
        .iter()
        .map(|panel| panel["id"].as_i64().unwrap())
        .collect();
    assert_eq!(ids.len(), panels.len(), "ids of panels are unique");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let place = |of: &Value| {
            let at = |name: &str| of["gridPos"][name].as_i64().unwrap();
            (at("x")..at("x") + at("w"), at("y")..at("y") + at("h"))
        };
        let (across, down) = place(panel);
        assert!(across.end <= 24, "{panel:#}");
        let overlaps = panels.iter().filter(|other| {
            let (a, d) = place(other);
            a.start < across.end && across.start < a.end && d.start < down.end && down.start < d.end
        });
        assert_eq!(overlaps.count(), 1, "{} covers another", panel["title"]);
        assert!(!panel["targets"].as_array().unwrap().is_empty());
    }
    // promtool reads expressions only as rules.
    let records = dashboard_expressions().into_iter().enumerate();
    let records: Vec<Value> = records
        .map(|(at, expr)| json!({"record": format!("panel:{at}"), "expr": expr}))
        .collect();
    assert!(records.len() > 20);
    let file = json!({"groups": [{"name": "dashboard", "rules": records}]});
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dashboard.yaml");
    std::fs::write(&path, file.to_string()).unwrap();
    said(Command::new("promtool").args(["check", "rules"]).arg(&path));
}

/// Each value of a label that an expression picks from a metric of ours, and that every scrape shows;
/// not those that Prometheus or the traffic brings about.
fn picked(expression: &str) -> Vec<(String, String, String)> {
    const OTHERS: [&str; 6] = ["job", "instance", "status", "pool", "peer", "le"];
    let mut found = Vec::new();
    for (at, _) in expression.match_indices('{') {
        let name = expression[..at].rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let name = name.into_iter().next().unwrap_or_default();
        if !OURS.iter().any(|begins| name.starts_with(begins)) {
            continue;
        }
        let inside = expression[at + 1..].split('}').next().unwrap_or_default();
        let parts: Vec<&str> = inside.split('"').collect();
        for pair in parts.chunks_exact(2) {
            let label = pair[0].trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let all = pair[1].split('|');
            let plain = all.filter(|value| {
                value
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_')
            });
            let of_ours = plain.filter(|_| !OTHERS.contains(&label));
            found.extend(of_ours.map(|value| (name.into(), label.into(), value.into())));
        }
    }
    found
}

/// The names of our metrics in an expression, without what stands in quotes.
fn named(expression: &str) -> BTreeSet<String> {
    let unquoted: String = expression.split('"').step_by(2).collect();
    let words = unquoted.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| OURS.iter().any(|begins| word.starts_with(begins)));
    ours.map(String::from).collect()
}

#[tokio::test]
async fn every_metric_that_is_asked_for_is_there() {
    let certificates = Certificates::of("DNS:edge.example");
    let tls = json!([{
        "listen": "127.0.0.1:0",
        "cert": certificates.path("server.pem"),
        "key": certificates.path("server.key"),
    }]);
    let rig = Rig::builder().set("edge.tls", tls).start().await;
    let key = rig.admin().key(0).await;
    assert_eq!(
        rig.post(CHAT, &key.secret, &chat("gpt-4o")).await.status(),
        200
    );
    assert_eq!(
        rig.post(CHAT, "sk-wrong", &chat("gpt-4o")).await.status(),
        401
    );
    rig.admin().settled().await;
    let scrape = rig.admin().metrics().await;
    let shown: BTreeSet<&str> = scrape
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let dashboard = dashboard();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let variables = variables
        .iter()
        .filter_map(|variable| variable["definition"].as_str());
    let expressions = || {
        let rules = rules().into_iter();
        let ours = rules.map(|rule| String::from(rule["expr"].as_str().unwrap()));
        ours.chain(dashboard_expressions())
    };
    let asked: BTreeSet<String> = expressions()
        .chain(variables.map(String::from))
        .flat_map(|expression| named(&expression))
        .collect();
    assert!(asked.len() > 20, "{asked:?}");
    let values: Vec<_> = expressions().flat_map(|e| picked(&e)).collect();
    assert!(values.len() > 20, "{values:?}");
    for (name, label, value) in values {
        let shown = scrape.lines().any(|line| {
            let of_it = line
                .strip_prefix(name.as_str())
                .is_some_and(|rest| rest.starts_with('{'));
            of_it && line.contains(&format!("{label}=\"{value}\""))
        });
        assert!(shown, "{name}{{{label}={value}}} not in\n{scrape}");
    }
    let missing: Vec<_> = asked
        .iter()
        .filter(|name| !shown.contains(name.as_str()))
        .collect();
    assert!(missing.is_empty(), "{missing:?} not in\n{scrape}");
    for line in [
        r#"store_condition{condition="serving"} 1"#,
        r#"store_condition{condition="away"} 0"#,
        "quota_settlements_waiting 0",
        "quota_reservations_open 0",
    ] {
        assert!(scrape.lines().any(|l| l == line), "{line}\n{scrape}");
    }
    let peers = scrape
        .lines()
        .filter(|line| line.starts_with("upstream_peer_healthy{"));
    assert!(peers.clone().count() == 3 && peers.into_iter().all(|line| line.ends_with(" 1")));
    rig.end().await;
}
