//! Full books: keys and their usage of 30 days up to now, brought in as a backup would be.

use std::collections::BTreeMap;

use quota_proxy::keys::KeyId;
use quota_proxy::store::{KeyActivity, Record, Rollup, Store, StoreResult, UsageEvent};
use quota_proxy::time::{DAY_MS, UnixMs};
use uuid::Uuid;

use crate::records::{event, key_record};

pub const DAYS: i64 = 30;

/// One event in so many is the hot key's.
const HOT: u64 = 100;
/// One event in so many failed.
const FAILED: u64 = 50;
const MODELS: [&str; 5] = ["gpt-x", "gpt-y", "claude-x", "claude-y", "gemini-x"];
const CODES: [&str; 3] = ["UPSTREAM_TIMEOUT", "QUOTA_EXCEEDED", "RATE_LIMITED"];

/// Records imported in one step.
const CHUNK: usize = 50_000;

#[derive(Clone, Copy)]
pub struct Books {
    pub events: u64,
    pub keys: u64,
}

/// The hot one is 0.
pub fn key(number: u64) -> KeyId {
    KeyId(Uuid::from_u128(0x4a11_0000 << 96 | u128::from(number)))
}

/// Spreads numbers evenly, always alike (SplitMix64).
pub fn spread(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Records on their way into a store.
struct Loader<'a> {
    store: &'a dyn Store,
    chunk: Vec<Record>,
}

impl Loader<'_> {
    async fn put(&mut self, record: Record) -> StoreResult<()> {
        self.chunk.push(record);
        if self.chunk.len() >= CHUNK {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> StoreResult<()> {
        self.store.import(std::mem::take(&mut self.chunk)).await
    }
}

/// The sums of one day.
#[derive(Default)]
struct Day {
    rollups: BTreeMap<(KeyId, &'static str), Rollup>,
    errors: BTreeMap<(KeyId, &'static str), i64>,
}

impl Books {
    pub async fn fill(&self, store: &dyn Store) -> StoreResult<()> {
        let mut loader = Loader {
            store,
            chunk: Vec::new(),
        };
        for number in 0..self.keys {
            let mut record = key_record(key(number).0);
            record.seq = i64::try_from(number + 1).expect("a number");
            record.version = 1;
            loader
                .put(Record::of_key(&record, KeyActivity::default()))
                .await?;
        }
        let begin = UnixMs::now().plus_ms(-DAYS * DAY_MS);
        let (mut day, mut sums) = (begin, Day::default());
        for number in 0..self.events {
            let at = u128::from(number) * (DAYS * DAY_MS) as u128 / u128::from(self.events);
            let at = begin.plus_ms(i64::try_from(at).expect("a time"));
            let (event, code) = self.event(number, at);
            if at.0 / DAY_MS != day.0 / DAY_MS {
                std::mem::take(&mut sums)
                    .put(&day.day(), &mut loader)
                    .await?;
                day = at;
            }
            sums.add(&event, code);
            let event = Box::new(event);
            loader.put(Record::Event { event }).await?;
        }
        sums.put(&day.day(), &mut loader).await?;
        loader.flush().await
    }

    fn event(&self, number: u64, at: UnixMs) -> (UsageEvent, Option<&'static str>) {
        let dice = spread(number);
        let owner = match dice % HOT {
            0 => 0,
            _ => 1 + (dice >> 8) % (self.keys - 1).max(1),
        };
        // A key asks for one model, the hot one for all.
        let model = if owner == 0 { dice >> 40 } else { owner };
        let code = (dice >> 32)
            .is_multiple_of(FAILED)
            .then(|| CODES[(dice >> 44) as usize % CODES.len()]);
        let id = Uuid::from_u128(u128::from(dice) << 64 | u128::from(number));
        let tokens = i64::try_from(dice % 5_000).expect("a number");
        let event = UsageEvent {
            requests: 1,
            total_tokens: tokens,
            total_cost_nano: tokens * 2_500,
            model: Some(MODELS[model as usize % MODELS.len()].to_owned()),
            is_error: code.is_some(),
            error_code: code.map(str::to_owned),
            metadata: None,
            ..event(id, key(owner), at)
        };
        (event, code)
    }
}

impl Day {
    fn add(&mut self, event: &UsageEvent, code: Option<&'static str>) {
        let model = MODELS
            .iter()
            .find(|model| event.model.as_deref() == Some(**model));
        let model = model.copied().unwrap_or_default();
        let rollup = self.rollups.entry((event.api_key_id, model));
        let rollup = rollup.or_insert_with(|| Rollup {
            day: String::new(),
            key: event.api_key_id,
            model: model.to_owned(),
            calls: 0,
            requests: 0,
            tokens: 0,
            prompt_tokens: 0,
            completion_tokens: 0,
            cost_nano: 0,
            errors: 0,
            response_time_ms: 0,
        });
        rollup.calls += 1;
        rollup.requests += event.requests;
        rollup.tokens += event.total_tokens;
        rollup.prompt_tokens += event.prompt_tokens;
        rollup.completion_tokens += event.completion_tokens;
        rollup.cost_nano += event.total_cost_nano;
        rollup.errors += i64::from(event.is_error);
        rollup.response_time_ms += event.response_time_ms;
        if let Some(code) = code {
            *self.errors.entry((event.api_key_id, code)).or_default() += 1;
        }
    }

    async fn put(self, day: &str, loader: &mut Loader<'_>) -> StoreResult<()> {
        for mut rollup in self.rollups.into_values() {
            rollup.day = day.to_owned();
            loader.put(Record::Rollup { rollup }).await?;
        }
        for ((key, code), errors) in self.errors {
            let (day, code) = (day.to_owned(), code.to_owned());
            let count = Record::ErrorCount {
                day,
                key,
                code,
                errors,
            };
            loader.put(count).await?;
        }
        Ok(())
    }
}
