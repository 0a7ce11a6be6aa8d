//! `/admin/groups`: keys that share quotas.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use super::auth::Operator;
use super::body::{self, Fields, Given};
use super::failure::Failure;
use super::query::MAX_PAGE;
use super::{Admin, audit_entry, usd};
use crate::quota::{GroupId, Limit, Quotas};
use crate::store::{Freshness, GroupRecord, KeyQuery};

type Answer = Result<Json<Value>, Failure>;
type Id = Result<Path<String>, PathRejection>;

const NO_GROUP: Failure = Failure::NotFound("Group");

pub(super) async fn create(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    body: Body,
) -> Answer {
    let now = admin.now();
    let mut group = GroupRecord {
        id: GroupId(Uuid::new_v4()),
        name: String::new(),
        quotas: Quotas::default(),
        allowed_pools: Vec::new(),
        allowed_models: Vec::new(),
        version: 1,
        created_at: now,
        updated_at: now,
    };
    apply(&body::read(body).await?, &mut group, true)?;
    put(&admin, &who, None, group).await
}

pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Answer {
    let groups = admin.store().list_groups().await?;
    let counts = key_counts(&admin).await?;
    Ok(Json(groups.iter().map(|g| item(g, &counts)).collect()))
}

pub(super) async fn show(State(admin): State<Arc<Admin>>, id: Id) -> Answer {
    let group = find(&admin, id).await?;
    Ok(Json(item(&group, &key_counts(&admin).await?)))
}

pub(super) async fn change(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    id: Id,
    body: Body,
) -> Answer {
    let before = find(&admin, id).await?;
    let mut group = (*before).clone();
    apply(&body::read(body).await?, &mut group, false)?;
    group.version += 1;
    group.updated_at = admin.now();
    put(&admin, &who, Some(&before), group).await
}

/// A group that still has keys is not deleted: they would draw on no shared quota from then on.
pub(super) async fn delete(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    id: Id,
) -> Answer {
    let group = find(&admin, id).await?;
    let keys = key_counts(&admin).await?.get(&group.id).copied();
    if let Some(keys) = keys {
        let why = format!("the group has {keys} keys: move or delete them first");
        return Err(Failure::Conflict(why));
    }
    let change = (serde_json::to_value(&*group).ok(), None);
    let subject = group.id.0.to_string();
    let entry = audit_entry(&admin, &who, "delete group", subject, change);
    admin.store().delete_group(group.id, entry).await?;
    Ok(Json(json!({"message": "Group deleted"})))
}

async fn put(
    admin: &Admin,
    who: &Operator,
    before: Option<&GroupRecord>,
    group: GroupRecord,
) -> Answer {
    let others = admin.store().list_groups().await?;
    if others
        .iter()
        .any(|g| g.name == group.name && g.id != group.id)
    {
        let why = format!("a group named {:?} exists", group.name);
        return Err(Failure::Conflict(why));
    }
    let what = if before.is_some() {
        "change group"
    } else {
        "create group"
    };
    let records = (
        before.and_then(|b| serde_json::to_value(b).ok()),
        serde_json::to_value(&group).ok(),
    );
    let entry = audit_entry(admin, who, what, group.id.0.to_string(), records);
    let group = admin.store().put_group(group, entry).await?;
    Ok(Json(item(&group, &key_counts(admin).await?)))
}

