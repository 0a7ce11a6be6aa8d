//! An edge dies between the steps of a change: another one does the rest.

use std::time::Duration;

use super::*;
use crate::quota::{GroupId, Scope};
use crate::store::contract::records::{audit, key_record};
use crate::store::contract::redis_server::RedisServer;
use crate::store::redis::link::{Link, LinkOptions, Topology};
use crate::store::redis::names::Shard;
use crate::store::{Freshness, KeyQuery, StoreError};

struct Fleet {
    server: RedisServer,
    /// Two edges that share nothing but Redis.
    edges: [Directory; 2],
}

impl Fleet {
    async fn start() -> Fleet {
        let server = tokio::task::spawn_blocking(RedisServer::start).await;
        let server = server.unwrap();
        let options = LinkOptions {
            topology: Topology::Standalone,
            urls: vec![server.url()],
            primary: String::new(),
            pool_size: 4,
            timeout: Duration::from_secs(10),
        };
        let edge = || {
            let link = Arc::new(Link::start(&options).unwrap());
            Directory::new(link, None, false)
        };
        let edges = [edge(), edge()];
        for edge in &edges {
            while edge.link.ping().await.is_err() {}
        }
        Fleet { server, edges }
    }

    /// Redis as it is: names and what they stand for.
    fn has(&self, name: &str) -> bool {
        self.server.ask::<i64>(&["EXISTS", name]) == 1
    }

    fn version_of_counters(&self, shard: Shard, id: KeyId) -> Option<i64> {
        let name = shard.counters(Scope::Key(id));
        let blob: Vec<u8> = self.server.ask(&["GETRANGE", &name, "0", "7"]);
        Some(i64::from_be_bytes(blob.try_into().ok()?))
    }
}

/// The first step of a change, and no other.
async fn begin(edge: &Directory, expected: i64, entry: &KeyEntry, change: &Change) -> Put {
    for hash in entry.hashes() {
        assert!(
            edge.steps
                .claim(&edge.link, &hash, entry.record.id)
                .await
                .unwrap()
        );
    }
    let audit = audit("begun");
    let put = edge.steps.put_key(
        &edge.link,
        expected,
        Next::Record(entry),
        change,
        Some(&audit),
    );
    put.await.unwrap()
}

