//! `quota-proxy key list` and `show`.

use super::item::{KEYS, KeyItem, all, find, minute};
use crate::cli::remote::Remote;
use crate::cli::screen::Screen;
use crate::cli::table::{Column, Table};
use crate::time::UnixMs;

/// Options of `key list`.
#[derive(Debug, clap::Args)]
pub struct ListOptions {
    /// Leave disabled keys out
    #[arg(long)]
    active: bool,
    /// JSON for machines
    #[arg(long)]
    json: bool,
}

/// Options of `key show`.
#[derive(Debug, clap::Args)]
pub struct ShowOptions {
    /// Its id, number or name
    key: String,
    /// JSON for machines
    #[arg(long)]
    json: bool,
}

pub(super) async fn list(
    options: &ListOptions,
    remote: &Remote,
    screen: &mut Screen<'_>,
) -> Result<(), String> {
    let keys = all(remote, screen, options.active).await?;
    if options.json {
        let text = serde_json::to_string_pretty(&keys).map_err(|fault| fault.to_string())?;
        return screen.print(&format!("{text}\n"));
    }
    let mut table = Table::new(&[
        Column::Right("NO"),
        Column::Left("NAME"),
        Column::Left("KEY"),
        Column::Left("STATE"),
        Column::Right("REQUESTS"),
        Column::Right("TOKENS"),
        Column::Right("USD"),
        Column::Left("EXPIRES (UTC)"),
        Column::Left("LAST USED (UTC)"),
    ]);
    let now = UnixMs::now();
    for key in &keys {
        let key = KeyItem::of(key)?;
        let [requests, tokens, usd] = key.quotas();
        let state = key.state(now);
        let expires = minute(key.expires_at).into();
        let last_used = minute(key.last_used_at).into();
        table.row(vec![
            key.seq.to_string().into(),
            key.name.into(),
            key.key_prefix.into(),
            state,
            requests,
            tokens,
            usd,
            expires,
            last_used,
        ]);
    }
    if table.is_empty() {
        screen.note("no keys yet: make one with `quota-proxy key create --name NAME`");
        return Ok(());
    }
    let text = table.show(screen.colour);
    screen.print(&text)
}

pub(super) async fn show(
    options: &ShowOptions,
    remote: &Remote,
    screen: &mut Screen<'_>,
) -> Result<(), String> {
    let found = find(remote, screen, &options.key).await?;
    let id = found["id"].as_str().unwrap_or_default();
    let stats = remote.get(&format!("{KEYS}/{id}/stats"), &[]).await?;
    if options.json {
        return screen.print(&format!("{stats:#}\n"));
    }
    let key = KeyItem::of(&stats)?;
    let [requests, tokens, usd] = key.quotas();
    let state = key.state(UnixMs::now());
    let mut table = Table::new(&[Column::Left("KEY"), Column::Left(" ")]);
    let mut line = |name: &str, cell| table.row(vec![name.into(), cell]);
    line("name", key.name.into());
    line("key", key.key_prefix.into());
    line("number", key.seq.to_string().into());
    line("id", key.id.into());
    if let Some(description) = key.description {
        line("description", description.into());
    }
    line("state", state);
    line("tier", key.rate_limit_tier.into());
    line("period", key.period.into());
    line("requests used", requests);
    line("tokens used", tokens);
    line("USD used", usd);
    line("requests ever", key.request_count.to_string().into());
    line("errors ever", key.error_count.to_string().into());
    line("created", minute(Some(key.created_at)).into());
    line("last used", minute(key.last_used_at).into());
    line("expires", minute(key.expires_at).into());
    let text = table.show(screen.colour);
    screen.print(&text)
}
