//! Whose word counts for a client's address (RELIABILITY 22), over TLS and over both protocols.

use serde_json::json;

use crate::client::{Client, text};
use crate::handshakes::entries;
use crate::support::rig::{CHAT, Rig, chat};
use crate::support::tls::Certificates;

const HOST: &str = "first.example";

#[tokio::test]
async fn only_trusted_proxies_say_where_a_client_is() {
    let certificates = Certificates::of(&format!("DNS:{HOST}"));
    for (trusted, believed) in [
        (json!([]), false),
        (json!(["10.0.0.0/8"]), false),
        (json!(["127.0.0.0/8"]), true),
    ] {
        let rig = Rig::builder()
            .set("edge.tls", entries(&certificates, &["server"], json!({})))
            .set("edge.trusted_proxies", trusted.clone())
            .start()
            .await;
        let key = json!({"name": "inside", "token_limit": 0, "rate_limit_tier": "unlimited",
                         "allowed_ips": ["10.1.0.0/16"]});
        let key = rig.admin().create(key).await;
        let bearer = format!("Bearer {}", key.secret);
        for protocol in ["h2", "http/1.1"] {
            let client = Client::new(&certificates, protocol, None);
            for (lists, inside) in [
                (&["10.1.2.3"][..], true),
                (&["9.9.9.9, 10.1.2.3"], true),
                (&["9.9.9.9", "10.1.2.3"], true),
                (&["10.1.2.3, 127.0.0.1"], true),
                (&["::ffff:10.1.2.3"], true),
                (&["10.1.2.3:5000"], true),
                (&["10.1.2.3, 9.9.9.9"], false),
                (&["10.1.2.3", "9.9.9.9"], false),
                (&["10.1.2.3, nonsense"], false),
                (&["10.1.2.3", "n\u{e4}chster, 127.0.0.1"], false),
                (&[], false),
            ] {
                let lists = lists.iter().map(|list| ("x-forwarded-for", *list));
                let headers: Vec<_> = lists
                    .chain([
                        ("authorization", bearer.as_str()),
                        ("x-real-ip", "10.1.2.3"),
                        ("forwarded", "for=10.1.2.3"),
                    ])
                    .collect();
                // A refusal that comes before the body ends an HTTP/1.1 connection.
                let connection = client.connect(rig.process().tls[0], HOST).await.unwrap();
                let answer = connection
                    .post(CHAT, &headers, &chat("gpt-4o"))
                    .await
                    .unwrap();
                let status = if inside && believed { 200 } else { 403 };
                assert_eq!(answer.status(), status, "{trusted} {protocol} {headers:?}");
                text(answer).await;
            }
        }
        // Nothing of it goes up, believed or not.
        for record in rig.fake().ledger().await.records {
            for name in ["x-forwarded-for", "x-real-ip", "forwarded"] {
                assert!(
                    !record.header_names.contains(&name.to_owned()),
                    "{record:?}"
                );
            }
        }
        rig.end().await;
    }
}
