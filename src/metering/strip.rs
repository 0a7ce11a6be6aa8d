//! Takes the extra usage chunk out of what the client receives, and nothing else.
//!
//! The bytes of an event that has begun and could still turn out to be that chunk are held; all
//! others leave at once. An event shows early what it is: its `choices` hold something or not.

use super::reader::Choices;

/// Most bytes held for one event: the chunk to take out is far smaller.
const HELD_BYTES: usize = 16 * 1024;

/// What leaves in place of one fed piece.
#[derive(Debug, Default)]
pub(super) struct Strip {
    /// Bytes of the open event from earlier pieces, not yet forwarded.
    held: Vec<u8>,
    /// Where the open event begins in this piece; 0 where it began earlier.
    start: usize,
    /// Some of the open event has left: it can no longer be taken out.
    passed: bool,
    /// A taken-out event ended in a CR at the end of the piece before: its LF goes too.
    swallow: bool,
    /// What leaves, and up to where in the piece it is decided. `None`: no difference so far.
    out: Vec<u8>,
    changed: bool,
    decided: usize,
}

impl Strip {
    /// A new piece begins.
    pub(super) fn begin(&mut self) {
        self.start = 0;
        self.decided = 0;
        self.out.clear();
        self.changed = !self.held.is_empty();
    }

    /// The first byte of the piece is an LF that belongs to the event before.
    pub(super) fn late_line_feed(&mut self) {
        self.start = 1;
        if self.swallow {
            self.changed = true;
            self.decided = 1;
        }
    }

    /// The open event ends at `at`; `unwanted`: it is the usage chunk.
    pub(super) fn event(&mut self, piece: &[u8], at: usize, unwanted: bool) {
        self.swallow = false;
        if unwanted && !self.passed {
            self.held_or_forwarded(piece, self.start, true);
            self.decided = at;
            self.changed = true;
            self.swallow = true;
        } else {
            self.release_held();
        }
        self.start = at;
        self.passed = false;
    }

    /// Forwards up to `to`; drops what is held where the open event is taken out.
    fn held_or_forwarded(&mut self, piece: &[u8], to: usize, drop_held: bool) {
        if drop_held {
            self.held.clear();
        }
        self.release_held();
        let part = piece.get(self.decided..to).unwrap_or_default();
        self.out.extend_from_slice(part);
        self.decided = to.max(self.decided);
    }

    fn release_held(&mut self) {
        self.out.append(&mut self.held);
    }

    /// The piece ends with an event open; `choices` is what has been seen of it. Returns what is to
    /// be forwarded instead of the piece, or `None` where it can leave as it is.
    pub(super) fn finish(&mut self, piece: &[u8], choices: Choices, end: bool) -> Option<Vec<u8>> {
        let open = piece.len() - self.start.min(piece.len());
        let undecided = choices != Choices::Filled && !end && !self.passed;
        if undecided && open > 0 && self.held.len() + open <= HELD_BYTES {
            let held = std::mem::take(&mut self.held);
            let started_here = held.is_empty() || self.start > 0;
            let upto = self.start.max(self.decided);
            if started_here {
                self.out.extend_from_slice(&held);
                self.held_or_forwarded(piece, upto, false);
                self.held = piece.get(upto..).unwrap_or_default().to_vec();
            } else {
                self.held = held;
                self.held.extend_from_slice(piece);
            }
            return Some(std::mem::take(&mut self.out));
        }
        if open > 0 {
            self.passed = true;
        }
        if !self.changed {
            return None;
        }
        self.held_or_forwarded(piece, piece.len(), false);
        Some(std::mem::take(&mut self.out))
    }
}
