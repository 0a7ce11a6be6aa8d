//! `quota-proxy demo --redis` tells of two edges on one Redis: what it prints is read here, and done.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use crate::support::redis_server::{RedisServer, soon};

/// Longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running demo, and what it said.
struct Demo {
    child: Child,
    story: String,
    folder: tempfile::TempDir,
}

impl Demo {
    /// Every address is free, and the folder for scratch folders is the test's.
    fn start(wish: &[&str], redis_url: Option<&str>) -> Demo {
        let folder = tempfile::tempdir().unwrap();
        let mut command = command(folder.path(), wish, "127.0.0.1:0");
        command.envs(redis_url.map(|url| ("REDIS_URL", url)));
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (send, told) = mpsc::channel();
        std::thread::spawn(move || {
            let mut story = String::new();
            for line in out.lines().map_while(Result::ok) {
                story.push_str(&line);
                story.push('\n');
                if line.starts_with("Ctrl-C") {
                    break;
                }
            }
            send.send(story)
        });
        let story = told.recv_timeout(PATIENCE).unwrap_or_default();
        let demo = Demo {
            child,
            story,
            folder,
        };
        assert!(demo.story.contains("Ctrl-C"), "{}", demo.stderr());
        demo
    }

    fn stderr(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap()
    }

    /// The lines to copy, in their order.
    fn curls(&self) -> Vec<String> {
        let mut curls: Vec<String> = Vec::new();
        for line in self.story.lines() {
            if line.starts_with("  curl ") {
                curls.push(line.to_owned());
            } else if let Some(curl) = curls.last_mut().filter(|_| line.starts_with("    -d")) {
                *curl = format!("{curl}\n{line}");
            }
        }
        curls
    }

    /// What follows this word where the story tells of places.
    fn address(&self, place: &str) -> SocketAddr {
        let line = self.story.lines().find(|line| line.starts_with(place));
        let (_, url) = line.unwrap().split_once("://").unwrap();
        url.split(['/', ' ', ',']).next().unwrap().parse().unwrap()
    }

    fn end(&mut self, signal: &str) -> ExitStatus {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.unwrap().success());
        let mut ended = || self.child.try_wait().unwrap().ok_or("it runs");
        soon("the demo ends", &mut ended)
    }

    fn scratch_folders(&self) -> usize {
        let names = std::fs::read_dir(self.folder.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name());
        names
            .filter(|name| name.to_string_lossy().starts_with("quota-proxy-demo-"))
            .count()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().unwrap_or_default();
        self.child.wait().ok();
    }
}

fn command(folder: &Path, wish: &[&str], second: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quota-proxy"));
    command.args(["demo", "--redis"]).args(wish);
    command.args(["--edge", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.args(["--second-edge", second, "--second-admin", "127.0.0.1:0"]);
    command.env("TMPDIR", folder);
    for real in ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "REDIS_URL"] {
        command.env_remove(real);
    }
    let stderr = File::create(folder.join("stderr")).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(stderr);
    command
}

/// What a line of the story answers when it is pasted into a shell.
fn paste(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn answer(line: &str) -> Value {
    let answer = paste(line);
    serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{line}: {e}: {answer}"))
}

/// Tokens of one chat's answer.
fn tokens(line: &str) -> i64 {
    answer(line)["usage"]["total_tokens"].as_i64().unwrap()
}

fn gone(address: SocketAddr) {
    let listens = || match TcpStream::connect(address) {
        Ok(_) => Err(address),
        Err(_) => Ok(()),
    };
    soon("nobody listens any more", listens);
}

#[test]
fn what_it_prints_can_be_done_and_a_signal_ends_all_of_it() {
    let mut demo = Demo::start(&["new"], None);
    let curls = demo.curls();
    let [chat, stream, messages, usage, keys, second, rest @ ..] = &curls[..] else {
        panic!("{}", demo.story)
    };
    let [second_usage, disable, refused, enable] = rest else {
        panic!("{}", demo.story)
    };
    let used = |line: &str, tokens: i64| {
        // An answer may arrive before it is settled.
        soon("the books tell so", || {
            let told = answer(line)["token_used"].as_i64();
            if told == Some(tokens) {
                Ok(())
            } else {
                Err(told)
            }
        });
    };
    let first = tokens(chat);
    used(second_usage, first);
    used(usage, first + tokens(second));
    assert!(paste(stream).contains("[DONE]"));
    assert!(paste(messages).contains("\"content\""));
    assert!(paste(keys).contains("\"demo\""));
    paste(disable);
    assert!(paste(refused).contains("disabled"));
    paste(enable);
    assert!(paste(refused).contains("\"choices\""));

    let places = ["  edge ", "  edge 2", "  admin 2", "  books"];
    let places = places.map(|place| demo.address(place));
    let status = demo.end("TERM");
    assert!(status.success(), "{status}: {}", demo.stderr());
    for address in places {
        assert!(TcpStream::connect(address).is_err(), "{address} listens");
    }
    assert_eq!(demo.scratch_folders(), 0);
}

#[test]
fn nothing_outlives_a_killed_demo() {
    let mut demo = Demo::start(&["new"], None);
    let left = ["  edge 2", "  admin 2", "  books"].map(|place| demo.address(place));
    demo.end("KILL");
    left.into_iter().for_each(gone);
}

#[test]
fn a_redis_that_is_there_is_used_and_its_password_is_not_shown() {
    let redis = RedisServer::start_acl("demo", "of-the-demo", &["~qp1:*", "+@all"]);
    let mut demo = Demo::start(&[], Some(&redis.url()));
    assert!(demo.story.contains("$REDIS_URL"), "{}", demo.story);
    let curls = demo.curls();
    assert!(paste(&curls[5]).contains("\"choices\""));
    assert!(redis.ask::<i64>(&["DBSIZE"]) > 0);
    let said = format!("{}{}", demo.story, demo.stderr());
    assert!(!said.contains("of-the-demo"), "{said}");
    demo.end("INT");
    assert!(redis.is_running(), "it is not the demo's to end");
}

#[test]
fn a_taken_port_of_the_second_edge_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let second = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let status = command(folder.path(), &["new"], &second).status().unwrap();
    let said = std::fs::read_to_string(folder.path().join("stderr")).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains(&second) && said.contains("--second-edge"),
        "{said}"
    );
}
