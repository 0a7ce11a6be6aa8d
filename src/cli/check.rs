//! `quota-proxy check`: what a configuration says, and everything that is wrong with it.

use std::fmt::Write as _;
use std::path::Path;

use crate::config::{self, Loaded};

/// The text to show for the configuration at `path`, and whether it is right. Faults and notices are
/// in the order of their lines; the environment is that of the process.
pub fn check(path: &Path) -> (String, bool) {
    check_with(path, &|name| std::env::var(name).ok())
}

/// As `check`, in a given environment.
pub fn check_with(path: &Path, env: config::Env<'_>) -> (String, bool) {
    match config::load(Some(path), env) {
        Ok(loaded) => (report(&loaded), true),
        Err(faults) => {
            let count = match faults.0.len() {
                1 => String::from("1 fault"),
                count => format!("{count} faults"),
            };
            (format!("{faults}\n{count}\n"), false)
        }
    }
}

fn report(loaded: &Loaded) -> String {
    let config = &loaded.config;
    let mut text = String::new();
    for notice in &loaded.notices {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{notice}");
    }
    let pools = config.pools.len();
    let peers: usize = config.pools.iter().map(|pool| pool.peers.len()).sum();
    let prices = config.prices.exact.len() + config.prices.globs.len();
    let _ = writeln!(text, "ok: {pools} pools, {peers} peers, {prices} prices");
    text
}