fn first_of(record: KeyRecord) -> (KeyEntry, Change) {
    let mut entry = KeyEntry {
        record,
        former_homes: Vec::new(),
    };
    (entry.record.seq, entry.record.version) = (1, 1);
    let change = Change {
        id: Uuid::now_v7(),
        ..Change::default()
    };
    (entry, change)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_whose_maker_died_is_made_whole() {
    let fleet = Fleet::start().await;
    let [dead, alive] = &fleet.edges;
    let (entry, change) = first_of(key_record(Uuid::new_v4()));
    let id = entry.record.id;
    assert_eq!(begin(dead, 0, &entry, &change).await, Put::Done);
    assert_eq!(
        begin(dead, 0, &entry, &change).await,
        Put::Done,
        "sent again"
    );
    let claimed: i64 = fleet
        .server
        .ask(&["PTTL", &names::secret(&entry.record.hash)]);
    assert!(claimed > 0 && claimed <= 60_000, "{claimed}");
    alive.catch_up().await.unwrap();
    let found = alive.key_by_hash(&entry.record.hash, Freshness::Now).await;
    assert_eq!(*found.unwrap().unwrap(), entry.record);
    assert_eq!(fleet.version_of_counters(Shard::of_key(id), id), Some(1));
    let kept: i64 = fleet
        .server
        .ask(&["PTTL", &names::secret(&entry.record.hash)]);
    assert_eq!(kept, -1, "for good");
    assert_eq!(
        alive
            .list_keys(KeyQuery {
                active_only: true,
                limit: 9,
                ..KeyQuery::default()
            })
            .await
            .unwrap()
            .items
            .len(),
        1
    );
    assert_eq!(alive.audit(0, 9).await.unwrap().total, 1);
    assert!(!fleet.has(&Shard::of_key(id).changes()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_stops_anywhere_is_finished_once() {
    let fleet = Fleet::start().await;
    let [dead, alive] = &fleet.edges;
    for stop in 0..4 {
        let record = key_record(Uuid::new_v4());
        let record = alive.create_key(record, audit("create")).await.unwrap();
        let id = record.id;
        let (from, group) = (Shard::of_key(id), group_elsewhere(id));
        let to = Shard::of_group(group);
        let (present, _) = alive.steps.change(&alive.link, id).await.unwrap();
        let mut moved = (*record).clone();
        moved.group = Some(group);
        let (entry, change) = next_of(&present.unwrap(), moved.clone());
        assert_eq!(begin(dead, 1, &entry, &change).await, Put::Done);
        let (steps, link) = (&dead.steps, &dead.link);
        if stop > 0 {
            let left = steps.leave(link, from, id, 2).await.unwrap();
            assert!(left.is_some());
            if stop > 1 {
                steps.arrive(link, to, id, 2, left).await.unwrap();
            }
            if stop > 2 {
                steps.drop_counters(link, from, id, 2).await.unwrap();
            }
        }
        // Whoever changes it next finishes first; then the dead edge's steps arrive after all.
        moved.version = 2;
        moved.group = None;
        let back = alive.update_key(moved, audit("back")).await.unwrap();
        assert_eq!(back.version, 3);
        let late = steps.leave(link, from, id, 2).await.unwrap();
        assert_eq!(late, None, "stop {stop}");
        steps.arrive(link, to, id, 2, None).await.unwrap();
        steps.drop_counters(link, from, id, 2).await.unwrap();
        assert_eq!(fleet.version_of_counters(from, id), Some(3), "stop {stop}");
        assert_eq!(fleet.version_of_counters(to, id), Some(-3), "stop {stop}");
    }
}

/// A group whose shard is not the key's own.
fn group_elsewhere(id: KeyId) -> GroupId {
    let groups = std::iter::repeat_with(|| GroupId(Uuid::new_v4()));
    let mut elsewhere = groups.filter(|group| Shard::of_group(*group) != Shard::of_key(id));
    elsewhere.next().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_stops_is_finished() {
    let fleet = Fleet::start().await;
    let [dead, alive] = &fleet.edges;
    let record = key_record(Uuid::new_v4());
    let record = alive.create_key(record, audit("create")).await.unwrap();
    let id = record.id;
    let (present, _) = alive.steps.change(&alive.link, id).await.unwrap();
    let present = present.unwrap();
    let change = Change {
        id: Uuid::now_v7(),
        dropped: vec![record.hash],
        from: Some(Shard::of_key(id)),
        removed: Some(2),
        owner: None,
    };
    let audit = audit("delete");
    let put = dead
        .steps
        .put_key(&dead.link, 1, Next::Gone(&present), &change, Some(&audit));
    assert_eq!(put.await.unwrap(), Put::Done);
    let again = alive.create_key((*record).clone(), audit).await;
    assert!(
        matches!(again, Err(StoreError::Conflict(_))),
        "never the same id"
    );
    alive.catch_up().await.unwrap();
    assert_eq!(
        alive
            .list_keys(KeyQuery {
                limit: 9,
                ..KeyQuery::default()
            })
            .await
            .unwrap()
            .total,
        0
    );
    assert!(!fleet.has(&names::secret(&record.hash)));
    assert_eq!(fleet.version_of_counters(Shard::of_key(id), id), Some(-2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_at_once_are_one_after_the_other() {
    let fleet = Fleet::start().await;
    let record = key_record(Uuid::new_v4());
    let record = fleet.edges[0]
        .create_key(record, audit("create"))
        .await
        .unwrap();
    let changes = (0..8).map(|n: usize| {
        let edge = &fleet.edges[n % 2];
        let mut record = (*record).clone();
        record.name = format!("by {n}");
        edge.update_key(record, audit("rename"))
    });
    let answers = futures_util::future::join_all(changes).await;
    let made: Vec<_> = answers.iter().flatten().collect();
    let [made] = &made[..] else {
        panic!("{answers:?}");
    };
    for edge in &fleet.edges {
        assert_eq!(edge.key(record.id).await.unwrap().as_ref(), Some(*made));
        assert_eq!(edge.audit(0, 9).await.unwrap().total, 2);
    }
}
