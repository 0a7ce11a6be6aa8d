//! Every fault is told once, in one run, with its line, its path, and what would be right.
use std::path::Path;

use proptest::prelude::*;
use quota_proxy::config::{self, Faults};

const SECRET: &str = "hunter2-must-not-be-seen";

fn parse_with(text: &str, env: config::Env<'_>) -> Result<config::Loaded, Faults> {
    config::parse(text, "q.yaml", Path::new("/nowhere"), env)
}

fn parse(text: &str) -> Result<config::Loaded, Faults> {
    parse_with(text, &|name| match name {
        "SECRET" => Some(String::from(SECRET)),
        "PORT" => Some(String::from("9000")),
        "EMPTY" => Some(String::new()),
        _ => None,
    })
}

fn faults(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.0.iter().map(ToString::to_string).collect(),
    }
}

/// The only fault of a text.
fn fault(text: &str) -> String {
    let all = faults(text);
    assert_eq!(all.len(), 1, "{text}\n{all:#?}");
    all.concat()
}

#[test]
fn all_faults_of_a_file_are_told_in_one_run() {
    let text = include_str!("../config_corpus/many_faults.yaml");
    let found = faults(text).join("\n") + "\n";
    let golden = include_str!("../config_corpus/many_faults.txt");
    assert_eq!(found, golden, "as found:\n{found}");
    assert!(golden.lines().count() > 40);
    // The file marks every faulty line, so that neither a line nor a fault goes astray.
    for (at, line) in text.lines().enumerate() {
        let told = found.contains(&format!("q.yaml:{}: ", at + 1));
        assert_eq!(told, line.ends_with("# fault"), "line {}: {line}", at + 1);
    }
    assert!(!found.contains(SECRET));
}

#[test]
fn a_misspelt_size_says_what_is_right() {
    assert_eq!(
        fault("edge:\n  max_request_body: 32 MiBs\n"),
        "q.yaml:2: edge.max_request_body: found \"32 MiBs\", \
         expected a size such as 32MiB, 512KiB or 1048576"
    );
}

#[test]
fn an_unknown_field_names_the_nearest() {
    assert_eq!(
        fault("edge: {max_request_boddy: 1MiB}"),
        "q.yaml:1: edge.max_request_boddy: unknown field; did you mean `max_request_body`?"
    );
    assert!(fault("quota: {zzz: 1}").contains("known here are reservation_ttl, "));
}

#[test]
fn an_unset_variable_is_named_and_nothing_else_is_said_of_it() {
    assert_eq!(
        fault("admin: {listen: \"0.0.0.0:1\", password: \"${ADMIN_PASSWORD}\"}"),
        "q.yaml:1: admin.password: ${ADMIN_PASSWORD} is not set; \
         set it, or give a default as ${ADMIN_PASSWORD:-…}"
    );
}

#[test]
fn variables_take_the_type_of_their_field() {
    let loaded = parse(
        "edge: {listen: [\"127.0.0.1:${PORT}\"], allow_unmetered: \"${GONE:-true}\"}\nserver: {threads: ${THREADS:-3}}",
    );
    let config = loaded.unwrap().config;
    assert_eq!(config.edge.listen[0].port(), 9000);
    assert!(config.edge.allow_unmetered);
    assert_eq!(config.server.threads, 3);
}

#[test]
fn terse_yaml_is_read_as_it_is_meant() {
    let config = parse(include_str!("../config_corpus/terse.yaml"))
        .unwrap()
        .config;
    assert_eq!(config.edge.max_request_body, 1 << 20);
    let [openai, claude] = config.pools.as_slice() else {
        panic!("two pools")
    };
    let credential = openai.peers[0].credential.as_ref().unwrap();
    assert_eq!(credential.reveal(), SECRET);
    assert_eq!(claude.models, openai.models);
    assert_eq!(claude.peers[0].weight, 2);
    assert_eq!(claude.peers[0].name(), "api.anthropic.com:443");
    let smtp = config.alerts.smtp.unwrap();
    assert_eq!((smtp.port, smtp.user, smtp.password), (587, None, None));
    let plugin = &config.plugins[0].config;
    assert_eq!(plugin["limit"], 5);
    assert_eq!(plugin["on"], true);
    assert_eq!(plugin["text"], "5");
    assert_eq!(plugin["deny"][0], "x-a");
}

