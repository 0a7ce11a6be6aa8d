//! A fake LLM provider that speaks OpenAI's, Anthropic's and Gemini's APIs, for trying the proxy out,
//! for its tests and as the upstream of its load bench.
//!
//! Its token counts are true by its own rule: one output token is one word chunk, one input token is
//! four bytes of text. It obeys output bounds, and misbehaves on request ([`control::Control`]).
//! `GET /_fake/ledger` shows what arrived and what was really sent; `DELETE /_fake/ledger` forgets it.
//!
//! ```text
//! wire → service → routes → ask (facts, plan) → openai | responses | anthropic | gemini | media
//!                                                                      → reply → answer → wire
//! ```

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};

mod answer;
mod anthropic;
mod ask;
pub mod control;
mod fault;
mod gemini;
mod ledger;
mod media;
mod openai;
mod reply;
mod responses;
mod routes;
mod service;
#[cfg(test)]
mod tests;
mod wire;
mod words;

use control::Control;

/// How long running answers may take once the end is asked for.
const GRACE: Duration = Duration::from_secs(5);
/// Pause after a failed accept, such as one for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// `quota-proxy fake-upstream …`. The command line's defaults suit a person at a terminal; those of
/// [`Options::default`] suit a test: port 0, no waits, everything recorded.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:9100")]
    pub listen: SocketAddr,
    /// Wait before every answer
    #[arg(long, default_value = "200ms", value_parser = humantime::parse_duration)]
    pub latency: Duration,
    /// Pause between the word chunks of a stream
    #[arg(long, default_value = "20ms", value_parser = humantime::parse_duration)]
    pub chunk_interval: Duration,
    /// Output tokens of an answer, where neither the request nor a bound says otherwise
    #[arg(long, default_value_t = 20)]
    pub tokens: u32,
    /// Answer 401 to any other credential than this one
    #[arg(long, value_name = "SECRET")]
    pub require_credential: Option<String>,
    /// Keep every request for GET /_fake/ledger (totals are always kept)
    #[arg(long)]
    pub record: bool,
    /// Directives for every request, as in an x-fake header: status=429,retry-after=2
    #[arg(long, value_name = "DIRECTIVES", default_value = "", value_parser = directives)]
    pub always: Control,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            latency: Duration::ZERO,
            chunk_interval: Duration::ZERO,
            tokens: 20,
            require_credential: None,
            record: true,
            always: Control::default(),
        }
    }
}

fn directives(text: &str) -> Result<Control, String> {
    let mut control = Control::default();
    control.apply(text).map(|()| control)
}

/// Serves until SIGINT or SIGTERM. Writes one line to `out` when it listens.
///
/// # Errors
/// The address cannot be bound, or `out` cannot be written.
pub async fn run(options: Options, out: &mut (dyn Write + Send)) -> io::Result<()> {
    let listener = TcpListener::bind(options.listen).await?;
    let address = listener.local_addr()?;
    writeln!(out, "fake-upstream listening on http://{address}")?;
    out.flush()?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    serve_until(listener, options, async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    })
    .await
}

/// Serves for ever; dropping the future closes the listener and every connection.
///
/// # Errors
/// None today; accepting goes on after a failure.
pub async fn serve(listener: TcpListener, options: Options) -> io::Result<()> {
    serve_until(listener, options, std::future::pending()).await
}

/// Serves until `end`, then lets running answers finish for up to five seconds.
///
/// # Errors
/// None today; accepting goes on after a failure.
pub async fn serve_until(
    listener: TcpListener,
    options: Options,
    end: impl Future<Output = ()>,
) -> io::Result<()> {
    let fake = Arc::new(service::Fake::new(options));
    let graceful = GracefulShutdown::new();
    let mut connections = tokio::task::JoinSet::new();
    tokio::pin!(end);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&fake), graceful.watcher()));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
            () = &mut end => break,
        }
    }
    drop(listener);
    // What has not ended by then is cut by dropping the set.
    tokio::time::timeout(GRACE, graceful.shutdown())
        .await
        .unwrap_or_default();
    Ok(())
}

/// One connection, HTTP/1.1 or h2c. How it ends is the client's affair.
async fn connection(
    stream: TcpStream,
    fake: Arc<service::Fake>,
    watcher: hyper_util::server::graceful::Watcher,
) {
    stream.set_nodelay(true).unwrap_or_default();
    let reset = Arc::new(AtomicBool::new(false));
    let wire = wire::Wire::new(stream, Arc::clone(&reset));
    let service = hyper::service::service_fn(move |request| {
        let (fake, reset) = (Arc::clone(&fake), Arc::clone(&reset));
        async move { fake.answer(request, reset).await }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).keep_alive(true);
    builder.http2().timer(TokioTimer::new());
    let serving = builder
        .serve_connection(TokioIo::new(wire), service)
        .into_owned();
    watcher.watch(serving).await.unwrap_or_default();
}
