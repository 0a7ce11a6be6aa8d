//! `quota-proxy usage`: sums of usage from the admin API.

use serde::Deserialize;
use serde_json::{Number, Value};

use super::csv;
use super::key::find_id;
use super::remote::{self, Remote};
use super::screen::Screen;
use super::serve;
use super::table::{Cell, Column, Table, Tone};
use crate::time::{DAY_MS, UnixMs};

const PATH: &str = "/admin/usage/summary";

/// Options of `usage`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    remote: remote::Options,
    /// Of this key only: its id, number or name
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// From when: a duration back such as 7d or 24h, a day (UTC), or a time
    #[arg(long, value_name = "7d|DAY|TIME", default_value = "7d", value_parser = Since::parse)]
    since: Since,
    /// To when: a day, which is meant whole, or a time [default: now]
    #[arg(long, value_name = "DAY|TIME", value_parser = super::key::day_or_time)]
    until: Option<String>,
    /// What to tell apart
    #[arg(long, default_value = "key", value_parser = ["key", "model", "day", "group", "end_user"])]
    by: String,
    /// JSON for machines
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Comma-separated values for a spreadsheet
    #[arg(long)]
    csv: bool,
}

/// A beginning: so many milliseconds ago, or a day or time.
#[derive(Clone, Debug)]
enum Since {
    Ago(i64),
    At(String),
}

impl Since {
    fn parse(text: &str) -> Result<Self, &'static str> {
        if let Ok(duration) = humantime::parse_duration(text) {
            let ms = i64::try_from(duration.as_millis());
            return ms
                .ok()
                .filter(|ms| *ms <= 100 * 366 * DAY_MS)
                .map(Since::Ago)
                .ok_or("that is before anybody kept books");
        }
        let at = super::key::day_or_time(text);
        at.map(Since::At).map_err(|_| {
            "expected a duration such as 7d or 24h, a day such as 2026-11-21, or a time such as \
             2026-11-21T08:00:00Z"
        })
    }

    fn told(&self, now: UnixMs) -> String {
        match self {
            Since::Ago(ms) => now.plus_ms(-ms).to_rfc3339(),
            Since::At(text) => text.clone(),
        }
    }
}

/// The sums of one name.
#[derive(Debug, Default, Deserialize)]
struct Sum {
    #[serde(default)]
    name: Option<String>,
    requests: i64,
    tokens: i64,
    prompt_tokens: i64,
    completion_tokens: i64,
    cost: Option<Number>,
    errors: i64,
}

/// Asks, and shows what is answered.
///
/// # Errors
/// A text for the person at the terminal.
pub fn run(options: &Options, screen: &mut Screen<'_>) -> Result<(), String> {
    let remote = Remote::new(&options.remote)?;
    let summary = serve::runtime()?.block_on(ask(options, &remote, screen))?;
    if options.json {
        return screen.print(&format!("{summary:#}\n"));
    }
    let unknown = |fault| format!("the admin service tells of usage in an unknown way: {fault}");
    let items = Vec::<Sum>::deserialize(&summary["items"]).map_err(unknown)?;
    if options.csv {
        return screen.print(&as_csv(&options.by, &items));
    }
    let total = Sum::deserialize(&summary["total"]).map_err(unknown)?;
    let text = as_table(&options.by, &items, &total).show(screen.colour);
    screen.print(&text)
}

async fn ask(options: &Options, remote: &Remote, screen: &mut Screen<'_>) -> Result<Value, String> {
    let since = options.since.told(UnixMs::now());
    let mut query = vec![("by", options.by.as_str()), ("since", since.as_str())];
    if let Some(until) = &options.until {
        query.push(("until", until));
    }
    let key = match &options.key {
        Some(meant) => Some(find_id(remote, screen, meant).await?),
        None => None,
    };
    if let Some(key) = &key {
        query.push(("key", key));
    }
    Ok(remote.get(PATH, &query).await?)
}

impl Sum {
    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    fn figures(&self) -> [String; 6] {
        let cost = self
            .cost
            .as_ref()
            .map_or(String::from("0"), Number::to_string);
        [
            self.requests.to_string(),
            self.tokens.to_string(),
            self.prompt_tokens.to_string(),
            self.completion_tokens.to_string(),
            cost,
            self.errors.to_string(),
        ]
    }
}

fn as_csv(by: &str, items: &[Sum]) -> String {
    let head = [
        by,
        "requests",
        "tokens",
        "prompt_tokens",
        "completion_tokens",
        "cost",
        "errors",
    ];
    let mut text = csv::write(head);
    for item in items {
        let figures = item.figures();
        let fields = std::iter::once(item.name()).chain(figures.iter().map(String::as_str));
        text.push_str(&csv::write(fields));
    }
    text
}

fn as_table(by: &str, items: &[Sum], total: &Sum) -> Table {
    let head = match by {
        "model" => "MODEL",
        "day" => "DAY (UTC)",
        "group" => "GROUP",
        "end_user" => "END USER",
        _ => "KEY",
    };
    let mut table = Table::new(&[
        Column::Left(head),
        Column::Right("REQUESTS"),
        Column::Right("TOKENS"),
        Column::Right("INPUT"),
        Column::Right("OUTPUT"),
        Column::Right("USD"),
        Column::Right("ERRORS"),
    ]);
    let mut row = |name: Cell, sum: &Sum| {
        let figures = sum.figures().map(Cell::from);
        table.row(std::iter::once(name).chain(figures).collect());
    };
    for item in items {
        match item.name() {
            "" => row(Cell::toned("(none)", Tone::Faint), item),
            name => row(name.into(), item),
        }
    }
    row(Cell::toned("all", Tone::Faint), total);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings() {
        let now = UnixMs::parse_rfc3339("2026-11-21T12:00:00Z").unwrap();
        let told = |text: &str| Since::parse(text).unwrap().told(now);
        assert_eq!(told("7d"), "2026-11-14T12:00:00.000Z");
        assert_eq!(told("90m"), "2026-11-21T10:30:00.000Z");
        assert_eq!(told("2026-11-01"), "2026-11-01");
        for bad in ["", "yesterday", "-1d", "2026-13-01", "999999999999d"] {
            assert!(Since::parse(bad).is_err(), "{bad}");
        }
    }
}
