//! WHAT WAS USED: facts of a request body, usage read from passing response bytes, estimates, prices.
//!
//! All of it is sans-io: bytes in, values out, bounded memory, no failure of the stream ever.
//!
//! ```text
//! request body ─ cursor (strict, whole) ─→ request ─→ RequestFacts ─→ splice ─→ body for the upstream
//! answer bytes ─ decode? ─ sse? ─ json (resumable) ─ reader (openai, anthropic, gemini) ─→ Observation
//! Observation ─ estimate::settle_usage ─ estimate::cap ─ price ─→ what is charged
//! ```

mod anthropic;
mod cursor;
mod decode;
mod encode;
pub mod endpoint;
mod escape;
pub mod estimate;
mod gemini;
mod input;
mod json;
pub mod meter;
mod multipart;
mod openai;
mod pattern;
mod plain;
pub mod price;
mod reader;
mod report;
pub mod request;
mod run;
mod short;
pub mod splice;
mod sse;
mod strip;
mod tokenizer;
pub mod usage;
mod values;
mod walk;
mod websocket;

pub use decode::decoded;
pub use endpoint::{classify, dialect_of_path, model_in_path, model_of_path};
pub use estimate::{cap, count_tokens, estimate_input, settle_usage};
pub use meter::{Meter, MeterSetup, Observation};
pub use multipart::{FormModel, multipart_model};
pub use request::{BodyFault, RequestFacts, read_request};
pub use splice::{Edits, include_usage_missing, splice};
pub use usage::{Dialect, Endpoint, Usage};
pub use websocket::SocketMeter;
