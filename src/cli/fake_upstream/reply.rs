//! From a reply to a response: headers, codings, and the ways in which an answer can be made to break.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::Value;

use crate::metering::Dialect;

use super::answer::{Answer, Ending, Manner, Step, Steps};
use super::control::{Coding, Control};
use super::fault::Fault;
use super::ledger::Record;
use super::routes;
use super::service::Arrived;
use super::{anthropic, gemini, openai, responses};

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream; charset=utf-8";
/// Bytes that a wrong `Content-Length` promises too many.
const MISSING_BYTES: usize = 10;

/// What goes out, before it is a response.
pub enum Reply {
    /// An answer and the output tokens it carries.
    Json(Value, u32),
    Bytes(&'static str, Vec<u8>),
    Stream(&'static str, Steps),
}

impl Reply {
    /// An answer that generated nothing.
    pub fn json(value: Value) -> Self {
        Reply::Json(value, 0)
    }

    /// Server-sent events.
    pub fn events(steps: Steps) -> Self {
        Reply::Stream(EVENTS, steps)
    }

    /// One JSON value in many chunks.
    pub fn growing_json(steps: Steps) -> Self {
        Reply::Stream(JSON, steps)
    }

    /// A 200 without any of the provider's headers or directives.
    pub fn into_plain_response(self, record: Arc<Record>) -> Response<Answer> {
        let (kind, step) = match self {
            Reply::Json(value, tokens) => (JSON, json_step(&value, tokens)),
            Reply::Bytes(kind, bytes) => (kind, Step::new(bytes)),
            Reply::Stream(kind, _) => (kind, Step::default()),
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response(headers, Answer::whole(step, record))
    }

    /// The 200 that a provider would send, in the manner the request asks for. `interval` is the
    /// pause between word chunks where the request names none.
    pub fn into_response(self, arrived: &Arrived, interval: Duration) -> Response<Answer> {
        let control = &arrived.control;
        let record = Arc::clone(&arrived.record);
        let mut headers = provider_headers(arrived.dialect, &record);
        let manner = Manner {
            interval: control.interval.unwrap_or(interval),
            first_byte_delay: control.first_byte_delay,
            ending: ending(control),
            coding: coding(control, &arrived.parts.headers),
            reset: Arc::clone(&arrived.reset),
        };
        if let Some(coding) = manner.coding {
            let token = HeaderValue::from_static(coding.token());
            headers.insert(header::CONTENT_ENCODING, token);
        }
        record.answered(200);
        let (kind, answer) = match self {
            Reply::Json(value, tokens) => {
                let step = json_step(&value, tokens);
                (JSON, single(step, control, manner, &mut headers, record))
            }
            Reply::Bytes(kind, bytes) => {
                let step = Step::new(bytes);
                (kind, single(step, control, manner, &mut headers, record))
            }
            Reply::Stream(kind, steps) => {
                let steps = broken(steps, arrived);
                (kind, Answer::steps(steps, manner, record))
            }
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response(headers, answer)
    }
}

/// An error answer in the form of `dialect`.
pub fn refusal(fault: &Fault, dialect: Dialect, record: Arc<Record>) -> Response<Answer> {
    let mut headers = provider_headers(dialect, &record);
    if let Some(wait) = &fault.retry_after {
        headers.insert(header::RETRY_AFTER, wait.clone());
    }
    if fault.status == StatusCode::TOO_MANY_REQUESTS && dialect == Dialect::OpenAi {
        let none = HeaderValue::from_static("0");
        headers.insert(
            HeaderName::from_static("x-ratelimit-remaining-requests"),
            none,
        );
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    record.answered(fault.status.as_u16());
    let body = fault.body(dialect, &request_id(&record));
    let mut response = response(headers, Answer::whole(json_step(&body, 0), record));
    *response.status_mut() = fault.status;
    response
}

fn response(headers: HeaderMap, answer: Answer) -> Response<Answer> {
    let mut response = Response::new(answer);
    *response.headers_mut() = headers;
    response
}

fn json_step(value: &Value, tokens: u32) -> Step {
    Step::new(value.to_string()).with_tokens(tokens)
}

/// A body in one step, unless it is to be cut.
fn single(
    mut step: Step,
    control: &Control,
    mut manner: Manner,
    headers: &mut HeaderMap,
    record: Arc<Record>,
) -> Answer {
    let is_plain = manner.ending == Ending::Whole
        && manner.coding.is_none()
        && manner.first_byte_delay.is_zero()
        && !control.wrong_length;
    if is_plain {
        return Answer::whole(step, record);
    }
    let mut length = step.bytes.len();
    if control.wrong_length {
        length += MISSING_BYTES;
        manner.ending = Ending::Truncate;
    }
    if manner.coding.is_none() {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if let Some(bytes) = control.truncate_after.or(control.reset_after) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if bytes < step.bytes.len() {
            step = Step::new(step.bytes.slice(..bytes));
        }
    }
    Answer::steps(Box::new(std::iter::once(step)), manner, record)
}

/// The steps up to the break that was asked for.
fn broken(steps: Steps, arrived: &Arrived) -> Steps {
    let control = &arrived.control;
    let cut = control.truncate_after.or(control.reset_after);
    match (cut, control.error_event_after) {
        (Some(words), _) => Box::new(first_words(steps, words)),
        (None, Some(words)) => {
            let event = error_event(arrived);
            Box::new(first_words(steps, words).chain(std::iter::once(event)))
        }
        (None, None) => steps,
    }
}

/// Everything in front of word number `words`, counted from zero.
fn first_words(steps: Steps, words: u64) -> impl Iterator<Item = Step> + Send {
    let mut seen = 0;
    steps.take_while(move |step| {
        seen += u64::from(step.is_word);
        seen <= words
    })
}

fn error_event(arrived: &Arrived) -> Step {
    match arrived.dialect {
        Dialect::Anthropic => anthropic::error_event(),
        Dialect::Gemini => gemini::error_event(routes::is_sse(&arrived.parts)),
        Dialect::OpenAi if arrived.parts.uri.path() == "/v1/responses" => responses::error_event(),
        Dialect::OpenAi => openai::error_event(),
    }
}

fn ending(control: &Control) -> Ending {
    match (control.reset_after, control.truncate_after) {
        (Some(_), _) => Ending::Reset,
        (None, Some(_)) => Ending::Truncate,
        (None, None) => Ending::Whole,
    }
}

fn coding(control: &Control, headers: &HeaderMap) -> Option<Coding> {
    let accepted = || headers.get(header::ACCEPT_ENCODING)?.to_str().ok();
    let negotiated = || accepted().and_then(Coding::negotiate);
    control
        .coding
        .or_else(|| control.negotiate.then(negotiated).flatten())
}

fn request_id(record: &Record) -> String {
    format!("req_fake{:012x}", record.id())
}

/// The headers that a provider puts on every answer.
fn provider_headers(dialect: Dialect, record: &Record) -> HeaderMap {
    let fixed: &[(&'static str, &'static str)] = match dialect {
        Dialect::OpenAi => &[
            ("openai-organization", "fake-org"),
            ("openai-processing-ms", "7"),
            ("openai-version", "2020-10-01"),
            ("x-ratelimit-limit-requests", "10000"),
            ("x-ratelimit-remaining-requests", "9999"),
            ("x-ratelimit-reset-requests", "6ms"),
        ],
        Dialect::Anthropic => &[
            ("anthropic-organization-id", "fake-org"),
            ("anthropic-ratelimit-requests-limit", "1000"),
            ("anthropic-ratelimit-requests-remaining", "999"),
        ],
        Dialect::Gemini => &[("vary", "Origin, X-Origin, Referer")],
    };
    let id_name = match dialect {
        Dialect::Anthropic => "request-id",
        Dialect::OpenAi | Dialect::Gemini => "x-request-id",
    };
    let mut headers = HeaderMap::with_capacity(fixed.len() + 4);
    for &(name, value) in fixed {
        let name = HeaderName::from_static(name);
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(id) = HeaderValue::from_str(&request_id(record)) {
        headers.insert(HeaderName::from_static(id_name), id);
    }
    headers
}
