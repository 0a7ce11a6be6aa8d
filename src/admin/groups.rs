//! `/admin/groups`: keys that share quotas.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Operator;
use super::body::{self, Fields, Given};
use super::failure::{Failure, Missing};
use super::query::MAX_PAGE;
use super::{Admin, Message, audit_entry, usd};
use crate::keys::KeyRecord;
use crate::quota::{GroupId, Limit, Period, Quotas};
use crate::store::{Freshness, GroupRecord, KeyQuery};
use crate::time::UnixMs;

type Answer = Result<Json<GroupItem>, Failure>;
type Id = Result<Path<String>, PathRejection>;

const NO_GROUP: Failure = Failure::NotFound(Missing::Group);

/// A group of keys with quotas that they share.
#[derive(Debug, Serialize, ToSchema)]
pub struct GroupItem {
    #[schema(value_type = Uuid)]
    id: GroupId,
    name: String,
    quotas: GroupQuotas,
    /// Names of pools; empty: all.
    allowed_pools: Vec<String>,
    /// Model names or globs; empty: all.
    allowed_models: Vec<String>,
    /// Deleted keys are not counted.
    key_count: usize,
    #[schema(value_type = String, format = DateTime)]
    created_at: UnixMs,
    #[schema(value_type = String, format = DateTime)]
    updated_at: UnixMs,
}

/// The quotas of a group.
#[derive(Debug, Serialize, ToSchema)]
pub struct GroupQuotas {
    requests: QuotaLimit,
    tokens: QuotaLimit,
    usd: QuotaLimit,
}

/// A limit per window of time.
#[derive(Debug, Serialize, ToSchema)]
pub struct QuotaLimit {
    /// Requests, tokens or USD; 0 is unlimited.
    #[schema(value_type = f64)]
    limit: Value,
    /// `total`, `daily`, `weekly` or `monthly`: UTC, weeks begin on Monday.
    #[schema(value_type = String)]
    period: Period,
}

/// A group to be made, or what to change of one: there `name` may be left out too.
#[derive(Debug, ToSchema)]
pub struct GroupBody {
    /// Required of a new group; unique.
    #[schema(min_length = 1, max_length = 255)]
    pub name: Option<String>,
    pub quotas: Option<QuotasBody>,
    #[schema(max_items = 1000)]
    pub allowed_pools: Option<Vec<String>>,
    #[schema(max_items = 1000)]
    pub allowed_models: Option<Vec<String>>,
}

/// Limits to set; null lifts one, what is left out stays.
#[derive(Debug, ToSchema)]
pub struct QuotasBody {
    pub requests: Option<LimitBody>,
    pub tokens: Option<LimitBody>,
    pub usd: Option<LimitBody>,
}

/// A limit to set.
#[derive(Debug, ToSchema)]
pub struct LimitBody {
    /// Whole requests or tokens, or USD with up to 9 decimals; 0 is unlimited.
    #[schema(minimum = 0)]
    pub limit: Option<f64>,
    /// `total`, `daily`, `weekly` or `monthly`.
    pub period: Option<String>,
}

/// Makes a group.
#[utoipa::path(
    post, path = "/admin/groups", tag = "groups",
    request_body = GroupBody,
    responses((status = 200, body = GroupItem)),
)]
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

/// All groups.
#[utoipa::path(
    get, path = "/admin/groups", tag = "groups",
    responses((status = 200, body = Vec<GroupItem>)),
)]
pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Result<Json<Vec<GroupItem>>, Failure> {
    let groups = admin.store().list_groups().await?;
    let counts = key_counts(&admin).await?;
    Ok(Json(groups.iter().map(|g| item(g, &counts)).collect()))
}

/// One group.
#[utoipa::path(
    get, path = "/admin/groups/{id}", tag = "groups",
    params(("id" = Uuid, Path, description = "The group's id.")),
    responses((status = 200, body = GroupItem)),
)]
pub(super) async fn show(State(admin): State<Arc<Admin>>, id: Id) -> Answer {
    let group = find(&admin, id).await?;
    Ok(Json(item(&group, &key_counts(&admin).await?)))
}

/// Changes a group: what is left out stays, null empties or lifts.
#[utoipa::path(
    patch, path = "/admin/groups/{id}", tag = "groups",
    params(("id" = Uuid, Path, description = "The group's id.")),
    request_body = GroupBody,
    responses((status = 200, body = GroupItem)),
)]
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

/// Deletes a group. One that still has keys is not deleted: they would draw on no shared quota from
/// then on.
#[utoipa::path(
    delete, path = "/admin/groups/{id}", tag = "groups",
    params(("id" = Uuid, Path, description = "The group's id.")),
    responses((status = 200, body = Message)),
)]
pub(super) async fn delete(
    State(admin): State<Arc<Admin>>,
    Extension(who): Extension<Operator>,
    id: Id,
) -> Result<Json<Message>, Failure> {
    let group = find(&admin, id).await?;
    let keys = key_counts(&admin).await?.get(&group.id).copied();
    if let Some(keys) = keys {
        let why = format!("the group has {keys} keys: move or delete them first");
        return Err(Failure::Conflict(why));
    }
    let change = (serde_json::to_value(&*group).ok(), None);
    let subject = group.id.0.to_string();
    let entry = audit_entry(&admin, &who.0, "delete group", subject, change);
    admin.store().delete_group(group.id, entry).await?;
    Ok(Message::of("Group deleted"))
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
    let entry = audit_entry(admin, &who.0, what, group.id.0.to_string(), records);
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
pub(super) fn within(name: &str) -> impl Fn(Failure) -> Failure + '_ {
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

fn item(group: &GroupRecord, counts: &HashMap<GroupId, usize>) -> GroupItem {
    let quotas = group.quotas;
    let limit = |limit: Limit| QuotaLimit {
        limit: Value::from(limit.limit),
        period: limit.period,
    };
    GroupItem {
        id: group.id,
        name: group.name.clone(),
        quotas: GroupQuotas {
            requests: limit(quotas.requests),
            tokens: limit(quotas.tokens),
            usd: QuotaLimit {
                limit: usd::show(quotas.usd.limit),
                period: quotas.usd.period,
            },
        },
        allowed_pools: group.allowed_pools.clone(),
        allowed_models: group.allowed_models.clone(),
        key_count: counts.get(&group.id).copied().unwrap_or(0),
        created_at: group.created_at,
        updated_at: group.updated_at,
    }
}

/// The group of this id or name.
pub(super) async fn named(
    admin: &Admin,
    wanted: &str,
) -> Result<Option<Arc<GroupRecord>>, Failure> {
    let id = Uuid::try_parse(wanted).ok().map(GroupId);
    let mut groups = admin.store().list_groups().await?.into_iter();
    Ok(groups.find(|g| Some(g.id) == id || g.name == wanted))
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
    each_key(admin, |key| {
        if let Some(group) = key.group {
            *counts.entry(group).or_insert(0) += 1;
        }
    })
    .await?;
    Ok(counts)
}

/// Shows every key that is not deleted, page by page.
pub(super) async fn each_key(
    admin: &Admin,
    mut show: impl FnMut(&Arc<KeyRecord>),
) -> Result<(), Failure> {
    let mut skip = 0;
    loop {
        let query = KeyQuery {
            skip,
            limit: MAX_PAGE,
            ..KeyQuery::default()
        };
        let page = admin.store().list_keys(query).await?;
        page.items.iter().for_each(&mut show);
        skip += MAX_PAGE;
        if page.items.is_empty() || skip >= page.total {
            return Ok(());
        }
    }
}
