//! A provider's own limits hold for one model.

use super::{counts, first_says};
use crate::support::rig::{CHAT, chat};

#[tokio::test]
async fn a_model_without_room_leaves_the_others_theirs() {
    let full = "x-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 1m30s\r\n";
    let (first, rig) = first_says(full).await;
    let key = rig.admin().key(0).await;
    for (model, seen) in [
        ("gpt-4o", 1),
        ("gpt-4o", 1),
        ("gpt-4o-mini", 2),
        ("gpt-4o-mini", 2),
    ] {
        let answer = rig.post(CHAT, &key.secret, &chat(model)).await;
        assert_eq!(answer.status(), 200);
        answer.bytes().await.unwrap();
        assert_eq!(first.seen().len(), seen, "{model}");
    }
    let labels = format!(r#"peer="{}",pool="only",reason="tight""#, first.address);
    counts(&rig, "upstream_skips_total", &labels, 2).await;
}