#[test]
fn no_secret_is_ever_shown() {
    for text in [
        "admin: {token:${SECRET}}",
        "admin: {token:hunter2-must-not-be-seen}",
        "admin: {token: [hunter2-must-not-be-seen]}",
        "admin: {password_hash: hunter2-must-not-be-seen}",
        "admin: {master_key: hunter2-must-not-be-seen}",
        "admin: {listen: \"${SECRET}\"}",
        "edge: {max_upload: \"${SECRET}\"}",
        "quota: {admission: \"${SECRET}\"}",
        "store: {redis: {urls: [\"rediss://user:hunter2-must-not-be-seen@host:x\"]}}",
        "store: {redis: {urls: [\"hunter2-must-not-be-seen\"]}}",
        "alerts: {webhooks: [{url: \"ftp://x/hunter2-must-not-be-seen\"}]}",
        "pools: [{name: a, dialect: openai, models: [x], peers: [\"credential:hunter2-must-not-be-seen\"]}]",
        "pools: [{name: a, dialect: openai, models: [x], peers: [{url: \"https://u:hunter2-must-not-be-seen@h\"}]}]",
        "pools: [{name: a, dialect: openai, models: [x], peers: [{url: \"https://h?key=hunter2-must-not-be-seen\"}]}]",
        "pools: [{name: a, dialect: openai, models: [x], peers: [{url: \"https://h\", credential: \"hunter2-must-not-be-seen\\n\"}]}]",
        "pools: [{name: a, dialect: openai, models: [x], peers: [{url: \"https://h\", headers: {x-a: \"hunter2-must-not-be-seen\\n\"}}]}]",
    ] {
        let found = faults(text).join("\n");
        assert!(!found.is_empty(), "{text} is no fault");
        assert!(!found.contains("hunter2"), "{text}\n{found}");
    }
    let right = format!(
        "admin: {{token: {SECRET}}}\npools: [{{name: a, dialect: openai, models: [x], peers: \
         [{{url: \"https://h\", credential: {SECRET}, headers: {{x: {SECRET}}}}}]}}]\n\
         plugins: [{{name: p, config: {{password: {SECRET}}}}}]"
    );
    assert!(!format!("{:?}", parse(&right).unwrap()).contains("hunter2"));
}

#[test]
fn the_admin_service_is_never_open_to_the_world() {
    let public = "admin: {listen: \"0.0.0.0:8788\"}";
    assert!(fault(public).contains("q.yaml:1: admin.listen: is not a loopback address"));
    assert!(fault("edge: {mount_admin: true}").contains("edge.mount_admin: is true, and there is"));
    // An empty secret is none.
    let empty = "admin: {listen: \"0.0.0.0:8788\", token: \"${EMPTY}\", password: \"\"}";
    assert!(fault(empty).contains("admin.listen"));
    assert!(parse("admin: {listen: \"0.0.0.0:8788\", token: \"${SECRET}\"}").is_ok());
    assert!(parse("admin: {listen: \"[::1]:8788\"}").is_ok());
    assert!(parse("").unwrap().config.admin.token.is_none());
}

#[test]
fn listeners_do_not_share_an_address() {
    assert!(fault("admin: {listen: \"127.0.0.1:8787\"}").contains("is taken by edge"));
    let twice = "edge: {listen: [\"127.0.0.1:1\", \"127.0.0.2:1\", \"127.0.0.1:1\"]}";
    assert!(fault(twice).contains("edge.listen[2]: 127.0.0.1:1 is taken by edge.listen[0]"));
    assert!(parse("edge: {listen: [\"127.0.0.1:0\"]}\nadmin: {listen: \"127.0.0.1:0\"}").is_ok());
    assert!(fault("edge: {listen: []}").contains("edge.listen: is empty"));
}

