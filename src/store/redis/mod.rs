//! The shared engine: Redis or Valkey, standalone, with sentinels, or a cluster.
//!
//! ```text
//!   reserve, settle ──▶ atomic.rs: one script each ──▶ link.rs: one pipelined connection ──▶ Redis
//!     └ of hot keys ─▶ slices.rs: from memory, one step for hundreds
//!   keys, groups ────▶ directory.rs: records, cached; versions are compared by reserve
//!   usage, totals ───▶ queries.rs ───────────────────▶ link.rs: pooled connections
//! ```
//!
//! Any number of edges share one set of books. Every decision is one server-side step, on the
//! server's clock, all or nothing, and idempotent by the reservation's id: a step whose answer was
//! lost may be sent again. Amounts are exact up to 2^53, prices up to 9 000 USD per million tokens;
//! more is refused.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock};

use self::atomic::Steps;
use self::directory::Directory;
use self::journal::Journal;
use self::link::Link;
use self::lost::Acknowledgements;
use self::names::Home;
use self::restore::RestoreSteps;
use self::server_clock::ServerClock;
use self::slices::{SliceStep, Slices};
use crate::quota::{Amounts, LostReservation, ReservationId, Subject};
use crate::store::StoreResult;
use crate::store::usage_log::FloodGuard;
use crate::store::usual::UsualOutputs;
use crate::time::{Clock, Moment, UnixMs};

mod answers;
mod atomic;
mod audit;
mod booking;
mod cache;
mod changes;
mod days;
mod dial;
mod directory;
mod engine;
mod event_reader;
mod event_walk;
mod export;
mod fault;
mod figures;
mod fold;
mod groups;
mod inspect;
mod invariants;
mod journal;
mod journal_owner;
mod layout;
mod link;
mod listings;
mod lost;
mod names;
mod newest;
mod outage;
mod owed;
mod pools;
mod queries;
mod record_steps;
mod records;
mod replies;
mod restore;
mod restore_keys;
mod restore_log;
mod script;
mod sentinel;
mod server_clock;
mod session;
mod slices;
mod steps;
mod sums;
mod sweep;
mod usage_sums;
mod users;

pub use self::link::{LinkOptions, Topology};
pub use self::slices::SliceOptions;

/// Reservations that were given up while Redis did not answer and wait to be undone; more are left
/// to their leases.
const MOST_GIVEN_UP: usize = 10_000;

/// How long another process may take to let go of the journal: one that is just handing it over.
const JOURNAL_PATIENCE: Duration = Duration::from_secs(1);

/// How a Redis store behaves.
#[derive(Clone)]
pub struct RedisOptions {
    pub link: LinkOptions,
    pub lost_reservation: LostReservation,
    /// Where to keep what is served while Redis is away. `None`: it is refused.
    pub journal: Option<PathBuf>,
    /// Whether this edge draws quota of hot keys ahead.
    pub slices: Option<SliceOptions>,
    /// In place of the server's clock.
    pub clock: Option<Clock>,
}

impl RedisOptions {
    /// As the configuration's defaults have it.
    pub fn new(link: LinkOptions) -> RedisOptions {
        RedisOptions {
            link,
            lost_reservation: LostReservation::default(),
            journal: None,
            slices: None,
            clock: None,
        }
    }
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("link", &self.link)
            .field("lost_reservation", &self.lost_reservation)
            .finish_non_exhaustive()
    }
}

/// A reservation this process granted and has not resolved.
#[derive(Clone, Copy, Debug)]
struct Running {
    home: Home,
    lease_ms: i64,
    held: Amounts,
}

/// A reservation that nobody waits for any more, granted or not.
#[derive(Debug)]
struct GivenUp {
    id: ReservationId,
    home: Home,
    subject: Arc<Subject>,
}

/// The store on Redis.
pub struct RedisStore {
    link: Arc<Link>,
    steps: Steps,
    directory: Directory,
    server_clock: ServerClock,
    running: Mutex<HashMap<ReservationId, Running, RandomState>>,
    given_up: Mutex<VecDeque<GivenUp>>,
    usual: Mutex<UsualOutputs>,
    flood: Mutex<FloodGuard>,
    acknowledged: Acknowledgements,
    slices: Option<Arc<Slices>>,
    /// Lost slices of any edge are ended with it.
    slice_step: SliceStep,
    restore_steps: RestoreSteps,
    /// Where exchanges may be admitted without Redis; `None` too when another process has it.
    journal: RwLock<Option<Arc<Journal>>>,
    /// Those of them that have not ended.
    alone: Mutex<HashSet<ReservationId, RandomState>>,
    options: RedisOptions,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisStore(…)")
    }
}

impl RedisStore {
    /// Begins to connect, on a thread of its own: call it after a daemon's fork. Does not wait for
    /// Redis: until it answers, every step is `Unavailable`.
    ///
    /// # Errors
    /// `Fault` where the configuration cannot be used at all, or no thread can be started.
    pub fn start(options: RedisOptions) -> StoreResult<Arc<Self>> {
        let link = Arc::new(Link::start(&options.link)?);
        let journal = options.journal.as_deref();
        let journal = journal
            .map(|path| Journal::open(path, JOURNAL_PATIENCE))
            .transpose()?;
        let slices = options
            .slices
            .map(|slices| Slices::new(slices, Arc::clone(&link), options.clock.clone()));
        link.inspect_once();
        Ok(Arc::new(RedisStore {
            directory: Directory::new(Arc::clone(&link), options.clock.clone(), journal.is_some()),
            slices,
            slice_step: SliceStep::new(),
            restore_steps: RestoreSteps::new(),
            link,
            steps: Steps::new(),
            server_clock: ServerClock::default(),
            running: Mutex::default(),
            given_up: Mutex::default(),
            usual: Mutex::default(),
            flood: Mutex::default(),
            acknowledged: Acknowledgements::default(),
            journal: RwLock::new(journal.map(Arc::new)),
            alone: Mutex::default(),
            options,
        }))
    }

    /// The injected clock, where there is one.
    fn now(&self) -> Option<Moment> {
        self.options.clock.as_ref().map(|clock| clock())
    }

    /// This edge's wall clock, for what needs no agreement.
    fn wall(&self) -> UnixMs {
        self.now().map_or_else(UnixMs::now, |now| now.wall)
    }
}
