//! What traffic and checks have shown of a peer, and whether it should be asked next.
//!
//! ```text
//!          failures in a row             rest is over
//!   fit ──────────────────────▶ resting ─────────────▶ doubtful
//!    ▲                             ▲                    │   ▲ its probe ends without a verdict
//!    │                             │       one exchange ▼   │
//!    │                             └─── fails ─────── probed
//!    └──────────────── succeeds ────────────────────────┘
//! ```
//!
//! Beside that, and ended by nothing of it: a rest that the provider asked for (`Retry-After`) lasts
//! its time, and a peer whose health checks fail is out until they pass. All times are the steady
//! clock's: a wall clock that is set back makes no rest longer.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::failover::Need;
use super::room::{Room, Rooms};
use super::streak::Streak;

/// A probe that has no verdict after this time is forgotten: a stream may run for long.
const PROBE: Duration = Duration::from_secs(30);

/// Whether a peer should be asked next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fitness {
    Fit,
    /// Its rest after failures is over: one exchange may show whether it is well again.
    Doubtful,
    /// Its provider said that there is too little room for this request before its limit.
    Tight,
    /// It rests after failures or as it asked for, its probe is under way, or its checks fail.
    Resting,
}

impl Fitness {
    /// In which order peers are asked: none of a group before all pools have none left of the group
    /// before. A doubtful peer must be asked like a fit one, or it would never show that it is well.
    pub const GROUPS: [Fitness; 3] = [Fitness::Doubtful, Fitness::Tight, Fitness::Resting];
}

/// What is known of one peer.
#[derive(Debug, Default)]
pub struct Health {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// In a row.
    failures: u32,
    /// Rested because of failures: a probe comes before it is fit again.
    tripped: bool,
    /// Changes whenever it trips or is fit again: what began before says nothing of it now.
    era: u64,
    rests_until: Option<Instant>,
    /// Its provider asked for it.
    asked_until: Option<Instant>,
    probe_until: Option<Instant>,
    /// None while nobody checks it.
    checks: Option<Streak>,
    /// Its health checks fail.
    down: bool,
    running: i64,
    rooms: Rooms,
}

/// Of what time an attempt's verdict will tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Began {
    era: u64,
    is_probe: bool,
}

impl Health {
    /// An exchange begins, at a peer that was found to be `fitness`. `None` where that asks for a
    /// probe and another exchange was faster.
    pub(super) fn begin(&self, need: &Need, now: Instant, fitness: Fitness) -> Option<Began> {
        let mut state = self.state.lock();
        let is_probe = fitness == Fitness::Doubtful;
        if is_probe {
            if state.fitness(need, now) != Fitness::Doubtful {
                return None;
            }
            state.probe_until = Some(now + PROBE);
        }
        state.running += 1;
        state.rooms.begin(need, now);
        Some(Began {
            era: state.era,
            is_probe,
        })
    }

    /// It is over, with or without a verdict.
    pub(super) fn end(&self, began: Began) {
        let mut state = self.state.lock();
        state.running -= 1;
        if began.is_probe && began.era == state.era {
            state.probe_until = None;
        }
    }

    /// Books a failure; after `limit` of them in a row, or a failed probe, the peer rests for
    /// `cooldown`. True where it leaves the rotation by this.
    pub(super) fn failed(
        &self,
        began: Began,
        now: Instant,
        limit: u32,
        cooldown: Duration,
    ) -> bool {
        let mut state = self.state.lock();
        if began.era != state.era {
            return false;
        }
        state.failures = state.failures.saturating_add(1);
        if state.failures < limit.max(1) && !state.tripped {
            return false;
        }
        let was_out = state.tripped || state.down;
        state.tripped = true;
        state.era += 1;
        state.rests_until = state.rests_until.max(Some(now + cooldown));
        state.probe_until = None;
        !was_out
    }

    /// Books a success, which ends a rest after failures: that of an exchange which began since. True
    /// where the peer is back in the rotation by this.
    pub(super) fn succeeded(&self, began: Began) -> bool {
        let mut state = self.state.lock();
        if began.era != state.era {
            return false;
        }
        state.failures = 0;
        if !state.tripped {
            return false;
        }
        state.tripped = false;
        state.era += 1;
        state.rests_until = None;
        state.probe_until = None;
        !state.down
    }

