//! Whether two stores keep the same books: all that can be asked of them, in words.

use std::collections::BTreeSet;

use serde::Serialize;

use super::sums::BY;
use super::*;
use crate::store::{Freshness, KeyQuery, SumQuery};
use crate::time::DAY_MS;

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

/// All that can be asked of a store, in words: equal for equal books on any engine.
pub(super) async fn described(h: &Harness, callers: &[Caller]) -> Vec<String> {
    let mut lines = Vec::new();
    let all = KeyQuery {
        limit: 100,
        ..KeyQuery::default()
    };
    for owner in [None, Some(Uuid::from_u128(9))] {
        let page = h.store.list_keys(KeyQuery { owner, ..all }).await.unwrap();
        lines.push(format!("keys {}", json(&page)));
        for key in page.items {
            for hash in [Some(key.hash), key.previous.map(|p| p.hash)]
                .into_iter()
                .flatten()
            {
                let found = h.store.key_by_hash(&hash, Freshness::Now).await.unwrap();
                assert_eq!(found.map(|found| found.id), Some(key.id));
            }
            let activity = h.store.activity(key.id).await.unwrap();
            lines.push(format!("activity {} {activity:?}", key.id.0));
            let by_seq = h.store.key_by_seq(key.seq).await.unwrap();
            assert_eq!(by_seq.map(|found| found.id), Some(key.id));
        }
    }
    let users = h.store.list_users(0, 100).await.unwrap();
    let secrets = users.items.iter().map(|user| user.password_hash.clone());
    lines.push(format!(
        "users {} {:?}",
        json(&users),
        secrets.collect::<Vec<_>>()
    ));
    assert!(
        h.store
            .user_by_login("ADA@example.com")
            .await
            .unwrap()
            .is_some()
    );
    lines.push(format!(
        "groups {}",
        json(&h.store.list_groups().await.unwrap())
    ));
    let setting = h.store.setting_or_insert("secret_key", "s2").await;
    lines.push(format!("setting {}", setting.unwrap()));
    for claim in callers.iter().flat_map(|caller| &caller.claims) {
        let standing = h.store.standing(*claim).await.unwrap();
        lines.push(format!("standing {standing:?}"));
    }
    lines.extend(usage_described(h, callers).await);
    let entries = h.store.audit(0, 1_000).await.unwrap().items;
    let entries: BTreeSet<String> = entries.iter().map(json).collect();
    lines.push(format!("audit {entries:?}"));
    lines
}

async fn usage_described(h: &Harness, callers: &[Caller]) -> Vec<String> {
    let mut lines = Vec::new();
    for key in [None, Some(callers[0].record.id)] {
        for charged_only in [false, true] {
            let query = UsageQuery {
                key,
                charged_only,
                limit: 1_000,
                ..UsageQuery::default()
            };
            let page = h.store.usage_events(query).await.unwrap();
            assert_eq!(page.items.len() as i64, page.total);
            lines.push(format!("events {}", json(&page)));
        }
        let (first, last) = ("0000-01-01", "9999-12-31");
        let rollups = h.store.rollups(key, first, last).await.unwrap();
        let rollups: BTreeSet<String> = rollups.iter().map(json).collect();
        lines.push(format!("rollups {rollups:?}"));
        let errors = h.error_counts(key).await;
        lines.push(format!("errors {errors:?}"));
        let now = h.clock.now();
        for (since, by) in BY
            .iter()
            .flat_map(|by| [(UnixMs(0), by), (now.plus_ms(-2 * DAY_MS), by)])
        {
            let query = SumQuery {
                key,
                since,
                until: now,
                by: *by,
            };
            let sums = h.store.usage_sums(query).await.unwrap();
            lines.push(format!("sums {by:?} {}", json(&sums)));
        }
    }
    lines
}

pub(super) fn assert_same(a: &[String], b: &[String]) {
    for (a, b) in a.iter().zip(b) {
        assert_eq!(a, b);
    }
    assert_eq!(a.len(), b.len());
}
