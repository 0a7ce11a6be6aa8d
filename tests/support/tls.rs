//! Certificates of an authority of our own.

use std::path::{Path, PathBuf};
use std::process::Command;

/// `ca.pem`, another authority's `other.pem`, and `server.pem` with `server.key`.
#[derive(Debug)]
pub struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    /// For a server of these names (`DNS:a.example,IP:127.0.0.1`).
    ///
    /// # Panics
    /// `openssl` is not installed (`make test-tools` does that).
    pub fn of(names: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        for name in ["ca", "other"] {
            let files = format!("-keyout {name}.key -out {name}.pem");
            openssl(
                at,
                &format!("req -x509 {key} -subj /CN={name} -days 2 {files}"),
            );
        }
        openssl(
            at,
            &format!("req {key} -subj /CN=server -keyout server.key -out server.csr"),
        );
        std::fs::write(at.join("names"), format!("subjectAltName={names}\n")).unwrap();
        openssl(
            at,
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -extfile names -out server.pem",
        );
        Certificates { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
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
