//! `/admin/usage/summary`: who used what, summed up, as JSON or as CSV.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderMap, Uri};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::failure::Failure;
use super::fault::Fault;
use super::groups::each_key;
use super::query::{Query, day};
use super::{Admin, usd};
use crate::keys::{KeyId, KeyRecord};
use crate::quota::money;
use crate::store::{SumBy, SumQuery, UsageSum};
use crate::time::{DAY_MS, UnixMs};

/// Days that are summed up where nothing is said.
const DEFAULT_DAYS: i64 = 30;
/// Deleted keys that are looked up by themselves, for their names and groups.
const MAX_LOOKUPS: usize = 1_000;

/// What sums are told apart by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum By {
    #[default]
    Key,
    Model,
    Day,
    Group,
    EndUser,
}

impl By {
    const NAMES: [(&str, By); 5] = [
        ("key", By::Key),
        ("model", By::Model),
        ("day", By::Day),
        ("group", By::Group),
        ("end_user", By::EndUser),
    ];

    fn read(text: &str) -> Option<By> {
        let found = By::NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, by)| *by)
    }

    /// What the store tells apart.
    fn stored(self) -> SumBy {
        match self {
            By::Key | By::Group => SumBy::Key,
            By::Model => SumBy::Model,
            By::Day => SumBy::Day,
            By::EndUser => SumBy::EndUser,
        }
    }
}

/// The usage of one key, model, day, group or end user.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct SummaryItem {
    /// The name of the key or group, the model, the UTC day or the end user; empty where there is none.
    name: String,
    /// The id of the key; only by key.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Uuid>,
    /// The id of the group; only by group, and none for keys without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<Uuid>,
    #[serde(flatten)]
    figures: SummaryFigures,
}

/// What was used.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub struct SummaryFigures {
    /// Requests that were charged.
    requests: i64,
    /// Everything that was asked, refused or not.
    calls: i64,
    tokens: i64,
    prompt_tokens: i64,
    completion_tokens: i64,
    /// USD.
    #[serde(serialize_with = "as_usd")]
    #[schema(value_type = f64)]
    cost: i64,
    /// Failed answers and refusals.
    errors: i64,
}

fn as_usd<S: serde::Serializer>(nano: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    usd::show(*nano).serialize(serializer)
}

/// Usage, summed up.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsageSummary {
    by: By,
    #[schema(value_type = String, format = DateTime)]
    since: UnixMs,
    /// Exclusive.
    #[schema(value_type = String, format = DateTime)]
    until: UnixMs,
    /// Most tokens first; days: oldest first.
    items: Vec<SummaryItem>,
    total: SummaryFigures,
}

impl SummaryFigures {
    fn of(sum: &UsageSum) -> Self {
        SummaryFigures {
            requests: sum.requests,
            calls: sum.calls,
            tokens: sum.tokens,
            prompt_tokens: sum.prompt_tokens,
            completion_tokens: sum.completion_tokens,
            cost: sum.cost_nano,
            errors: sum.errors,
        }
    }

