//! Reading what Redis answers: anything unexpected is a fault, never a default.

use redis::Value;

use crate::store::{StoreError, StoreResult};

/// Something in Redis that makes no sense.
pub(super) fn fault(what: &str) -> StoreError {
    StoreError::Fault(format!("Redis holds or answers {what}"))
}

fn unexpected() -> StoreError {
    fault("something of another type than was expected")
}

/// A string, or nothing.
pub(super) fn bytes(answer: Value) -> StoreResult<Option<Vec<u8>>> {
    match answer {
        Value::BulkString(bytes) => Ok(Some(bytes)),
        Value::Nil => Ok(None),
        _ => Err(unexpected()),
    }
}

pub(super) fn int(answer: &Value) -> StoreResult<i64> {
    match answer {
        Value::Int(int) => Ok(*int),
        _ => Err(unexpected()),
    }
}

pub(super) fn array(answer: Value) -> StoreResult<Vec<Value>> {
    match answer {
        Value::Array(items) | Value::Set(items) => Ok(items),
        Value::Nil => Ok(Vec::new()),
        _ => Err(unexpected()),
    }
}

/// An array of strings.
pub(super) fn strings(answer: Value) -> StoreResult<Vec<Vec<u8>>> {
    let items = array(answer)?.into_iter();
    let items = items.map(|item| bytes(item)?.ok_or_else(unexpected));
    items.collect()
}

/// Fields and values of a hash.
pub(super) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

pub(super) fn pairs(answer: Value) -> StoreResult<Pairs> {
    if let Value::Map(pairs) = answer {
        let pairs = pairs.into_iter().map(|(field, value)| {
            let field = bytes(field)?.ok_or_else(unexpected)?;
            Ok((field, bytes(value)?.ok_or_else(unexpected)?))
        });
        return pairs.collect();
    }
    let mut items = strings(answer)?.into_iter();
    let mut pairs = Vec::with_capacity(items.len() / 2);
    while let Some(field) = items.next() {
        pairs.push((field, items.next().ok_or_else(unexpected)?));
    }
    Ok(pairs)
}

/// One page of a scan of a hash: where to go on (0: the end), and its fields and values.
pub(super) fn scanned(answer: Value) -> StoreResult<(u64, Pairs)> {
    let [cursor, page]: [Value; 2] = array(answer)?.try_into().map_err(|_| unexpected())?;
    let cursor = bytes(cursor)?.ok_or_else(unexpected)?;
    let cursor = std::str::from_utf8(&cursor).ok();
    let cursor = cursor.and_then(|text| text.parse().ok());
    Ok((cursor.ok_or_else(unexpected)?, pairs(page)?))
}

/// Members of a sorted set with their scores, as milliseconds or microseconds.
pub(super) fn scored(answer: Value) -> StoreResult<Vec<(i64, Vec<u8>)>> {
    let mut items = array(answer)?.into_iter();
    let mut scored = Vec::with_capacity(items.len() / 2);
    while let Some(member) = items.next() {
        // RESP3 nests each pair, RESP2 does not.
        let (member, score) = match member {
            Value::Array(pair) => {
                let [member, score]: [Value; 2] = pair.try_into().map_err(|_| unexpected())?;
                (member, score)
            }
            member => (member, items.next().ok_or_else(unexpected)?),
        };
        let member = bytes(member)?.ok_or_else(unexpected)?;
        scored.push((score_of(score)?, member));
    }
    Ok(scored)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "scores are times, whole and below 2^53"
)]
fn score_of(score: Value) -> StoreResult<i64> {
    match score {
        Value::Double(score) => Ok(score as i64),
        Value::Int(score) => Ok(score),
        text => {
            let text = bytes(text)?.ok_or_else(unexpected)?;
            let text = std::str::from_utf8(&text).map_err(|_| unexpected())?;
            let score: f64 = text.parse().map_err(|_| unexpected())?;
            Ok(score as i64)
        }
    }
}
