//! Export and import: within an engine and from each to the other, with equal books afterwards.

use std::collections::BTreeSet;

use serde_json::Value;
use tokio::sync::mpsc;

use super::alike::{assert_same, described};
use super::chance::Chance;
use super::sums::random_usage;
use super::users::user;
use super::*;
use crate::keys::PreviousSecret;
use crate::store::{AuditEntry, BACKUP_VERSION, Freshness, KeyQuery, Record, StoreError};
use crate::time::DAY_MS;

on_every_engine!(
    a_backup_comes_in_order,
    books_move_to_a_file,
    books_move_to_redis,
    an_import_repeated_changes_nothing,
    an_import_replaces_what_is_there,
    keys_come_beside_others,
    numbers_are_never_given_twice,
    a_newer_backup_is_refused,
    nobody_receives_is_no_error,
);

pub(super) async fn exported(h: &Harness) -> Vec<Record> {
    let (send, receive) = mpsc::channel(8);
    let (done, records) = tokio::join!(h.store.export(send), received(receive));
    done.unwrap();
    records
}

pub(super) async fn received(mut receive: mpsc::Receiver<Record>) -> Vec<Record> {
    let mut records = Vec::new();
    while let Some(record) = receive.recv().await {
        records.push(record);
    }
    records
}

/// As lines of a file, and in chunks of whatever size.
async fn import(h: &Harness, records: &[Record]) {
    let lines = records
        .iter()
        .map(|record| serde_json::to_string(record).unwrap());
    let records: Vec<Record> = lines
        .map(|line| serde_json::from_str(&line).unwrap())
        .collect();
    for chunk in records.chunks(7) {
        h.store.import(chunk.to_vec()).await.unwrap();
    }
}

fn noted(what: &str, h: &Harness) -> AuditEntry {
    AuditEntry {
        at: h.clock.now(),
        subject: Uuid::new_v4().to_string(),
        ..audit(what)
    }
}

/// Something of everything. Answers callers whose keys are there.
pub(super) async fn keep_books(h: &Harness) -> Vec<Caller> {
    let mut chance = Chance::from_env();
    h.store.setting_or_insert("secret_key", "s1").await.unwrap();
    let mut callers = Vec::new();
    for n in 0..4 {
        let mut caller = h
            .key(tokens(10_000, [Period::Total, Period::Daily][n % 2]))
            .await;
        let mut record = (*caller.record).clone();
        record.owner = (n == 1).then(|| Uuid::from_u128(9));
        record.previous = (n == 2).then(|| PreviousSecret {
            hash: KeyHash::of(b"before"),
            valid_until: h.clock.now().plus_ms(99 * DAY_MS),
        });
        let edit = h.store.update_key(record, noted("edit", h)).await;
        caller.record = edit.unwrap();
        callers.push(caller);
    }
    let group = h.group(tokens(50_000, Period::Weekly)).await;
    callers[0] = h.moved(&callers[0], Some(&group)).await;
    for name in ["ada", "Bob"] {
        let create = h.store.create_user(user(name), noted("create", h));
        create.await.unwrap();
    }
    random_usage(h, &callers, &mut chance, 60).await;
    for n in 0..5 {
        h.clock.advance(1);
        let ask = callers[0].ask(1, n);
        h.granted(&ask).await;
        h.settle(&ask, used(n)).await;
    }
    let hard = callers.pop().unwrap().record;
    h.store
        .delete_key(hard.id, noted("delete", h))
        .await
        .unwrap();
    let mut soft = (*callers.pop().unwrap().record).clone();
    soft.deleted = true;
    h.store.update_key(soft, noted("delete", h)).await.unwrap();
    callers
}

async fn a_backup_comes_in_order(h: Harness) {
    let callers = keep_books(&h).await;
    h.granted(&callers[1].ask(1, 2)).await;
    let records = exported(&h).await;
    let Record::Backup {
        version,
        open_reservations,
        ..
    } = records[0]
    else {
        panic!("{:?}", records[0]);
    };
    assert_eq!((version, open_reservations), (BACKUP_VERSION, 1));
    let Some(Record::End { records: told }) = records.last() else {
        panic!("{:?}", records.last());
    };
    assert_eq!(*told as usize, records.len() - 1);
    let order = [
        "backup",
        "setting",
        "group",
        "user",
        "key",
        "counters",
        "rollup",
        "error_count",
        "event",
        "audit",
        "end",
    ];
    let places = records.iter().map(|record| {
        let record = serde_json::to_value(record).unwrap();
        let kind = record["type"].as_str().unwrap().to_owned();
        order.iter().position(|known| *known == kind).unwrap()
    });
    let places: Vec<usize> = places.collect();
    assert!(places.is_sorted());
    let kinds: BTreeSet<usize> = places.into_iter().collect();
    assert_eq!(kinds.len(), order.len(), "something of everything");
}

async fn books_move_to_a_file(h: Harness) {
    books_move(&h, Engine::embedded()).await;
}

async fn books_move_to_redis(h: Harness) {
    books_move(&h, Engine::redis().await).await;
}

async fn books_move(h: &Harness, to: Engine) {
    let callers = keep_books(h).await;
    let records = exported(h).await;
    let before = described(h, &callers).await;
    let mut to = h.beside(to).await;
    import(&to, &records).await;
    assert_same(&before, &described(&to, &callers).await);
    to.assert_sound().await;
    to.restart().await;
    assert_same(&before, &described(&to, &callers).await);
    // The books go on where they were.
    for h in [h, &to] {
        for caller in &callers {
            let caller = Caller {
                record: h.store.key(caller.record.id).await.unwrap().unwrap(),
                claims: caller.claims.clone(),
            };
            let ask = caller.ask(3, 4);
            h.granted(&ask).await;
            h.settle(&ask, used(5)).await;
        }
        h.assert_sound().await;
    }
    let standing = async |h: &Harness| h.store.standing(callers[0].claims[0]).await.unwrap();
    assert_eq!(standing(h).await, standing(&to).await);
}

