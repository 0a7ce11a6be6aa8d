//! Constants of a script, folded into its text.
//!
//! A script begins anew at each call, and Lua 5.1 makes an upvalue of each constant that a function
//! names, each time. With its value in the place of its name a constant costs nothing.

use std::collections::HashMap;

/// How scripts write the layout of so many figures, before their number.
const FIGURES: &str = "'>' .. string.rep('i8', ";

/// The source with the value of each constant where its name stood, comments left out.
///
/// A constant is a line `local NAME, … = value, …` that begins no block's body, of whole numbers, of
/// strings without a comma, and of constants above it; from there on its value stands for its name.
pub(super) fn folded(source: &str) -> String {
    let source = with_formats(source);
    let mut constants = HashMap::new();
    let mut text = String::with_capacity(source.len());
    for line in source.lines() {
        if line.trim_start().starts_with("--") {
            continue;
        }
        match named(line, &constants) {
            Some(named) => constants.extend(named),
            None => text.extend([&with_values(line, &constants), "\n"]),
        }
    }
    text
}

/// `'>' .. string.rep('i8', 3)` as `'>i8i8i8'`.
fn with_formats(source: &str) -> String {
    let mut parts = source.split(FIGURES);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let counted = part
            .split_once(')')
            .and_then(|(count, rest)| Some((count.parse().ok()?, rest)));
        match counted {
            Some((count, rest)) => text.extend(["'>", &"i8".repeat(count), "'", rest]),
            None => text.extend([FIGURES, part]),
        }
    }
    text
}

/// The names and values of a line of constants.
fn named(line: &str, constants: &HashMap<String, String>) -> Option<Vec<(String, String)>> {
    let code = line.split(" --").next()?.trim_end();
    let (names, values) = code.strip_prefix("local ")?.split_once(" = ")?;
    let values = with_values(values, constants);
    let names: Vec<String> = names.split(", ").map(String::from).collect();
    let values: Vec<String> = values.split(", ").map(String::from).collect();
    let folds = names.len() == values.len()
        && names.iter().all(|name| is_name(name))
        && values.iter().all(|value| is_literal(value));
    folds.then(|| names.into_iter().zip(values).collect())
}

/// `PX` or `NO_2`.
fn is_name(word: &str) -> bool {
    let upper = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    word.starts_with(|c: char| c.is_ascii_uppercase()) && word.bytes().all(upper)
}

fn is_literal(value: &str) -> bool {
    let quoted = value
        .strip_prefix('\'')
        .and_then(|rest| rest.strip_suffix('\''));
    quoted.is_some_and(|text| !text.contains('\'')) || value.parse::<i64>().is_ok()
}

/// A line with the values of the constants it names outside of quotes.
fn with_values(line: &str, constants: &HashMap<String, String>) -> String {
    let mut text = String::with_capacity(line.len());
    for (at, part) in line.split('\'').enumerate() {
        if at > 0 {
            text.push('\'');
        }
        if at % 2 == 1 {
            text.push_str(part);
            continue;
        }
        let is_part_of_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut rest = part;
        while let Some(begin) = rest.find(is_part_of_word) {
            let (before, word) = rest.split_at(begin);
            let end = word.find(|c| !is_part_of_word(c)).unwrap_or(word.len());
            let (word, after) = word.split_at(end);
            let value = constants.get(word).map_or(word, String::as_str);
            text.extend([before, value]);
            rest = after;
        }
        text.push_str(rest);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn folds(source: &str, expected: &str) {
        assert_eq!(folded(source), expected);
    }

    #[test]
    fn values_stand_for_names() {
        folds(
            "-- The figures.\nlocal A, B = 1, -2 -- two\nlocal C = B\nreturn {A, B + C, a, AB, x.n}\n",
            "return {1, -2 + -2, a, AB, x.n}\n",
        );
        folds(
            "local F = '>' .. string.rep('i8', 3)\nreturn struct.pack(F, 1, 2, 3)",
            "return struct.pack('>i8i8i8', 1, 2, 3)\n",
        );
    }

    #[test]
    fn what_is_quoted_stays() {
        folds(
            "local SET = 4\nredis.call('SET', KEYS[SET], 'it is SET')",
            "redis.call('SET', KEYS[4], 'it is SET')\n",
        );
    }

    #[test]
    fn what_is_no_constant_stays() {
        for line in [
            "local COUNTS = {2, 9}",
            "local a = 1",
            "  local DAY = 1",
            "local A, B = f()",
            "local N = #ARGV",
            "local F = '>' .. string.rep('i8', #ARGV / 8)",
        ] {
            folds(line, &format!("{line}\n"));
        }
    }

    #[test]
    fn a_later_value_takes_the_place_of_an_earlier_one() {
        folds("local A = 1\nf(A)\nlocal A = 2\nf(A)", "f(1)\nf(2)\n");
    }
}
