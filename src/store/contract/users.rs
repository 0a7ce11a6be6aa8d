//! Users and their sessions.

use super::*;
use crate::store::{Role, StoreError, UserRecord};

on_every_engine!(
    handed too: users_are_found_by_name_and_address,
    a_login_is_one_users,
    versions_guard_changes_of_users,
    users_are_listed_in_order_of_creation,
    ended_sessions_stay_ended;
);

pub(super) fn user(name: &str) -> UserRecord {
    UserRecord {
        id: Uuid::new_v4(),
        version: 0,
        username: name.to_owned(),
        email: format!("{name}@Example.com"),
        password_hash: format!("$argon2id$v=19$of-{name}"),
        role: Role::Member,
        groups: vec![GroupId(Uuid::from_u128(7))],
        active: true,
        created_at: UnixMs(BEGIN),
        updated_at: UnixMs(BEGIN),
    }
}

async fn create(h: &Harness, record: UserRecord) -> Arc<UserRecord> {
    h.store.create_user(record, audit("create")).await.unwrap()
}

async fn users_are_found_by_name_and_address(mut h: Harness) {
    let ada = create(&h, user("Ada")).await;
    let emile = create(&h, user("Émile")).await;
    assert_eq!((ada.version, ada.username.as_str()), (1, "Ada"));
    for _ in 0..2 {
        for login in ["ada", "ADA", "ada@example.COM"] {
            let found = h.store.user_by_login(login).await.unwrap();
            assert_eq!(found.as_ref(), Some(&ada), "{login}");
        }
        let found = h.store.user_by_login("éMILE").await.unwrap();
        assert_eq!(found, Some(emile.clone()));
        assert_eq!(h.store.user(ada.id).await.unwrap(), Some(ada.clone()));
        assert_eq!(h.store.user_by_login("nobody").await.unwrap(), None);
        assert_eq!(h.store.user(Uuid::nil()).await.unwrap(), None);
        h.restart().await;
    }
}

async fn a_login_is_one_users(h: Harness) {
    let ada = create(&h, user("Ada")).await;
    let bob = create(&h, user("bob")).await;
    let like_ada = |change: fn(&mut UserRecord)| {
        let mut record = user("carol");
        change(&mut record);
        record
    };
    let takes = [
        like_ada(|record| record.username = String::from("aDA")),
        like_ada(|record| record.email = String::from("ADA@example.com")),
        like_ada(|record| record.username = String::from("ada@example.com")),
        UserRecord {
            id: ada.id,
            ..user("carol")
        },
    ];
    for record in takes {
        let refused = h.store.create_user(record, audit("create")).await;
        assert!(matches!(refused, Err(StoreError::Conflict(_))));
    }
    let mut renamed = (*bob).clone();
    renamed.email = String::from("ada@EXAMPLE.com");
    let refused = h.store.update_user(renamed.clone(), audit("edit")).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))));
    // Another writing of one's own name is no conflict, and a name left is free again.
    renamed.email = String::from("BOB@example.com");
    renamed.username = String::from("Robert");
    h.store.update_user(renamed, audit("edit")).await.unwrap();
    assert_eq!(h.store.user_by_login("bob").await.unwrap(), None);
    create(&h, like_ada(|record| record.username = String::from("Bob"))).await;
    h.store.delete_user(ada.id, audit("delete")).await.unwrap();
    assert_eq!(h.store.user_by_login("ada").await.unwrap(), None);
    assert_eq!(h.store.user(ada.id).await.unwrap(), None);
    create(&h, user("Ada")).await;
    let asks = (0..10).map(|n| {
        let mut record = user("dora");
        record.email = format!("{n}@example.com");
        h.store.create_user(record, audit("create"))
    });
    let answers = futures_util::future::join_all(asks).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
}

async fn versions_guard_changes_of_users(mut h: Harness) {
    let first = create(&h, user("Ada")).await;
    let mut edited = (*first).clone();
    edited.password_hash = String::from("$argon2id$another");
    edited.active = false;
    let second = h.store.update_user(edited.clone(), audit("edit")).await;
    let second = second.unwrap();
    assert_eq!((second.version, second.active), (2, false));
    let stale = h.store.update_user(edited, audit("edit")).await;
    assert!(matches!(stale, Err(StoreError::Conflict(_))));
    let nobody = h.store.update_user(user("bob"), audit("edit")).await;
    assert!(matches!(nobody, Err(StoreError::NotFound)));
    h.restart().await;
    assert_eq!(h.store.user(first.id).await.unwrap(), Some(second));
    let delete = async || h.store.delete_user(first.id, audit("delete")).await;
    delete().await.unwrap();
    assert!(matches!(delete().await, Err(StoreError::NotFound)));
    let page = h.store.audit(0, 10).await.unwrap();
    let what: Vec<&str> = page.items.iter().map(|entry| &*entry.what).collect();
    assert_eq!(what, ["delete", "edit", "create"]);
    let shown = serde_json::to_string(&first).unwrap();
    assert!(!shown.contains("argon2id"), "{shown}");
}

async fn users_are_listed_in_order_of_creation(mut h: Harness) {
    let mut made = Vec::new();
    for name in ["e", "d", "c", "b", "a"] {
        made.push(create(&h, user(name)).await);
        h.clock.advance(1);
    }
    let mut changed = (*made[1]).clone();
    changed.role = Role::Admin;
    made[1] = h.store.update_user(changed, audit("edit")).await.unwrap();
    let gone = made.remove(3).id;
    h.store.delete_user(gone, audit("delete")).await.unwrap();
    for _ in 0..2 {
        let page = h.store.list_users(1, 2).await.unwrap();
        assert_eq!((&page.items[..], page.total), (&made[1..3], 4));
        assert_eq!(h.store.list_users(0, 9).await.unwrap().items, made);
        assert_eq!(h.store.list_users(4, 9).await.unwrap().items, []);
        h.restart().await;
    }
}

async fn ended_sessions_stay_ended(mut h: Harness) {
    let [ended, other] = [Uuid::new_v4(), Uuid::new_v4()];
    let until = h.clock.now().plus_ms(3_600_000);
    h.store.end_session(ended, until).await.unwrap();
    h.store.end_session(ended, until).await.unwrap();
    for _ in 0..2 {
        assert!(h.store.session_ended(ended).await.unwrap());
        assert!(!h.store.session_ended(other).await.unwrap());
        h.restart().await;
        h.clock.advance(1_000);
    }
}
