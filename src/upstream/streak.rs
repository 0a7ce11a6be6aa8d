//! How many health checks in a row it takes.

/// What checks have to show before it counts, and what they have shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Streak {
    rise: u32,
    fall: u32,
    /// Verdicts in a row against what holds now.
    against: u32,
}

impl Streak {
    /// `fall` failed checks in a row take a peer out, `rise` that pass bring it back.
    pub fn wants(&mut self, rise: u32, fall: u32) {
        (self.rise, self.fall) = (rise, fall);
    }

    /// Whether this verdict turns what holds.
    pub fn turns(&mut self, passed: bool, is_down: bool) -> bool {
        if passed != is_down {
            self.against = 0;
            return false;
        }
        self.against = self.against.saturating_add(1);
        let turns = self.against >= if passed { self.rise } else { self.fall };
        if turns {
            self.against = 0;
        }
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_in_a_row_turn_it() {
        let mut streak = Streak::default();
        streak.wants(2, 3);
        let mut is_down = false;
        let mut show = |verdicts: &[bool]| {
            for passed in verdicts {
                is_down ^= streak.turns(*passed, is_down);
            }
            is_down
        };
        assert!(!show(&[false, false, true, false, false]));
        assert!(show(&[false]));
        assert!(show(&[true, false, true]));
        assert!(!show(&[true]));
    }
}
