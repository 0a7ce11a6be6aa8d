//! Keys by owner and by number, and the figures of many of them.

use super::*;
use crate::store::{KeyFigures, KeyQuery};

on_every_engine!(
    handed too: owners_see_their_keys,
    keys_are_found_by_number,
    figures_of_many_keys_are_those_of_each;
);

async fn page(h: &Harness, query: KeyQuery) -> (Vec<KeyId>, i64) {
    let page = h.store.list_keys(query).await.unwrap();
    (page.items.iter().map(|key| key.id).collect(), page.total)
}

async fn owned(h: &Harness, owner: Option<Uuid>) -> Arc<KeyRecord> {
    let mut record = key_record(Uuid::new_v4());
    record.owner = owner;
    h.store.create_key(record, audit("create")).await.unwrap()
}

async fn changed(h: &Harness, key: &Arc<KeyRecord>, change: impl FnOnce(&mut KeyRecord)) {
    let mut record = (**key).clone();
    change(&mut record);
    h.store.update_key(record, audit("edit")).await.unwrap();
}

async fn owners_see_their_keys(mut h: Harness) {
    let [ada, bob] = [Uuid::new_v4(), Uuid::new_v4()];
    let mut keys = Vec::new();
    for n in 0..9 {
        let owner = [Some(ada), Some(bob), None][n % 3];
        keys.push(owned(&h, owner).await);
    }
    // Ada: 0, 3, 6; Bob: 1, 4, 7.
    changed(&h, &keys[3], |key| key.active = false).await;
    changed(&h, &keys[4], |key| key.owner = Some(ada)).await;
    changed(&h, &keys[7], |key| key.deleted = true).await;
    changed(&h, &keys[8], |key| key.owner = Some(bob)).await;
    h.store
        .delete_key(keys[2].id, audit("delete"))
        .await
        .unwrap();
    let ids = |of: &[usize]| of.iter().map(|&n| keys[n].id).collect::<Vec<_>>();
    for _ in 0..2 {
        let all = |owner, active_only| KeyQuery {
            owner,
            active_only,
            skip: 0,
            limit: 100,
        };
        let (of_ada, of_bob) = (all(Some(ada), false), all(Some(bob), false));
        assert_eq!(page(&h, of_ada).await, (ids(&[0, 3, 4, 6]), 4));
        assert_eq!(page(&h, of_bob).await, (ids(&[1, 8]), 2));
        assert_eq!(page(&h, all(Some(ada), true)).await, (ids(&[0, 4, 6]), 3));
        let nobody = all(Some(Uuid::nil()), false);
        assert_eq!(page(&h, nobody).await, (Vec::new(), 0));
        let second = KeyQuery {
            skip: 1,
            limit: 2,
            ..of_ada
        };
        assert_eq!(page(&h, second).await, (ids(&[3, 4]), 4));
        let everyone = ids(&[0, 1, 3, 4, 5, 6, 8]);
        assert_eq!(page(&h, all(None, false)).await, (everyone, 7));
        let active = ids(&[0, 1, 4, 5, 6, 8]);
        assert_eq!(page(&h, all(None, true)).await, (active, 6));
        h.restart().await;
    }
}

async fn keys_are_found_by_number(mut h: Harness) {
    let mut keys = Vec::new();
    for _ in 0..4 {
        keys.push(owned(&h, None).await);
    }
    changed(&h, &keys[1], |key| key.deleted = true).await;
    h.store
        .delete_key(keys[2].id, audit("delete"))
        .await
        .unwrap();
    for _ in 0..2 {
        let by_seq = async |seq| {
            let found = h.store.key_by_seq(seq).await.unwrap();
            found.map(|key| (key.id, key.deleted))
        };
        assert_eq!(by_seq(1).await, Some((keys[0].id, false)));
        assert_eq!(by_seq(2).await, Some((keys[1].id, true)));
        assert_eq!(by_seq(3).await, None);
        assert_eq!(by_seq(4).await, Some((keys[3].id, false)));
        for nobody in [i64::MIN, -1, 0, 5, i64::MAX] {
            assert_eq!(by_seq(nobody).await, None, "{nobody}");
        }
        h.restart().await;
    }
}

async fn figures_of_many_keys_are_those_of_each(h: Harness) {
    let group = h.group(tokens(1_000, Period::Daily)).await;
    let mut claims = Vec::new();
    for n in 0..7 {
        let mut caller = h.key(tokens(100, Period::Total)).await;
        if n % 2 == 0 {
            caller = h.moved(&caller, Some(&group)).await;
        }
        for _ in 0..n {
            let ask = caller.ask(1, n);
            h.granted(&ask).await;
            h.settle(&ask, used(n)).await;
        }
        h.granted(&caller.ask(2, n)).await;
        claims.push(caller.claims[0]);
        claims.extend(caller.claims.get(1));
        h.clock.advance(10);
    }
    claims.reverse();
    let figures = h.store.key_figures(claims.clone()).await.unwrap();
    assert_eq!(figures.len(), claims.len());
    for (KeyFigures { standing, activity }, claim) in figures.into_iter().zip(claims) {
        assert_eq!(standing, h.store.standing(claim).await.unwrap());
        let alone = match claim.scope {
            Scope::Key(id) => h.store.activity(id).await.unwrap(),
            Scope::Group(_) => Default::default(),
        };
        assert_eq!(activity, alone);
    }
    assert!(h.store.key_figures(Vec::new()).await.unwrap().is_empty());
}
