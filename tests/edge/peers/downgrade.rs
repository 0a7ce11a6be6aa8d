//! A peer that takes a request over HTTP/1.1 alone (RFC 9113 section 7, `HTTP_1_1_REQUIRED`).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use super::{answer_of, ask, one_pool};
use crate::support::h2_wire::{ACK, END_STREAM, RST_STREAM, SETTINGS, frame, read_frame};
use crate::support::rig::CREDENTIAL;
use crate::support::tls::Certificates;
use crate::support::upstream::json_answer;

const HTTP_1_1_REQUIRED: [u8; 4] = [0, 0, 0, 13];

fn acceptor(certificates: &Certificates) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(certificates.path("server.pem")).unwrap();
    let chain = chain.map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(certificates.path("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(chain, key);
    let mut config = config.unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// Refuses every request of HTTP/2; the protocols of the requests it read whole.
async fn server(certificates: &Certificates) -> (SocketAddr, Arc<Mutex<Vec<&'static str>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = acceptor(certificates);
    let read = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&read);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                if is_http2 {
                    refuse(stream, &seen).await;
                } else {
                    answer(stream, &seen).await;
                }
            });
        }
    });
    (address, read)
}

async fn refuse(mut stream: TlsStream<TcpStream>, seen: &Mutex<Vec<&'static str>>) {
    stream.read_exact(&mut [0; 24]).await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream.flush().await.unwrap();
    while let Some(came) = read_frame(&mut stream).await {
        let (kind, flags, id) = (came.kind, came.flags, came.stream);
        if kind == SETTINGS && flags & ACK == 0 {
            stream
                .write_all(&frame(SETTINGS, ACK, 0, &[]))
                .await
                .unwrap();
        } else if kind < 2 && flags & END_STREAM != 0 {
            seen.lock().unwrap().push("h2");
            let refusal = frame(RST_STREAM, 0, id, &HTTP_1_1_REQUIRED);
            stream.write_all(&refusal).await.unwrap();
        }
        stream.flush().await.unwrap();
    }
}

async fn answer(mut stream: TlsStream<TcpStream>, seen: &Mutex<Vec<&'static str>>) {
    let mut came = Vec::new();
    while !came.windows(2).any(|two| two == b"}]") {
        if stream.read_buf(&mut came).await.unwrap() == 0 {
            return;
        }
    }
    seen.lock().unwrap().push("http/1.1");
    let answer = json_answer("200 OK", "connection: close\r\n", &answer_of(1, 1));
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
}

#[tokio::test]
async fn it_is_asked_again_over_http1() {
    let certificates = Certificates::of("DNS:api.inner.example");
    let (address, read) = server(&certificates).await;
    let peer = json!({
        "url": format!("https://{address}"), "credential": CREDENTIAL, "http2": true,
        "sni": "api.inner.example", "ca": certificates.path("ca.pem"),
    });
    let rig = one_pool(json!({"peers": [peer]}), &[]).start().await;
    let key = rig.admin().key(0).await;
    assert_eq!(ask(&rig, &key).await, 200);
    assert_eq!(*read.lock().unwrap(), ["h2", "http/1.1"]);
    rig.end().await;
}
