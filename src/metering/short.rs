//! A few bytes kept in place, without an allocation.

/// A few bytes kept in place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Short<const N: usize> {
    bytes: [u8; N],
    len: u8,
}

impl<const N: usize> Short<N> {
    pub(super) const EMPTY: Self = Short {
        bytes: [0; N],
        len: 0,
    };

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Whether something may have been left out.
    pub(super) fn is_full(&self) -> bool {
        usize::from(self.len) == N
    }

    /// Keeps what fits.
    pub(super) fn extend(&mut self, more: &[u8]) {
        let at = usize::from(self.len);
        let n = more.len().min(N - at);
        if let (Some(to), Some(from)) = (self.bytes.get_mut(at..at + n), more.get(..n)) {
            to.copy_from_slice(from);
        }
        self.len += n as u8;
    }

    pub(super) fn get(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}