    fn add(&mut self, other: &SummaryFigures) {
        for (sum, more) in [
            (&mut self.requests, other.requests),
            (&mut self.calls, other.calls),
            (&mut self.tokens, other.tokens),
            (&mut self.prompt_tokens, other.prompt_tokens),
            (&mut self.completion_tokens, other.completion_tokens),
            (&mut self.cost, other.cost),
            (&mut self.errors, other.errors),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// Usage, summed up. Whole UTC days come from figures that are kept for good; parts of a day, and end
/// users, from usage events, which are kept 30 days. By group it goes by the groups that keys are in
/// today.
#[utoipa::path(
    get, path = "/admin/usage/summary", tag = "books",
    params(
        ("by" = Option<String>, Query, description = "`key` (default), `model`, `day`, `group` or `end_user`."),
        ("since" = Option<String>, Query, description = "A time back from now such as `7d` or `12h`, a UTC day or an RFC 3339 time; 30 days by default."),
        ("until" = Option<String>, Query, description = "The same; a day is meant whole. Now by default."),
        ("key" = Option<Uuid>, Query, description = "Only this key's."),
        ("format" = Option<String>, Query, description = "`json` or `csv`; `Accept: text/csv` asks for CSV too."),
    ),
    responses((status = 200, content((UsageSummary = "application/json"), (String = "text/csv")))),
)]
pub(super) async fn summary(
    State(admin): State<Arc<Admin>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Failure> {
    let now = admin.now();
    let mut query = Query::of(&uri);
    let by = query.take("by", "key, model, day, group or end_user", By::read);
    let by = by.unwrap_or_default();
    let (since, until) = span(&mut query, now);
    let key = query.take("key", "the id of a key", |text| {
        Uuid::try_parse(text).ok().map(KeyId)
    });
    let wants_csv = query.take("format", "json or csv", |text| match text {
        "csv" => Some(true),
        "json" => Some(false),
        _ => None,
    });
    query.finish()?;
    if since > until {
        return Err(Fault::words("until", "lies before the start").into());
    }
    let asked = SumQuery {
        key,
        since,
        until,
        by: by.stored(),
    };
    let sums = admin.store().usage_sums(asked).await?;
    let items = match by {
        By::Key => by_key(&admin, &sums).await?,
        By::Group => by_group(&admin, &sums).await?,
        By::Model | By::Day | By::EndUser => sums.iter().map(plain).collect(),
    };
    let mut total = SummaryFigures::default();
    items.iter().for_each(|item| total.add(&item.figures));
    let accepts_csv = || {
        let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
        accept.is_some_and(|accept| accept.contains("text/csv"))
    };
    if wants_csv.unwrap_or_else(accepts_csv) {
        let headers = [
            (CONTENT_TYPE, "text/csv; charset=utf-8"),
            (CONTENT_DISPOSITION, "attachment; filename=\"usage.csv\""),
        ];
        return Ok((headers, csv(by, &items)).into_response());
    }
    Ok(Json(UsageSummary {
        by,
        since,
        until,
        items,
        total,
    })
    .into_response())
}

/// `since` and `until`: a time back from now, a UTC day or a time.
fn span(query: &mut Query, now: UnixMs) -> (UnixMs, UnixMs) {
    let allowed = "a time back from now such as 7d, a day such as 2026-11-21, or a time such as 2026-11-21T08:00:00Z";
    let back = |text: &str| {
        let duration: Duration = humantime::parse_duration(text).ok()?;
        let ms = i64::try_from(duration.as_millis()).ok()?;
        now.0.checked_sub(ms).filter(|at| *at >= 0).map(UnixMs)
    };
    let since = query.take("since", allowed, |text| {
        let at = day(text).or_else(|| UnixMs::parse_rfc3339(text));
        at.or_else(|| back(text))
    });
    let until = query.take("until", allowed, |text| {
        let end_of_day = day(text).map(|start| start.plus_ms(DAY_MS));
        let at = end_of_day.or_else(|| UnixMs::parse_rfc3339(text));
        at.or_else(|| back(text))
    });
    // The millisecond that runs is counted too.
    let until = until.unwrap_or(now.plus_ms(1));
    let start = || until.plus_ms(-DEFAULT_DAYS * DAY_MS);
    (since.unwrap_or_else(start), until)
}

fn plain(sum: &UsageSum) -> SummaryItem {
    SummaryItem {
        name: sum.name.clone(),
        figures: SummaryFigures::of(sum),
        ..SummaryItem::default()
    }
}

async fn by_key(admin: &Admin, sums: &[UsageSum]) -> Result<Vec<SummaryItem>, Failure> {
    let keys = keys_of(admin, sums).await?;
    let item = |sum: &UsageSum| {
        let id = Uuid::try_parse(&sum.name).ok();
        let key = id.and_then(|id| keys.get(&KeyId(id)));
        SummaryItem {
            name: key.map(|key| key.name.clone()).unwrap_or_default(),
            key: id,
            ..plain(sum)
        }
    };
    Ok(sums.iter().map(item).collect())
}

async fn by_group(admin: &Admin, sums: &[UsageSum]) -> Result<Vec<SummaryItem>, Failure> {
    let keys = keys_of(admin, sums).await?;
    let groups = admin.store().list_groups().await?;
    let mut items: HashMap<Option<Uuid>, SummaryItem> = HashMap::new();
    for sum in sums {
        let id = Uuid::try_parse(&sum.name).ok();
        let key = id.and_then(|id| keys.get(&KeyId(id)));
        let group = key.and_then(|key| key.group);
        let item = items.entry(group.map(|group| group.0)).or_insert_with(|| {
            let found = groups.iter().find(|g| Some(g.id) == group);
            SummaryItem {
                name: found.map(|g| g.name.clone()).unwrap_or_default(),
                group: group.map(|group| group.0),
                ..SummaryItem::default()
            }
        });
        item.figures.add(&SummaryFigures::of(sum));
    }
    let mut items: Vec<SummaryItem> = items.into_values().collect();
    items.sort_by(|a, b| {
        let most = b.figures.tokens.cmp(&a.figures.tokens);
        most.then_with(|| a.name.cmp(&b.name))
    });
    Ok(items)
}

/// The records of the keys that sums are of.
async fn keys_of(
    admin: &Admin,
    sums: &[UsageSum],
) -> Result<HashMap<KeyId, Arc<KeyRecord>>, Failure> {
    let ids = sums.iter().filter_map(|s| Uuid::try_parse(&s.name).ok());
    let mut missing: Vec<KeyId> = ids.map(KeyId).collect();
    let mut keys = HashMap::new();
    if missing.len() > MAX_LOOKUPS {
        each_key(admin, |key| {
            keys.insert(key.id, key.clone());
        })
        .await?;
        missing.retain(|id| !keys.contains_key(id));
    }
    for id in missing.into_iter().take(MAX_LOOKUPS) {
        if let Some(key) = admin.store().key(id).await? {
            keys.insert(id, key);
        }
    }
    Ok(keys)
}

/// A header and a line for each item (RFC 4180).
fn csv(by: By, items: &[SummaryItem]) -> String {
    let first = match by {
        By::Key => "key,name",
        By::Group => "group,name",
        By::Model => "model",
        By::Day => "day",
        By::EndUser => "end_user",
    };
    let mut text =
        format!("{first},requests,calls,tokens,prompt_tokens,completion_tokens,cost,errors\r\n");
    for item in items {
        if matches!(by, By::Key | By::Group) {
            let id = item.key.or(item.group);
            text.push_str(&id.map(|id| id.to_string()).unwrap_or_default());
            text.push(',');
        }
        let f = &item.figures;
        let cost = money::dollars(f.cost);
        let name = field(&item.name);
        let (requests, calls, tokens, errors) = (f.requests, f.calls, f.tokens, f.errors);
        let (input, output) = (f.prompt_tokens, f.completion_tokens);
        text.push_str(&format!(
            "{name},{requests},{calls},{tokens},{input},{output},{cost},{errors}\r\n"
        ));
    }
    text
}

/// A text as a field. One that a spreadsheet would take for a formula gets an apostrophe before it.
fn field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    let special = formula || text.contains([',', '"', '\r', '\n']);
    match special {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_is_a_formula_and_none_breaks_its_line() {
        assert_eq!(field("gpt-4o"), "gpt-4o");
        assert_eq!(field("=1+1"), "\"'=1+1\"");
        assert_eq!(field("@a,b"), "\"'@a,b\"");
        assert_eq!(field("a \"b\"\n"), "\"a \"\"b\"\"\n\"");
    }

    #[test]
    fn a_span_is_said_in_three_ways() {
        let now = UnixMs::parse_rfc3339("2026-11-21T08:00:00Z").unwrap();
        let said = |text: &str| {
            let uri: Uri = format!("/a?{text}").parse().unwrap();
            let mut query = Query::of(&uri);
            let (since, until) = span(&mut query, now);
            query
                .finish()
                .is_ok()
                .then(|| (since.to_rfc3339(), until.to_rfc3339()))
        };
        let (since, until) = said("since=7d&until=1h").unwrap();
        assert_eq!(since, "2026-11-14T08:00:00.000Z");
        assert_eq!(until, "2026-11-21T07:00:00.000Z");
        let (since, until) = said("since=2026-11-20&until=2026-11-20").unwrap();
        assert_eq!(since, "2026-11-20T00:00:00.000Z");
        assert_eq!(until, "2026-11-21T00:00:00.000Z");
        let (since, until) = said("").unwrap();
        assert_eq!(since, "2026-10-22T08:00:00.001Z");
        assert_eq!(until, "2026-11-21T08:00:00.001Z");
        for bad in ["since=7", "until=yesterday", "since=-1d", "since=9999999y"] {
            assert_eq!(said(bad), None, "{bad}");
        }
    }
}
