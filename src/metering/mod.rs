//! WHAT WAS USED: facts of a request body, usage read from passing response bytes, estimates, prices.
//!
//! All of it is sans-io: bytes in, values out, bounded memory, no failure of the stream ever.

pub mod price;
pub mod usage;

pub use usage::{Dialect, Endpoint, Usage};
