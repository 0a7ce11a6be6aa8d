//! A provider's own limits hold for one model.

use quota_proxy::cli::fake_upstream::Options;

use super::{answer_of, counts, in_order};
use crate::support::rig::{CHAT, chat};
use crate::support::upstream::{Manner, Upstream, json_answer};

#[tokio::test]
async fn a_model_without_room_leaves_the_others_theirs() {
    let full = "x-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 1m30s\r\n";
    let first = Upstream::start(Manner::Answer(json_answer(
        "200 OK",
        full,
        &answer_of(1, 1),
    )))
    .await;
    let rig = in_order(&[&first.url(), "{fake0}"])
        .fake(Options::default())
        .start()
        .await;
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
