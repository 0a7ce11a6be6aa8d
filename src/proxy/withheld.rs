//! An upstream's refusal, withheld until its body is known.
//!
//! Some speak of the operator's account and not of the request: a 429 that says that it is empty, a
//! 400 that says the same or that our key is not valid. By those the peer has failed, and their text
//! must not reach a client (SPEC section 3, step 4); all others pass to the last byte as they came.
//!
//! Pingora writes what has come as soon as its filters have seen it. Where the body came along with its
//! head, as such short answers do, nothing is delayed. Else [`Gate`], which runs between the filters
//! and the wire, puts an interim head that nobody sees in the head's place; when the body is whole an
//! error ends Pingora's part, and the answer is written by [`Edge::show_withheld`].

use std::any::Any;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{StatusCode, header};
use pingora::http::ResponseHeader;
use pingora::modules::http::{HttpModule, HttpModuleBuilder, Module};
use pingora::protocols::http::HttpTask;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};
use serde_json::Value;

use super::facts::is_json_type;
use super::local::send_whole;
use super::reply::Reply;
use super::{Ctx, Edge, body, verdict};
use crate::metering::{Dialect, decoded};

/// A refusal is short; a longer one is not looked into.
const MOST: usize = 64 * 1024;

/// The longest 400 that is taken at all where its length was not said before.
const MOST_KEPT: usize = 1024 * 1024;

/// The status of the head that nobody sees: an interim one that is assigned to nothing.
const NOT_YET: u16 = 199;

/// The custom error by which a withheld answer leaves Pingora's hands.
const WITHHELD: &str = "withheld";

/// What a 429 about the operator's account is told apart by, in every dialect that tells it.
const TELLTALES: [&[u8]; 4] = [
    b"insufficient_quota",
    b"billing",
    b"credit balance",
    b"organization",
];

/// How Anthropic's words for an empty account begin.
const EMPTY_ACCOUNT: &str = "Your credit balance is too low to access the Anthropic API";

/// Where heads of answers pass on their way to the client.
#[derive(Debug, Default)]
pub struct Gate {
    /// The next head stays here, unless its body is known by then.
    waits: bool,
    /// It has stayed here.
    has_stayed: bool,
    /// The next head goes with a body of this length that is ours.
    length: Option<usize>,
}

