//! Medians over the rounds, as a table with ratios.

use std::fmt;

use crate::children::Used;
use crate::load::Outcomes;
use crate::{BARE, DIRECT, NAMES, QUOTA};

/// What one target showed, one value for each round.
#[derive(Debug, Default)]
pub struct Series {
    pub rate: Vec<f64>,
    pub busy: Vec<f64>,
    pub cpu: Vec<f64>,
    pub p50: Vec<f64>,
    pub p99: Vec<f64>,
    pub failures: u64,
}

impl Series {
    pub fn add(&mut self, full: &Outcomes, used: &Used, paced: &Outcomes) {
        let answered = full.latencies.len() as f64;
        self.rate.push(answered / full.elapsed.as_secs_f64());
        let cpu = used.cpu.as_secs_f64();
        self.busy.push(100.0 * cpu / used.elapsed.as_secs_f64());
        self.cpu.push(1e6 * cpu / answered.max(1.0));
        let mut latencies = paced.latencies.clone();
        latencies.sort_unstable();
        self.p50.push(percentile(&latencies, 50));
        self.p99.push(percentile(&latencies, 99));
        self.failures += full.failures + paced.failures;
    }
}

/// A table of one kind of request: one column for each target, then the ratio of the two proxies.
#[derive(Debug)]
pub struct Table {
    title: String,
    rows: Vec<(String, Vec<String>)>,
}

impl Table {
    pub fn new(title: &str) -> Self {
        Table {
            title: title.to_owned(),
            rows: Vec::new(),
        }
    }

    /// The median of a value, with the spread between the lowest and the highest round.
    pub fn add(
        &mut self,
        name: &str,
        series: &[Series; 3],
        value: impl Fn(&Series) -> &Vec<f64>,
        digits: usize,
    ) {
        let values: Vec<&Vec<f64>> = series.iter().map(value).collect();
        let cell = |values: &&Vec<f64>| {
            let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
            let highest = values.iter().copied().fold(0.0, f64::max);
            let middle = median(values);
            format!("{middle:.digits$} ({lowest:.digits$}–{highest:.digits$})")
        };
        let mut cells: Vec<String> = values.iter().map(cell).collect();
        cells.push(ratio(median(values[QUOTA]), median(values[BARE])));
        self.rows.push((name.to_owned(), cells));
    }

    /// The median over the rounds of what a proxy adds to going without one.
    pub fn difference(
        &mut self,
        name: &str,
        series: &[Series; 3],
        value: impl Fn(&Series) -> &Vec<f64>,
    ) {
        let values: Vec<&Vec<f64>> = series.iter().map(value).collect();
        let added = |at: usize| {
            let pairs = values[at].iter().zip(values[DIRECT]);
            median(
                &pairs
                    .map(|(with, without)| with - without)
                    .collect::<Vec<_>>(),
            )
        };
        let (bare, quota) = (added(BARE), added(QUOTA));
        let cells = vec![
            "–".to_owned(),
            format!("{bare:.0}"),
            format!("{quota:.0}"),
            ratio(quota, bare),
        ];
        self.rows.push((name.to_owned(), cells));
    }

    pub fn row(&mut self, name: &str, values: [f64; 3]) {
        let mut cells: Vec<String> = values.iter().map(|v| format!("{v:.1}")).collect();
        cells.push(ratio(values[QUOTA], values[BARE]));
        self.rows.push((name.to_owned(), cells));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [direct, bare, quota] = NAMES;
        writeln!(
            f,
            "\n| {} | {direct} | {bare} | {quota} | ratio |",
            self.title
        )?;
        writeln!(f, "|---|---|---|---|---|")?;
        for (name, cells) in &self.rows {
            writeln!(f, "| {name} | {} |", cells.join(" | "))?;
        }
        Ok(())
    }
}

fn ratio(of: f64, to: f64) -> String {
    if to > 0.0 {
        format!("{:.2}", of / to)
    } else {
        "–".to_owned()
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn percentile(sorted: &[u32], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().map_or(f64::NAN, f64::from)
}
