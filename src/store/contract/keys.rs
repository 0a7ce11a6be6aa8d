//! Keys, groups, settings, audit.

use super::*;
use crate::keys::PreviousSecret;
use crate::store::{Freshness, GroupRecord, KeyQuery, StoreError};

on_every_engine!(
    handed too: keys_are_found_by_their_secret,
    versions_guard_changes,
    secrets_are_unique,
    a_rotated_secret_lives_its_grace,
    deleted_keys,
    listings_are_in_order_of_creation,
    groups_are_kept,
    settings_are_made_once,
    the_audit_log_is_newest_first,
    records_survive_a_restart;
);

async fn keys_are_found_by_their_secret(h: Harness) {
    let caller = h.key(Quotas::default()).await;
    let record = &caller.record;
    assert_eq!((record.seq, record.version), (1, 1));
    let found = h
        .store
        .key_by_hash(&record.hash, Freshness::Now)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found, *record);
    let stranger = KeyHash::of(b"stranger");
    assert!(
        h.store
            .key_by_hash(&stranger, Freshness::Now)
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(h.store.key(record.id).await.unwrap().unwrap(), *record);
}

async fn versions_guard_changes(h: Harness) {
    let first = h.key(Quotas::default()).await.record;
    let mut edited = (*first).clone();
    edited.name = String::from("edited");
    let second = h
        .store
        .update_key(edited.clone(), audit("edit"))
        .await
        .unwrap();
    assert_eq!((second.version, second.name.as_str()), (2, "edited"));
    let stale = h.store.update_key(edited, audit("edit")).await;
    assert!(matches!(stale, Err(StoreError::Conflict(_))));
    let nobody = key_record(Uuid::new_v4());
    let gone = h.store.update_key(nobody, audit("edit")).await;
    assert!(matches!(gone, Err(StoreError::NotFound)));
}

async fn secrets_are_unique(h: Harness) {
    let first = h.key(Quotas::default()).await.record;
    let same_id = h.store.create_key((*first).clone(), audit("create")).await;
    assert!(matches!(same_id, Err(StoreError::Conflict(_))));
    let mut same_secret = key_record(Uuid::new_v4());
    same_secret.hash = first.hash;
    let refused = h
        .store
        .create_key(same_secret.clone(), audit("create"))
        .await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))));
    let asks = (0..20).map(|n| {
        let mut record = same_secret.clone();
        record.id = KeyId(Uuid::new_v4());
        record.hash = KeyHash::of(&[n / 2]);
        h.store.create_key(record, audit("create"))
    });
    let answers = futures_util::future::join_all(asks).await;
    assert_eq!(answers.iter().filter(|a| a.is_ok()).count(), 10);
}

async fn a_rotated_secret_lives_its_grace(mut h: Harness) {
    let first = h.key(Quotas::default()).await.record;
    let mut rotated = (*first).clone();
    rotated.hash = KeyHash::of(b"new secret");
    rotated.previous = Some(PreviousSecret {
        hash: first.hash,
        valid_until: h.clock.now().plus_ms(1_000),
    });
    h.store.update_key(rotated, audit("rotate")).await.unwrap();
    h.restart().await;
    let new = KeyHash::of(b"new secret");
    assert!(
        h.store
            .key_by_hash(&new, Freshness::Now)
            .await
            .unwrap()
            .is_some()
    );
    assert!(
        h.store
            .key_by_hash(&first.hash, Freshness::Now)
            .await
            .unwrap()
            .is_some()
    );
    h.clock.advance(1_000);
    assert!(
        h.store
            .key_by_hash(&first.hash, Freshness::Now)
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        h.store
            .key_by_hash(&new, Freshness::Now)
            .await
            .unwrap()
            .is_some()
    );
}

async fn deleted_keys(mut h: Harness) {
    let soft = h.key(Quotas::default()).await;
    let hard = h.key(Quotas::default()).await;
    for caller in [&soft, &hard] {
        let ask = caller.ask(1, 1);
        h.granted(&ask).await;
        h.settle(&ask, used(2)).await;
    }
    let running = hard.ask(1, 1);
    h.granted(&running).await;
    let mut record = (*soft.record).clone();
    record.deleted = true;
    h.store.update_key(record, audit("delete")).await.unwrap();
    let id = hard.record.id;
    h.store.delete_key(id, audit("delete")).await.unwrap();
    let again = h.store.delete_key(id, audit("delete")).await;
    assert!(matches!(again, Err(StoreError::NotFound)));
    // What was running settles all the same: its event stays.
    h.settle(&running, used(2)).await;
    for _ in 0..2 {
        assert!(
            h.store
                .key_by_hash(&soft.record.hash, Freshness::Now)
                .await
                .unwrap()
                .is_none()
        );
        assert!(h.store.key(soft.record.id).await.unwrap().unwrap().deleted);
        assert!(h.store.key(id).await.unwrap().is_none());
        assert_eq!(
            h.store
                .list_keys(KeyQuery {
                    limit: 10,
                    ..KeyQuery::default()
                })
                .await
                .unwrap()
                .total,
            0
        );
        let query = crate::store::UsageQuery {
            key: Some(id),
            limit: 10,
            ..Default::default()
        };
        let page = h.store.usage_events(query).await.unwrap();
        assert_eq!((page.total, page.items[0].api_key_id), (2, id));
        h.restart().await;
    }
    assert_eq!(
        h.key(Quotas::default()).await.record.seq,
        3,
        "numbers are never given twice"
    );
}