#[async_trait]
impl HttpModule for Gate {
    async fn response_header_filter(&mut self, head: &mut ResponseHeader, end: bool) -> Result<()> {
        if let Some(length) = self.length.take() {
            stands_for(head, length)?;
        }
        if self.waits && !end && !head.status.is_informational() {
            self.has_stayed = true;
            *head = ResponseHeader::build(NOT_YET, None)?;
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// Makes one for each session.
pub struct Gates;

impl HttpModuleBuilder for Gates {
    fn init(&self) -> Module {
        Box::new(Gate::default())
    }
}

/// Whether an inner request's task is the head that nobody sees.
pub fn is_not_yet(task: &HttpTask) -> bool {
    matches!(task, HttpTask::Header(head, _) if head.status.as_u16() == NOT_YET)
}

/// Whether an answer has begun to leave: an interim head is none.
pub fn has_begun(session: &Session) -> bool {
    let written = session.response_written();
    written.is_some_and(|head| !head.status.is_informational() || head.status == 101)
}

/// Whether an error is the one by which a withheld answer leaves Pingora's hands.
pub fn is_withheld(error: &Error) -> bool {
    *error.etype() == ErrorType::Custom(WITHHELD)
}

/// A refusal and its body so far.
#[derive(Debug)]
pub struct Withheld {
    head: Box<ResponseHeader>,
    bytes: BytesMut,
    /// It is too long for a 429: it is not shown.
    is_too_long: bool,
}

/// What becomes of it.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It goes to the client as it came.
    Shown(Bytes),
    /// These words of ours do.
    Replaced(Bytes),
    /// It speaks of our account: the peer has failed.
    OurAccount,
}

impl Withheld {
    /// Of a head as the client is to get it; `None` where it cannot be about our account.
    fn begin(head: &ResponseHeader) -> Option<Withheld> {
        let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let is_json = is_json_type(text(header::CONTENT_TYPE).unwrap_or_default());
        let is_of_interest = match head.status {
            StatusCode::TOO_MANY_REQUESTS => true,
            StatusCode::BAD_REQUEST => is_json && length.is_none_or(|length: usize| length <= MOST),
            _ => false,
        };
        is_of_interest.then(|| Withheld {
            head: Box::new(head.clone()),
            bytes: BytesMut::new(),
            is_too_long: false,
        })
    }

    fn is_rate_limit(&self) -> bool {
        self.head.status == StatusCode::TOO_MANY_REQUESTS
    }

    fn push(&mut self, piece: &[u8]) -> Result<()> {
        let total = self.bytes.len() + piece.len();
        if self.is_rate_limit() && (self.is_too_long || total > MOST) {
            self.is_too_long = true;
            self.bytes.clear();
            return Ok(());
        }
        if total > MOST_KEPT {
            let why = "a refusal without end";
            return Error::e_explain(ErrorType::InvalidHTTPHeader, why).map_err(Error::into_up);
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    fn fate(&mut self, dialect: Dialect, id: &str) -> Fate {
        let coding = self.head.headers.get(header::CONTENT_ENCODING);
        let coding = coding.map_or(Some(""), |value| value.to_str().ok());
        let text = coding.filter(|_| !self.is_too_long);
        let text = text.and_then(|coding| decoded(coding, &self.bytes, MOST));
        if text.as_deref().is_some_and(names_our_account) {
            return Fate::OurAccount;
        }
        let tells = |text: &[u8]| {
            let found = |word: &&[u8]| memchr::memmem::find(text, word).is_some();
            TELLTALES.iter().any(found)
        };
        // Of a 429 only what can be read, and tells nothing of the operator, is shown.
        if self.is_rate_limit() && text.as_deref().is_none_or(tells) {
            let busy = Reply::busy_upstream(dialect, id).body.to_string();
            return Fate::Replaced(Bytes::from(busy));
        }
        Fate::Shown(std::mem::take(&mut self.bytes).freeze())
    }
}

/// Whether a refusal says that our account is empty or our key not valid. It is read as JSON, and not
/// searched: providers repeat a caller's words in some of their messages.
fn names_our_account(body: &[u8]) -> bool {
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        return false;
    };
    // Gemini puts its errors into a list where a stream or OpenAI's dialect was asked for.
    let body = body.get(0).unwrap_or(&body);
    let error = body.get("error").unwrap_or(body);
    let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
    let is_invalid_key = |detail: &Value| {
        let reason = detail.get("reason").and_then(Value::as_str);
        reason == Some("API_KEY_INVALID")
    };
    let details = error.get("details").and_then(Value::as_array);
    // https://platform.openai.com/docs/guides/error-codes
    text("code") == "insufficient_quota"
        || text("type") == "insufficient_quota"
        || (text("type") == "invalid_request_error" && text("message").starts_with(EMPTY_ACCOUNT))
        // google.rpc.ErrorInfo of https://cloud.google.com/apis/design/errors
        || (text("status") == "INVALID_ARGUMENT"
            && details.is_some_and(|details| details.iter().any(is_invalid_key)))
}

/// A head that goes with a body of ours, or with one that is here whole.
fn stands_for(head: &mut ResponseHeader, length: usize) -> Result<()> {
    head.remove_header(&header::CONTENT_ENCODING);
    head.insert_header(header::CONTENT_TYPE, "application/json")?;
    is_whole(head, length)
}

fn is_whole(head: &mut ResponseHeader, length: usize) -> Result<()> {
    head.remove_header(&header::TRANSFER_ENCODING);
    head.insert_header(header::CONTENT_LENGTH, length.to_string())
}

fn gate(session: &mut Session) -> Option<&mut Gate> {
    session.downstream_modules_ctx.get_mut()
}

impl Edge {
    /// A head is about to leave: it is withheld where its body may say that it must not.
    pub(super) fn withhold(session: &mut Session, head: &ResponseHeader, ctx: &mut Ctx) {
        ctx.withheld = Withheld::begin(head);
        if let (Some(_), Some(gate)) = (&ctx.withheld, gate(session)) {
            *gate = Gate::default();
            gate.waits = true;
            session.as_mut().set_ignore_info_resp(true);
        }
    }

    /// A piece of what is withheld has come; what goes to the client in its place.
    ///
    /// # Errors
    /// It speaks of our account, or is whole and to be shown by [`Self::show_withheld`].
    pub(super) fn withheld_passes(
        session: &mut Session,
        piece: &[u8],
        end: bool,
        ctx: &mut Ctx,
    ) -> Result<Option<Bytes>> {
        let (Some(withheld), Some(exchange)) = (&mut ctx.withheld, &ctx.exchange) else {
            return Ok(None);
        };
        withheld.push(piece)?;
        if !end {
            return Ok(None);
        }
        let fate = withheld.fate(exchange.dialect, &exchange.subject.request_id);
        session.as_mut().set_ignore_info_resp(false);
        let gate = gate(session);
        let has_stayed = gate.as_ref().is_some_and(|gate| gate.has_stayed);
        let mut fresh = Gate::default();
        let (bytes, is_ours) = match fate {
            Fate::OurAccount => (None, false),
            Fate::Shown(bytes) => (Some(bytes), false),
            Fate::Replaced(bytes) => (Some(bytes), true),
        };
        let length = bytes.as_ref().map_or(0, Bytes::len);
        fresh.length = (is_ours && !has_stayed).then_some(length);
        if let Some(gate) = gate {
            *gate = fresh;
        }
        let Some(bytes) = bytes else {
            ctx.withheld = None;
            return Err(verdict::our_account());
        };
        if !has_stayed {
            ctx.withheld = None;
            return Ok((length > 0).then_some(bytes));
        }
        if is_ours {
            stands_for(&mut withheld.head, length)?;
        } else {
            is_whole(&mut withheld.head, length)?;
        }
        withheld.bytes = BytesMut::from(bytes);
        Error::e_explain(ErrorType::Custom(WITHHELD), "the answer is here whole")
            .map_err(Error::into_up)
    }

    /// What is withheld is not shown: another answer takes its place.
    pub(super) fn forget_withheld(session: &mut Session, ctx: &mut Ctx) {
        ctx.withheld = None;
        if let Some(gate) = gate(session) {
            *gate = Gate::default();
        }
    }

    /// Writes an answer that was withheld, and is whole now; its status.
    pub(super) async fn show_withheld(session: &mut Session, ctx: &mut Ctx) -> u16 {
        let Some(withheld) = ctx.withheld.take() else {
            return 0;
        };
        let status = withheld.head.status.as_u16();
        // After an error Pingora does not take a next request from this connection.
        session.set_keepalive(None);
        let body = withheld.bytes.freeze();
        if send_whole(session, withheld.head, body).await.is_err() {
            log::debug!("the client of a refusal was gone");
        }
        // It may still be sending.
        body::drain(session).await;
        status
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn fate_of(status: u16, pieces: &[&[u8]], encoding: Option<&str>) -> Fate {
        let mut head = ResponseHeader::build(status, None).unwrap();
        head.insert_header("content-type", "application/json")
            .unwrap();
        if let Some(encoding) = encoding {
            head.insert_header("content-encoding", encoding).unwrap();
        }
        let mut withheld = Withheld::begin(&head).unwrap();
        for piece in pieces {
            withheld.push(piece).unwrap();
        }
        withheld.fate(Dialect::OpenAi, "id")
    }

    fn gzipped(text: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text).unwrap();
        gzip.finish().unwrap()
    }

    #[test]
    fn a_refusal_passes_as_it_was_told() {
        let told = br#"{"error":{"message":"slow down"}}"#;
        let packed = gzipped(told);
        for status in [400, 429] {
            assert_eq!(
                fate_of(status, &[&told[..9], &told[9..]], None),
                Fate::Shown(Bytes::from_static(told))
            );
            let shown = Fate::Shown(Bytes::from(packed.clone()));
            assert_eq!(fate_of(status, &[&packed], Some("gzip")), shown);
        }
        // A 400 is the caller's, also where it cannot be read.
        for unread in [&b"\x1f\x8b"[..], b"{\"error\": billing"] {
            let shown = Fate::Shown(Bytes::copy_from_slice(unread));
            assert_eq!(fate_of(400, &[unread], Some("x-own")), shown);
        }
        let long = vec![b'x'; 70_000];
        assert_eq!(fate_of(400, &[&long], None), Fate::Shown(long.into()));
    }

    #[test]
    fn words_about_our_account_are_known_however_they_are_cut_or_packed() {
        for (status, told) in [
            (
                429,
                r#"{"error":{"type":"x","code":"insufficient_quota","message":"org-OURS"}}"#,
            ),
            (429, r#"{"code":"insufficient_quota"}"#),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits."}}"#,
            ),
            (
                400,
                r#"{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID","domain":"googleapis.com"},{"locale":"en-US"}]}}"#,
            ),
            (
                400,
                r#"[{"error":{"code":400,"status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}]"#,
            ),
        ] {
            let told = told.as_bytes();
            let (first, last) = told.split_at(told.len() / 2);
            assert_eq!(fate_of(status, &[first, last], None), Fate::OurAccount);
            let packed = gzipped(told);
            assert_eq!(fate_of(status, &[&packed], Some("gzip")), Fate::OurAccount);
        }
    }

    #[test]
    fn a_callers_own_words_blame_nobody() {
        for told in [
            r#"{"error":{"type":"invalid_request_error","message":"messages.0: Your credit balance is too low to access the Anthropic API"}}"#,
            r#"{"error":{"status":"INVALID_ARGUMENT","message":"API_KEY_INVALID","details":[{"reason":"OTHER"}]}}"#,
            r#"{"error":{"message":"no model 'insufficient_quota'","code":"model_not_found"}}"#,
        ] {
            let shown = Fate::Shown(Bytes::from_static(told.as_bytes()));
            assert_eq!(fate_of(400, &[told.as_bytes()], None), shown, "{told}");
        }
    }

    #[test]
    fn what_a_429_tells_of_the_operator_is_replaced() {
        for (told, encoding) in [
            (&b"limit reached in organization org-OURS"[..], None),
            (b"\x1f\x8b org-OURS", Some("x-own")),
            (&[b'x'; 70_000], None),
        ] {
            let Fate::Replaced(words) = fate_of(429, &[told], encoding) else {
                panic!("shown: {told:?}");
            };
            let words = String::from_utf8(words.to_vec()).unwrap();
            assert!(words.contains("rate_limit"), "{words}");
            assert!(!words.contains("OURS"), "{words}");
        }
    }

    #[test]
    fn answers_that_are_no_such_refusal_are_not_kept() {
        let begins = |status: u16, kind: &str, length: &str| {
            let mut head = ResponseHeader::build(status, None).unwrap();
            head.insert_header("content-type", kind).unwrap();
            head.insert_header("content-length", length).unwrap();
            Withheld::begin(&head).is_some()
        };
        assert!(begins(400, "application/json; charset=utf-8", "200"));
        assert!(!begins(400, "application/json", "65537"));
        assert!(!begins(400, "text/html", "200"));
        assert!(!begins(404, "application/json", "200"));
        assert!(begins(429, "text/html", "70000"));
    }
}
