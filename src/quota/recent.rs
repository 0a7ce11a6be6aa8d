//! A memory of recent reservations, bounded in number and in age.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use super::reservation::ReservationId;

#[derive(Debug)]
pub(crate) struct Recent<V> {
    by_id: HashMap<ReservationId, V, RandomState>,
    order: VecDeque<(i64, ReservationId)>,
    most: usize,
    max_age_ms: i64,
}

impl<V> Recent<V> {
    pub fn new(most: usize, max_age_ms: i64) -> Self {
        Recent {
            by_id: HashMap::default(),
            order: VecDeque::new(),
            most,
            max_age_ms,
        }
    }

    pub fn contains(&self, id: &ReservationId) -> bool {
        self.by_id.contains_key(id)
    }

    pub fn get_mut(&mut self, id: &ReservationId) -> Option<&mut V> {
        self.by_id.get_mut(id)
    }

    /// Remembers `id`, and forgets the oldest two at most: the work of a call stays bounded.
    pub fn insert(&mut self, id: ReservationId, value: V, steady_ms: i64) {
        if self.by_id.insert(id, value).is_none() {
            self.order.push_back((steady_ms, id));
        }
        for _ in 0..2 {
            let Some(&(since, oldest)) = self.order.front() else {
                return;
            };
            let too_old = steady_ms.saturating_sub(since) > self.max_age_ms;
            if self.order.len() <= self.most && !too_old {
                return;
            }
            self.order.pop_front();
            self.by_id.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_by_number_and_by_age() {
        let id = |n| ReservationId(uuid::Uuid::from_u128(n));
        let mut recent = Recent::new(2, 100);
        recent.insert(id(1), (), 0);
        recent.insert(id(2), (), 1);
        recent.insert(id(3), (), 2);
        assert!(!recent.contains(&id(1)) && recent.contains(&id(2)));
        recent.insert(id(4), (), 200);
        assert!(!recent.contains(&id(3)) && recent.contains(&id(4)));
    }
}
