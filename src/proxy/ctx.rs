//! What the phases of one request share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::active::ActiveRequest;
use super::body::Body;
use super::budget::Share;
use super::cut::Cutting;
use super::edit::Original;
use super::facts::Facts;
use super::form::Form;
use super::relay;
use super::withheld::Withheld;
use crate::exchange::Exchange;
use crate::keys::KeyRecord;
use crate::metering::Dialect;
use crate::telemetry::access_log::NotServed;
use crate::upstream::Ways;

/// As good as never.
const FAR: Duration = Duration::from_secs(365 * 24 * 3_600);

/// A body that is streamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upload {
    None,
    Comes,
    Sent,
}

/// What the phases of one request share.
pub struct Ctx {
    pub id: Uuid,
    pub started: Instant,
    /// When the whole request must be over (`edge.request_timeout`).
    pub deadline: Instant,
    pub facts: Option<Arc<Facts>>,
    /// Known since the key was found; a refusal moves its error counts.
    pub key: Option<Arc<KeyRecord>>,
    pub model: Option<String>,
    pub body: Body,
    /// The client's own body, from which another pool's is made.
    pub original: Option<Original>,
    /// A form that names its model.
    pub form: Option<Form>,
    pub share: Option<Share>,
    pub request_size: usize,
    pub upload: Upload,
    pub exchange: Option<Exchange>,
    /// `include_usage` was asked for in the client's place: its chunk is taken out of the answer.
    pub strip_usage_chunk: bool,
    /// The last attempt ended before the peer could act on it: the same one is tried again.
    pub same_peer_again: bool,
    /// In less than that a word of the peer has crossed ours; zero where the connection is a new one.
    pub crossing: Duration,
    /// A request that its peer never read was sent once more; it is not done again.
    pub repeated: bool,
    /// Its peer said that it takes it over HTTP/1.1 alone.
    pub wants_http1: bool,
    /// How the peer in use may be reached still.
    pub ways: Option<Ways>,
    /// Peers that were not asked because they rest or have too little room; each once.
    pub passed_over: Vec<NotServed>,
    pub cutting: Cutting,
    /// An upstream's refusal, shown when its body is known.
    pub withheld: Option<Withheld>,
    /// Status and code of what was answered here.
    pub refused: Option<(u16, &'static str)>,
    pub line: Arc<relay::Line>,
    pub way_back: Option<relay::WayBack>,
    /// The exchange lives in an inner request; nothing is left to log here.
    pub relayed: bool,
    _active: ActiveRequest,
}

impl std::fmt::Debug for Ctx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ctx")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Ctx {
    pub fn new(active: ActiveRequest) -> Self {
        let started = Instant::now();
        Ctx {
            id: Uuid::now_v7(),
            started,
            deadline: started + FAR,
            facts: None,
            key: None,
            model: None,
            body: Body::Passing,
            original: None,
            form: None,
            share: None,
            request_size: 0,
            upload: Upload::None,
            exchange: None,
            strip_usage_chunk: false,
            same_peer_again: false,
            crossing: Duration::ZERO,
            repeated: false,
            wants_http1: false,
            ways: None,
            passed_over: Vec::new(),
            cutting: Cutting::default(),
            withheld: None,
            refused: None,
            line: Arc::default(),
            way_back: None,
            relayed: false,
            _active: active,
        }
    }

    /// The dialect of the path, as far as a head was read.
    pub fn dialect(&self) -> Dialect {
        self.facts
            .as_ref()
            .map_or(Dialect::OpenAi, |facts| facts.dialect)
    }

    /// The request is given that much time, from its beginning.
    pub fn give(&mut self, time: Duration) {
        self.deadline = self.started + time.min(FAR);
    }

    pub fn is_overdue(&self) -> bool {
        Instant::now() >= self.deadline
    }

    pub fn request_id(&self) -> String {
        self.id.simple().to_string()
    }
}
