//! `quota-proxy key`: keys, through the admin API.

mod change;
mod create;
mod item;
mod list;

use super::key_import;
use super::remote::{self, Remote};
use super::screen::Screen;
use super::serve;

/// Options of `key`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    remote: remote::Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make keys
    Create(create::Options),
    /// List keys
    List(list::ListOptions),
    /// Show one key
    Show(list::ShowOptions),
    /// Refuse a key's requests until it is enabled again
    Disable(change::Options),
    /// Serve a disabled key again
    Enable(change::Options),
    /// Set what a key has used to 0
    Reset(change::Options),
    /// Give a key a new secret
    Rotate(change::RotateOptions),
    /// Delete a key; its usage stays in the books
    Delete(change::DeleteOptions),
    /// Take over keys that are in use elsewhere: clients keep theirs
    Import(key_import::Options),
}

/// Runs one command to its end.
///
/// # Errors
/// A text for the person at the terminal.
pub fn run(options: &Options, screen: &mut Screen<'_>) -> Result<(), String> {
    let runtime = serve::runtime()?;
    if let Command::Import(import) = &options.command {
        let plan = key_import::Plan::read(import, screen)?;
        if import.dry_run {
            return plan.show(screen);
        }
        let remote = Remote::new(&options.remote)?;
        return runtime.block_on(plan.carry_out(&remote, screen));
    }
    let remote = Remote::new(&options.remote)?;
    runtime.block_on(async {
        match &options.command {
            Command::Create(options) => create::run(options, &remote, screen).await,
            Command::List(options) => list::list(options, &remote, screen).await,
            Command::Show(options) => list::show(options, &remote, screen).await,
            Command::Disable(options) => change::act("disable", options, &remote, screen).await,
            Command::Enable(options) => change::act("enable", options, &remote, screen).await,
            Command::Reset(options) => change::act("reset", options, &remote, screen).await,
            Command::Rotate(options) => change::rotate(options, &remote, screen).await,
            Command::Delete(options) => change::delete(options, &remote, screen).await,
            Command::Import(_) => Ok(()),
        }
    })
}

/// The id of the key that a person means by an id, a number or a name.
///
/// # Errors
/// There is none, or there are several.
pub(super) async fn find_id(
    remote: &Remote,
    screen: &mut Screen<'_>,
    meant: &str,
) -> Result<String, String> {
    if uuid::Uuid::try_parse(meant).is_ok() {
        return Ok(meant.to_owned());
    }
    let key = item::find(remote, screen, meant).await?;
    Ok(key["id"].as_str().unwrap_or_default().to_owned())
}

/// A day, whose end is meant, or a time.
pub(super) fn day_or_time(text: &str) -> Result<String, String> {
    use crate::admin::query::day;
    use crate::time::UnixMs;
    match day(text).or_else(|| UnixMs::parse_rfc3339(text)) {
        Some(_) => Ok(text.to_owned()),
        None => Err(String::from(
            "expected a day such as 2026-12-31, or a time such as 2026-12-31T08:00:00Z",
        )),
    }
}
