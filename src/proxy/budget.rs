//! How much all held bodies together may take (`edge.max_buffered`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bound on the bytes of all held bodies together.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
}

/// Part of the budget, given back on drop.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub fn new() -> Arc<Self> {
        Arc::new(Budget {
            used: AtomicUsize::new(0),
        })
    }
}

impl Share {
    pub fn none(budget: &Arc<Budget>) -> Share {
        Share {
            budget: Arc::clone(budget),
            bytes: 0,
        }
    }

    /// Grows to `bytes` in all; false, and unchanged, where the budget does not bear it.
    pub fn grow_to(&mut self, bytes: usize, limit: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return true;
        }
        let before = self.budget.used.fetch_add(more, Ordering::Relaxed);
        if before + more > limit {
            self.budget.used.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_given_back() {
        let budget = Budget::new();
        let mut share = Share::none(&budget);
        assert!(share.grow_to(60, 100));
        let mut other = Share::none(&budget);
        assert!(!other.grow_to(50, 100));
        assert!(other.grow_to(40, 100));
        drop(share);
        assert_eq!(budget.used.load(Ordering::Relaxed), 40);
    }
}
