//! TLS at the edge (`edge.tls`): which certificate a handshake shows and which clients it lets in. Both
//! are asked of the live configuration at every handshake, so that a reload changes them together with
//! all else, and connections that are there go on.
//!
//! A session that is resumed shows no certificates (RFC 8446 section 2.2), and Pingora gives no hold on
//! the sessions: whoever was let in once would stay in after the authority was taken away. So a client
//! is looked at again when its handshake is over, and the requests of one that would not be let in now
//! are refused. It keeps its session for as long as it keeps its old certificate.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use pingora::listeners::TlsAccept;
use pingora::listeners::tls::TlsSettings;
use pingora::protocols::tls::TlsRef;
use pingora::proxy::Session;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{
    WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::config::{Certificate, ClientCertificates, TlsListener};
use crate::exchange::{Desk, Refusal};

/// How the listener at this place of `edge.tls` shakes hands: HTTP/2 and HTTP/1.1, TLS 1.2 and 1.3.
///
/// # Errors
/// None that Pingora's rustls is known to answer with.
pub fn settings(desk: &Arc<Desk>, listener: usize) -> pingora::Result<TlsSettings> {
    let handshakes = Handshakes {
        desk: Arc::clone(desk),
        listener,
        algorithms: ring::default_provider().signature_verification_algorithms,
    };
    let mut settings = TlsSettings::with_callbacks(Box::new(handshakes.clone()))?;
    settings.set_cert_resolver(Arc::new(handshakes.clone()));
    settings.set_client_cert_verifier(Arc::new(handshakes));
    settings.enable_h2();
    Ok(settings)
}

/// Refuses what comes over a resumed session whose client would not be let in today.
pub(super) fn sound_client(session: &Session) -> Result<(), Refusal> {
    let tls = session.digest().and_then(|d| d.ssl_digest.as_ref());
    match tls.and_then(|tls| tls.extension.get::<Outdated>()) {
        Some(Outdated) => Err(Refusal::bad(
            "the client certificate is no longer accepted; connect anew with one that is",
        )),
        None => Ok(()),
    }
}

/// A connection whose client is not let in any more.
struct Outdated;

/// The handshakes of one listener.
#[derive(Clone)]
struct Handshakes {
    desk: Arc<Desk>,
    listener: usize,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshakes").finish_non_exhaustive()
    }
}

impl Handshakes {
    /// What `ask` answers of the listener as it is configured now.
    fn now<T>(&self, ask: impl FnOnce(&TlsListener) -> Option<T>) -> Option<T> {
        let live = self.desk.live.load();
        live.config.edge.tls.get(self.listener).and_then(ask)
    }

    fn clients(&self) -> Option<ClientCertificates> {
        self.now(|listener| listener.clients.clone())
    }

    fn lets_in(&self, chain: Option<&[CertificateDer<'static>]>) -> bool {
        let Some(clients) = self.clients() else {
            return true;
        };
        match chain.and_then(|chain| chain.split_first()) {
            Some((own, others)) => {
                let now = UnixTime::now();
                clients
                    .verifier
                    .verify_client_cert(own, others, now)
                    .is_ok()
            }
            None => !clients.required,
        }
    }
}

impl ResolvesServerCert for Handshakes {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.now(|listener| {
            let schemes = hello.signature_schemes();
            let can_verify = |certificate: &Certificate| {
                let key = &certificate.certified.key;
                key.choose_scheme(schemes).is_some()
            };
            let host = hello.server_name().map(str::to_ascii_lowercase);
            let chosen = choose(&listener.certificates, host.as_deref(), can_verify)?;
            Some(Arc::clone(&chosen.certified))
        })
    }
}

/// The certificate for a host: one that names it before one with a pattern for it, and with neither the
/// first of all. Of several such the first that the client can verify.
fn choose<'a>(
    all: &'a [Certificate],
    host: Option<&str>,
    can_verify: impl Fn(&Certificate) -> bool,
) -> Option<&'a Certificate> {
    let first = all.first()?;
    let best = |names: &dyn Fn(&str) -> bool| {
        let mut fitting = all
            .iter()
            .filter(|certificate| certificate.hosts.iter().any(|name| names(name)))
            .peekable();
        let foremost = fitting.peek().copied();
        fitting
            .find(|certificate| can_verify(certificate))
            .or(foremost)
    };
    let found = host.and_then(|host| {
        let parent = host.split_once('.').map(|(_, parent)| parent);
        let is_pattern = |name: &str| name.strip_prefix("*.").is_some_and(|n| parent == Some(n));
        best(&|name| name == host).or_else(|| best(&is_pattern))
    });
    Some(found.unwrap_or(first))
}

impl ClientCertVerifier for Handshakes {
    fn offer_client_auth(&self) -> bool {
        self.clients().is_some()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.clients().is_some_and(|clients| clients.required)
    }

    /// None: they would have to outlive the configuration that they are of. A client then shows what it
    /// has (RFC 8446 section 4.2.4).
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let clients = self.clients().ok_or(Error::NoCertificatesPresented)?;
        let verifier = &clients.verifier;
        verifier.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[async_trait]
impl TlsAccept for Handshakes {
    async fn handshake_complete_callback(
        &self,
        tls: &TlsRef,
    ) -> Option<Arc<dyn Any + Send + Sync>> {
        let let_in = self.lets_in(tls.peer_cert_chain_der());
        (!let_in).then(|| Arc::new(Outdated) as Arc<dyn Any + Send + Sync>)
    }
}
