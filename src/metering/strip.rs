//! Takes the extra usage chunk out of what the client receives, and nothing else.
//!
//! The bytes of an event that has begun and could still turn out to be that chunk are held; all
//! others leave at once. An event shows early what it is: its `choices` hold something or not. An
//! event that comes in one piece, as nearly all do, is never held.

use super::reader::Choices;

/// Most bytes held for one event: the chunk to take out is far smaller.
const HELD_BYTES: usize = 16 * 1024;

/// What leaves in place of one fed piece.
#[derive(Debug, Default)]
pub(super) struct Strip {
    /// Bytes of the open event from earlier pieces that have not left.
    held: Vec<u8>,
    /// Some of the open event has left: it can no longer be taken out.
    passed: bool,
    /// An event that was taken out ended in a CR, last in its piece: a following LF goes too.
    swallow: bool,
    /// Where in this piece the open event begins; 0 where it began earlier.
    start: usize,
    /// Up to where this piece has been copied to `out` or dropped.
    settled: usize,
    out: Vec<u8>,
    changed: bool,
}

/// What is known of the event that is open when a piece ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) choices: Choices,
    /// No more pieces come.
    pub(super) last: bool,
    /// It is the usage chunk, whole but for its blank line.
    pub(super) unwanted: bool,
}

impl Strip {
    /// A new piece begins.
    pub(super) fn begin(&mut self) {
        self.start = 0;
        self.settled = 0;
        self.changed = !self.held.is_empty();
    }

    /// The first byte of the piece is an LF that belongs to the event before.
    pub(super) fn late_line_feed(&mut self) {
        self.start = 1;
        if self.swallow {
            self.settled = 1;
            self.changed = true;
        }
    }

    /// The open event ends at `at`; `unwanted`: it is the usage chunk.
    pub(super) fn event(&mut self, piece: &[u8], at: usize, unwanted: bool) {
        self.swallow = unwanted && !self.passed;
        if self.swallow {
            self.take_out(piece);
            self.settled = at;
        } else {
            self.out.append(&mut self.held);
        }
        self.start = at;
        self.passed = false;
    }

    /// The piece ends. Returns what leaves in its place, or `None` where it leaves as it is.
    pub(super) fn finish(&mut self, piece: &[u8], open: Open) -> Option<Vec<u8>> {
        let tail = piece.get(self.start..).unwrap_or_default();
        let is_open = !tail.is_empty() || !self.held.is_empty();
        let fits = self.held.len() + tail.len() <= HELD_BYTES;
        if is_open && open.last && open.unwanted && !self.passed {
            self.take_out(piece);
        } else if is_open && !open.last && !self.passed && open.choices != Choices::Filled && fits {
            self.copy(piece, self.start);
            self.held.extend_from_slice(tail);
            self.changed = true;
        } else {
            self.passed |= is_open;
            self.out.append(&mut self.held);
            if self.changed {
                self.copy(piece, piece.len());
            }
        }
        self.changed.then(|| std::mem::take(&mut self.out))
    }

    fn take_out(&mut self, piece: &[u8]) {
        self.held.clear();
        self.copy(piece, self.start);
        self.changed = true;
    }

    fn copy(&mut self, piece: &[u8], to: usize) {
        let part = piece.get(self.settled..to).unwrap_or_default();
        self.out.extend_from_slice(part);
        self.settled = to.max(self.settled);
    }
}