#[test]
fn an_alias_of_an_alias_is_the_name_at_the_end() {
    let yaml = "pools: [{name: a, dialect: openai, models: [x], peers: [{url: \"http://h\"}], \
                aliases: {chat: fast, fast: gpt-4o, other: gpt-4}}]";
    let here = std::path::Path::new(".");
    let parsed = quota_proxy::config::parse(yaml, "q.yaml", here, &|_| None).unwrap();
    let aliases = &parsed.config.pools[0].aliases;
    let shown: Vec<_> = aliases
        .iter()
        .map(|(from, to)| format!("{from}:{to}"))
        .collect();
    assert_eq!(shown, ["chat:gpt-4o", "fast:gpt-4o", "other:gpt-4"]);
}

#[test]
fn aliases_do_not_go_in_circles() {
    let pool = |aliases: &str| {
        format!(
            "pools: [{{name: a, dialect: openai, models: [x], peers: [{{url: \"http://h\"}}], aliases: {aliases}}}]"
        )
    };
    assert!(
        fault(&pool("{a: b, b: c, c: a, d: a}"))
            .contains("aliases.a: a → b → c → a goes in a circle")
    );
    assert!(fault(&pool("{a: a}")).contains("a → a"));
    assert!(parse(&pool("{a: b, b: c}")).is_ok());
}

#[test]
fn syntax_faults_have_line_and_column() {
    let found = fault("edge:\n  listen: [\"a\"\nadmin: {}\n");
    assert!(found.starts_with("q.yaml:3: (syntax): column "), "{found}");
    assert!(fault("a: !custom 1").contains("tag"));
    assert!(fault("--- {}\n--- {}\n").contains("second document"));
}

#[test]
fn prices_are_exact_and_never_negative() {
    let folder = tempfile::tempdir().unwrap();
    let write = |text: &str| std::fs::write(folder.path().join("p.yaml"), text).unwrap();
    let load = || {
        config::parse(
            "pricing: {file: p.yaml, unknown_model: {input: 1, output: 2}}",
            "q.yaml",
            folder.path(),
            &|_| None,
        )
    };

    write(
        "models:\n  m: {input: 0.1, output: \"2.50\", context_window: 128000}\n  m-*: {input: 1, output: 1}\n  m-1*: {input: 0.000000001, output: 3, cache_write_5m: 4}\n",
    );
    let prices = load().unwrap().config.prices;
    let (exact, known) = prices.of("m");
    assert!(known);
    assert_eq!(
        (exact.input, exact.output, exact.cache_read),
        (100_000_000, 2_500_000_000, 100_000_000)
    );
    assert_eq!(exact.context_window, Some(128_000));
    let (longer, _) = prices.of("m-12");
    assert_eq!((longer.input, longer.cache_write_1h), (1, 4_000_000_000));
    assert_eq!(prices.of("m-2").0.input, 1_000_000_000);
    let (unknown, known) = prices.of("other");
    assert!(!known);
    assert_eq!(unknown.output, 2_000_000_000);

    write(
        "models:\n  m: {input: -1, output: 0.0000000001}\n  n: {input: 1}\n  o: {per_request: 1}\n  \"[\": {input: 1, output: 1}\nmodel: {}\n",
    );
    let found: Vec<String> = load()
        .unwrap_err()
        .0
        .iter()
        .map(|f| format!("{} {}", f.place.line, f.place.path))
        .collect();
    assert_eq!(
        found,
        [
            "2 models.m.input",
            "2 models.m.output",
            "3 models.n.output",
            "5 models.[",
            "6 model"
        ]
    );

    std::fs::remove_file(folder.path().join("p.yaml")).unwrap();
    let found = load().unwrap_err().to_string();
    assert!(found.starts_with("q.yaml:1: pricing.file: "), "{found}");
}

#[test]
fn the_built_in_prices_have_no_fault() {
    let prices = parse("").unwrap().config.prices;
    assert!(prices.exact.len() + prices.globs.len() > 0);
    assert!(prices.of("gpt-4o").1);
}

