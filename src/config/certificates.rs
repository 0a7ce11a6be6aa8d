//! `edge.tls`: the certificates that the edge shows, and those that it asks of clients. The files are
//! read with the configuration, so that a bad one is a fault of it, at a start and at a reload alike.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error as TlsError, RootCertStore};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::authorities::{Authorities, authorities};
use super::scalar::{choice, listen_address};
use super::section::{At, Field, Section};
use crate::time::UnixMs;

/// An address with TLS.
#[derive(Clone, Debug)]
pub struct TlsListener {
    pub listen: SocketAddr,
    /// At least one; the first is shown where no other fits.
    pub certificates: Vec<Certificate>,
    /// `None`: clients are asked for no certificate.
    pub clients: Option<ClientCertificates>,
}

/// A certificate with its chain and its key.
#[derive(Clone)]
pub struct Certificate {
    path: PathBuf,
    pub certified: Arc<CertifiedKey>,
    /// The hosts that it names, in lower case; `*.example.com` stands for one label more.
    pub hosts: Vec<String>,
    /// When clients begin to refuse it; unknown where its form could not be read.
    pub expires: Option<UnixMs>,
}

/// What is asked of clients.
#[derive(Clone)]
pub struct ClientCertificates {
    authorities: Arc<Authorities>,
    /// A client without a certificate is turned away.
    pub required: bool,
    pub verifier: Arc<dyn ClientCertVerifier>,
}

// Neither shows a key, and both are compared as they are shown.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificate").field(&self.path).finish()
    }
}

impl fmt::Debug for ClientCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificates")
            .field("authorities", &self.authorities)
            .field("required", &self.required)
            .finish_non_exhaustive()
    }
}

/// Reads `edge.tls`; entries of one address are one listener. Each new address is added to `taken`.
pub fn tls_listeners<'a>(
    entries: &[Field<'a>],
    taken: &mut Vec<(SocketAddr, At<'a>)>,
) -> Vec<TlsListener> {
    let mut listeners: Vec<TlsListener> = Vec::new();
    // Also where its files are faulty an address counts once.
    let mut addresses = Vec::new();
    for entry in entries {
        let mut section = entry.section();
        let listen = section.need("listen", "an address such as 0.0.0.0:8443", listen_address);
        let is_first = listen.is_none_or(|listen| !addresses.contains(&listen));
        if let (Some(listen), true, Some(field)) = (listen, is_first, section.field("listen")) {
            addresses.push(listen);
            taken.push((listen, field.at));
        }
        let certificate = certificate(&mut section);
        if !is_first && certificate.as_ref().is_some_and(|c| c.hosts.is_empty()) {
            let told = "names no host in its subjectAltName: it is never shown";
            section.place_of("cert").notice(told);
        }
        let clients = client_certificates(&mut section, is_first);
        section.finish();
        let (Some(listen), Some(certificate)) = (listen, certificate) else {
            continue;
        };
        match listeners.iter_mut().find(|other| other.listen == listen) {
            Some(listener) => listener.certificates.push(certificate),
            None => listeners.push(TlsListener {
                listen,
                certificates: vec![certificate],
                clients,
            }),
        }
    }
    listeners
}

fn certificate(section: &mut Section<'_>) -> Option<Certificate> {
    let chain = pem(section, "cert", chain_of);
    let key = pem(section, "key", key_of);
    let ((path, chain), (_, key)) = (chain?, key?);
    let leaf = chain.first()?.clone();
    let faulty = match CertifiedKey::from_der(chain, key, &default_provider()) {
        Ok(certified) => {
            let (hosts, expires, told) = read_leaf(&leaf);
            if let Some(told) = told {
                section.place_of("cert").notice(told);
            }
            return Some(Certificate {
                path,
                certified: Arc::new(certified),
                hosts,
                expires,
            });
        }
        Err(faulty) => faulty,
    };
    match faulty {
        TlsError::InconsistentKeys(_) => section.place_of("key").fault(format!(
            "is not the key of the first certificate in {}, expected the two that belong together",
            path.display()
        )),
        TlsError::InvalidCertificate(what) => section.place_of("cert").fault(format!(
            "{} holds a certificate that cannot be used ({what:?})",
            path.display()
        )),
        _ => section
            .place_of("key")
            .fault("is of a kind that cannot be used, expected an RSA, ECDSA or Ed25519 key"),
    }
    None
}

/// The file that a field names and what `read` makes of its text; that answers what it found instead.
fn pem<T>(
    section: &mut Section<'_>,
    name: &'static str,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Option<(PathBuf, T)> {
    let Some(field) = section.field(name) else {
        section.missing(name, "the path of a PEM file");
        return None;
    };
    let path = field.path()?;
    let shown = path.display();
    match field.at.report.read(&path).map(|text| read(&text)) {
        Ok(Ok(value)) => return Some((path, value)),
        Ok(Err(found)) => field.at.fault(format!("{shown} holds {found}")),
        Err(message) => field.at.fault(format!("{shown} {message}")),
    }
    None
}

fn chain_of(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    certificates(text).map_err(|found| format!("{found}, expected a certificate in PEM"))
}

fn key_of(text: &str) -> Result<PrivateKeyDer<'static>, String> {
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(String::from(
            "a key that is encrypted, expected one without a passphrase",
        ));
    }
    // What is wrong in there may be a part of the key.
    PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|_| String::from("no private key that can be read, expected one in PEM"))
}

