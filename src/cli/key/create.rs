//! `quota-proxy key create`.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::day_or_time;
use super::item::{KEYS, minute};
use crate::cli::private_file::JsonArray;
use crate::cli::remote::Remote;
use crate::cli::screen::Screen;
use crate::cli::table::{Column, Table};
use crate::quota::amount::MAX_AMOUNT;
use crate::quota::money::nano_of;
use crate::time::UnixMs;

/// Keys beyond which progress is worth a line.
const MANY: u32 = 20;

/// Options of `key create`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// What a key begins with: `roc` makes roc_… [default: sk-proxy]
    #[arg(long)]
    prefix: Option<String>,
    /// Requests that a key may make; 0 is unlimited
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = limit())]
    quota: i64,
    /// Tokens that a key may use; 0 is unlimited
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = limit())]
    tokens: i64,
    /// USD that a key may use; 0 is unlimited
    #[arg(long, value_name = "X", default_value = "0", value_parser = usd)]
    usd: String,
    /// When what is used becomes 0 again: total (never), daily, weekly or monthly
    #[arg(long, value_parser = ["total", "daily", "weekly", "monthly"])]
    period: Option<String>,
    /// The last day (UTC) or the end (RFC 3339) of a key
    #[arg(long, value_name = "DAY|TIME", value_parser = day_or_time)]
    expires: Option<String>,
    /// A tier of the configuration, for limits per minute [default: basic]
    #[arg(long, value_name = "T")]
    tier: Option<String>,
    /// A group, by name or id
    #[arg(long)]
    group: Option<String>,
    /// What to call a key; several become NAME-1, NAME-2 … [default: the prefix, else `key`]
    #[arg(long, value_name = "N")]
    name: Option<String>,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Write a JSON array of the answers to this file, for its owner alone, in place of showing keys
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file where it exists
    #[arg(long, requires = "output")]
    force: bool,
    /// JSON for machines: an array of the answers
    #[arg(long)]
    json: bool,
}

fn limit() -> clap::builder::RangedI64ValueParser<i64> {
    clap::value_parser!(i64).range(0..=MAX_AMOUNT)
}

fn usd(text: &str) -> Result<String, &'static str> {
    match nano_of(text) {
        Some(nano) if nano >= 0 => Ok(text.to_owned()),
        _ => Err("expected USD from 0 to 9007199 with at most 9 decimals, such as 25 or 0.5"),
    }
}

impl Options {
    /// The body of the request for the key of this number, from 1.
    fn body(&self, number: u32) -> Value {
        let name = self
            .name
            .as_deref()
            .or(self.prefix.as_deref())
            .unwrap_or("key");
        let name = match self.count {
            1 => name.to_owned(),
            _ => format!("{name}-{number}"),
        };
        let mut body = Map::new();
        body.insert("name".into(), json!(name));
        body.insert("token_limit".into(), json!(self.tokens));
        body.insert("request_limit".into(), json!(self.quota));
        body.insert("usd_limit".into(), json!(self.usd));
        let optional = [
            ("prefix", &self.prefix),
            ("period", &self.period),
            ("expires_at", &self.expires),
            ("rate_limit_tier", &self.tier),
            ("group", &self.group),
        ];
        for (field, value) in optional {
            if let Some(value) = value {
                body.insert(field.into(), json!(value));
            }
        }
        Value::Object(body)
    }
}

pub(super) async fn run(
    options: &Options,
    remote: &Remote,
    screen: &mut Screen<'_>,
) -> Result<(), String> {
    let mut keys = NewKeys::new(options.output.as_ref(), options.force)?;
    let mut stopped = None;
    for number in 1..=options.count {
        match remote.post(KEYS, &options.body(number)).await {
            Ok(key) => keys.add(key),
            Err(fault) => {
                stopped = Some(told(&fault, keys.made.len(), options.count));
                break;
            }
        }
        if options.count > MANY {
            screen.progress(&format!("{number} of {} keys", options.count));
        }
        if keys.unwritten.is_some() {
            break;
        }
    }
    keys.show(options.json, screen)?;
    stopped.map_or(Ok(()), Err)
}

fn told(fault: &crate::cli::remote::Fault, made: usize, wanted: u32) -> String {
    let mut text = fault.to_string();
    if wanted > 1 || made > 0 {
        text = format!("{made} of {wanted} keys were made, then: {text}");
    }
    let never_arrived = text.contains("no admin service at");
    if fault.status.is_none() && !never_arrived {
        text.push_str("\nThe last key may have been made all the same: see `quota-proxy key list`");
    }
    text
}

/// Answers with secrets that are shown this once, and where they go.
pub(super) struct NewKeys {
    made: Vec<Value>,
    file: Option<(JsonArray, PathBuf)>,
    /// Why the file is not whole, and the keys that are not in it.
    unwritten: Option<(String, Vec<Value>)>,
}

impl NewKeys {
    pub(super) fn new(output: Option<&PathBuf>, force: bool) -> Result<Self, String> {
        let open = |path: &PathBuf| Ok((JsonArray::open(path, force)?, path.clone()));
        Ok(NewKeys {
            made: Vec::new(),
            file: output
                .map(open)
                .transpose()
                .map_err(|fault: String| fault)?,
            unwritten: None,
        })
    }

    pub(super) fn add(&mut self, key: Value) {
        if let Some((file, _)) = &mut self.file
            && let Err(fault) = file.add(&key)
        {
            let (_, keys) = self.unwritten.get_or_insert((fault, Vec::new()));
            keys.push(key.clone());
        }
        self.made.push(key);
    }

    /// Shows what is nowhere else.
    ///
    /// # Errors
    /// The file's or the stream's.
    pub(super) fn show(self, json: bool, screen: &mut Screen<'_>) -> Result<(), String> {
        if let Some((fault, keys)) = self.unwritten {
            screen.print(&format!("{:#}\n", Value::Array(keys)))?;
            let count = self.made.len();
            return Err(format!(
                "{count} keys were made; what could not be written is on standard output: {fault}"
            ));
        }
        let Some((file, path)) = self.file else {
            return show_secrets(self.made, json, screen);
        };
        file.done()?;
        match self.made.len() {
            0 => {}
            1 => screen.note(&format!("1 key written to {}", path.display())),
            count => screen.note(&format!("{count} keys written to {}", path.display())),
        }
        Ok(())
    }
}

fn show_secrets(made: Vec<Value>, json: bool, screen: &mut Screen<'_>) -> Result<(), String> {
    if json {
        return screen.print(&format!("{:#}\n", Value::Array(made)));
    }
    if made.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&[
        Column::Left("KEY"),
        Column::Left("NAME"),
        Column::Left("ID"),
        Column::Left("EXPIRES (UTC)"),
    ]);
    for key in &made {
        let text = |field: &str| key[field].as_str().unwrap_or_default();
        let expires = UnixMs::parse_rfc3339(text("expires_at"));
        table.row(vec![
            text("api_key").into(),
            text("name").into(),
            text("id").into(),
            minute(expires).into(),
        ]);
    }
    let text = table.show(screen.colour);
    screen.print(&text)?;
    screen.note("Keep what stands under KEY: it is shown this once.");
    Ok(())
}
