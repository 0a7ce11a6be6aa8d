//! An HTTP/2 stream under a watch of its own, since many share a connection.
//!
//! Pingora would wait without end for a stream's body, and for word of a client that it answers. This
//! stands between it and the stream: all passes as it is, but what waits for the client ends in time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use http::HeaderMap;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server::Session;
use pingora::protocols::http::v2::server::HttpSession;
use pingora::protocols::http::{HttpTask, ServerSession};
use pingora::protocols::l4::socket::SocketAddr;
use pingora::{Error, ErrorType, Result};

use super::watch::Watch;

/// A stream and its watch, which the request's head carries as an extension.
pub struct WatchedStream {
    stream: HttpSession,
    watch: Arc<Watch>,
}

impl WatchedStream {
    /// The stream as a session, which must be over `longest` from now.
    pub fn session(mut stream: HttpSession, longest: Duration) -> ServerSession {
        let watch = Watch::of_stream(longest);
        let head = stream.req_header_mut();
        head.extensions_mut().insert(Arc::clone(&watch));
        ServerSession::new_custom(Box::new(WatchedStream { stream, watch }))
    }
}

/// No custom messages are spoken here.
type Messages = Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>;

#[async_trait]
impl Session for WatchedStream {
    fn req_header(&self) -> &RequestHeader {
        self.stream.req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.stream.req_header_mut()
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.watch.read_piece(self.stream.read_body_bytes()).await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.watch.read(self.stream.drain_request_body()).await
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.stream.write_response_header(head, end)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.stream.write_response_header_ref(head, end)
    }

    async fn write_body(&mut self, bytes: Bytes, end: bool) -> Result<()> {
        self.watch.write(self.stream.write_body(bytes, end)).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.stream.write_trailers(trailers)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let written = self.stream.response_duplex_vec(tasks);
        self.watch.write(written).await
    }

    fn set_read_timeout(&mut self, _timeout: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.stream.set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.stream.get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.stream.set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.stream.get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.stream.request_summary()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.stream.response_written()
    }

    async fn shutdown(&mut self, _code: u32, _why: &str) {
        self.stream.shutdown();
    }

    fn is_body_done(&mut self) -> bool {
        self.stream.is_body_done()
    }

    async fn finish(&mut self) -> Result<()> {
        self.stream.finish()
    }

    fn is_body_empty(&mut self) -> bool {
        self.stream.is_body_empty()
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        let read = self.stream.read_body_or_idle(no_body_expected);
        self.watch.read_piece(read).await
    }

    fn body_bytes_sent(&self) -> usize {
        self.stream.body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.stream.body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.stream.digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.stream.digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.stream.client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.stream.server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.stream.pseudo_raw_h1_request_header()
    }

    fn enable_retry_buffering(&mut self) {
        self.stream.enable_retry_buffering();
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.stream.retry_buffer_truncated()
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.stream.get_retry_buffer()
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<Messages> {
        None
    }

    fn restore_custom_message_reader(&mut self, _reader: Messages) -> Result<()> {
        no_messages()
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(
        &mut self,
        _writer: Box<dyn CustomMessageWrite>,
    ) -> Result<()> {
        no_messages()
    }
}

fn no_messages() -> Result<()> {
    Error::e_explain(ErrorType::InternalError, "HTTP/2 has no custom messages")
}
