//! Figures as the scripts read and write them: 8 bytes each, big-endian.

use crate::quota::bucket::Bucket;
use crate::quota::counters::{Count, Counters};
use crate::quota::{Amounts, Charge, Period, ScopeClaim};
use crate::store::{KeyActivity, StoreError, StoreResult};
use crate::time::{Moment, UnixMs};

/// Packs figures for a script's first argument.
#[derive(Debug, Default)]
pub(super) struct Packer(Vec<u8>);

impl Packer {
    pub fn put(&mut self, figure: i64) -> &mut Self {
        self.0.extend_from_slice(&figure.to_be_bytes());
        self
    }

    pub fn put_all(&mut self, figures: impl IntoIterator<Item = i64>) -> &mut Self {
        for figure in figures {
            self.put(figure);
        }
        self
    }

    /// The server's clock is used where there is none.
    pub fn clock(&mut self, now: Option<Moment>) -> &mut Self {
        let (wall, steady) = clock_figures(now);
        self.put(wall).put(steady)
    }

    /// Limits as a step needs them; `version` is compared where it is given.
    pub fn claim(&mut self, claim: &ScopeClaim, version: Option<i64>) -> &mut Self {
        let quotas = claim.quotas.to_array();
        self.put(version.unwrap_or(-1))
            .put_all(quotas.map(|quota| quota.limit.min(crate::quota::amount::MAX_AMOUNT)))
            .put_all(quotas.map(|quota| period_figure(quota.period)))
            .put(claim.rates.requests_per_minute)
            .put(claim.rates.tokens_per_minute)
            .put(claim.rates.concurrency)
    }

    pub fn charge(&mut self, charge: Charge) -> &mut Self {
        let (kind, amounts) = match charge {
            Charge::Exact(amounts) => (0, amounts),
            Charge::AtLeast(amounts) => (1, amounts),
            Charge::Void => (2, Amounts::ZERO),
        };
        self.put(kind).put_all(amounts.clamped().to_array())
    }

    pub fn done(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

/// Wall and steady time for a script; below 0: the server's own.
pub(super) fn clock_figures(now: Option<Moment>) -> (i64, i64) {
    now.map_or((-1, -1), |now| (now.wall.0, now.steady_ms))
}

/// Reads figures off a script's answer or a stored string.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures<'a>(pub &'a [u8]);

impl<'a> Figures<'a> {
    pub fn next(&mut self) -> StoreResult<i64> {
        let Some((head, rest)) = self.0.split_first_chunk::<8>() else {
            return Err(StoreError::Fault(String::from(
                "Redis holds or answers fewer figures than were expected",
            )));
        };
        self.0 = rest;
        Ok(i64::from_be_bytes(*head))
    }

    pub fn take<const N: usize>(&mut self) -> StoreResult<[i64; N]> {
        let mut figures = [0; N];
        for figure in &mut figures {
            *figure = self.next()?;
        }
        Ok(figures)
    }

    pub fn amounts(&mut self) -> StoreResult<Amounts> {
        self.take().map(Amounts::from_array)
    }
}

/// A scope's counters as stored, and what stands beside them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stored {
    pub version: i64,
    pub counters: Counters,
    pub activity: KeyActivity,
    /// Events booked: the order of those of one millisecond.
    pub events: i64,
}

impl Stored {
    /// What a scope begins with.
    pub fn fresh(version: i64) -> Stored {
        Stored {
            version,
            ..Stored::default()
        }
    }

    pub fn read(figures: &mut Figures<'_>) -> StoreResult<Stored> {
        let version = figures.next()?;
        let mut counters = Counters::default();
        for count in &mut counters.counts {
            *count = read_count(figures)?;
        }
        counters.running = figures.next()?;
        counters.requests_bucket = read_bucket(figures)?;
        counters.tokens_bucket = read_bucket(figures)?;
        let [request_count, error_count, last_used, events] = figures.take()?;
        Ok(Stored {
            version,
            counters,
            activity: KeyActivity {
                request_count,
                error_count,
                last_used_at: (last_used > 0).then_some(UnixMs(last_used)),
            },
            events,
        })
    }

    pub fn packed(&self) -> Vec<u8> {
        let mut packer = Packer::default();
        packer.put(self.version);
        for count in &self.counters.counts {
            packer.put_all([
                count.used,
                count.held,
                count.booked,
                period_figure(count.window.period),
                count.window.start,
                count.window.end.unwrap_or(-1),
                count.number,
            ]);
        }
        packer.put(self.counters.running);
        for bucket in [self.counters.requests_bucket, self.counters.tokens_bucket] {
            packer
                .put_all(bucket.map_or([0; 3], |b| [b.level_parts(), b.limit(), b.filled_at_ms()]));
        }
        let activity = &self.activity;
        packer.put_all([
            activity.request_count,
            activity.error_count,
            activity.last_used_at.map_or(0, |at| at.0),
            self.events,
        ]);
        packer.done()
    }
}

fn read_count(figures: &mut Figures<'_>) -> StoreResult<Count> {
    let [used, held, booked, period, start, end, number] = figures.take()?;
    let mut count = Count {
        used,
        held,
        booked,
        number,
        ..Count::default()
    };
    count.window.period = period_of(period)?;
    count.window.start = start;
    count.window.end = (end >= 0).then_some(end);
    Ok(count)
}

fn read_bucket(figures: &mut Figures<'_>) -> StoreResult<Option<Bucket>> {
    let [level, limit, filled_at_ms] = figures.take()?;
    Ok((limit > 0).then(|| Bucket::with_parts(limit, level, filled_at_ms)))
}

pub(super) fn period_figure(period: Period) -> i64 {
    match period {
        Period::Total => 0,
        Period::Daily => 1,
        Period::Weekly => 2,
        Period::Monthly => 3,
    }
}

fn period_of(figure: i64) -> StoreResult<Period> {
    [
        Period::Total,
        Period::Daily,
        Period::Weekly,
        Period::Monthly,
    ]
    .into_iter()
    .find(|period| period_figure(*period) == figure)
    .ok_or_else(|| StoreError::Fault(format!("Redis holds the unknown period {figure}")))
}
