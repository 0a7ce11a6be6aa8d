//! How much held bodies may take: all of them together (`edge.max_buffered`), and those of one key.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::exchange::Refusal;
use crate::keys::KeyId;

/// One key's part of the whole is this share, and never less than one body.
const KEYS: usize = 4;

/// Who holds a body; `None` is whoever calls the admin service.
pub type Holder = Option<KeyId>;

/// What is held.
#[derive(Debug, Default)]
pub struct Budget {
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    /// Bytes.
    all: usize,
    of: HashMap<Holder, usize, foldhash::fast::RandomState>,
}

/// The bounds in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    pub all: usize,
    /// What one body may have at the most.
    pub body: usize,
}

/// What one request holds of it, given back on drop.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    holder: Holder,
    most: Most,
    bytes: usize,
}

impl Share {
    pub fn none(budget: &Arc<Budget>, holder: Holder, most: Most) -> Share {
        Share {
            budget: Arc::clone(budget),
            holder,
            most,
            bytes: 0,
        }
    }

    /// Grows to `bytes` in all.
    ///
    /// # Errors
    /// The budget, or the key's part of it, does not bear that; nothing has changed then.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Refusal> {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        let used = &mut *self.budget.used.lock();
        let all = used.all.saturating_add(more);
        if all > self.most.all {
            return Err(Refusal::Overloaded);
        }
        let part = (self.most.all / KEYS).max(self.most.body);
        let before = used.of.get(&self.holder).copied().unwrap_or(0);
        let own = before.saturating_add(more);
        if own > part {
            return Err(Refusal::KeyOverloaded);
        }
        used.all = all;
        used.of.insert(self.holder, own);
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let used = &mut *self.budget.used.lock();
        used.all = used.all.saturating_sub(self.bytes);
        if let Entry::Occupied(mut own) = used.of.entry(self.holder) {
            let left = own.get().saturating_sub(self.bytes);
            if left == 0 {
                own.remove();
            } else {
                own.insert(left);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const MOST: Most = Most { all: 100, body: 20 };

    fn share(budget: &Arc<Budget>, key: u128) -> Share {
        Share::none(budget, Some(KeyId(Uuid::from_u128(key))), MOST)
    }

    #[test]
    fn one_key_gets_a_quarter_and_all_get_the_whole() {
        let budget = Arc::new(Budget::default());
        let (mut first, mut second) = (share(&budget, 1), share(&budget, 1));
        assert!(first.grow_to(20).is_ok() && second.grow_to(5).is_ok());
        assert!(matches!(second.grow_to(6), Err(Refusal::KeyOverloaded)));
        let mut others: Vec<Share> = (2..5).map(|key| share(&budget, key)).collect();
        assert!(others.iter_mut().all(|other| other.grow_to(25).is_ok()));
        let mut last = share(&budget, 5);
        assert!(matches!(last.grow_to(1), Err(Refusal::Overloaded)));
        drop(first);
        assert!(second.grow_to(25).is_ok());
        drop((second, others));
        let used = budget.used.lock();
        assert_eq!((used.all, used.of.len()), (0, 0));
    }

    #[test]
    fn one_key_may_always_hold_one_body() {
        let budget = Arc::new(Budget::default());
        let most = Most { all: 30, body: 30 };
        let mut share = Share::none(&budget, None, most);
        assert!(share.grow_to(30).is_ok());
    }
}
