//! `quota-proxy key import`: keys that are in use elsewhere. One file per foreign format reads it into
//! [`NewKey`]s; this one shows what would be made, or has it made.

mod documents;
mod item;
mod litellm;
mod new_api;
mod sheet;

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::remote::Remote;
use super::screen::Screen;
use super::table::{Cell, Column, Table, Tone};
use crate::time::UnixMs;
use item::{NewKey, Read};

const PATH: &str = "/admin/api-keys/import";
/// Keys of one request: far below what the service takes, so that progress shows.
const BATCH: usize = 100;
/// Bytes of a file at most.
const MAX_FILE: u64 = 256 << 20;

/// Options of `key import`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// What wrote the file: csv (name,key or key_sha256,token_limit,request_limit,usd_limit,expires_at,
    /// tier,group), litellm (the answer of /key/list?return_full_object=true or of /key/info), new-api
    /// (the token list of new-api or one-api)
    #[arg(long, value_enum)]
    from: Format,
    /// The file
    file: PathBuf,
    /// The tier of keys whose file names none
    #[arg(long, value_name = "T")]
    tier: Option<String>,
    /// Leave out the groups that the file names
    #[arg(long)]
    no_groups: bool,
    /// Only show what would be made
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    Csv,
    Litellm,
    NewApi,
}

/// What an import will do.
#[derive(Debug)]
pub struct Plan {
    read: Read,
}

impl Plan {
    /// Reads the file, and tells what of it cannot be said here.
    ///
    /// # Errors
    /// Every fault of the file.
    pub fn read(options: &Options, screen: &mut Screen<'_>) -> Result<Self, String> {
        let text = read_file(&options.file)?;
        let read = match options.from {
            Format::Csv => sheet::read(&text),
            Format::Litellm => litellm::read(&text, UnixMs::now()),
            Format::NewApi => new_api::read(&text, UnixMs::now()),
        };
        let name = options.file.display();
        let mut read =
            read.map_err(|faults| format!("{name}: {}", faults.join(&format!("\n{name}: "))))?;
        for key in &mut read.keys {
            if key.tier.is_none() {
                key.tier.clone_from(&options.tier);
            }
            if options.no_groups {
                key.group = None;
            }
        }
        for note in &read.notes {
            screen.note(note);
        }
        Ok(Plan { read })
    }

    /// Shows the keys without a secret among them.
    ///
    /// # Errors
    /// The stream's.
    pub fn show(&self, screen: &mut Screen<'_>) -> Result<(), String> {
        let mut table = Table::new(&[
            Column::Left("NAME"),
            Column::Left("KEY"),
            Column::Left("STATE"),
            Column::Right("REQUESTS"),
            Column::Right("TOKENS"),
            Column::Right("USD"),
            Column::Left("PERIOD"),
            Column::Left("EXPIRES"),
            Column::Left("TIER"),
            Column::Left("GROUP"),
        ]);
        for key in &self.read.keys {
            let state = match key.active {
                true => Cell::toned("active", Tone::Good),
                false => Cell::toned("disabled", Tone::Faint),
            };
            let or_dash = |text: &Option<String>| text.clone().unwrap_or(String::from("-"));
            table.row(vec![
                key.name.clone().into(),
                key.shown().into(),
                state,
                key.requests.show(|n| n.to_string()).into(),
                key.tokens.show(|n| n.to_string()).into(),
                key.usd.show(crate::quota::money::dollars).into(),
                key.period.unwrap_or("total").into(),
                or_dash(&key.expires).into(),
                or_dash(&key.tier).into(),
                or_dash(&key.group).into(),
            ]);
        }
        let text = table.show(screen.colour);
        screen.print(&text)?;
        let count = keys(self.read.keys.len());
        screen.note(&format!("{count} would be made; nothing was."));
        Ok(())
    }

    /// Has the keys made, batch by batch.
    ///
    /// # Errors
    /// The service's, or that some keys were refused; with how many were made.
    pub async fn carry_out(self, remote: &Remote, screen: &mut Screen<'_>) -> Result<(), String> {
        let new = self.read.keys;
        let (mut made, mut there, mut refused) = (0, 0, Vec::new());
        for (at, batch) in new.chunks(BATCH).enumerate() {
            let body: Vec<Value> = batch.iter().map(NewKey::body).collect();
            let answer = remote.post(PATH, &Value::Array(body)).await;
            let answer = answer.map_err(|fault| match at {
                0 => fault.to_string(),
                _ => format!(
                    "{} made, then, counting from key {}: {fault}\n\
                     Run it again: what is there already stays as it is",
                    keys(made),
                    at * BATCH + 1,
                ),
            })?;
            made += answer["items"].as_array().map_or(0, Vec::len);
            for refusal in answer["refused"].as_array().into_iter().flatten() {
                let text = |field: &str| refusal[field].as_str().unwrap_or_default();
                match text("code") {
                    "CONFLICT" => there += 1,
                    _ => refused.push(format!("{}: {}", text("name"), text("message"))),
                }
            }
            screen.progress(&format!(
                "{} of {} keys",
                (at * BATCH + batch.len()),
                new.len()
            ));
        }
        let mut text = format!("{} imported", keys(made));
        if there > 0 {
            text.push_str(&format!("; {there} were there already"));
        }
        screen.print(&format!("{text}\n"))?;
        match refused.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "{} keys were refused:\n{}",
                refused.len(),
                refused.join("\n")
            )),
        }
    }
}

fn keys(count: usize) -> String {
    match count {
        1 => String::from("1 key"),
        count => format!("{count} keys"),
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let told = |fault: &dyn std::fmt::Display| format!("{}: {fault}", path.display());
    let size = std::fs::metadata(path).map_err(|fault| told(&fault))?.len();
    if size > MAX_FILE {
        return Err(told(&format!(
            "{size} bytes, more than {MAX_FILE}: split it"
        )));
    }
    std::fs::read_to_string(path).map_err(|fault| told(&fault))
}