async fn listings_are_in_order_of_creation(h: Harness) {
    let mut ids = Vec::new();
    for n in 0..5 {
        let record = h.key(Quotas::default()).await.record;
        ids.push(record.id);
        if n == 2 {
            let mut record = (*record).clone();
            record.active = false;
            h.store.update_key(record, audit("disable")).await.unwrap();
        }
    }
    let page = h
        .store
        .list_keys(KeyQuery {
            skip: 1,
            limit: 3,
            ..KeyQuery::default()
        })
        .await
        .unwrap();
    let listed: Vec<KeyId> = page.items.iter().map(|record| record.id).collect();
    assert_eq!((listed.as_slice(), page.total), (&ids[1..4], 5));
    let page = h
        .store
        .list_keys(KeyQuery {
            active_only: true,
            limit: 10,
            ..KeyQuery::default()
        })
        .await
        .unwrap();
    assert_eq!((page.items.len(), page.total), (4, 4));
    assert_eq!(
        h.store
            .list_keys(KeyQuery {
                skip: 9,
                limit: 10,
                ..KeyQuery::default()
            })
            .await
            .unwrap()
            .items
            .len(),
        0
    );
}

async fn groups_are_kept(mut h: Harness) {
    let record = GroupRecord {
        id: GroupId(Uuid::new_v4()),
        name: String::from("team"),
        quotas: tokens(10, Period::Weekly),
        allowed_pools: vec![String::from("openai")],
        allowed_models: Vec::new(),
        version: 0,
        created_at: h.clock.now(),
        updated_at: h.clock.now(),
    };
    let first = h
        .store
        .put_group(record.clone(), audit("group"))
        .await
        .unwrap();
    let second = h
        .store
        .put_group(record.clone(), audit("group"))
        .await
        .unwrap();
    assert_eq!((first.version, second.version), (1, 2));
    h.restart().await;
    assert_eq!(
        h.store
            .group(record.id, Freshness::Now)
            .await
            .unwrap()
            .unwrap(),
        second
    );
    assert_eq!(h.store.list_groups().await.unwrap(), [second]);
    h.store
        .delete_group(record.id, audit("group"))
        .await
        .unwrap();
    let again = h.store.delete_group(record.id, audit("group")).await;
    assert!(matches!(again, Err(StoreError::NotFound)));
    h.restart().await;
    assert!(
        h.store
            .group(record.id, Freshness::Now)
            .await
            .unwrap()
            .is_none()
    );
}

async fn settings_are_made_once(mut h: Harness) {
    assert_eq!(h.store.setting_or_insert("a", "1").await.unwrap(), "1");
    assert_eq!(h.store.setting_or_insert("a", "2").await.unwrap(), "1");
    h.restart().await;
    assert_eq!(h.store.setting_or_insert("a", "3").await.unwrap(), "1");
}

async fn the_audit_log_is_newest_first(h: Harness) {
    let caller = h.key(Quotas::default()).await;
    let scope = caller.claims[0].scope;
    h.store.reset_used(scope, audit("reset")).await.unwrap();
    h.store
        .delete_key(caller.record.id, audit("delete"))
        .await
        .unwrap();
    let page = h.store.audit(0, 2).await.unwrap();
    assert_eq!(
        (page.items.as_slice(), page.total),
        (&[audit("delete"), audit("reset")][..], 3)
    );
    assert_eq!(h.store.audit(2, 2).await.unwrap().items, [audit("create")]);
}

async fn records_survive_a_restart(mut h: Harness) {
    let caller = h.key(tokens(7, Period::Monthly)).await;
    let ask = caller.ask(1, 1);
    h.granted(&ask).await;
    h.settle(&ask, used(2)).await;
    let before = h.store.activity(caller.record.id).await.unwrap();
    h.restart().await;
    assert_eq!(
        h.store.key(caller.record.id).await.unwrap().unwrap(),
        caller.record
    );
    assert_eq!(h.store.activity(caller.record.id).await.unwrap(), before);
    assert_eq!(before.request_count, 1);
    assert_eq!(before.last_used_at, Some(h.clock.now()));
    assert_eq!(h.used_and_held(&caller).await, (2, 0));
}
