//! `quota-proxy key disable`, `enable`, `reset`, `rotate` and `delete`.

use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::create::NewKeys;
use super::item::{KEYS, find};
use crate::cli::remote::Remote;
use crate::cli::screen::Screen;

/// The keys that a command is for.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Ids, numbers or names
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
    /// JSON for machines
    #[arg(long)]
    json: bool,
}

/// Options of `key delete`.
#[derive(Debug, clap::Args)]
pub struct DeleteOptions {
    #[command(flatten)]
    which: Options,
    /// For good: the record and its counters are gone, its usage stays
    #[arg(long)]
    hard: bool,
}

/// Options of `key rotate`.
#[derive(Debug, clap::Args)]
pub struct RotateOptions {
    /// Its id, number or name
    key: String,
    /// How long the old secret stays good, at most 30d
    #[arg(long, default_value = "24h", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// Write a JSON array of the answer to this file, for its owner alone, in place of showing the key
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file where it exists
    #[arg(long, requires = "output")]
    force: bool,
    /// JSON for machines
    #[arg(long)]
    json: bool,
}

/// `disable`, `enable` or `reset`.
pub(super) async fn act(
    action: &str,
    options: &Options,
    remote: &Remote,
    screen: &mut Screen<'_>,
) -> Result<(), String> {
    each(options, remote, screen, async |id| {
        let path = format!("{KEYS}/{id}/{action}");
        Ok(remote.call(Method::POST, &path, &[], None).await?)
    })
    .await
}

pub(super) async fn delete(
    options: &DeleteOptions,
    remote: &Remote,
    screen: &mut Screen<'_>,
) -> Result<(), String> {
    let hard = options.hard.to_string();
    each(&options.which, remote, screen, async |id| {
        let path = format!("{KEYS}/{id}");
        let query = [("hard_delete", hard.as_str())];
        Ok(remote.call(Method::DELETE, &path, &query, None).await?)
    })
    .await
}

/// Finds all keys first, so that a misspelt one stops the command before it has begun.
async fn each(
    options: &Options,
    remote: &Remote,
    screen: &mut Screen<'_>,
    act: impl AsyncFn(&str) -> Result<Value, String>,
) -> Result<(), String> {
    let mut found = Vec::with_capacity(options.keys.len());
    for meant in &options.keys {
        found.push(find(remote, screen, meant).await?);
    }
    for key in found {
        let text = |field: &str| key[field].as_str().unwrap_or_default();
        let (id, name) = (text("id"), text("name"));
        let done = act(id)
            .await
            .map_err(|fault| format!("{name} ({id}): {fault}"))?;
        let message = done["message"].as_str().unwrap_or("done");
        if options.json {
            let line = json!({"id": id, "name": name, "message": message});
            screen.print(&format!("{line}\n"))?;
        } else {
            screen.print(&format!("{name} ({id}): {message}\n"))?;
        }
    }
    Ok(())
}

pub(super) async fn rotate(
    options: &RotateOptions,
    remote: &Remote,
    screen: &mut Screen<'_>,
) -> Result<(), String> {
    let found = find(remote, screen, &options.key).await?;
    let path = format!("{KEYS}/{}/rotate", found["id"].as_str().unwrap_or_default());
    let body = json!({"grace_seconds": options.grace.as_secs()});
    let mut keys = NewKeys::new(options.output.as_ref(), options.force)?;
    let rotated = remote.post(&path, &body).await;
    let until = rotated.as_ref().ok();
    let until = until.and_then(|key| key["previous_valid_until"].as_str().map(str::to_owned));
    let rotated = rotated.map(|key| keys.add(key));
    keys.show(options.json, screen)?;
    rotated?;
    if let Some(until) = until {
        screen.note(&format!("The old key is good until {until}."));
    }
    Ok(())
}
