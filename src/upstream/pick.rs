//! Which peer of a pool is next. Pure: the pool hands in its cursor and what health says.

use crate::config::Balance;

/// What a pick needs to know of one peer.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    pub weight: u32,
    pub running: i64,
    /// Tried already for this exchange.
    pub tried: bool,
    pub cooling: bool,
}

/// The index of the peer to try next; `None` when every one was tried. A peer that cools down is
/// taken only when no other is left: a doubtful peer is better than a sure refusal.
pub fn pick(balance: Balance, candidates: &[Candidate], turn: u64, key_hash: u64) -> Option<usize> {
    let fit = |c: &Candidate| !c.tried && !c.cooling;
    choose(balance, candidates, turn, key_hash, fit)
        .or_else(|| choose(balance, candidates, turn, key_hash, |c| !c.tried))
}

fn choose(
    balance: Balance,
    candidates: &[Candidate],
    turn: u64,
    key_hash: u64,
    fit: impl Fn(&Candidate) -> bool,
) -> Option<usize> {
    let fitting = || candidates.iter().enumerate().filter(|(_, c)| fit(c));
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
        Balance::ConsistentHash => nth(key_hash),
        Balance::Fallback => nth(0),
        Balance::LeastConnections => fitting().min_by_key(|(_, c)| c.running).map(|(i, _)| i),
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
        weights
            .iter()
            .map(|&weight| Candidate {
                weight,
                running: 0,
                tried: false,
                cooling: false,
            })
            .collect()
    }

    #[test]
    fn round_robin_takes_turns() {
        let peers = peers(&[1, 1, 1]);
        let taken: Vec<_> = (0..4)
            .filter_map(|turn| pick(Balance::RoundRobin, &peers, turn, 0))
            .collect();
        assert_eq!(taken, [0, 1, 2, 0]);
    }

    #[test]
    fn weighted_keeps_the_proportion() {
        let peers = peers(&[3, 1]);
        let first = (0..10_000)
            .filter(|&turn| pick(Balance::Weighted, &peers, turn, 0) == Some(0))
            .count();
        assert!((7_300..7_700).contains(&first), "{first}");
    }

    #[test]
    fn a_tried_peer_is_not_taken_again_and_a_cooling_one_only_at_the_last() {
        let mut peers = peers(&[1, 1, 1]);
        peers[0].tried = true;
        peers[1].cooling = true;
        assert!((0..9).all(|turn| pick(Balance::RoundRobin, &peers, turn, 0) == Some(2)));
        peers[2].tried = true;
        assert_eq!(pick(Balance::RoundRobin, &peers, 5, 0), Some(1));
        peers[1].tried = true;
        assert_eq!(pick(Balance::Fallback, &peers, 0, 0), None);
    }
}
