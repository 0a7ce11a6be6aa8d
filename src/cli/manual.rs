//! `quota-proxy man` and `quota-proxy completions`: made from the definition of the command line, so
//! that neither can tell of an option that is not there.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// Options of `man`.
#[derive(Debug, clap::Args)]
pub struct ManOptions {
    /// Write a page for each command into this folder, in place of printing the main one
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

/// Options of `completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionOptions {
    /// The shell that is to read it
    shell: Shell,
}

/// What an operator must know that is no option.
const MORE: &str = r#".SH SIGNALS
.TP
\fBSIGHUP\fR
Read the configuration again: pools, prices, tiers, certificates and log level. A bad file changes nothing.
.TP
\fBSIGUSR2\fR
Open the access log anew, after a rotation.
.TP
\fBSIGTERM\fR
Take nothing more, let running requests end within \fIserver.grace_period_seconds\fR, close the books. A
process that still ends after an upgrade is told too. Once more: end at once.
.TP
\fBSIGINT\fR
End at once; what is cut is settled first.
.TP
\fBSIGQUIT\fR
Changes nothing. A new binary takes over by \fBquota\-proxy upgrade\fR.
.SH FILES
.TP
\fI/etc/quota\-proxy/quota\-proxy.yaml\fR
The configuration, where neither \fB\-\-config\fR nor \fBQUOTA_PROXY_CONFIG\fR names another.
.TP
\fI/etc/quota\-proxy/env\fR
With the systemd unit: variables for the configuration, secrets among them. Mode 0600.
.TP
\fI/var/lib/quota\-proxy/quota.db\fR
With the packaged configuration: the books, one SQLite file.
.TP
\fI/var/log/quota\-proxy/access.jsonl\fR
With the packaged configuration: one JSON line for each request.
.SH "EXIT STATUS"
0, or 1 where it failed, or 2 where the command line is wrong.
"#;

/// # Errors
/// What the operating system says to the output.
pub fn man(command: Command, options: &ManOptions, out: &mut dyn Write) -> Result<(), String> {
    let written = match &options.output {
        Some(folder) => all_pages(command, folder),
        None => main_page(command, out),
    };
    written.map_err(|fault| fault.to_string())
}

fn main_page(command: Command, mut out: &mut dyn Write) -> io::Result<()> {
    Man::new(command.disable_help_subcommand(true)).render(&mut out)?;
    out.write_all(MORE.as_bytes())
}

fn all_pages(command: Command, folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let main = folder.join(format!("{}.1", command.get_name()));
    clap_mangen::generate_to(command.clone(), folder)?;
    main_page(command, &mut File::create(main)?)
}

/// # Errors
/// What the operating system says to the output.
pub fn completions(
    mut command: Command,
    options: &CompletionOptions,
    out: &mut dyn Write,
) -> Result<(), String> {
    let name = command.get_name().to_owned();
    // Into memory first: the generator panics where its output fails.
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut command, &name, &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    if options.shell == Shell::Bash {
        // clap_complete 4.6 writes a name with a hyphen in two ways, and then completes no option of
        // any command (clap-rs/clap#6421).
        script = script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"));
    }
    let written = out.write_all(script.as_bytes());
    written.map_err(|fault| fault.to_string())
}
