//! `quota-proxy`: see `quota-proxy --help`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use quota_proxy::cli::screen::Screen;
use quota_proxy::cli::{
    check, demo, fake_upstream, key, manual, prices, reload, serve, store, upgrade, usage,
};

/// An edge proxy for LLM traffic: reserves quota before, meters during and settles exactly once after
/// every request.
#[derive(Debug, Parser)]
#[command(name = "quota-proxy", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the edge and the admin service
    Serve(serve::Options),
    /// Have the running server read its configuration again, and say what came of it
    Reload(reload::Options),
    /// Put a new binary in the place of the running server; no request notices
    Upgrade(upgrade::Options),
    /// Validate a configuration: every fault at once
    Check {
        /// The file to read
        #[arg(long)]
        config: PathBuf,
    },
    /// Make, list and change keys, through the admin API
    Key(Box<key::Options>),
    /// Show what was used, through the admin API
    Usage(usage::Options),
    /// Back up the store, or move it
    #[command(subcommand)]
    Store(store::Command),
    /// Run a fake OpenAI-, Anthropic- and Gemini-compatible LLM
    FakeUpstream(Box<fake_upstream::Options>),
    /// Try it: fake LLM, proxy and a ready key, nothing to configure
    Demo(demo::Options),
    /// Work on price files
    #[command(subcommand)]
    Prices(Prices),
    /// Print the completion script of a shell
    Completions(manual::CompletionOptions),
    /// Print the manual page
    Man(manual::ManOptions),
}

#[derive(Debug, Subcommand)]
enum Prices {
    /// Convert LiteLLM's model_prices_and_context_window.json into a price file
    Import {
        /// LiteLLM's file
        file: PathBuf,
        /// Where to write (standard output by default)
        #[arg(long)]
        output: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (mut out, mut err) = (io::stdout(), io::stderr());
    let done = match cli.command {
        Command::Serve(options) => serve::run(&options, &mut err),
        Command::Reload(options) => reload::run(&options, &mut out),
        Command::Upgrade(options) => upgrade::run(&options, &mut out),
        Command::Check { config } => return report(&mut out, check::check(&config)),
        Command::Key(options) => key::run(&options, &mut Screen::new(&mut out, &mut err)),
        Command::Usage(options) => usage::run(&options, &mut Screen::new(&mut out, &mut err)),
        Command::Store(command) => store::run(&command, &mut Screen::new(&mut out, &mut err)),
        Command::FakeUpstream(options) => serve::block_on(fake_upstream::run(*options, &mut out)),
        Command::Demo(options) => demo::run(&options, &mut out),
        Command::Prices(Prices::Import { file, output }) => {
            import_prices(&file, output.as_deref(), &mut out, &mut err)
        }
        Command::Completions(options) => manual::completions(Cli::command(), &options, &mut out),
        Command::Man(options) => manual::man(Cli::command(), &options, &mut out),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => report(&mut err, (format!("error: {fault}\n"), false)),
    }
}

fn report(out: &mut dyn Write, (text, ok): (String, bool)) -> ExitCode {
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if ok && written.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The price file goes to `out` or a file; what became of the map goes to `err`.
fn import_prices(
    from: &Path,
    to: Option<&Path>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), String> {
    let report = prices::import_file(from, to).map_err(|fault| fault.to_string())?;
    let shown = if to.is_none() {
        out.write_all(report.yaml.as_bytes())
    } else {
        Ok(())
    };
    let mut summary = || {
        writeln!(
            err,
            "{} models; {} entries without a token price skipped",
            report.models, report.skipped
        )?;
        if report.rounded > 0 {
            writeln!(
                err,
                "{} prices rounded to a nano-USD per million tokens",
                report.rounded
            )?;
        }
        if report.patterns > 0 {
            writeln!(
                err,
                "left out: {} names with *, ? or brackets, which would price other models too",
                report.patterns
            )?;
        }
        if !report.refused.is_empty() {
            writeln!(
                err,
                "left out, their prices make no sense: {}",
                report.refused.join(", ")
            )?;
        }
        Ok::<(), io::Error>(())
    };
    shown
        .and_then(|()| summary())
        .map_err(|fault| fault.to_string())
}
