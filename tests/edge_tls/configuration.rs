//! `edge.tls` as it is written: what is read, and every fault of the files it names.

use std::path::Path;

use quota_proxy::config::{self, Config};

use crate::support::tls::Certificates;

fn load(text: &str, folder: &Path) -> Result<(Config, Vec<String>), Vec<String>> {
    match config::parse(text, "q.yaml", folder, &|_| None) {
        Ok(loaded) => {
            let told = loaded.notices.iter().map(ToString::to_string);
            let told = told.filter(|notice| notice.contains("edge.tls")).collect();
            Ok((loaded.config, told))
        }
        Err(faults) => Err(faults.0.iter().map(ToString::to_string).collect()),
    }
}

/// A configuration with these entries of `edge.tls`, one per line from the second on.
fn entries(entries: &[&str]) -> String {
    let lines = entries.iter().map(|entry| format!("{{{entry}}},\n"));
    format!("edge: {{tls: [\n{}]}}\n", lines.collect::<String>())
}

const SERVER: &str = "listen: '0.0.0.0:8443', cert: server.pem, key: server.key";

#[test]
fn entries_of_one_address_are_one_listener() {
    let certificates = Certificates::of("DNS:a.example,DNS:*.A.Example,IP:127.0.0.1");
    certificates.issue("b", "DNS:b.example");
    certificates.issue("nameless", "");
    certificates.issue_by("ca", "old", "DNS:old.example", -1);
    let text = entries(&[
        &format!("{SERVER}, client_ca: ca.pem"),
        "listen: '0.0.0.0:8443', cert: b.pem, key: b.key",
        "listen: '0.0.0.0:9443', cert: old.pem, key: old.key, client_ca: ca.pem, client_auth: optional",
        "listen: '0.0.0.0:8443', cert: nameless.pem, key: nameless.key",
    ]);
    let (config, told) = load(&text, certificates.folder()).unwrap();
    let [first, second] = config.edge.tls.as_slice() else {
        panic!("{:?}", config.edge.tls)
    };
    let hosts: Vec<_> = first.certificates.iter().map(|c| &c.hosts).collect();
    assert_eq!(hosts[0], &["a.example", "*.a.example"]);
    assert_eq!(hosts[1], &["b.example"]);
    assert!(hosts[2].is_empty());
    assert!(first.clients.as_ref().unwrap().required);
    assert!(!second.clients.as_ref().unwrap().required);
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(
        told[0].starts_with("q.yaml:4: edge.tls[2].cert: notice: has expired on 2"),
        "{told:#?}"
    );
    assert!(
        told[1].starts_with("q.yaml:5: edge.tls[3].cert: notice: names no host"),
        "{told:#?}"
    );
}

