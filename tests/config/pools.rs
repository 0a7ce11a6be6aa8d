//! What pools fall back to, and how a peer is reached.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use quota_proxy::config;

fn load(text: &str, folder: &Path) -> Result<config::Config, Vec<String>> {
    match config::parse(text, "q.yaml", folder, &|_| None) {
        Ok(loaded) => Ok(loaded.config),
        Err(faults) => Err(faults.0.iter().map(ToString::to_string).collect()),
    }
}

fn pools(fallback: &str) -> String {
    format!(
        "pools:\n\
         - {{name: a, dialect: openai, models: [x], fallback: {fallback}, peers: [{{url: 'http://a'}}]}}\n\
         - {{name: b, dialect: openai, models: [y], peers: [{{url: 'http://b'}}]}}\n\
         - {{name: c, dialect: anthropic, models: [z], peers: [{{url: 'http://c'}}]}}\n"
    )
}

#[test]
fn a_fallback_names_other_pools_of_its_dialect() {
    let here = Path::new(".");
    let config = load(&pools("[b]"), here).unwrap();
    assert_eq!(config.pools[0].fallback, Some(vec![String::from("b")]));
    assert_eq!(config.pools[1].fallback, None);
    let config = load(&pools("[]"), here).unwrap();
    assert_eq!(config.pools[0].fallback, Some(Vec::new()));
    for wrong in ["a", "c", "d"] {
        let told = load(&pools(&format!("[{wrong}]")), here).unwrap_err();
        let expected = format!(
            "q.yaml:2: pools[0].fallback[0]: found \"{wrong}\", expected another pool of this pool's dialect: b"
        );
        assert_eq!(told, [expected]);
    }
}

fn peer(fields: &str) -> String {
    format!(
        "pools: [{{name: a, dialect: openai, models: [x], peers: [{{url: 'https://a', {fields}}}]}}]"
    )
}

#[test]
fn authorities_are_read_with_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let made = Command::new("openssl")
        .args(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=ca".split(' '),
        )
        .args("-days 2 -keyout ca.key -out ca.pem".split(' '))
        .current_dir(at)
        .output();
    assert!(made.unwrap().status.success());
    let config = load(&peer("ca: ca.pem, sni: Inner.example, http2: true"), at).unwrap();
    let read = &config.pools[0].peers[0];
    assert_eq!(read.ca.as_ref().unwrap().certificates.len(), 1);
    assert_eq!(read.sni.as_deref(), Some("inner.example"));
    assert!(read.http2);
    let pem = std::fs::read_to_string(at.join("ca.pem")).unwrap();
    std::fs::write(at.join("two.pem"), format!("{pem}\nand a word\n{pem}")).unwrap();
    let config = load(&peer("ca: two.pem"), at).unwrap();
    let two = config.pools[0].peers[0].ca.as_ref().unwrap();
    assert_eq!(two.certificates.len(), 2);
    let cut = pem.replace("MII", "MIJ");
    let unended = pem.replace("-----END", "");
    for (name, text, what) in [
        ("none.pem", "hello", "holds no certificate"),
        (
            "cut.pem",
            cut.as_str(),
            "holds a certificate that cannot be read (number 1)",
        ),
        (
            "unended.pem",
            unended.as_str(),
            "holds a certificate that cannot be read (number 1)",
        ),
    ] {
        std::fs::write(at.join(name), text).unwrap();
        let told = load(&peer(&format!("ca: {name}")), at).unwrap_err();
        assert!(told[0].contains(what), "{told:?}");
    }
    let told = load(&peer("ca: gone.pem"), at).unwrap_err();
    assert!(told[0].contains("cannot be read"), "{told:?}");
}

#[test]
fn what_needs_tls_is_a_fault_without_it() {
    let text = peer("sni: b").replace("https:", "http:");
    let told = load(&text, Path::new(".")).unwrap_err();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("q.yaml:1: pools[0].peers[0].sni: has no effect without TLS"));
}

fn check_of(fields: &str) -> Result<Option<config::HealthCheck>, Vec<String>> {
    let text = format!(
        "pools: [{{name: a, dialect: openai, models: [x], health_check: {{path: /x{fields}}}, peers: [{{url: 'http://a'}}]}}]"
    );
    let loaded = load(&text, Path::new("."))?;
    Ok(loaded.pools[0].health_check.clone())
}

#[test]
fn what_a_health_check_takes_to_count() {
    let usual = check_of("").unwrap().unwrap();
    assert_eq!((usual.rise, usual.fall), (1, 2));
    assert_eq!(usual.timeout, Duration::from_secs(5));
    assert!(usual.accepts(200) && usual.accepts(404) && !usual.accepts(500));
    let own = check_of(", interval: 100ms, rise: 3, fall: 1, expect: [2xx, 401-403, 429]")
        .unwrap()
        .unwrap();
    assert_eq!((own.rise, own.fall), (3, 1));
    assert_eq!(own.timeout, Duration::from_secs(1));
    let passes = [200, 299, 401, 403, 429]
        .iter()
        .all(|status| own.accepts(*status));
    let fails = [199, 300, 400, 404, 428, 500]
        .iter()
        .all(|status| !own.accepts(*status));
    assert!(passes && fails);
    for (wrong, told) in [
        (
            "expect: []",
            "health_check.expect: is empty, and nothing would pass; expected statuses such as [200, 401]",
        ),
        (
            "expect: [20]",
            "health_check.expect[0]: found \"20\", expected a status or several: 200, 2xx or 200-299",
        ),
        (
            "expect: [299-200]",
            "health_check.expect[0]: found \"299-200\", expected a status or several: 200, 2xx or 200-299",
        ),
        (
            "expect: [9xx]",
            "health_check.expect[0]: found \"9xx\", expected a status or several: 200, 2xx or 200-299",
        ),
        (
            "fall: 0",
            "health_check.fall: found \"0\", expected a whole number from 1 to 100",
        ),
        (
            "timeout: 0s",
            "health_check.timeout: found \"0s\", expected a duration such as 250ms, 30s, 15m or 24h",
        ),
    ] {
        let faults = check_of(&format!(", {wrong}")).unwrap_err();
        assert_eq!(faults, [format!("q.yaml:1: pools[0].{told}")]);
    }
}

#[test]
fn a_weight_of_nothing_drains_with_any_balance() {
    for balance in ["round_robin", "fallback", "weighted"] {
        let text = format!(
            "pools: [{{name: a, dialect: openai, models: [x], balance: {balance}, peers: [{{url: 'http://a', weight: 0}}, {{url: 'http://b'}}]}}]"
        );
        let config = load(&text, Path::new(".")).unwrap();
        assert_eq!(config.pools[0].peers[0].weight, 0);
    }
}
