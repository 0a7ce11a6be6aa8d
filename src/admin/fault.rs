//! What is wrong with a field or a parameter: where, what was found, what would be right.

use std::ops::RangeInclusive;

use serde_json::{Value, json};

use super::chinese::chinese;
use crate::language::Language;

/// One fault of a body or a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Empty where the whole is meant; `a.b` for a field of an inner object.
    pub field: String,
    pub problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    Expected {
        found: String,
        allowed: Allowed,
    },
    Required,
    Unknown {
        near: Option<&'static str>,
        known: Vec<&'static str>,
    },
    Words(String),
}

/// What would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    Int(i64, i64),
    /// Characters.
    Text(usize, usize),
    /// Of at most so many.
    List(usize, &'static str),
    OneOf(Vec<String>),
    Words(&'static str),
}

impl From<&'static str> for Allowed {
    fn from(words: &'static str) -> Self {
        Allowed::Words(words)
    }
}

impl From<&RangeInclusive<i64>> for Allowed {
    fn from(range: &RangeInclusive<i64>) -> Self {
        Allowed::Int(*range.start(), *range.end())
    }
}

impl Allowed {
    fn say(&self, language: Language) -> String {
        let zh = language == Language::Chinese;
        match self {
            Allowed::Int(from, to) if zh => format!("{from} 到 {to} 之间的整数"),
            Allowed::Int(from, to) => format!("a whole number from {from} to {to}"),
            Allowed::Text(from, to) if zh => format!("{from} 到 {to} 个字符的文本"),
            Allowed::Text(from, to) => format!("text of {from} to {to} characters"),
            Allowed::List(most, of) if zh => format!("最多 {most} 项的列表：{}", chinese(of)),
            Allowed::List(most, of) => format!("a list of at most {most} of {of}"),
            Allowed::OneOf(names) if zh => format!("以下之一：{}", names.join(", ")),
            Allowed::OneOf(names) => format!("one of {}", names.join(", ")),
            Allowed::Words(words) if zh => chinese(words).to_owned(),
            Allowed::Words(words) => (*words).to_owned(),
        }
    }
}

impl Fault {
    pub fn new(field: impl Into<String>, problem: Problem) -> Fault {
        Fault {
            field: field.into(),
            problem,
        }
    }

    /// In words of our own, of a field or (with an empty name) of the whole.
    pub fn words(field: &str, words: impl Into<String>) -> Fault {
        Fault::new(field, Problem::Words(words.into()))
    }

    /// The same fault, seen from the object that holds this one under a name.
    pub fn within(mut self, name: &str) -> Fault {
        self.field = if self.field.is_empty() {
            name.to_owned()
        } else {
            format!("{name}.{}", self.field)
        };
        self
    }

    pub fn say(&self, language: Language) -> String {
        let zh = language == Language::Chinese;
        let what = match &self.problem {
            Problem::Expected { found, allowed } if zh => {
                format!("收到 {found}，应为{}", allowed.say(language))
            }
            Problem::Expected { found, allowed } => {
                format!("found {found}, expected {}", allowed.say(language))
            }
            Problem::Required if zh => String::from("必填"),
            Problem::Required => String::from("is required"),
            Problem::Unknown {
                near: Some(near), ..
            } if zh => {
                format!("未知字段，是否应为 {near}？")
            }
            Problem::Unknown {
                near: Some(near), ..
            } => {
                format!("unknown field, did you mean {near}?")
            }
            Problem::Unknown { known, .. } if zh => {
                format!("未知字段，可用字段为 {}", known.join(", "))
            }
            Problem::Unknown { known, .. } => {
                format!("unknown field, allowed are {}", known.join(", "))
            }
            Problem::Words(words) if zh => chinese(words).to_owned(),
            Problem::Words(words) => words.clone(),
        };
        if self.field.is_empty() {
            return what;
        }
        format!("{}: {what}", self.field)
    }

    /// All of them in one text.
    pub fn say_all(faults: &[Fault], language: Language) -> String {
        let said: Vec<String> = faults.iter().map(|fault| fault.say(language)).collect();
        said.join("; ")
    }

    /// For programs: an object per fault.
    pub fn details(faults: &[Fault], language: Language) -> Value {
        let item = |fault: &Fault| {
            let mut item = json!({"field": fault.field, "message": fault.say(language)});
            if let Problem::Expected { found, allowed } = &fault.problem {
                item["found"] = json!(found);
                item["expected"] = json!(allowed.say(language));
            }
            item
        };
        faults.iter().map(item).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_said_in_both_languages() {
        let fault = Fault::new(
            "limit",
            Problem::Expected {
                found: String::from("-1"),
                allowed: Allowed::Int(0, 9),
            },
        );
        assert_eq!(
            fault.say(Language::English),
            "limit: found -1, expected a whole number from 0 to 9"
        );
        assert_eq!(
            fault.say(Language::Chinese),
            "limit: 收到 -1，应为0 到 9 之间的整数"
        );
        let inner = fault.within("quotas");
        assert!(inner.say(Language::English).starts_with("quotas.limit: "));
    }
}