    /// Rests until then, whatever its history: its provider asked for it. True where it did not rest
    /// for that already.
    pub fn asked_to_rest(&self, until: Instant, now: Instant) -> bool {
        let mut state = self.state.lock();
        let is_news = !is_ahead(state.asked_until, now) && until > now;
        state.asked_until = state.asked_until.max(Some(until));
        is_news
    }

    /// From now on it is checked: `fall` failed checks in a row take it out, `rise` that pass bring it
    /// back.
    pub fn is_checked(&self, rise: u32, fall: u32) {
        let mut state = self.state.lock();
        state.checks.get_or_insert_default().wants(rise, fall);
    }

    /// Nobody checks it any more: what checks found is forgotten, and so is what one under way will.
    pub fn is_unchecked(&self) {
        let mut state = self.state.lock();
        state.checks = None;
        state.down = false;
    }

    /// What a health check found. It says nothing of failures that traffic has shown: those take a
    /// probe. True where the peer leaves the rotation or is back in it by this.
    pub fn checked(&self, passed: bool) -> bool {
        let mut state = self.state.lock();
        let is_down = state.down;
        let turns = |streak: &mut Streak| streak.turns(passed, is_down);
        if !state.checks.as_mut().is_some_and(turns) {
            return false;
        }
        state.down = !passed;
        !state.tripped
    }

    /// What the provider said of its own rate limits, in an answer to `need`; `anew` where it is this
    /// exchange's first word on them, which has the exchange itself in its figures.
    pub(super) fn has_room(&self, need: &Need, room: &Room, anew: bool, now: Instant) {
        self.state.lock().rooms.told(need, room, anew, now);
    }

    /// The answer to `need` said nothing of it, or there was none.
    pub(super) fn heard_nothing(&self, need: &Need) {
        self.state.lock().rooms.used(need);
    }

    /// How fit it is for this request.
    pub fn fitness(&self, need: &Need, now: Instant) -> Fitness {
        self.state.lock().fitness(need, now)
    }

    pub fn is_down(&self) -> bool {
        self.state.lock().down
    }

    /// How long it rests still, where it does now.
    pub fn rests_for(&self, now: Instant) -> Option<Duration> {
        let state = self.state.lock();
        let until = state.rests_until.max(state.asked_until)?;
        until
            .checked_duration_since(now)
            .filter(|left| !left.is_zero())
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.state.lock().failures
    }

    /// Exchanges that this peer serves now.
    pub fn running(&self) -> i64 {
        self.state.lock().running
    }
}

impl State {
    fn fitness(&self, need: &Need, now: Instant) -> Fitness {
        let rests = is_ahead(self.rests_until.max(self.asked_until), now);
        if self.down || rests || (self.tripped && is_ahead(self.probe_until, now)) {
            Fitness::Resting
        } else if self.tripped {
            Fitness::Doubtful
        } else if self.rooms.is_tight(need, now) {
            Fitness::Tight
        } else {
            Fitness::Fit
        }
    }
}

