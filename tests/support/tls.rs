//! Certificates of an authority of our own.

use std::path::{Path, PathBuf};
use std::process::Command;

/// `ca.pem`, another authority's `other.pem`, and `server.pem` with `server.key`.
#[derive(Debug)]
pub struct Certificates {
    folder: tempfile::TempDir,
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

impl Certificates {
    /// For a server of these names (`DNS:a.example,IP:127.0.0.1`).
    ///
    /// # Panics
    /// `openssl` is not installed (`make test-tools` does that).
    pub fn of(names: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["ca", "other"] {
            let files = format!("-keyout {name}.key -out {name}.pem");
            openssl(
                folder.path(),
                &format!("req -x509 {KEY} -subj /CN={name} -days 2 {files}"),
            );
        }
        let certificates = Certificates { folder };
        certificates.issue("server", names);
        certificates
    }

    /// Makes `name.pem` and `name.key`, in place of what they were: for these names, by `ca`.
    pub fn issue(&self, name: &str, names: &str) {
        self.issue_by("ca", name, names, 2);
    }

    /// The same by one of the authorities, valid for so many days from now; it is over where they are
    /// negative.
    pub fn issue_by(&self, authority: &str, name: &str, names: &str, days: i32) {
        let extensions = match names {
            "" => String::from("basicConstraints=CA:FALSE\n"),
            names => format!("subjectAltName={names}\n"),
        };
        self.sign(authority, name, (KEY, &extensions), days);
    }

    /// As [`Self::issue`], with an RSA key.
    pub fn issue_rsa(&self, name: &str, names: &str) {
        let key = "-newkey rsa:2048 -nodes";
        self.sign("ca", name, (key, &format!("subjectAltName={names}\n")), 2);
    }

    /// Makes an authority that `ca` vouches for.
    pub fn intermediate(&self, name: &str) {
        let extensions = "basicConstraints=critical,CA:TRUE\n";
        self.sign("ca", name, (KEY, extensions), 2);
    }

    fn sign(&self, authority: &str, name: &str, (key, extensions): (&str, &str), days: i32) {
        let at = self.folder.path();
        openssl(
            at,
            &format!("req {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"),
        );
        std::fs::write(at.join("extensions"), extensions).unwrap();
        openssl(
            at,
            &format!(
                "x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial \
                 -days {days} -extfile extensions -out {name}.pem"
            ),
        );
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

fn openssl(folder: &Path, args: &str) {
    let done = Command::new("openssl")
        .args(args.split_whitespace())
        .current_dir(folder)
        .output();
    let done = done.expect("these tests need openssl (make test-tools)");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
}
