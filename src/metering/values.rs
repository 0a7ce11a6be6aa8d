//! Values of request members with the type they must have; faults name the member, the value and
//! what is allowed.

use std::ops::Range;

use super::cursor::{Cursor, Kind};
use super::request::{BodyFault, NestedObject, Opening};
use crate::quota::amount::MAX_AMOUNT;

/// A fault of one member.
pub(super) fn fault_in(param: &str, message: String) -> BodyFault {
    BodyFault {
        message,
        param: Some(param.to_owned()),
    }
}

/// Reads an object or null; `member` reads each value. Anything else is a fault.
pub(super) fn nested(
    cursor: &mut Cursor<'_>,
    param: &str,
    mut member: impl FnMut(&mut Cursor<'_>, &str) -> Result<(), BodyFault>,
) -> Result<NestedObject, BodyFault> {
    match cursor.kind()? {
        Kind::Null => Ok(NestedObject::Null(cursor.skip()?)),
        Kind::Object => {
            let at = cursor.at() + 1;
            let mut empty = true;
            cursor.object(|cursor, name| {
                empty = false;
                let name = cursor.text(&name);
                member(cursor, &name)
            })?;
            Ok(NestedObject::Object(Opening { at, empty }))
        }
        _ => {
            let message = format!("{param} must be an object, not {}", shown(cursor)?);
            Err(fault_in(param, message))
        }
    }
}

pub(super) fn boolean(cursor: &mut Cursor<'_>, param: &str) -> Result<Option<bool>, BodyFault> {
    match cursor.kind()? {
        Kind::Bool | Kind::Null => Ok(cursor.literal()?),
        _ => {
            let message = format!("{param} must be true or false, not {}", shown(cursor)?);
            Err(fault_in(param, message))
        }
    }
}

/// A whole number from `least` to 2^53, or null, which is as good as absent; and where it stands.
pub(super) fn whole(
    cursor: &mut Cursor<'_>,
    param: &str,
    least: i64,
) -> Result<(Range<usize>, Option<i64>), BodyFault> {
    let kind = cursor.kind()?;
    let span = cursor.skip()?;
    if kind == Kind::Null {
        return Ok((span, None));
    }
    let raw = cursor.raw(&span);
    let value = std::str::from_utf8(raw)
        .ok()
        .filter(|_| kind == Kind::Number)
        .and_then(|digits| digits.parse::<i64>().ok())
        .filter(|value| (least..=MAX_AMOUNT).contains(value));
    match value {
        Some(value) => Ok((span, Some(value))),
        None => {
            let message = format!(
                "{param} must be a whole number from {least} to {MAX_AMOUNT}, not {}",
                excerpt(raw)
            );
            Err(fault_in(param, message))
        }
    }
}

/// Counts the prompts of a completion without passing them: an array of strings or of id lists
/// holds one each, anything else is one prompt.
pub(super) fn count_prompts(cursor: &mut Cursor<'_>) -> Result<i64, BodyFault> {
    if cursor.kind()? != Kind::Array {
        return Ok(1);
    }
    let mut ahead = cursor.fork();
    let mut prompts = 0;
    ahead.array(|ahead| {
        if matches!(ahead.kind()?, Kind::String | Kind::Array) {
            prompts += 1;
        }
        ahead.skip().map(drop)
    })?;
    Ok(prompts.max(1))
}

/// The next value, passed, as far as a message shows it.
pub(super) fn shown(cursor: &mut Cursor<'_>) -> Result<String, BodyFault> {
    let span = cursor.skip()?;
    Ok(excerpt(cursor.raw(&span)))
}

fn excerpt(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    let mut shown: String = text.chars().take(40).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