fn is_ahead(until: Option<Instant>, now: Instant) -> bool {
    until.is_some_and(|until| until > now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::LazyLock;

    const NEED: Need = Need::NOTHING;
    const SECOND: Duration = Duration::from_secs(1);
    const PROBE_MS: u64 = 30_000;

    fn ms(at: u64) -> Instant {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        *START + Duration::from_millis(at)
    }

    fn fitness(health: &Health, at: u64) -> Fitness {
        health.fitness(&NEED, ms(at))
    }

    fn begin(health: &Health, at: u64) -> Began {
        let fitness = fitness(health, at);
        health.begin(&NEED, ms(at), fitness).unwrap()
    }

    fn fail(health: &Health, at: u64, limit: u32) -> bool {
        let began = begin(health, at);
        let left = health.failed(began, ms(at), limit, SECOND);
        health.end(began);
        left
    }

    /// One whose checks count at once.
    fn checked() -> Health {
        let health = Health::default();
        health.is_checked(1, 1);
        health
    }

    #[test]
    fn rests_after_failures_in_a_row_and_one_probe_reopens_it() {
        let health = Health::default();
        fail(&health, 0, 2);
        assert_eq!(fitness(&health, 1), Fitness::Fit);
        fail(&health, 0, 2);
        assert_eq!(fitness(&health, 999), Fitness::Resting);
        assert_eq!(fitness(&health, 1_000), Fitness::Doubtful);
        let probe = begin(&health, 1_000);
        let second = health.begin(&NEED, ms(1_000), Fitness::Doubtful);
        assert_eq!(second, None);
        assert_eq!(fitness(&health, 1_001), Fitness::Resting);
        assert!(health.succeeded(probe));
        assert_eq!(fitness(&health, 1_002), Fitness::Fit);
        assert_eq!(health.running(), 1);
    }

    #[test]
    fn a_failed_probe_rests_again_at_once() {
        let health = Health::default();
        fail(&health, 0, 1);
        let probe = begin(&health, 1_000);
        assert!(!health.failed(probe, ms(1_600), 5, SECOND));
        assert_eq!(fitness(&health, 2_599), Fitness::Resting);
        assert_eq!(fitness(&health, 2_600), Fitness::Doubtful);
    }

    #[test]
    fn a_probe_without_a_verdict_is_given_back_or_forgotten() {
        let health = Health::default();
        fail(&health, 0, 1);
        let probe = begin(&health, 1_000);
        health.end(probe);
        assert_eq!(fitness(&health, 1_001), Fitness::Doubtful);
        begin(&health, 1_001);
        assert_eq!(fitness(&health, 1_000 + PROBE_MS), Fitness::Resting);
        assert_eq!(fitness(&health, 1_001 + PROBE_MS), Fitness::Doubtful);
    }

    #[test]
    fn what_began_before_a_trip_neither_reopens_nor_rests_it_longer() {
        let health = Health::default();
        let early = begin(&health, 0);
        let other = begin(&health, 0);
        fail(&health, 10, 1);
        assert!(!health.succeeded(early));
        assert!(!health.failed(other, ms(900), 1, SECOND));
        assert_eq!(fitness(&health, 1_009), Fitness::Resting);
        assert_eq!(fitness(&health, 1_010), Fitness::Doubtful);
        assert_eq!(health.failures(), 1);
    }

    #[test]
    fn a_rest_that_was_asked_for_is_ended_by_time_alone() {
        let health = Health::default();
        let running = begin(&health, 0);
        assert!(health.asked_to_rest(ms(500), ms(0)));
        assert!(!health.asked_to_rest(ms(400), ms(1)));
        assert!(!health.succeeded(running));
        assert!(!health.checked(true));
        assert_eq!(fitness(&health, 499), Fitness::Resting);
        assert_eq!(health.rests_for(ms(499)), Some(Duration::from_millis(1)));
        assert_eq!(health.rests_for(ms(500)), None);
        assert_eq!(fitness(&health, 500), Fitness::Fit);
    }

    #[test]
    fn a_failing_check_takes_it_out_until_one_passes() {
        let health = checked();
        assert!(!health.checked(true));
        assert!(health.checked(false));
        assert!(!health.checked(false));
        assert_eq!(fitness(&health, 0), Fitness::Resting);
        assert!(health.checked(true));
        assert_eq!(fitness(&health, 0), Fitness::Fit);
    }

    /// A check was under way when a reload ended checking: nothing would ever bring the peer back.
    #[test]
    fn a_verdict_after_the_last_check_is_none() {
        let health = checked();
        health.is_unchecked();
        assert!(!health.checked(false));
        assert_eq!(fitness(&health, 0), Fitness::Fit);
    }

    #[test]
    fn a_passing_check_says_nothing_of_what_traffic_has_shown() {
        let health = checked();
        fail(&health, 0, 2);
        health.checked(true);
        assert_eq!(health.failures(), 1);
        fail(&health, 0, 2);
        assert!(!health.checked(true));
        assert_eq!(fitness(&health, 1), Fitness::Resting);
        assert_eq!(fitness(&health, 1_000), Fitness::Doubtful);
    }

    #[test]
    fn what_is_news_is_told_once() {
        let health = checked();
        assert!(!fail(&health, 0, 2));
        assert!(fail(&health, 0, 2));
        assert!(!fail(&health, 0, 2));
        assert!(!health.checked(false), "it is out already");
        let probe = begin(&health, 2_000);
        assert!(!health.succeeded(probe), "its checks still fail");
        assert!(health.checked(true));
        let later = begin(&health, 2_000);
        assert!(!health.succeeded(later));
        assert!(fail(&health, 2_000, 1));
    }
}
