//! `quota-proxy store import`.

use std::collections::BTreeMap;
use std::path::Path;

use super::lines::Lines;
use super::{BATCH, kind, opened};
use crate::cli::screen::Screen;
use crate::cli::table::{Column, Table};
use crate::config::Config;
use crate::store::{KeyQuery, Store};

/// Takes in a file that was found whole before the store is opened.
pub(super) async fn run(
    config: &Config,
    file: &Path,
    merge: bool,
    screen: &mut Screen<'_>,
) -> Result<(), String> {
    let mut lines = Lines::check(file)?;
    let store = opened(config).await?;
    let done = take_in(&*store, &mut lines, merge, screen).await;
    store.close().await;
    let counts = done?;
    let mut table = Table::new(&[Column::Left("TAKEN IN"), Column::Right(" ")]);
    for (kind, count) in counts {
        table.row(vec![kind.into(), count.to_string().into()]);
    }
    let text = table.show(screen.colour);
    screen.print(&text)?;
    if lines.open_reservations > 0 {
        screen.note(&format!(
            "{} exchanges ran while the export was made; what they used is not in it",
            lines.open_reservations
        ));
    }
    Ok(())
}

async fn take_in(
    store: &dyn Store,
    lines: &mut Lines,
    merge: bool,
    screen: &mut Screen<'_>,
) -> Result<BTreeMap<&'static str, u64>, String> {
    if !merge {
        let query = KeyQuery {
            limit: 1,
            ..KeyQuery::default()
        };
        let present = store
            .list_keys(query)
            .await
            .map_err(|fault| fault.to_string())?;
        if present.total > 0 {
            return Err(format!(
                "the store has {} keys already: import into an empty one, or with --merge, \
                 which replaces what both have",
                present.total
            ));
        }
    }
    let mut counts = BTreeMap::new();
    let mut batch = Vec::with_capacity(BATCH);
    let mut done: u64 = 0;
    loop {
        let record = lines.next()?;
        let is_last = record.is_none();
        if let Some(record) = record {
            match kind(&record) {
                "" => {}
                kind => *counts.entry(kind).or_insert(0) += 1,
            }
            batch.push(record);
        }
        if batch.len() < BATCH && !is_last {
            continue;
        }
        let count = batch.len() as u64;
        let taken = store.import(std::mem::take(&mut batch)).await;
        taken.map_err(|fault| {
            format!(
                "{done} of {} records were taken in, then: {fault}\n\
                 Run it again with --merge once that is mended: nothing counts twice",
                lines.records
            )
        })?;
        done += count;
        screen.progress(&format!("{done} of {} records", lines.records));
        if is_last {
            return Ok(counts);
        }
    }
}
