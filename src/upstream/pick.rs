//! Which peer of a pool is next. Pure: the pool hands in its cursor and what health says.

use super::health::Fitness;
use crate::config::Balance;

/// What a pick needs to know of one peer.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// The peer's own, whatever its place in the pool and its credential.
    pub seat: u64,
    pub weight: u32,
    pub running: i64,
    /// Tried already for this exchange, or it takes none.
    pub is_out: bool,
    pub fitness: Fitness,
}

impl Candidate {
    /// Whether it is still to be tried, and no worse than that.
    pub fn fits(&self, worst: Fitness) -> bool {
        !self.is_out && self.fitness <= worst
    }
}

/// The index of the peer to try next, none that is worse than `worst`; `None` where there is none.
pub fn pick(
    balance: Balance,
    candidates: &[Candidate],
    turn: u64,
    key_hash: u64,
    worst: Fitness,
) -> Option<usize> {
    let fitting = || candidates.iter().enumerate().filter(|(_, c)| c.fits(worst));
    let count = fitting().count() as u64;
    if count == 0 {
        return None;
    }
    let nth = |n: u64| {
        fitting()
            .nth(usize::try_from(n % count).unwrap_or(0))
            .map(|(i, _)| i)
    };
    match balance {
        Balance::RoundRobin => nth(turn),
        Balance::ConsistentHash => {
            let scored = fitting().map(|(i, c)| (i, rendezvous(key_hash, c)));
            scored.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
        }
        Balance::Fallback => nth(0),
        Balance::LeastConnections => {
            // The share of its weight that a peer is busy with, and turns among equals.
            let start = usize::try_from(turn % candidates.len().max(1) as u64).unwrap_or(0);
            let place = |i: usize| (i + candidates.len() - start) % candidates.len();
            let load = |c: &Candidate| (c.running + 1) as f64 / f64::from(c.weight.max(1));
            let least = fitting().min_by(|(i, a), (j, b)| {
                load(a).total_cmp(&load(b)).then(place(*i).cmp(&place(*j)))
            });
            least.map(|(i, _)| i)
        }
        Balance::Weighted => {
            let total: u64 = fitting().map(|(_, c)| u64::from(c.weight.max(1))).sum();
            let mut ticket = spread(turn) % total;
            for (index, candidate) in fitting() {
                let weight = u64::from(candidate.weight.max(1));
                if ticket < weight {
                    return Some(index);
                }
                ticket -= weight;
            }
            None
        }
    }
}

/// How much a key is drawn to a peer: the greatest wins, so that a peer that leaves takes only its
/// own keys along (weighted rendezvous hashing, Schindelhauer and Schomaker 2005).
fn rendezvous(key_hash: u64, candidate: &Candidate) -> f64 {
    let mixed = spread(key_hash ^ spread(candidate.seat));
    let unit = ((mixed >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -f64::from(candidate.weight.max(1)) / unit.ln()
}

/// Spreads consecutive turns over the whole range, so that weights do not come in bursts
/// (the finalizer of SplitMix64).
fn spread(turn: u64) -> u64 {
    let mut z = turn.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(weights: &[u32]) -> Vec<Candidate> {
        (0..)
            .zip(weights)
            .map(|(seat, &weight)| Candidate {
                seat,
                weight,
                running: 0,
                is_out: false,
                fitness: Fitness::Fit,
            })
            .collect()
    }

    /// From the best downwards, as one pool alone is asked.
    fn next(balance: Balance, peers: &[Candidate], turn: u64) -> Option<usize> {
        let worst = Fitness::GROUPS.into_iter();
        let mut found = worst.map(|worst| pick(balance, peers, turn, 0, worst));
        found.find_map(|index| index)
    }

    #[test]
    fn round_robin_takes_turns() {
        let peers = peers(&[1, 1, 1]);
        let taken: Vec<_> = (0..4)
            .filter_map(|turn| next(Balance::RoundRobin, &peers, turn))
            .collect();
        assert_eq!(taken, [0, 1, 2, 0]);
    }

    #[test]
    fn weighted_keeps_the_proportion() {
        let peers = peers(&[3, 1]);
        let first = (0..10_000)
            .filter(|&turn| next(Balance::Weighted, &peers, turn) == Some(0))
            .count();
        assert!((7_300..7_700).contains(&first), "{first}");
    }

    #[test]
    fn a_tried_peer_is_not_taken_again_and_a_resting_one_only_at_the_last() {
        let mut peers = peers(&[1, 1, 1]);
        peers[0].is_out = true;
        peers[1].fitness = Fitness::Resting;
        assert!((0..9).all(|turn| next(Balance::RoundRobin, &peers, turn) == Some(2)));
        peers[2].is_out = true;
        assert_eq!(
            pick(Balance::RoundRobin, &peers, 5, 0, Fitness::Tight),
            None
        );
        assert_eq!(next(Balance::RoundRobin, &peers, 5), Some(1));
        peers[1].is_out = true;
        assert_eq!(next(Balance::Fallback, &peers, 0), None);
    }

    #[test]
    fn a_peer_without_room_is_left_for_one_that_has_some() {
        let mut peers = peers(&[1, 1]);
        peers[0].fitness = Fitness::Tight;
        assert_eq!(next(Balance::Fallback, &peers, 0), Some(1));
        peers[1].fitness = Fitness::Resting;
        assert_eq!(next(Balance::Fallback, &peers, 0), Some(0));
    }

    #[test]
    fn a_peer_that_leaves_takes_only_its_own_keys_along() {
        let all = peers(&[1, 1, 1, 1]);
        let mut resting = all.clone();
        resting[2].fitness = Fitness::Resting;
        let mut removed = all.clone();
        removed.remove(2);
        let of = |peers: &[Candidate], key| {
            let at = pick(Balance::ConsistentHash, peers, 0, key, Fitness::Fit).unwrap();
            peers[at].seat
        };
        let mut counts = [0; 4];
        for key in 0..4_000 {
            let home = of(&all, key);
            counts[usize::try_from(home).unwrap()] += 1;
            if home != 2 {
                assert_eq!(of(&resting, key), home, "key {key}");
                assert_eq!(of(&removed, key), home, "key {key}");
            }
        }
        assert!(
            counts.iter().all(|n| (800..1_200).contains(n)),
            "{counts:?}"
        );
    }

    #[test]
    fn the_least_busy_is_taken_and_equals_take_turns() {
        let mut peers = peers(&[1, 1, 1]);
        let taken: Vec<_> = (0..3)
            .filter_map(|turn| next(Balance::LeastConnections, &peers, turn))
            .collect();
        assert_eq!(taken, [0, 1, 2]);
        peers[0].running = 3;
        peers[1].running = 1;
        assert_eq!(next(Balance::LeastConnections, &peers, 0), Some(2));
    }
}
