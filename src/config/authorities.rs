//! Certificates of the authorities that are trusted for one peer or for clients, out of a PEM file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pingora::tls::RootCertStore;

use super::certificates::{certificates, unreadable};
use super::section::Field;

/// Authorities that are trusted, in place of the public ones.
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

/// Reads `ca` or `client_ca`: the path of a PEM file with at least one certificate, each of which can be read.
pub fn authorities(field: &Field<'_>) -> Option<Arc<Authorities>> {
    let path = field.path()?;
    let text = match field.at.report.read(&path) {
        Ok(text) => text,
        Err(message) => {
            field.at.fault(format!("{} {message}", path.display()));
            return None;
        }
    };
    match certificates_of(&text) {
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

/// The certificates of a PEM text, each fit to be an authority.
fn certificates_of(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let found = certificates(text)?;
    for (at, certificate) in found.iter().enumerate() {
        let added = RootCertStore::empty().add(certificate.clone());
        added.map_err(|_| unreadable(at))?;
    }
    Ok(found.iter().map(|der| der.to_vec()).collect())
}
