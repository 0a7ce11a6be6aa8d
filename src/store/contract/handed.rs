//! Books that were handed to another process: every step over the connection comes to what it comes to
//! on the engine itself, and what ran goes on.

use tokio::net::UnixStream;

use super::*;
use crate::store::StoreError;
use crate::store::embedded::EmbeddedOptions;
use crate::store::movable::host::host;

/// That of every ask.
const LEASE: std::time::Duration = std::time::Duration::from_secs(60);

impl Harness {
    /// A store whose books another has.
    pub(super) async fn handed() -> Harness {
        let mut harness = Harness::embedded().await;
        harness.store.close().await;
        harness.hand_over_anew().await;
        harness
    }

    /// Opens the books, which nobody has open, and hands them over.
    pub(super) async fn hand_over_anew(&mut self) {
        let before = self.movable(false).unwrap();
        self.hand_over(&before).await;
        self.store = before;
    }

    async fn hand_over(&mut self, before: &MovableStore) {
        let out = before.hand_out().await.unwrap().unwrap();
        let after = self.movable(true).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(host(theirs, Arc::clone(&after) as Arc<dyn Store>));
        out.follow(ours);
        self.after = Some(after);
    }

    fn movable(&self, adopt: bool) -> Result<Arc<MovableStore>, StoreError> {
        let Engine::Embedded(folder) = &self.engine else {
            panic!("only a file is handed over");
        };
        let options = EmbeddedOptions {
            lost_reservation: self.policy,
            clock: self.clock.reading(),
            adopt: adopt.then_some(LEASE),
            // A process that another test starts just now holds the lock until it is one of its own.
            patience: LEASE,
            ..EmbeddedOptions::default()
        };
        MovableStore::open(folder.path().join("quota.db"), options, LEASE)
    }

    /// Books that can be handed over, in use.
    async fn movable_books() -> (Harness, Arc<MovableStore>) {
        let mut harness = Harness::embedded().await;
        harness.store.close().await;
        let before = harness.movable(false).unwrap();
        harness.store = Arc::clone(&before) as Arc<dyn Store>;
        (harness, before)
    }
}

