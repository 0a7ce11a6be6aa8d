//! Peers over HTTP/2 and over TLS: what an exchange can do over HTTP/1.1 it can do there too.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::support::fake::Fake;
use crate::support::nginx::Nginx;
use crate::support::rig::{CHAT, CREDENTIAL, Rig, chat, chat_stream, strict_fake};
use crate::support::tls::Certificates;
use crate::support::upstream::sha256;

async fn over_http2() -> Rig {
    let builder = Rig::builder().set("pools.2.peers.0.http2", json!(true));
    builder.start().await
}

#[tokio::test]
async fn answers_and_streams_are_metered_and_settled() {
    let rig = over_http2().await;
    let key = rig.admin().key(100_000).await;
    let mut used = 0;
    for (turn, body) in (1..).zip([chat("gpt-4o"), chat_stream("gpt-4o"), chat("gpt-4o")]) {
        let answer = rig.post(CHAT, &key.secret, &body).await;
        assert_eq!(answer.status(), 200);
        answer.bytes().await.unwrap();
        let seen = rig.fake().last_ended(turn).await;
        // What HTTP/1.1 names `Host` is `:authority` there.
        assert!(
            !seen.header_names.contains(&String::from("host")),
            "{:?}",
            seen.header_names
        );
        used += seen.input_tokens + seen.output_tokens;
        rig.admin()
            .show_when(&key, |shown| shown["token_used"] == used)
            .await;
    }
    rig.end().await;
}

#[tokio::test]
async fn many_at_once_do_not_mix() {
    let rig = over_http2().await;
    let key = rig.admin().key(0).await.secret;
    let asked = (1..=40_u32).map(|tokens| {
        let (rig, key) = (&rig, &key);
        async move {
            let wish = format!("tokens={tokens},interval=1ms");
            let answer = rig.post_fake(CHAT, key, &chat("gpt-4o"), &wish).await;
            let answer: Value = answer.json().await.unwrap();
            assert_eq!(answer["usage"]["completion_tokens"], tokens, "{answer}");
        }
    });
    futures_util::future::join_all(asked).await;
}

#[tokio::test]
async fn uploads_without_a_length_arrive_whole() {
    let rig = over_http2().await;
    let key = rig.admin().key(0).await.secret;
    let mut sent = 0;
    for size in [0, 1, 70_000, 2_000_000] {
        for client in [
            rig.h2(),
            reqwest::Client::builder().no_proxy().build().unwrap(),
        ] {
            let body: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let pieces: Vec<_> = body.chunks(9_000).map(Bytes::copy_from_slice).collect();
            let pieces = stream::iter(pieces.into_iter().map(Ok::<_, String>));
            let request = client
                .post(format!("{}/_fake/echo", rig.url()))
                .bearer_auth(&key)
                .header("content-type", "audio/wav");
            let answer = request.body(reqwest::Body::wrap_stream(pieces)).send();
            assert_eq!(answer.await.unwrap().status(), 200, "{size}");
            sent += 1;
            let seen = rig.fake().last_ended(sent).await;
            assert_eq!(seen.body_sha256, Some(sha256(&body)), "{size}");
        }
    }
}

/// A client that leaves ends its own stream and no other of the same connection.
#[tokio::test]
async fn a_client_that_leaves_takes_no_other_along() {
    let rig = over_http2().await;
    let key = rig.admin().key(0).await.secret;
    let wish = "tokens=2000,interval=2ms";
    let body = chat_stream("gpt-4o");
    let stays = rig.post_fake(CHAT, &key, &body, "tokens=300,interval=2ms");
    let leaves = async {
        let answer = rig.post_fake(CHAT, &key, &body, wish).await;
        let mut pieces = answer.bytes_stream();
        pieces.next().await.unwrap().unwrap();
    };
    let (stayed, ()) = tokio::join!(stays, leaves);
    let text = stayed.text().await.unwrap();
    assert!(text.contains("[DONE]"), "{text}");
    let ledger = rig
        .fake()
        .ledger_when(|ledger| ledger.client_gone == 1)
        .await;
    assert_eq!(ledger.completed, 1);
    rig.admin().settled().await;
}

/// A rig whose OpenAI pool has one peer at this URL, with these settings.
async fn reaching(url: &str, settings: Value) -> Rig {
    let mut peer = json!({"url": url, "credential": CREDENTIAL});
    let fields = settings.as_object().unwrap().clone();
    peer.as_object_mut().unwrap().extend(fields);
    Rig::builder()
        .set("pools.2.peers", json!([peer]))
        .start()
        .await
}

#[tokio::test]
async fn tls_is_verified_and_http2_negotiated() {
    let fake = Fake::start(strict_fake());
    let certificates = Certificates::of("DNS:api.inner.example");
    let ca = certificates.path("ca.pem");
    let name = "api.inner.example";
    for (offered, wanted, protocol) in [
        (true, true, "HTTP/2.0"),
        (true, false, "HTTP/1.1"),
        (false, true, "HTTP/1.1"),
    ] {
        let nginx = Nginx::tls(&fake.url(), &certificates, offered).await;
        let settings = json!({"ca": ca, "sni": name, "http2": wanted});
        let rig = reaching(&nginx.url, settings).await;
        let key = rig.admin().key(0).await.secret;
        for body in [chat("gpt-4o"), chat_stream("gpt-4o")] {
            let answer = rig.post(CHAT, &key, &body).await;
            assert_eq!(answer.status(), 200, "{protocol}");
            answer.bytes().await.unwrap();
        }
        rig.admin().settled().await;
        let expected = format!("{protocol} {name}");
        let protocols = nginx.protocols();
        assert!(
            protocols.iter().all(|line| *line == expected),
            "{protocols:?}"
        );
    }
    let nginx = Nginx::tls(&fake.url(), &certificates, true).await;
    for wrong in [
        json!({"ca": ca, "sni": "other.example"}),
        json!({"ca": ca}),
        json!({"sni": name}),
        json!({"sni": name, "ca": certificates.path("other.pem"), "http2": true}),
    ] {
        let rig = reaching(&nginx.url, wrong.clone()).await;
        let key = rig.admin().key(1_000_000).await;
        let answer = rig.post(CHAT, &key.secret, &chat("gpt-4o")).await;
        assert_eq!(answer.status(), 502, "{wrong}");
        rig.admin().settled().await;
        assert_eq!(rig.admin().show(&key).await["token_used"], 0);
    }
    assert!(nginx.protocols().is_empty(), "{:?}", nginx.protocols());
}
