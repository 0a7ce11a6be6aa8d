//! The other end: the process that has the books answers the calls of the one that had them before.

use std::io;
use std::sync::Arc;

use serde_json::value::{RawValue, to_raw_value};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::frame;
use super::whole::Whole;
use crate::keys::{KeyHash, KeyId, KeyRecord};
use crate::quota::{Amounts, Ask, GroupId, ReservationId, Scope, ScopeClaim};
use crate::store::{
    AuditEntry, Freshness, GroupRecord, KeyQuery, Page, Settlement, Store, StoreError, StoreResult,
    SumQuery, UsageEvent, UsageQuery, UserRecord,
};
use crate::time::UnixMs;

/// Answers that may wait to be sent; more calls are not read then.
const QUEUE: usize = 1024;

type Call = (u64, String, Box<RawValue>);

/// Serves the calls of a connection side by side, until it ends.
pub async fn host(connection: UnixStream, store: Arc<dyn Store>) {
    let (mut read, mut write) = connection.into_split();
    let (answers, mut to_send) = mpsc::channel::<Vec<u8>>(QUEUE);
    let send = async move {
        while let Some(answer) = to_send.recv().await {
            if write.write_all(&answer).await.is_err() {
                break;
            }
        }
    };
    let receive = async move {
        while let Ok((no, method, arguments)) = frame::receive::<Call>(&mut read).await {
            let store = Arc::clone(&store);
            let Ok(room) = answers.clone().reserve_owned().await else {
                break;
            };
            tokio::spawn(async move {
                let answer = answer(&*store, &method, &arguments).await;
                let message = match answer.and_then(|answer| frame::encode(&(no, answer))) {
                    Ok(message) => Ok(message),
                    Err(fault) => {
                        log::error!("{method} of the process before: {fault}");
                        let fault = StoreError::Fault(fault.to_string());
                        frame::encode(&(no, StoreResult::<()>::Err(fault)))
                    }
                };
                // A fault is short: it can be encoded.
                if let Ok(message) = message {
                    room.send(message);
                }
            });
        }
    };
    tokio::join!(send, receive);
}

/// Reads the arguments, runs the step, writes what it answers.
macro_rules! run {
    ($arguments:ident, || $step:expr) => {{
        let () = read($arguments)?;
        to_raw_value(&$step)?
    }};
    ($arguments:ident, |$($name:ident: $type:ty),*| $step:expr) => {{
        let ($($name,)*): ($($type,)*) = read($arguments)?;
        to_raw_value(&$step)?
    }};
}

