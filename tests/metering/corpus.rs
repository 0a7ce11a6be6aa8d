//! Replays the fuzz corpora, and the golden traffic, through what the fuzzers check.

use std::path::PathBuf;

use crate::checks;

type Check = fn(&[u8]);

fn files(folder: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{} is empty", folder.display());
    found
}

fn replay(target: &str, check: Check) {
    for (path, data) in files(&format!("tests/fuzz/corpus/{target}")) {
        // Shown by the test harness only where a check fails.
        println!("{}", path.display());
        check(&data);
        for cut in 0..data.len().min(400) {
            check(&data[..cut]);
        }
    }
}

#[test]
fn sse_corpus() {
    replay("sse", checks::sse);
}

#[test]
fn usage_corpus() {
    replay("usage", checks::usage);
}

#[test]
fn request_corpus() {
    replay("request", checks::request);
}

#[test]
fn decode_corpus() {
    replay("decode", checks::decode);
}

#[test]
fn golden_traffic_holds_what_the_fuzzers_check() {
    for (path, data) in files("tests/golden") {
        println!("{}", path.display());
        checks::sse(&data);
        checks::usage(&data);
    }
}

/// A small deterministic generator (xorshift64*), so that a failing round can be run again.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        high as usize % below.max(1)
    }
}

/// What the formats are made of: mutations with these get further than random bytes.
const WORDS: [&str; 22] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ",",
    ":",
    "\\",
    "\\u",
    "\\ud83d",
    "\n",
    "\r",
    "\r\n\r\n",
    "data: ",
    "null",
    "-1",
    "1e9",
    "99999999999999999999",
    "\"usage\":{",
    "\"choices\":[]",
    "\"max_tokens\":",
    "[DONE]",
];

fn mutate(random: &mut Random, data: &mut Vec<u8>) {
    for _ in 0..=random.next(4) {
        let at = random.next(data.len() + 1);
        let to = (at + random.next(20)).min(data.len());
        match random.next(5) {
            0 => drop(data.drain(at..to)),
            1 => drop(data.splice(at..at, WORDS[random.next(WORDS.len())].bytes())),
            2 => drop(data.splice(at..to, WORDS[random.next(WORDS.len())].bytes())),
            3 => {
                let copy = data[at..to].to_vec();
                let into = random.next(data.len() + 1);
                data.splice(into..into, copy);
            }
            _ => {
                if let Some(byte) = data.get_mut(at) {
                    *byte = random.next(256) as u8;
                }
            }
        }
    }
}

/// Rounds for each target: `FUZZ_ROUNDS` for a soak; the seed of a failing round is `FUZZ_SEED`.
#[test]
fn mutations_of_the_corpus_hold_too() {
    let number = |name: &str, default| {
        let text = std::env::var(name).ok();
        text.map_or(default, |text| text.parse::<u64>().unwrap())
    };
    let first = number("FUZZ_SEED", 1);
    let targets: [(&str, Check); 4] = [
        ("sse", checks::sse),
        ("usage", checks::usage),
        ("request", checks::request),
        ("decode", checks::decode),
    ];
    for (target, check) in targets {
        let seeds = files(&format!("tests/fuzz/corpus/{target}"));
        for seed in first..first + number("FUZZ_ROUNDS", 500) {
            let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
            let mut data = seeds[random.next(seeds.len())].1.clone();
            mutate(&mut random, &mut data);
            println!("FUZZ_SEED={seed} of {target}: {}", data.escape_ascii());
            check(&data);
        }
    }
}
