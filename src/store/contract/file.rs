//! What only the embedded engine can be asked: its file is crashed, read and tampered with.

use tokio::sync::mpsc;

use super::backup::{exported, keep_books, lines_of, received};
use super::chance::Chance;
use super::invariants::{callers, check, crowd};
use super::*;
use crate::store::embedded::export_file;

on_engine!(
    embedded: sessions_that_are_over_are_forgotten,
    crashes_leave_sound_books,
    books_that_were_tampered_with_are_told_of,
    a_file_is_exported_while_its_store_serves,
);

async fn sessions_that_are_over_are_forgotten(mut h: Harness) {
    let [short, long, next] = [(); 3].map(|()| Uuid::new_v4());
    let after = |ms| h.clock.now().plus_ms(ms);
    h.store.end_session(short, after(1_000)).await.unwrap();
    h.store.end_session(long, after(9_000)).await.unwrap();
    h.clock.advance(2_000);
    h.store.end_session(next, after(9_000)).await.unwrap();
    for _ in 0..2 {
        let ended = async |id| h.store.session_ended(id).await.unwrap();
        assert!(!ended(short).await);
        assert!(ended(long).await && ended(next).await);
        h.restart().await;
    }
}

async fn crashes_leave_sound_books(mut h: Harness) {
    let mut chance = Chance::from_env();
    let callers = callers(&h).await;
    for _ in 0..6 {
        crowd(&h, &callers, &mut chance).await;
        h.crash().await;
        h.assert_sound().await;
        assert_eq!(h.store.invariants().await.unwrap().held, Amounts::ZERO);
    }
}

async fn books_that_were_tampered_with_are_told_of(mut h: Harness) {
    let caller = h.key(Quotas::default()).await;
    let ask = caller.ask(10, 10);
    h.granted(&ask).await;
    h.settle(&ask, used(20)).await;
    h.store.close().await;
    let Engine::Embedded(folder) = &h.engine else {
        panic!("of the embedded engine");
    };
    let file = rusqlite::Connection::open(folder.path().join("quota.db")).unwrap();
    let tampered = "UPDATE counters SET tokens_booked = tokens_booked + 1;
        CREATE TEMP TABLE twin AS SELECT * FROM usage_events;
        UPDATE twin SET no = no + 1;
        INSERT INTO usage_events SELECT * FROM twin";
    file.execute_batch(tampered).unwrap();
    drop(file);
    h.restart().await;
    let found = h.store.invariants().await.unwrap();
    for (id, violations) in [("I1", 0), ("I2", 0), ("I3", 1), ("I4", 0), ("I5", 1)] {
        let check = check(&found.checks, id);
        assert_eq!(check.violations, violations, "{check:?}");
        assert_eq!(check.holds, violations == 0, "{check:?}");
    }
    let tell = &check(&found.checks, "I5").examples[0];
    assert!(tell.contains("21 of 20 tokens"), "{tell}");
}

async fn a_file_is_exported_while_its_store_serves(h: Harness) {
    let callers = keep_books(&h).await;
    h.store.ping().await.unwrap();
    let Engine::Embedded(folder) = &h.engine else {
        panic!("of the embedded engine");
    };
    let path = folder.path().join("quota.db");
    let (send, receive) = mpsc::channel(8);
    let other = std::thread::spawn(move || export_file(&path, &send));
    h.granted(&callers[0].ask(1, 1)).await;
    let records = received(receive).await;
    other.join().unwrap().unwrap();
    let ours = lines_of(&exported(&h).await);
    let theirs = lines_of(&records);
    // But for the first line, which counts what is open.
    assert!(ours.difference(&theirs).count() <= 1);
    let nowhere = folder.path().join("nowhere.db");
    let (send, _receive) = mpsc::channel(8);
    assert!(export_file(&nowhere, &send).is_err());
}
