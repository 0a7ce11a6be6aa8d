//! Log lines on stderr: `TIME LEVEL target: message`, one line each.
//!
//! What libraries say passes a filter. Some of their lines quote what a peer sent, a credential or a
//! prompt included: debug and trace lines print whole headers and bodies, and errors quote malformed
//! heads (`buf: …`), header values and request targets. So a foreign line is never shown below
//! `info`, and above it everything from a quotation on is cut, and every query string too.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;

use log::{Level, LevelFilter, Log, Metadata, Record, SetLoggerError};

use crate::time::UnixMs;

/// Where our own lines come from.
const OWN: &str = "quota_proxy";

/// What precedes a quotation in lines and errors of pingora-core and pingora-proxy 0.9.
const QUOTING: [&str; 8] = [
    "buf: ",
    "ontent-length header value",
    "ontent-Length header value",
    "invalid authority from",
    "from Host ",
    "Invalid chunked encoding",
    "nexpected HttpTask",
    "nexpected task",
];

/// How lines of Pingora begin that tell of a client alone: one that left, was too slow or spoke no HTTP.
const OF_CLIENTS: [&str; 2] = ["Fail to proxy: Downstream ", "H2 handshake error "];

/// Libraries that tell the operator nothing at `info`.
const QUIET: [&str; 5] = ["h2", "hyper", "hyper_util", "rustls", "reqwest"];

#[derive(Debug)]
struct StderrLog {
    /// journald reads the level from a `<N>` prefix (sd-daemon(3)) and adds the time itself.
    journald: bool,
}

/// Installs the logger of this process. The level can be changed by [`set_level`] at any time.
///
/// # Errors
/// When a logger is installed already.
pub fn install(level: LevelFilter) -> Result<(), SetLoggerError> {
    let stream = std::env::var_os("JOURNAL_STREAM");
    let journald = stream.is_some_and(|stream| is_journal(&stream, &std::io::stderr()));
    log::set_boxed_logger(Box::new(StderrLog { journald }))?;
    set_level(level);
    Ok(())
}

/// Whether what is written to stderr is kept when everybody else has gone: it is a file, or the journal.
pub fn lasts() -> bool {
    let output = std::io::stderr();
    let stream = std::env::var_os("JOURNAL_STREAM");
    stream.is_some_and(|stream| is_journal(&stream, &output))
        || metadata(&output).is_ok_and(|metadata| metadata.is_file())
}

fn metadata(output: &impl AsFd) -> std::io::Result<std::fs::Metadata> {
    let file = output.as_fd().try_clone_to_owned().map(File::from);
    file.and_then(|file| file.metadata())
}

/// Whether `output` is the stream that `$JOURNAL_STREAM` names, by device and inode. A process whose
/// output goes elsewhere inherits the variable too.
fn is_journal(stream: &OsStr, output: &impl AsFd) -> bool {
    metadata(output).is_ok_and(|is| stream == OsStr::new(&format!("{}:{}", is.dev(), is.ino())))
}

/// Shows lines of this level and above from now on.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

impl Log for StderrLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= most_verbose(metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let message = record.args().to_string();
        let level = level(record.level(), record.target(), &message);
        if level > log::max_level() {
            return;
        }
        let at = (!self.journald).then(UnixMs::now);
        let line = line(level, record.target(), &message, at);
        // A closed stderr must not stop an exchange.
        drop(std::io::stderr().lock().write_all(line.as_bytes()));
    }

    fn flush(&self) {}
}

/// The most verbose level that a target may reach, whatever is configured.
fn most_verbose(target: &str) -> LevelFilter {
    if is_within(target, OWN) {
        LevelFilter::Trace
    } else if QUIET.iter().any(|quiet| is_within(target, quiet)) {
        LevelFilter::Warn
    } else {
        LevelFilter::Info
    }
}

/// The level of a line. Pingora calls every client an error that does not come through its TLS
/// handshake, or breaks off: a port scan would wake the operator, who can do nothing about it, and
/// clients that are slow on purpose would fill the disk.
fn level(said: Level, target: &str, message: &str) -> Level {
    let begins_as = |lines: &[&str]| lines.iter().any(|begin| message.starts_with(begin));
    let of_client = begins_as(&["Downstream handshake"]);
    if of_client && is_within(target, "pingora_core::services::listening") {
        Level::Info
    } else if begins_as(&OF_CLIENTS) && !is_within(target, OWN) {
        Level::Debug
    } else {
        said
    }
}

