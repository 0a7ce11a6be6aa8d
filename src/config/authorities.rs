//! Certificates of the authorities that are trusted for one peer, out of a PEM file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pingora::tls::{CertificateDer, RootCertStore};

use super::load::read_file;
use super::section::Field;

/// Authorities that are trusted for a peer, in place of the public ones.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Authorities {
    path: PathBuf,
    /// DER; at least one.
    pub certificates: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Authorities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Authorities").field(&self.path).finish()
    }
}

/// Reads `ca`: the path of a PEM file with at least one certificate, each of which can be read.
pub fn authorities(field: &Field<'_>) -> Option<Arc<Authorities>> {
    let path = field.path()?;
    let text = match read_file(&path) {
        Ok(text) => text,
        Err(message) => {
            field.at.fault(format!("{} {message}", path.display()));
            return None;
        }
    };
    match certificates(&text) {
        Ok(certificates) => Some(Arc::new(Authorities { path, certificates })),
        Err(what) => {
            field.at.fault(told(&path, &what));
            None
        }
    }
}

fn told(path: &Path, what: &str) -> String {
    let path = path.display();
    format!("{path} holds {what}, expected certificates of authorities in PEM")
}

/// Every certificate of a PEM text (RFC 7468).
fn certificates(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut found = Vec::new();
    for block in text.split("-----BEGIN CERTIFICATE-----").skip(1) {
        let number = found.len() + 1;
        let faulty = || format!("a certificate that cannot be read (number {number})");
        let (encoded, _) = block
            .split_once("-----END CERTIFICATE-----")
            .ok_or_else(faulty)?;
        let encoded: String = encoded.split_whitespace().collect();
        let der = STANDARD.decode(encoded).map_err(|_| faulty())?;
        let mut store = RootCertStore::empty();
        let added = store.add(CertificateDer::from(der.as_slice()));
        added.map_err(|_| faulty())?;
        found.push(der);
    }
    if found.is_empty() {
        return Err(String::from("no certificate"));
    }
    Ok(found)
}
