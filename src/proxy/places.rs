//! How many connections the edge has at once (`edge.max_connections`), so that clients who only sit there
//! leave descriptors for upstreams and the store.
//!
//! Where all places are taken, a new connection gets that of one on which nothing is asked just now: one
//! that is kept alive, that shakes hands, whose head has not come. Who is looked at goes round from the
//! oldest on, as a clock's hand, so that a new client has the whole round to say what it wants.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::watch::Watch;
use crate::telemetry::event::EdgeIsFull;
use crate::telemetry::metrics::Metrics;

/// So many connections are looked at for one that can go.
const LOOKS: usize = 256;

/// Who is asked to go does so at once; this is for a process that is short of time.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A quarter of all places may be waited for, and never fewer than this.
const FEWEST_WAITING: usize = 16;

/// Between two log lines.
const SILENCE: Duration = Duration::from_secs(60);

/// All places.
#[derive(Debug)]
pub struct Places {
    free: Arc<Semaphore>,
    /// New connections that wait for one to go have descriptors too.
    waiting: Semaphore,
    taken: Mutex<Taken>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Taken {
    /// By when they came.
    all: BTreeMap<u64, Arc<Watch>>,
    next: u64,
    /// Who is looked at next.
    hand: u64,
    told: Option<Instant>,
}

/// One connection's place, given back on drop.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    number: u64,
    watch: Arc<Watch>,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    pub fn new(most: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Places {
            free: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            waiting: Semaphore::new((most / 4).clamp(FEWEST_WAITING, Semaphore::MAX_PERMITS)),
            taken: Mutex::default(),
            metrics,
        })
    }

    /// A place for a connection that has come; `None` where all are in use.
    pub async fn take(self: &Arc<Self>, watch: &Arc<Watch>) -> Option<Place> {
        let permit = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.make_room().await?,
        };
        let mut taken = self.taken.lock();
        let number = taken.next;
        taken.next += 1;
        taken.all.insert(number, Arc::clone(watch));
        Some(Place {
            places: Arc::clone(self),
            number,
            watch: Arc::clone(watch),
            _permit: permit,
        })
    }

    async fn make_room(&self) -> Option<OwnedSemaphorePermit> {
        let mut permit = None;
        if let Ok(_waits) = self.waiting.try_acquire()
            && self.dismiss_one()
        {
            let freed = timeout(LONGEST_WAIT, Arc::clone(&self.free).acquire_owned()).await;
            permit = freed.ok().and_then(Result::ok);
        }
        let now = Instant::now();
        let told = &mut self.taken.lock().told;
        let tell = told.is_none_or(|told| now >= told + SILENCE);
        if tell {
            *told = Some(now);
        }
        EdgeIsFull {
            turned_away: permit.is_none(),
            tell,
        }
        .emit(&self.metrics);
        permit
    }

    /// Asks the next one that can go to do so; false where none was found.
    fn dismiss_one(&self) -> bool {
        let mut taken = self.taken.lock();
        let (ahead, behind) = (taken.all.range(taken.hand..), taken.all.range(..taken.hand));
        let (mut hand, mut is_found) = (taken.hand, false);
        for (number, watch) in ahead.chain(behind).take(LOOKS) {
            hand = number + 1;
            is_found = watch.dismiss();
            if is_found {
                break;
            }
        }
        taken.hand = hand;
        is_found
    }
}

impl Place {
    /// Ends when another connection is to have it. One on which something is asked meanwhile passes the
    /// word on to the next.
    pub async fn lost(&self) {
        loop {
            self.watch.dismissed().await;
            if self.watch.is_idle() {
                return;
            }
            self.watch.stays();
            if !self.places.dismiss_one() {
                log::debug!("a connection that was to go has become busy");
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.lock().all.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(most: usize) -> Arc<Places> {
        Places::new(most, Arc::new(Metrics::new().unwrap()))
    }

    fn idle() -> Arc<Watch> {
        Watch::new(Duration::from_secs(30))
    }

    fn busy() -> Arc<Watch> {
        let watch = idle();
        watch.request_until(std::time::Instant::now() + Duration::from_secs(60));
        watch
    }

    #[tokio::test]
    async fn the_oldest_idle_connection_makes_room() {
        let places = places(3);
        let _busy = places.take(&busy()).await.unwrap();
        let oldest = places.take(&idle()).await.unwrap();
        let _newer = places.take(&idle()).await.unwrap();
        let new = idle();
        let goes = async {
            oldest.lost().await;
            drop(oldest);
        };
        let (taken, ()) = tokio::join!(places.take(&new), goes);
        assert!(taken.is_some());
        assert_eq!(places.taken.lock().all.len(), 3);
    }

    #[tokio::test]
    async fn who_has_become_busy_passes_the_word_on() {
        let places = places(2);
        let (first, second) = (idle(), idle());
        let stays = places.take(&first).await.unwrap();
        let goes = places.take(&second).await.unwrap();
        let new = idle();
        let taken = places.take(&new);
        let first_asks = async {
            // It is asked to go first; by then something is asked on it.
            tokio::task::yield_now().await;
            first.request_until(std::time::Instant::now() + Duration::from_secs(60));
            tokio::select! {
                () = stays.lost() => panic!("a busy connection was ended"),
                () = goes.lost() => drop(goes),
            }
        };
        let (taken, ()) = tokio::join!(taken, first_asks);
        assert!(taken.is_some());
    }

    #[tokio::test]
    async fn a_connection_is_turned_away_where_all_others_are_busy() {
        let places = places(1);
        let _busy = places.take(&busy()).await.unwrap();
        assert!(places.take(&idle()).await.is_none());
        let text = places.metrics.render().unwrap();
        let line = r#"proxy_connections_full_total{closed="new"} 1"#;
        assert!(text.lines().any(|l| l == line), "{text}");
    }
}
