//! Random steps for model tests.

use proptest::prelude::*;
use quota_proxy::quota::{Admission, Amounts, Limit, Period, Quotas, Rates};
use quota_proxy::time::DAY_MS;

use crate::soak::soak;

pub const BEGIN: i64 = 1_795_229_099_123;

/// One step. Reservations are named by how long ago they were asked for.
#[derive(Clone, Debug)]
pub enum Step {
    Reserve {
        key: usize,
        grouped: bool,
        input: i64,
        output: i64,
        admission: Admission,
    },
    Repeat {
        ago: usize,
    },
    Settle {
        ago: usize,
        tokens: i64,
    },
    AtLeast {
        ago: usize,
        tokens: i64,
    },
    Void {
        ago: usize,
    },
    TopUp {
        ago: usize,
        tokens: i64,
    },
    Renew {
        ago: usize,
    },
    Sweep,
    Advance {
        ms: i64,
    },
    Jump {
        ms: i64,
    },
    Limit {
        scope: usize,
        tokens: i64,
        usd: i64,
        period: Period,
    },
    Rates {
        key: usize,
        rates: Rates,
    },
    Reset {
        scope: usize,
    },
    Restart,
    Crash,
}

pub fn period() -> impl Strategy<Value = Period> {
    prop_oneof![
        Just(Period::Total),
        Just(Period::Daily),
        Just(Period::Weekly),
        Just(Period::Monthly)
    ]
}

pub fn admission() -> impl Strategy<Value = Admission> {
    prop_oneof![
        4 => Just(Admission::Clamp),
        1 => Just(Admission::Strict),
        1 => Just(Admission::Open)
    ]
}

pub fn step() -> impl Strategy<Value = Step> {
    let ago = || 0usize..12;
    prop_oneof![
        30 => (0..2usize, any::<bool>(), 0i64..60, 0i64..400, admission()).prop_map(
            |(key, grouped, input, output, admission)|
                Step::Reserve { key, grouped, input, output, admission }),
        2 => ago().prop_map(|ago| Step::Repeat { ago }),
        24 => (ago(), 0i64..500).prop_map(|(ago, tokens)| Step::Settle { ago, tokens }),
        3 => (ago(), 0i64..500).prop_map(|(ago, tokens)| Step::AtLeast { ago, tokens }),
        4 => ago().prop_map(|ago| Step::Void { ago }),
        4 => (ago(), 0i64..200).prop_map(|(ago, tokens)| Step::TopUp { ago, tokens }),
        3 => ago().prop_map(|ago| Step::Renew { ago }),
        6 => Just(Step::Sweep),
        8 => (0i64..40_000).prop_map(|ms| Step::Advance { ms }),
        1 => (0i64..2 * DAY_MS).prop_map(|ms| Step::Advance { ms }),
        1 => (-2 * DAY_MS..2 * DAY_MS).prop_map(|ms| Step::Jump { ms }),
        4 => (0..3usize, 0i64..5_000, 0i64..5_000, period()).prop_map(
            |(scope, tokens, usd, period)| Step::Limit { scope, tokens, usd, period }),
        2 => (0..2usize, 0i64..20, 0i64..2_000, 0i64..4).prop_map(
            |(key, requests_per_minute, tokens_per_minute, concurrency)|
                Step::Rates { key, rates: Rates {
                    requests_per_minute, tokens_per_minute, concurrency } }),
        1 => (0..3usize).prop_map(|scope| Step::Reset { scope }),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ]
}

pub fn quotas(tokens: i64, usd: i64, period: Period) -> Quotas {
    let limit = |limit| Limit { limit, period };
    Quotas {
        requests: limit(0),
        tokens: limit(tokens),
        usd: limit(usd),
    }
}

pub fn amounts(tokens: i64) -> Amounts {
    Amounts {
        requests: 1,
        tokens,
        nano_usd: tokens / 2,
    }
}

pub fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases: cases * soak(),
        failure_persistence: None,
        max_shrink_iters: 3_000,
        ..ProptestConfig::default()
    }
}
