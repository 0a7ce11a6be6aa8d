//! The invariants, checked on the counters in memory and on a snapshot of the file.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;
use rusqlite::Connection;
use uuid::Uuid;

use super::EmbeddedStore;
use super::state::Shared;
use super::usage_rows::{first_number, uuid_of};
use crate::keys::KeyId;
use crate::quota::{Amounts, Rates, Scope, ScopeClaim};
use crate::store::file::fault;
use crate::store::invariants::Inspection;
use crate::store::{Invariants, StoreResult};
use crate::time::{DAY_MS, UnixMs};

type Sql<T> = rusqlite::Result<T>;

/// Scopes looked at under one lock: no reserve waits long for it.
const CHUNK: usize = 500;

impl EmbeddedStore {
    pub(super) async fn inspect(&self) -> StoreResult<Invariants> {
        self.written().await;
        let shared = self.shared.clone();
        let work =
            move |connection: &mut _, asked: &dyn Fn() -> bool| inspect(connection, &shared, asked);
        self.readers.aside(work).await
    }
}

/// Ends early, with what it has, where nobody asks any more.
fn inspect(
    connection: &mut Connection,
    shared: &Shared,
    asked: &dyn Fn() -> bool,
) -> StoreResult<Invariants> {
    let mut inspection = Inspection::default();
    let mut read = |inspection: &mut Inspection| -> Sql<()> {
        let snapshot = connection.transaction()?;
        // A snapshot begins with its first read. What is open after it has no event in it.
        snapshot.query_row("SELECT count(*) FROM settings", [], |_| Ok(()))?;
        let open = reservations(shared, inspection);
        scopes(shared, inspection);
        events(&snapshot, &open, inspection, asked)?;
        balances(&snapshot, inspection, asked)
    };
    read(&mut inspection).map_err(fault)?;
    Ok(inspection.done())
}

/// Answers the ids of what is open.
fn reservations(shared: &Shared, inspection: &mut Inspection) -> HashSet<Uuid, RandomState> {
    let state = shared.state.lock();
    let now = shared.now();
    let (count, held) = state.ledger.totals();
    inspection.open(i64::try_from(count).unwrap_or(i64::MAX), held);
    let mut ids = HashSet::default();
    for open in state.ledger.each_open() {
        inspection.reservation(open.reservation.id, open.overdue_ms(now));
        ids.insert(open.reservation.id.0);
    }
    ids
}

fn scopes(shared: &Shared, inspection: &mut Inspection) {
    let claims = {
        let directory = shared.directory.read();
        let keys = directory.keys().map(|key| (Scope::Key(key.id), key.quotas));
        let groups = directory.list_groups();
        let groups = groups.iter().map(|g| (Scope::Group(g.id), g.quotas));
        let claims = keys.chain(groups).map(|(scope, quotas)| ScopeClaim {
            scope,
            quotas,
            rates: Rates::default(),
        });
        claims.collect::<Vec<_>>()
    };
    for claims in claims.chunks(CHUNK) {
        let state = shared.state.lock();
        let now = shared.now();
        for claim in claims {
            let counters = state.ledger.counters(claim.scope);
            let booked = counters.map_or(Amounts::ZERO, |counters| counters.booked());
            inspection.scope(&state.ledger.standing(claim, now), booked);
        }
    }
}

/// Events in the order of time. Those of one reservation lie within a day of each other: after that
/// no engine remembers it, so that the ids of two days are enough to compare with.
fn events(
    snapshot: &Connection,
    open: &HashSet<Uuid, RandomState>,
    inspection: &mut Inspection,
    asked: &dyn Fn() -> bool,
) -> Sql<()> {
    let mut statement = snapshot.prepare(
        "SELECT e.no, e.id, n.id AS key_id, e.reason IS 'late' AS late FROM usage_events e
         LEFT JOIN key_numbers n ON n.seq = e.key_seq ORDER BY e.no",
    )?;
    let mut rows = statement.query([])?;
    let (mut today, mut yesterday) = (HashSet::<Uuid, RandomState>::default(), HashSet::default());
    let mut day = 0;
    while let Some(row) = rows.next()? {
        let day_of_row = row.get::<_, i64>(0)? / first_number(UnixMs(DAY_MS));
        if day_of_row != day {
            if !asked() {
                return Ok(());
            }
            yesterday = std::mem::take(&mut today);
            if day_of_row > day + 1 {
                yesterday.clear();
            }
            day = day_of_row;
        }
        let id = uuid_of(row, "id")?;
        // What is settled after an expiry has a second event, and says so.
        let second = !row.get::<_, bool>(3)? && (yesterday.contains(&id) || !today.insert(id));
        let wrong = if second {
            Some("the second of its reservation")
        } else if open.contains(&id) {
            Some("its reservation is still open")
        } else {
            None
        };
        inspection.event(id, KeyId(uuid_of(row, "key_id")?), wrong);
    }
    Ok(())
}

/// The counters of each key against its rollups: both are written in one transaction.
fn balances(
    snapshot: &Connection,
    inspection: &mut Inspection,
    asked: &dyn Fn() -> bool,
) -> Sql<()> {
    let mut statement = snapshot.prepare(
        "SELECT k.seq, k.id AS key_id, coalesce(c.requests_booked, 0), coalesce(c.tokens_booked, 0),
             coalesce(c.nano_usd_booked, 0)
         FROM keys k LEFT JOIN counters c ON c.scope = k.seq",
    )?;
    let mut rows = statement.query([])?;
    let mut booked: HashMap<i64, (KeyId, Amounts), RandomState> = HashMap::default();
    while let Some(row) = rows.next()? {
        let counters = Amounts::from_array([row.get(2)?, row.get(3)?, row.get(4)?]);
        booked.insert(row.get(0)?, (KeyId(uuid_of(row, "key_id")?), counters));
    }
    let mut statement = snapshot.prepare(
        "SELECT key_seq, sum(requests), sum(tokens), sum(cost_nano) FROM daily_rollups
         GROUP BY key_seq",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if !asked() {
            return Ok(());
        }
        // The usage of a key that is gone stays, its counters do not.
        if let Some((key, counters)) = booked.remove(&row.get(0)?) {
            let usage = Amounts::from_array([row.get(1)?, row.get(2)?, row.get(3)?]);
            inspection.balance(key, counters, usage);
        }
    }
    for (key, counters) in booked.into_values() {
        inspection.balance(key, counters, Amounts::ZERO);
    }
    Ok(())
}
