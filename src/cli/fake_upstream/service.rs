//! The life of one request: recorded, read, routed, answered.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use sha2::{Digest as _, Sha256};

use crate::metering::Dialect;

use super::Options;
use super::answer::{Answer, Cut};
use super::control::Control;
use super::fault::Fault;
use super::ledger::{self, Ledger, Record};
use super::reply::{Reply, refusal};
use super::routes;

/// Most of a JSON body that is read into memory; more is a 413.
const MAX_JSON: usize = 64 << 20;
/// What is kept of an upload, to find its form fields in.
const KEPT_OF_UPLOAD: usize = 64 << 10;

/// The fake: its options and its books.
#[derive(Debug)]
pub struct Fake {
    pub options: Options,
    ledger: Arc<Ledger>,
}

/// A request that has been read.
#[derive(Debug)]
pub struct Arrived {
    pub parts: Parts,
    /// A JSON body whole; of an upload the beginning.
    pub body: Bytes,
    /// All that came, also what was not kept.
    pub body_bytes: u64,
    pub sha256: Option<[u8; 32]>,
    pub control: Control,
    pub dialect: Dialect,
    pub record: Arc<Record>,
    /// The connection ends in a reset once this is set.
    pub reset: Arc<AtomicBool>,
}

/// Counts the client as gone where the future is dropped before there is an answer.
struct Pending(Option<Arc<Record>>);

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(record) = self.0.take() {
            record.lost_client();
        }
    }
}

impl Fake {
    pub fn new(options: Options) -> Self {
        let ledger = Ledger::new(options.record);
        Fake { options, ledger }
    }

    /// Answers one request. Dropping the future counts the client as gone.
    ///
    /// # Errors
    /// [`Cut`] where the request asked for a connection that closes without an answer.
    pub async fn answer(
        &self,
        request: Request<Incoming>,
        reset: Arc<AtomicBool>,
    ) -> Result<Response<Answer>, Cut> {
        let (parts, body) = request.into_parts();
        if parts.uri.path() == "/_fake/ledger" {
            return Ok(self.books(&parts));
        }
        let record = self.ledger.open(&parts);
        let mut pending = Pending(Some(Arc::clone(&record)));
        let dialect = routes::dialect(&parts);
        let outcome = match self.read(parts, body, &record, reset).await {
            Ok(arrived) => self.reply(arrived).await,
            Err(fault) => Ok(refusal(&fault, dialect, record)),
        };
        pending.0 = None;
        outcome
    }

    /// Checks the credential and reads directives and body.
    async fn read(
        &self,
        parts: Parts,
        body: Incoming,
        record: &Arc<Record>,
        reset: Arc<AtomicBool>,
    ) -> Result<Arrived, Fault> {
        let mut control = self.options.always.clone();
        let steering = parts.headers.get("x-fake").map(HeaderValue::as_bytes);
        control
            .apply(&String::from_utf8_lossy(steering.unwrap_or_default()))
            .map_err(|message| Fault::new(StatusCode::BAD_REQUEST, message))?;
        let keep = if routes::is_upload(&parts) {
            KEPT_OF_UPLOAD
        } else {
            MAX_JSON
        };
        let (body, body_bytes, sha256) = self.collect(body, keep).await?;
        record.body(body_bytes, sha256);
        // After the body, so that the ledger knows it in any case.
        self.check_credential(&parts)?;
        if keep == MAX_JSON && body_bytes > MAX_JSON as u64 {
            let message = "Request exceeds the maximum size";
            return Err(Fault::new(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        let dialect = routes::dialect(&parts);
        Ok(Arrived {
            parts,
            body,
            body_bytes,
            sha256,
            control,
            dialect,
            record: Arc::clone(record),
            reset,
        })
    }

    /// Waits, breaks or answers, as the request and the options ask.
    async fn reply(&self, mut arrived: Arrived) -> Result<Response<Answer>, Cut> {
        let routed = routes::route(&self.options, &mut arrived);
        let control = &arrived.control;
        let latency = control.latency.unwrap_or(self.options.latency);
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        if control.drop {
            return Err(Cut);
        }
        let asked = control.status.map(|status| Fault::asked(status, control));
        Ok(match asked.map_or(routed, Err) {
            Ok(reply) => reply.into_response(&arrived, self.options.chunk_interval),
            Err(fault) => refusal(&fault, arrived.dialect, arrived.record),
        })
    }

    fn check_credential(&self, parts: &Parts) -> Result<(), Fault> {
        let Some(required) = &self.options.require_credential else {
            return Ok(());
        };
        match ledger::credential(&parts.headers, parts.uri.query()) {
            Some(seen) if seen == *required => Ok(()),
            _ => Err(Fault::wrong_credential()),
        }
    }

    /// The body up to `keep` bytes, its whole length, and its digest when recording.
    async fn collect(
        &self,
        mut body: Incoming,
        keep: usize,
    ) -> Result<(Bytes, u64, Option<[u8; 32]>), Fault> {
        let mut digest = self.ledger.recording().then(Sha256::new);
        let mut kept: Vec<Bytes> = Vec::new();
        let (mut kept_bytes, mut all_bytes) = (0_usize, 0_u64);
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let frame =
                frame.map_err(|e| Fault::new(StatusCode::BAD_REQUEST, format!("body: {e}")))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            all_bytes += data.len() as u64;
            if let Some(digest) = &mut digest {
                digest.update(&data);
            }
            if kept_bytes < keep {
                kept_bytes += data.len();
                kept.push(data);
            }
        }
        let body = match kept.len() {
            1 => kept.swap_remove(0),
            _ => kept.concat().into(),
        };
        Ok((body, all_bytes, digest.map(|d| d.finalize().into())))
    }

    /// `GET` and `DELETE /_fake/ledger`; not itself in the ledger.
    fn books(&self, parts: &Parts) -> Response<Answer> {
        if parts.method == Method::DELETE {
            self.ledger.clear();
        }
        let aside = Ledger::new(false).open(parts);
        Reply::json(self.ledger.to_json()).into_plain_response(aside)
    }
}
