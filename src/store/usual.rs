//! What an answer usually takes: output tokens of the recent answers per key and model.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};

use foldhash::fast::RandomState;

use super::Settlement;
use crate::keys::KeyId;
use crate::quota::Charge;

/// Answers remembered per key and model, how many make a figure, and pairs per generation.
const REMEMBERED: usize = 256;
const ENOUGH: usize = 20;
const PAIRS: usize = 5_000;

/// Bounded in memory: two generations of pairs; one not seen for a whole generation is forgotten.
#[derive(Debug, Default)]
pub(super) struct UsualOutputs {
    /// Two pairs of one hash would share a figure: harmless, it is an estimate.
    hasher: RandomState,
    young: HashMap<u64, Answers, RandomState>,
    old: HashMap<u64, Answers, RandomState>,
}

#[derive(Debug, Default)]
struct Answers {
    outputs: Vec<u32>,
    next: usize,
    since_figured: u32,
    p95: Option<u32>,
}

/// The answer that a settlement tells of: its key, model and output tokens. `None` where the figures
/// are no measure of what an answer takes.
pub(super) fn answer_of(settlement: &Settlement) -> Option<(KeyId, &str, i64)> {
    let Settlement { charge, event, .. } = settlement;
    let plain = matches!(charge, Charge::Exact(_)) && !event.is_error && !event.estimated;
    let output = event.completion_tokens;
    let model = event.model.as_deref()?;
    (plain && output > 0).then_some((event.api_key_id, model, output))
}

impl UsualOutputs {
    /// Takes note of an answer of `output` tokens.
    pub fn record(&mut self, key: KeyId, model: &str, output: i64) {
        let pair = self.pair(key, model);
        if !self.young.contains_key(&pair) {
            if self.young.len() >= PAIRS {
                self.old = std::mem::take(&mut self.young);
            }
            let known = self.old.remove(&pair).unwrap_or_default();
            self.young.insert(pair, known);
        }
        if let Some(answers) = self.young.get_mut(&pair) {
            answers.record(u32::try_from(output.max(0)).unwrap_or(u32::MAX));
        }
    }

    /// Output tokens that 95 % of the recent answers stayed below; `None` where too few are known.
    pub fn p95(&self, key: KeyId, model: &str) -> Option<i64> {
        let pair = self.pair(key, model);
        let answers = self.young.get(&pair).or_else(|| self.old.get(&pair))?;
        answers.p95.map(i64::from)
    }

    fn pair(&self, key: KeyId, model: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        key.hash(&mut hasher);
        model.hash(&mut hasher);
        hasher.finish()
    }
}

impl Answers {
    fn record(&mut self, output: u32) {
        if self.outputs.len() < REMEMBERED {
            self.outputs.push(output);
        } else {
            self.outputs[self.next] = output;
            self.next = (self.next + 1) % REMEMBERED;
        }
        self.since_figured += 1;
        let due = self.p95.is_none() || self.since_figured >= 16;
        if self.outputs.len() >= ENOUGH && due {
            self.since_figured = 0;
            let mut sorted = self.outputs.clone();
            let at = (sorted.len() * 95).div_ceil(100) - 1;
            let (_, p95, _) = sorted.select_nth_unstable(at);
            self.p95 = Some(*p95);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ninety_five_of_a_hundred_answers_stay_within() {
        let key = KeyId(uuid::Uuid::from_u128(1));
        let mut usual = UsualOutputs::default();
        for output in 1..20 {
            usual.record(key, "m", output);
        }
        assert_eq!(usual.p95(key, "m"), None);
        for output in 20..=116 {
            usual.record(key, "m", output);
        }
        let p95 = usual.p95(key, "m").unwrap();
        assert!((105..=116).contains(&p95), "{p95}");
        assert_eq!(usual.p95(key, "other"), None);
    }

    #[test]
    fn pairs_are_bounded() {
        let mut usual = UsualOutputs::default();
        for n in 0..3 * PAIRS as u128 {
            usual.record(KeyId(uuid::Uuid::from_u128(n)), "m", 1);
        }
        assert!(usual.young.len() + usual.old.len() <= 2 * PAIRS);
    }
}
