//! A program that runs beside the demo and ends with it, however the demo ends.

use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// Ends the program when our end of its input is closed, which the system does even after a `kill -9`;
/// and ends with it. Only the program has stderr: the end of its output is the end of the program.
const KEEPER: &str = r#"
exec 3<&0
"$@" </dev/null 3<&- &
program=$!
exec 2>/dev/null
{ read -r _ <&3; kill -s TERM "$program"; } &
wait "$program"
kill "$!"
"#;

/// How long a program may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// A running program. Dropped, it is told to end and waited for.
#[derive(Debug)]
pub(super) struct Companion {
    keeper: Child,
    line: Option<ChildStdin>,
}

impl Companion {
    /// Starts a program in a process group of its own, so that Ctrl-C reaches only the demo, which
    /// then ends its companions in order. What it writes to stderr can be read from the second value.
    ///
    /// # Errors
    /// No shell can be started. A program that cannot be started says so on its stderr.
    pub(super) fn start(
        program: &OsStr,
        arguments: &[&OsStr],
        environment: &[(&str, &str)],
    ) -> io::Result<(Self, BufReader<ChildStderr>)> {
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "sh"])
            .arg(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let line = keeper.stdin.take();
        let Some(stderr) = keeper.stderr.take() else {
            return Err(io::Error::other("a program was started without its output"));
        };
        Ok((Companion { keeper, line }, BufReader::new(stderr)))
    }

    /// Whether the program has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        self.keeper.try_wait().is_ok_and(|status| status.is_some())
    }

    fn ends_in_time(&mut self) -> bool {
        let told = Instant::now();
        while !self.has_ended() {
            if told.elapsed() > PATIENCE {
                return false;
            }
            std::thread::sleep(PAUSE);
        }
        true
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        self.line = None;
        if self.ends_in_time() {
            return;
        }
        log::warn!("a program of the demo does not end by itself: it is killed");
        let group = format!("-{}", self.keeper.id());
        // Where even that fails there is nothing left to do.
        let _ = Command::new("kill")
            .args(["-s", "KILL", "--", &group])
            .status();
        let _ = self.ends_in_time();
    }
}

/// Reads lines until one ends in `last`, and answers them with it.
///
/// # Errors
/// All that was said, where the program ended before.
pub(super) fn lines_until(
    stderr: &mut BufReader<ChildStderr>,
    last: &str,
) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    while stderr.read_line(&mut line).is_ok_and(|read| read > 0) {
        lines.push(line.trim_end().to_owned());
        if line.trim_end().ends_with(last) {
            return Ok(lines);
        }
        line.clear();
    }
    Err(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str) -> (Companion, BufReader<ChildStderr>) {
        let words = ["-c", script].map(OsStr::new);
        Companion::start(OsStr::new("sh"), &words, &[("GREETING", "hello")]).unwrap()
    }

    #[test]
    fn it_is_told_to_end_and_waited_for() {
        let script = "trap 'echo bye >&2; exit' TERM; echo $GREETING >&2; \
                      while :; do sleep 0.01; done";
        let (companion, mut stderr) = run(script);
        assert_eq!(lines_until(&mut stderr, "lo").unwrap(), ["hello"]);
        drop(companion);
        let mut rest = String::new();
        io::Read::read_to_string(&mut stderr, &mut rest).unwrap();
        assert_eq!(rest, "bye\n");
    }

    #[test]
    fn what_a_failed_one_said_is_told() {
        let (mut companion, mut stderr) = run("echo sorry >&2; exit 3");
        assert_eq!(lines_until(&mut stderr, "never"), Err("sorry".to_owned()));
        assert!(companion.ends_in_time(), "its keeper stays");
    }
}