#[tokio::test]
async fn what_runs_goes_on() {
    let (mut h, before) = Harness::movable_books().await;
    let rates = Rates {
        concurrency: 3,
        ..Rates::default()
    };
    let caller = h.key(tokens(1_000, Period::Total)).await.with_rates(rates);
    let [first, second, third] = [10, 20, 30].map(|input| caller.ask(input, 40));
    for ask in [&first, &second, &third] {
        h.granted(ask).await;
    }
    assert_eq!(h.used_and_held(&caller).await, (0, 180));
    h.hand_over(&before).await;
    assert_eq!(h.used_and_held(&caller).await, (0, 180));
    assert_eq!(h.standing(&caller).await.running, 3);
    assert_eq!(
        h.short(&caller.ask(1, 1)).await.kind,
        LimitKind::Concurrency
    );
    let more = Amounts {
        tokens: 5,
        ..Amounts::ZERO
    };
    let topped = h.store.top_up(first.id, &caller.claims, more).await;
    assert!(topped.unwrap());
    assert!(matches!(
        h.settle(&first, used(55)).await,
        Settled::Applied { charged, debt } if charged.tokens == 55 && debt.tokens == 0
    ));
    assert_eq!(h.settle(&first, used(55)).await, Settled::Already);
    assert_eq!(h.used_and_held(&caller).await, (55, 130));
    // A lease begins anew with the hand-over, is renewed over the connection, and runs out there.
    h.clock.advance(59_000);
    h.store.renew(&[second.id], 60_000).await.unwrap();
    h.clock.advance(2_000);
    assert_eq!(h.store.sweep().await.unwrap(), 0, "it is not this store's");
    let after = h.after.clone().unwrap();
    assert_eq!(after.sweep().await.unwrap(), 1);
    assert_eq!(h.used_and_held(&caller).await, (125, 60));
    assert!(matches!(
        h.settle(&third, used(90)).await,
        Settled::Late { charged } if charged.tokens == 20
    ));
    h.settle(&second, used(60)).await;
    assert_eq!(h.used_and_held(&caller).await, (205, 0));
    h.assert_sound().await;
    assert_eq!(h.standing(&caller).await.running, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_wait_while_the_books_are_out() {
    let (h, before) = Harness::movable_books().await;
    let caller = h.key(tokens(1_000, Period::Total)).await;
    let out = before.hand_out().await.unwrap().unwrap();
    let asks: Vec<Ask> = (0..50).map(|_| caller.ask(1, 9)).collect();
    let waiting: Vec<_> = asks.iter().map(|ask| h.reserve(ask)).collect();
    let mut waiting = std::pin::pin!(futures_util::future::join_all(waiting));
    // Polled, each of them waits.
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    let after = h.movable(true).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    tokio::spawn(host(theirs, Arc::clone(&after) as Arc<dyn Store>));
    out.follow(ours);
    for reserved in waiting.await {
        assert!(matches!(reserved, Reserved::Granted(_)));
    }
    assert_eq!(h.used_and_held(&caller).await, (0, 500));
    assert!(before.hand_out().await.unwrap().is_none(), "they are there");
}

#[tokio::test]
async fn books_that_come_back_are_as_they_went() {
    let (h, before) = Harness::movable_books().await;
    let caller = h.key(tokens(1_000, Period::Total)).await;
    let (open, settled) = (caller.ask(10, 40), caller.ask(1, 1));
    h.granted(&open).await;
    h.granted(&settled).await;
    h.settle(&settled, used(2)).await;
    for _ in 0..3 {
        before
            .hand_out()
            .await
            .unwrap()
            .unwrap()
            .take_back()
            .unwrap();
        assert_eq!(h.used_and_held(&caller).await, (2, 50));
    }
    h.settle(&open, used(20)).await;
    assert_eq!(h.used_and_held(&caller).await, (22, 0));
    h.assert_sound().await;
}

#[tokio::test]
async fn one_that_took_the_file_and_died_leaves_it_whole() {
    let (h, before) = Harness::movable_books().await;
    let caller = h.key(tokens(1_000, Period::Total)).await;
    let open = caller.ask(10, 40);
    h.granted(&open).await;
    let mut out = before.hand_out().await.unwrap().unwrap();
    let other = h.movable(true).unwrap();
    let theirs = caller.ask(5, 5);
    let reserved = other.reserve(theirs.clone()).await.unwrap();
    assert!(matches!(reserved, Reserved::Granted(_)));
    drop(other);
    out.take_back().unwrap();
    drop(out);
    assert_eq!(h.used_and_held(&caller).await, (0, 60));
    h.settle(&open, used(20)).await;
    // Nobody settles what the dead one began: its lease ends it.
    h.clock.advance(60_000);
    assert_eq!(h.store.sweep().await.unwrap(), 1);
    assert_eq!(h.used_and_held(&caller).await, (30, 0));
}

#[tokio::test]
async fn when_the_process_that_has_them_dies_steps_are_unavailable() {
    let (h, before) = Harness::movable_books().await;
    let caller = h.key(Quotas::default()).await;
    let out = before.hand_out().await.unwrap().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    out.follow(ours);
    drop(theirs);
    for _ in 0..3 {
        let refused = h.store.reserve(caller.ask(1, 1)).await.unwrap_err();
        assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
    }
}

#[tokio::test]
async fn books_that_cannot_be_opened_again_are_unavailable() {
    let (h, before) = Harness::movable_books().await;
    let caller = h.key(Quotas::default()).await;
    drop(before.hand_out().await.unwrap().unwrap());
    let refused = h.store.reserve(caller.ask(1, 1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
}