#[test]
fn every_fault_of_the_files_is_told_with_its_place() {
    let certificates = Certificates::of("DNS:a.example");
    let at = certificates.folder();
    certificates.issue("b", "DNS:b.example");
    std::fs::write(at.join("empty.pem"), "nothing\n").unwrap();
    let key = std::fs::read_to_string(at.join("server.key")).unwrap();
    let locked = key.replace("BEGIN PRIVATE", "BEGIN ENCRYPTED PRIVATE");
    std::fs::write(at.join("locked.key"), locked).unwrap();
    let middle = key.lines().nth(1).unwrap();
    std::fs::write(at.join("broken.key"), key.replace(middle, "MIGHAgEA!")).unwrap();
    let text = entries(&[
        "listen: '0.0.0.0:1', cert: gone.pem, key: gone.key",
        "listen: '0.0.0.0:2', cert: empty.pem, key: empty.pem",
        "listen: '0.0.0.0:3', cert: server.pem, key: b.key",
        "listen: '0.0.0.0:4', cert: server.pem, key: locked.key",
        "listen: '0.0.0.0:5', cert: server.key, key: broken.key",
        "listen: '0.0.0.0:6', cert: server.pem, key: server.key, client_auth: required",
        "listen: '0.0.0.0:7', cert: server.pem, key: server.key, client_ca: empty.pem, client_auth: maybe",
        "listen: '0.0.0.0:7', cert: b.pem, key: b.key, client_ca: ca.pem",
        "listen: '127.0.0.1:6', cert: b.pem, key: b.key",
        "cert: b.pem",
    ]);
    let told = load(&text, at).unwrap_err();
    let folder = format!("{}/", at.display());
    let told: Vec<String> = told
        .iter()
        .map(|fault| fault.replace(&folder, ""))
        .collect();
    let gone = "cannot be read (No such file or directory (os error 2)); name a file that is there";
    let expected = [
        format!("q.yaml:2: edge.tls[0].cert: gone.pem {gone}"),
        format!("q.yaml:2: edge.tls[0].key: gone.key {gone}"),
        "q.yaml:3: edge.tls[1].cert: empty.pem holds no certificate, expected a certificate in PEM".into(),
        "q.yaml:3: edge.tls[1].key: empty.pem holds no private key that can be read, expected one in PEM".into(),
        "q.yaml:4: edge.tls[2].key: is not the key of the first certificate in server.pem, expected the two that belong together".into(),
        "q.yaml:5: edge.tls[3].key: locked.key holds a key that is encrypted, expected one without a passphrase".into(),
        "q.yaml:6: edge.tls[4].cert: server.key holds no certificate, expected a certificate in PEM".into(),
        "q.yaml:6: edge.tls[4].key: broken.key holds no private key that can be read, expected one in PEM".into(),
        "q.yaml:7: edge.tls[5].client_auth: has no effect without client_ca; give one".into(),
        "q.yaml:8: edge.tls[6].client_auth: found \"maybe\", expected one of required, optional".into(),
        "q.yaml:8: edge.tls[6].client_ca: empty.pem holds no certificate, expected certificates of authorities in PEM".into(),
        "q.yaml:9: edge.tls[7].client_ca: goes with the first entry of its address; move it there, or take it out".into(),
        "q.yaml:10: edge.tls[8].listen: 127.0.0.1:6 is taken by edge.tls[5].listen; give one of them another port".into(),
        "q.yaml:11: edge.tls[9].key: is missing, expected the path of a PEM file".into(),
        "q.yaml:11: edge.tls[9].listen: is missing, expected an address such as 0.0.0.0:8443".into(),
    ];
    assert_eq!(told, expected, "{told:#?}");
    assert!(
        !told.concat().contains("MIGH"),
        "a part of the key is shown"
    );
}

#[test]
fn a_reload_takes_certificates_and_leaves_listeners() {
    let certificates = Certificates::of("DNS:a.example");
    certificates.issue("b", "DNS:b.example");
    let at = certificates.folder();
    let read = |listeners: &[&str]| load(&entries(listeners), at).unwrap().0;
    let other =
        |fields: &str| format!("listen: '0.0.0.0:9443', cert: server.pem, key: server.key{fields}");
    let old = read(&[SERVER, &other(", client_ca: ca.pem")]);
    let new = read(&[
        "listen: '0.0.0.0:7443', cert: server.pem, key: server.key",
        &other(", client_ca: other.pem, client_auth: optional"),
        "listen: '0.0.0.0:8443', cert: b.pem, key: b.key, client_ca: ca.pem",
    ]);
    let now = old.reloaded(new).edge.tls;
    let ports: Vec<u16> = now.iter().map(|listener| listener.listen.port()).collect();
    assert_eq!(ports, [8443, 9443]);
    assert_eq!(now[0].certificates[0].hosts, ["b.example"]);
    assert!(
        now[0].clients.is_none(),
        "sessions begun without one would go on"
    );
    let clients = format!("{:?}", now[1].clients);
    assert!(
        clients.contains("other.pem") && clients.contains("required: false"),
        "{clients}"
    );
    let gone = old.reloaded(read(&[SERVER])).edge.tls;
    assert!(gone[1].clients.is_some());
}
