//! How many requests are inside the edge: a stop waits for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Requests inside the edge now, admitted or not.
#[derive(Clone, Debug, Default)]
pub struct Active(Arc<AtomicUsize>);

/// One request inside the edge; it leaves on drop.
#[derive(Debug)]
pub struct ActiveRequest(Arc<AtomicUsize>);

impl Active {
    pub fn enter(&self) -> ActiveRequest {
        self.0.fetch_add(1, Ordering::Relaxed);
        ActiveRequest(Arc::clone(&self.0))
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
