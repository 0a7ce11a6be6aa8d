//! WHO: identities, key records, and the one decision whether a caller may proceed.

pub mod admit;
pub mod allow;
pub mod id;
pub mod record;

pub use id::{KeyHash, KeyId, Secret};
pub use record::{KeyRecord, PreviousSecret};