/// Reads `{name, quotas, allowed_pools, allowed_models}` into a record.
fn apply(bytes: &[u8], group: &mut GroupRecord, new: bool) -> Result<(), Failure> {
    let mut fields = Fields::parse(bytes)?;
    match fields.text("name", 1..=255) {
        Given::Value(name) => group.name = name,
        Given::Absent if !new => {}
        Given::Absent | Given::Null => fields.require("name"),
    }
    let pools = fields.list("allowed_pools", "names of pools", |p| !p.is_empty());
    set_list(&mut group.allowed_pools, pools);
    let models = fields.list("allowed_models", "model names or globs", |m| !m.is_empty());
    set_list(&mut group.allowed_models, models);
    let allowed = "an object with requests, tokens or usd";
    let quotas = fields.take("quotas", allowed, |raw| {
        serde_json::from_str::<Box<RawValue>>(raw).ok()
    });
    if let Given::Value(quotas) = quotas {
        let mut inner = Fields::parse(quotas.get().as_bytes()).map_err(within("quotas"))?;
        read_limit(&mut inner, "requests", &mut group.quotas.requests);
        read_limit(&mut inner, "tokens", &mut group.quotas.tokens);
        read_limit(&mut inner, "usd", &mut group.quotas.usd);
        inner.finish().map_err(within("quotas"))?;
    }
    fields.finish()
}

/// `{limit, period}`; null lifts the limit.
fn read_limit(quotas: &mut Fields, name: &'static str, limit: &mut Limit) {
    let raw = quotas.take(name, "an object {limit, period}", |raw| {
        serde_json::from_str::<Box<RawValue>>(raw).ok()
    });
    let raw = match raw {
        Given::Absent => return,
        Given::Null => {
            *limit = Limit::default();
            return;
        }
        Given::Value(raw) => raw,
    };
    let read = Fields::parse(raw.get().as_bytes()).and_then(|mut fields| {
        let most = match name {
            "usd" => fields.usd("limit"),
            _ => fields.limit("limit"),
        };
        let period = fields.take("period", "total, daily, weekly or monthly", |raw| {
            serde_json::from_str(raw).ok()
        });
        fields.finish()?;
        limit.limit = most.value().unwrap_or(limit.limit);
        limit.period = period.value().unwrap_or(limit.period);
        Ok(())
    });
    if let Err(Failure::Invalid(faults)) = read.map_err(within(name)) {
        for fault in faults {
            quotas.fault(fault);
        }
    }
}

/// Says where a fault of an inner object lies.
fn within(name: &str) -> impl Fn(Failure) -> Failure + '_ {
    move |failure| match failure {
        Failure::Invalid(faults) => {
            Failure::Invalid(faults.into_iter().map(|f| f.within(name)).collect())
        }
        other => other,
    }
}

fn set_list(field: &mut Vec<String>, given: Given<Vec<String>>) {
    match given {
        Given::Absent => {}
        Given::Null => field.clear(),
        Given::Value(list) => *field = list,
    }
}

fn item(group: &GroupRecord, counts: &HashMap<GroupId, usize>) -> Value {
    let quotas = group.quotas;
    json!({
        "id": group.id,
        "name": group.name,
        "quotas": {
            "requests": quotas.requests,
            "tokens": quotas.tokens,
            "usd": {"limit": usd::show(quotas.usd.limit), "period": quotas.usd.period},
        },
        "allowed_pools": group.allowed_pools,
        "allowed_models": group.allowed_models,
        "key_count": counts.get(&group.id).copied().unwrap_or(0),
        "created_at": group.created_at,
        "updated_at": group.updated_at,
    })
}

async fn find(admin: &Admin, id: Id) -> Result<Arc<GroupRecord>, Failure> {
    let Path(text) = id.map_err(|_| NO_GROUP)?;
    let id = Uuid::try_parse(&text).map_err(|_| NO_GROUP)?;
    admin
        .store()
        .group(GroupId(id), Freshness::Now)
        .await?
        .ok_or(NO_GROUP)
}

/// Keys by group, softly deleted ones left out.
async fn key_counts(admin: &Admin) -> Result<HashMap<GroupId, usize>, Failure> {
    let mut counts = HashMap::new();
    let mut skip = 0;
    loop {
        let page = admin
            .store()
            .list_keys(KeyQuery {
                skip,
                limit: MAX_PAGE,
                ..KeyQuery::default()
            })
            .await?;
        for group in page.items.iter().filter_map(|key| key.group) {
            *counts.entry(group).or_insert(0) += 1;
        }
        skip += MAX_PAGE;
        if page.items.is_empty() || skip >= page.total {
            return Ok(counts);
        }
    }
}