/// # Errors
/// `InvalidData` where it is no call, or not one of this release.
async fn answer(
    store: &dyn Store,
    method: &str,
    arguments: &RawValue,
) -> io::Result<Box<RawValue>> {
    if let Some(answer) = of_records(store, method, arguments).await? {
        return Ok(answer);
    }
    Ok(match method {
        "reserve" => run!(arguments, |ask: Ask| store.reserve(ask).await),
        "top_up" => {
            run!(arguments, |id: ReservationId,
                             scopes: Vec<ScopeClaim>,
                             more: Amounts| store
                .top_up(id, &scopes, more)
                .await)
        }
        "renew" => run!(arguments, |ids: Vec<ReservationId>, lease_ms: i64| store
            .renew(&ids, lease_ms)
            .await),
        "settle" => run!(arguments, |settlement: Settlement| store
            .settle(settlement)
            .await),
        "book_refusal" => run!(arguments, |event: UsageEvent| store
            .book_refusal(event)
            .await),
        "standing" => run!(arguments, |claim: ScopeClaim| store.standing(claim).await),
        "reset_used" => run!(arguments, |scope: Scope, audit: AuditEntry| store
            .reset_used(scope, audit)
            .await),
        "activity" => run!(arguments, |id: KeyId| store.activity(id).await),
        "key_figures" => run!(arguments, |claims: Vec<ScopeClaim>| store
            .key_figures(claims)
            .await),
        "totals" => run!(arguments, || store.totals().await),
        "usage_events" => run!(arguments, |query: UsageQuery| store
            .usage_events(query)
            .await),
        "rollups" => {
            run!(arguments, |key: Option<KeyId>,
                             since: String,
                             until: String| store
                .rollups(key, &since, &until)
                .await)
        }
        "usage_sums" => run!(arguments, |query: SumQuery| store.usage_sums(query).await),
        "audit" => run!(arguments, |skip: i64, limit: i64| store
            .audit(skip, limit)
            .await),
        "invariants" => run!(arguments, || store.invariants().await),
        "setting_or_insert" => run!(arguments, |name: String, value: String| store
            .setting_or_insert(&name, &value)
            .await),
        "ping" => run!(arguments, || store.ping().await),
        _ => {
            let unknown = format!("no step of this release is named {method}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, unknown));
        }
    })
}

/// Keys, groups and people.
async fn of_records(
    store: &dyn Store,
    method: &str,
    arguments: &RawValue,
) -> io::Result<Option<Box<RawValue>>> {
    Ok(Some(match method {
        "key_by_hash" => run!(arguments, |hex: String, freshness: Freshness| {
            let hash = KeyHash::from_hex(&hex).ok_or(io::ErrorKind::InvalidData)?;
            perhaps(store.key_by_hash(&hash, freshness).await)
        }),
        "key" => run!(arguments, |id: KeyId| perhaps(store.key(id).await)),
        "key_by_seq" => run!(arguments, |seq: i64| perhaps(store.key_by_seq(seq).await)),
        "create_key" => run!(arguments, |record: Whole<KeyRecord>, audit: AuditEntry| {
            store.create_key(record.record(), audit).await.map(Whole)
        }),
        "update_key" => run!(arguments, |record: Whole<KeyRecord>, audit: AuditEntry| {
            store.update_key(record.record(), audit).await.map(Whole)
        }),
        "delete_key" => run!(arguments, |id: KeyId, audit: AuditEntry| store
            .delete_key(id, audit)
            .await),
        "list_keys" => run!(arguments, |query: KeyQuery| page(
            store.list_keys(query).await
        )),
        "user" => run!(arguments, |id: Uuid| perhaps(store.user(id).await)),
        "user_by_login" => run!(arguments, |login: String| perhaps(
            store.user_by_login(&login).await
        )),
        "create_user" => run!(arguments, |record: Whole<UserRecord>, audit: AuditEntry| {
            store.create_user(record.record(), audit).await.map(Whole)
        }),
        "update_user" => run!(arguments, |record: Whole<UserRecord>, audit: AuditEntry| {
            store.update_user(record.record(), audit).await.map(Whole)
        }),
        "delete_user" => run!(arguments, |id: Uuid, audit: AuditEntry| store
            .delete_user(id, audit)
            .await),
        "list_users" => run!(arguments, |skip: i64, limit: i64| page(
            store.list_users(skip, limit).await
        )),
        "end_session" => run!(arguments, |id: Uuid, until: UnixMs| store
            .end_session(id, until)
            .await),
        "session_ended" => run!(arguments, |id: Uuid| store.session_ended(id).await),
        "group" => run!(arguments, |id: GroupId, freshness: Freshness| store
            .group(id, freshness)
            .await),
        "put_group" => run!(arguments, |record: GroupRecord, audit: AuditEntry| store
            .put_group(record, audit)
            .await),
        "delete_group" => run!(arguments, |id: GroupId, audit: AuditEntry| store
            .delete_group(id, audit)
            .await),
        "list_groups" => run!(arguments, || store.list_groups().await),
        _ => return Ok(None),
    }))
}

fn read<T: serde::de::DeserializeOwned>(arguments: &RawValue) -> io::Result<T> {
    Ok(serde_json::from_str(arguments.get())?)
}

fn perhaps<T>(found: StoreResult<Option<Arc<T>>>) -> StoreResult<Option<Whole<T>>> {
    found.map(|found| found.map(Whole))
}

fn page<T>(page: StoreResult<Page<Arc<T>>>) -> StoreResult<Page<Whole<T>>> {
    page.map(|page| Page {
        items: page.items.into_iter().map(Whole).collect(),
        total: page.total,
    })
}