fn is_within(target: &str, module: &str) -> bool {
    target
        .strip_prefix(module)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// `at` is `None` where journald writes the time.
fn line(level: Level, target: &str, message: &str, at: Option<UnixMs>) -> String {
    let message = if is_within(target, OWN) {
        Cow::Borrowed(message)
    } else {
        without_quotations(message)
    };
    let mut line = String::with_capacity(message.len() + target.len() + 40);
    let head = match at {
        Some(at) => write!(line, "{} {level:5} {target}: ", at.to_rfc3339()),
        None => write!(line, "<{}>{target}: ", priority(level)),
    };
    debug_assert!(head.is_ok(), "a String takes everything");
    for c in message.chars() {
        // One event, one line: what a peer sent must not forge a second one.
        match c {
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            c if c.is_control() && c != '\t' => line.extend(c.escape_unicode()),
            c => line.push(c),
        }
    }
    line.push('\n');
    line
}

fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// A foreign message up to its first quotation, without query strings.
fn without_quotations(message: &str) -> Cow<'_, str> {
    let quote = QUOTING
        .iter()
        .filter_map(|mark| message.find(mark).map(|at| at + mark.len()))
        .min();
    if quote.is_none() && !message.contains('?') {
        return Cow::Borrowed(message);
    }
    let mut shown = String::with_capacity(message.len());
    let mut in_query = false;
    for c in message[..quote.unwrap_or(message.len())].chars() {
        if in_query && (c.is_whitespace() || c == ',') {
            in_query = false;
        }
        if !in_query {
            shown.push(c);
        }
        if c == '?' && !in_query {
            in_query = true;
            shown.push('…');
        }
    }
    if quote.is_some() {
        shown.push_str(" (hidden)");
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Option<UnixMs> = Some(UnixMs(1_795_229_099_123));

    #[test]
    fn a_line_has_time_level_target_message() {
        let line = line(Level::Warn, "quota_proxy::store", "slow: 3 ms", AT);
        assert_eq!(
            line,
            "2026-11-21T02:44:59.123Z WARN  quota_proxy::store: slow: 3 ms\n"
        );
    }

    #[test]
    fn journald_gets_a_priority_and_no_time() {
        let line = line(Level::Error, "quota_proxy", "gone", None);
        assert_eq!(line, "<3>quota_proxy: gone\n");
    }

    #[test]
    fn the_journal_is_known_by_its_device_and_inode() {
        let (journal, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let is = journal.metadata().unwrap();
        let stream = format!("{}:{}", is.dev(), is.ino());
        assert!(is_journal(OsStr::new(&stream), &journal));
        assert!(!is_journal(OsStr::new(&stream), &other));
        assert!(!is_journal(OsStr::new(""), &journal));
    }

    #[test]
    fn a_message_stays_on_its_line() {
        let line = line(Level::Info, "quota_proxy", "a\r\nERROR forged\x1b[31m", AT);
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.ends_with("a\\r\\nERROR forged\\u{1b}[31m\n"), "{line}");
    }

    #[test]
    fn what_a_peer_sent_is_cut_from_foreign_lines() {
        let said = [
            "Fail to proxy: Downstream InvalidHTTPHeader context: buf: GET / HTTP/1.1\\r\\nAuthorization: Bearer SECRET cause: x",
            "invalid content-length header value SECRET",
            "Fail to proxy: x, status: 502, POST /v1beta/m:gen?key=SECRET&alt=sse, Host: a",
            "cause: InvalidHTTPHeader context: invalid Content-Length header value: SECRET",
            "invalid authority from Host \"SECRET\"",
            "Invalid chunked encoding: SECRET was not LF",
        ];
        for message in said {
            let line = line(Level::Error, "pingora_proxy", message, AT);
            assert!(!line.contains("SECRET"), "{line}");
        }
        let kept = line(Level::Error, "pingora_proxy", said[2], AT);
        assert!(kept.contains("POST /v1beta/m:gen?…, Host: a"), "{kept}");
    }

    #[test]
    fn a_client_that_fails_is_no_error_of_ours() {
        let listening = "pingora_core::services::listening";
        let of = |target, message| level(Level::Error, target, message);
        let failed = "Downstream handshake error from 1.2.3.4:5: TLSHandshakeFailure";
        assert_eq!(of(listening, failed), Level::Info);
        assert_eq!(
            of(listening, "Accept() failed too many files"),
            Level::Error
        );
        assert_eq!(of("quota_proxy::store", failed), Level::Error);
        let broken_off =
            "Fail to proxy: Downstream ReadError context: while reading request headers";
        assert_eq!(of("pingora_proxy", broken_off), Level::Debug);
        assert_eq!(of("pingora_proxy", "Fail to proxy: Upstream"), Level::Error);
    }

    #[test]
    fn foreign_lines_never_show_below_info() {
        assert_eq!(most_verbose("quota_proxy::proxy"), LevelFilter::Trace);
        assert_eq!(most_verbose("quota_proxy_evil"), LevelFilter::Info);
        assert_eq!(
            most_verbose("pingora_core::protocols::http::v1::server"),
            LevelFilter::Info
        );
        assert_eq!(most_verbose("h2::codec"), LevelFilter::Warn);
    }
}