/// Every certificate of a PEM text (RFC 7468), or what was found in their place.
pub fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        found.push(certificate.map_err(|_| unreadable(found.len()))?);
    }
    if found.is_empty() {
        return Err(String::from("no certificate"));
    }
    Ok(found)
}

/// What is said of the certificate at this place of its file.
pub fn unreadable(at: usize) -> String {
    format!("a certificate that cannot be read (number {})", at + 1)
}

/// The hosts of a certificate, when it expires, and what to tell of one that is not valid now.
fn read_leaf(leaf: &CertificateDer<'_>) -> (Vec<String>, Option<UnixMs>, Option<String>) {
    let Ok((_, leaf)) = X509Certificate::from_der(leaf) else {
        return (Vec::new(), None, None);
    };
    let names = leaf.subject_alternative_name().ok().flatten();
    let hosts = names.map_or_else(Vec::new, |names| {
        let names = names.value.general_names.iter();
        names.filter_map(dns_name).collect()
    });
    let now = UnixMs::now();
    let [from, until] = [leaf.validity().not_before, leaf.validity().not_after]
        .map(|time| UnixMs(time.timestamp().saturating_mul(1_000)));
    let told = if until < now {
        Some(format!("has expired on {}; clients refuse it", until.day()))
    } else if from > now {
        Some(format!("is not valid before {}", from.to_rfc3339()))
    } else {
        None
    };
    (hosts, Some(until), told)
}

fn dns_name(name: &x509_parser::extensions::GeneralName<'_>) -> Option<String> {
    match name {
        x509_parser::extensions::GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    }
}

/// Reads `client_ca` and `client_auth`. They rule a listener as a whole, as the name that a client asks
/// for is only its own word.
fn client_certificates(section: &mut Section<'_>, is_first: bool) -> Option<ClientCertificates> {
    let authority = section.field("client_ca");
    let auth = section.field("client_auth");
    if !is_first {
        let told = "goes with the first entry of its address; move it there, or take it out";
        let both = [authority, auth].into_iter().flatten();
        both.for_each(|field| field.at.fault(told));
        return None;
    }
    let word = choice(&[("required", true), ("optional", false)]);
    let required = auth.as_ref().and_then(|field| field.value(word));
    let Some(authority) = authority else {
        let lone = auth.into_iter();
        lone.for_each(|field| field.at.fault("has no effect without client_ca; give one"));
        return None;
    };
    let authorities = authorities(&authority)?;
    match verifier(&authorities) {
        Ok(verifier) => Some(ClientCertificates {
            authorities,
            required: required.unwrap_or(true),
            verifier,
        }),
        Err(cause) => {
            authority.at.fault(format!("cannot be used ({cause})"));
            None
        }
    }
}

fn verifier(authorities: &Authorities) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in &authorities.certificates {
        let added = roots.add(CertificateDer::from(certificate.as_slice()));
        added.map_err(|fault| fault.to_string())?;
    }
    let provider = Arc::new(default_provider());
    let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    built.map_err(|fault| fault.to_string())
}