/// Without the moment it was made, and in no order.
pub(super) fn lines_of(records: &[Record]) -> BTreeSet<String> {
    let lines = records.iter().map(|record| {
        let mut line = serde_json::to_value(record).unwrap();
        if line["type"] == "backup" {
            line["at"] = Value::Null;
        }
        line.to_string()
    });
    lines.collect()
}

async fn an_import_repeated_changes_nothing(h: Harness) {
    let callers = keep_books(&h).await;
    let records = exported(&h).await;
    let before = described(&h, &callers).await;
    for _ in 0..2 {
        import(&h, &records).await;
        assert_same(&before, &described(&h, &callers).await);
        let again = exported(&h).await;
        assert_eq!(lines_of(&records), lines_of(&again));
    }
    h.assert_sound().await;
}

async fn an_import_replaces_what_is_there(h: Harness) {
    let callers = keep_books(&h).await;
    let records = exported(&h).await;
    let before = h.standing(&callers[1]).await;
    let mut key = (*callers[1].record).clone();
    key.name = String::from("renamed");
    key.hash = KeyHash::of(b"rotated");
    h.store.update_key(key, noted("edit", &h)).await.unwrap();
    let mut ada = (*h.store.user_by_login("ada").await.unwrap().unwrap()).clone();
    ada.username = String::from("eve");
    h.store.update_user(ada, noted("edit", &h)).await.unwrap();
    let scope = callers[1].claims[0].scope;
    h.store.reset_used(scope, noted("reset", &h)).await.unwrap();
    assert_ne!(h.standing(&callers[1]).await, before);
    import(&h, &records).await;
    let key = h.store.key(callers[1].record.id).await.unwrap().unwrap();
    // Where other edges may know a later version, it does not fall.
    assert!(key.version >= callers[1].record.version);
    let version = key.version;
    let record = (*callers[1].record).clone();
    assert_eq!(*key, KeyRecord { version, ..record });
    let rotated = KeyHash::of(b"rotated");
    let found = h.store.key_by_hash(&rotated, Freshness::Now).await.unwrap();
    assert_eq!(found, None);
    assert_eq!(h.store.user_by_login("eve").await.unwrap(), None);
    assert!(h.store.user_by_login("ada").await.unwrap().is_some());
    assert_eq!(h.standing(&callers[1]).await, before);
    h.assert_sound().await;
}

async fn keys_come_beside_others(h: Harness) {
    let records = {
        let from = h.beside(Engine::embedded()).await;
        from.key(Quotas::default()).await;
        let theirs = from.key(tokens(5, Period::Total)).await;
        let ask = theirs.ask(1, 1);
        from.granted(&ask).await;
        from.settle(&ask, used(2)).await;
        exported(&from).await
    };
    let ours = h.key(tokens(9, Period::Total)).await;
    let ask = ours.ask(1, 3);
    h.granted(&ask).await;
    h.settle(&ask, used(4)).await;
    import(&h, &records).await;
    let all = KeyQuery {
        limit: 10,
        ..KeyQuery::default()
    };
    let listed = h.store.list_keys(all).await.unwrap();
    let numbers: BTreeSet<i64> = listed.items.iter().map(|key| key.seq).collect();
    assert_eq!((listed.total, numbers.len()), (3, 3));
    for key in &listed.items {
        let found = h.store.key_by_seq(key.seq).await.unwrap();
        assert_eq!(found.map(|found| found.id), Some(key.id));
    }
    assert_eq!(h.used_and_held(&ours).await, (4, 0));
    h.assert_sound().await;
    // A secret of another key is not taken over.
    let mut thief = key_record(Uuid::new_v4());
    thief.hash = ours.record.hash;
    let thief = Record::of_key(&thief, Default::default());
    let refused = h.store.import(vec![thief]).await;
    assert!(
        matches!(refused, Err(StoreError::Conflict(_))),
        "{refused:?}"
    );
    let mut twin = user("ada");
    h.store
        .create_user(twin.clone(), audit("create"))
        .await
        .unwrap();
    twin.id = Uuid::new_v4();
    let refused = h.store.import(vec![Record::of_user(&twin)]).await;
    assert!(
        matches!(refused, Err(StoreError::Conflict(_))),
        "{refused:?}"
    );
}

async fn numbers_are_never_given_twice(h: Harness) {
    let mut last = 0;
    for _ in 0..4 {
        let key = h.key(Quotas::default()).await.record;
        last = key.seq;
        if last > 2 {
            h.store.delete_key(key.id, audit("delete")).await.unwrap();
        }
    }
    let records = exported(&h).await;
    let to = h.beside(Engine::embedded()).await;
    import(&to, &records).await;
    assert!(to.key(Quotas::default()).await.record.seq > last);
    import(&h, &records).await;
    assert!(h.key(Quotas::default()).await.record.seq > last);
}

async fn a_newer_backup_is_refused(h: Harness) {
    let newer = Record::Backup {
        version: BACKUP_VERSION + 1,
        at: h.clock.now(),
        open_reservations: 0,
        last_key_seq: 0,
    };
    let refused = h.store.import(vec![newer]).await;
    assert!(matches!(refused, Err(StoreError::Fault(_))), "{refused:?}");
}

async fn nobody_receives_is_no_error(h: Harness) {
    keep_books(&h).await;
    let (send, mut receive) = mpsc::channel(1);
    let receiver = async {
        receive.recv().await;
        drop(receive);
    };
    let (done, ()) = tokio::join!(h.store.export(send), receiver);
    done.unwrap();
}
