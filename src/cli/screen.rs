//! Where a command writes: what was asked for to one stream, remarks and progress to the other.

use std::io::{self, IsTerminal as _, Write};

/// The two streams, and what a person at a terminal may be shown.
pub struct Screen<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    /// Whether results may be coloured.
    pub colour: bool,
    shows_progress: bool,
    /// Whether a line of progress stands unfinished.
    in_progress: bool,
}

impl std::fmt::Debug for Screen<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").finish_non_exhaustive()
    }
}

impl<'a> Screen<'a> {
    /// Colours and progress go to terminals only; `$NO_COLOR` takes the colours away.
    pub fn new(out: &'a mut dyn Write, err: &'a mut dyn Write) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Screen {
            out,
            err,
            colour: io::stdout().is_terminal() && !set("NO_COLOR") && !dumb,
            shows_progress: io::stderr().is_terminal() && !dumb,
            in_progress: false,
        }
    }

    /// Writes a result. A reader that has seen enough is no fault.
    ///
    /// # Errors
    /// The stream's.
    pub fn print(&mut self, text: &str) -> Result<(), String> {
        self.end_progress();
        let written = self.out.write_all(text.as_bytes());
        match written.and_then(|()| self.out.flush()) {
            Err(fault) if fault.kind() != io::ErrorKind::BrokenPipe => Err(fault.to_string()),
            _ => Ok(()),
        }
    }

    /// The stream of results itself.
    pub fn out(&mut self) -> &mut dyn Write {
        self.out
    }

    /// A remark beside the result. Nothing depends on its being read.
    pub fn note(&mut self, text: &str) {
        self.end_progress();
        drop(writeln!(self.err, "{text}"));
    }

    /// Replaces the line of progress, on a terminal.
    pub fn progress(&mut self, text: &str) {
        if self.shows_progress {
            drop(write!(self.err, "\r\x1b[K{text}").and_then(|()| self.err.flush()));
            self.in_progress = true;
        }
    }

    fn end_progress(&mut self) {
        if std::mem::take(&mut self.in_progress) {
            drop(write!(self.err, "\r\x1b[K"));
        }
    }
}