#[test]
fn what_comes_later_is_told_and_nothing_else() {
    let text = "pools:\n- {name: a, dialect: openai, models: [x],\n   health_check: {path: /v1/models},\n   balance: fallback, cooldown: {failures: 2}, retry: {on: [429, 5xx]},\n   peers: [{account: main, url: \"http://h/v1\"}]}\nquota:\n  local_slices: {size: 5%}\n";
    let notices: Vec<String> = parse(text)
        .unwrap()
        .notices
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(notices.len(), 2, "{notices:#?}");
    assert!(notices[0].starts_with(
        "q.yaml:5: pools[0].peers[0].account: notice: accepted; takes effect with a later release"
    ));
    assert!(notices[1].starts_with("q.yaml:7: quota.local_slices"));
    let empty = parse("").unwrap().notices;
    assert_eq!(empty.len(), 1);
    assert!(
        empty[0]
            .to_string()
            .contains("pools: notice: there are none")
    );
}

#[test]
fn what_does_less_than_it_seems_is_told() {
    let notices = |text: &str| -> Vec<String> {
        let loaded = parse(text).unwrap_or_else(|faults| panic!("{faults}"));
        let told = loaded.notices.iter().map(ToString::to_string);
        told.filter(|notice| !notice.contains("there are none"))
            .collect()
    };
    let pool = |timeouts: &str| {
        let peers = "peers: [{url: \"http://h\"}]";
        notices(&format!(
            "pools: [{{name: a, dialect: openai, models: [x], {peers}, timeouts: {timeouts}}}]"
        ))
    };
    assert!(pool("{first_byte: 300s}").is_empty());
    assert!(notices("store: {kind: redis}").is_empty());
    let slices = notices("quota: {local_slices: {size: 5%}}").concat();
    assert!(slices.contains("quota.local_slices: notice: "), "{slices}");
    let short = notices("admin: {token: x, password: also-too-short}");
    assert_eq!(short.len(), 2, "{short:#?}");
    assert!(short[0].contains("is shorter than 16 characters"));
    assert!(notices("admin: {token: sixteen-or-more-characters}").is_empty());
}

#[test]
fn a_known_field_is_listed_once() {
    let found = fault("edge: {zzz: 1}");
    assert_eq!(found.matches("listen").count(), 1, "{found}");
}

#[test]
fn every_corpus_file_is_read_without_a_panic() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config_corpus");
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }
}

/// Pieces that YAML and our fields are made of: random text alone hardly gets past the first line.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "edge:",
            "pools:",
            "  - ",
            "\n",
            "\n  ",
            "\n    ",
            "{",
            "}",
            "[",
            "]",
            ",",
            ": ",
            "&a ",
            "*a",
            "!t ",
            "|",
            ">-",
            "${",
            "${X:-",
            "}",
            "'",
            "\"",
            "#",
            "name: a",
            "dialect: openai",
            "models: [x]",
            "peers: [{url: http://h}]",
            "url: ",
            "local_slices:",
            "tiers:",
            "prices:",
            "- -",
            "? ",
            "---",
            "...",
            "<<",
            "~",
            "\t",
            "\u{feff}",
            "\u{85}",
            "%YAML 1.2",
            "1e999",
            "-9223372036854775808",
            "99999999999999999999999",
            "GiB",
            "0x1F",
            "é",
            "\0",
        ])
        .prop_map(String::from),
        ".{0,6}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in ".{0,300}", pieces in prop::collection::vec(piece(), 0..40)) {
        let _ = parse(&text);
        let _ = parse(&pieces.concat());
    }

    #[test]
    fn no_value_in_any_field_makes_it_panic(value in ".{0,40}", at in 0usize..200) {
        let full = include_str!("../../conf/quota-proxy.yaml");
        let lines: Vec<&str> = full.lines().collect();
        let at = at % lines.len();
        let head = lines[at].split_once(": ").map_or("", |(head, _)| head);
        let line = format!("{head}: {value}");
        let mutated: Vec<&str> = lines.iter().enumerate().map(|(n, l)| if n == at { line.as_str() } else { *l }).collect();
        let _ = parse(&mutated.join("\n"));
    }
}
