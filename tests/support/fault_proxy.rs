//! A TCP proxy before a Redis that does to the bytes what networks do, when it is told to.
//!
//! ```ignore
//! let redis = RedisServer::start();
//! let proxy = FaultProxy::start(redis.address());
//! // The store under test connects to redis.url_at(proxy.addr()).
//! proxy.swallow_reply_to("EVALSHA");   // runs in Redis, and its caller never hears of it
//! proxy.black_hole();                  // half-open: silence, nobody is told
//! proxy.pass();                        // what the silence held back arrives after all
//! ```
//!
//! It has a thread and a runtime of its own, so any test can use it. A call returns once what it asks
//! for is in force. It counts requests and replies by their RESP frames; of what is not RESP (TLS) it
//! knows bytes alone.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc as blocking};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::redis_server::Port;

/// Longer than any machine needs to hand a mode from thread to thread.
const PATIENCE: Duration = Duration::from_secs(30);

/// What happens to the bytes of every connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Pass,
    /// Each reply comes this much later.
    Delay(Duration),
    SwallowReplies,
    BlackHole,
    Refuse,
}

/// The one reply to lose, or the kind of replies.
#[derive(Clone, Debug)]
enum Loss {
    /// To the request that contains this.
    To(Vec<u8>),
    /// To every such request.
    EveryTo(Vec<u8>),
    Containing(Vec<u8>),
    /// So many replies pass before it.
    After(u64),
}

#[derive(Debug, Default)]
struct Shared {
    loss: Mutex<Option<Loss>>,
    connections: AtomicU64,
    bytes_up: AtomicU64,
    requests: AtomicU64,
    replies_lost: AtomicU64,
}

/// A mode to set, and whom to tell when it is.
type Order = (Mode, blocking::Sender<()>);

/// A running proxy. All it has ends when it is dropped; its connections are reset.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    orders: Option<mpsc::UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl FaultProxy {
    /// Listens on a free port of loopback and passes everything on, until told otherwise.
    pub fn start(upstream: SocketAddr) -> Self {
        let port = Port::free();
        let address = port.address;
        let shared = Arc::new(Shared::default());
        let (orders, inbox) = mpsc::unbounded_channel();
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let mut builder = tokio::runtime::Builder::new_current_thread();
                let runtime = builder.enable_all().build().unwrap();
                LocalSet::new().block_on(&runtime, run(port, upstream, shared, inbox));
            }
        });
        let proxy = FaultProxy {
            address,
            shared,
            orders: Some(orders),
            thread: Some(thread),
        };
        proxy.pass();
        proxy
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Ends every fault. What a black hole held goes on its way; a connection that lost a reply is
    /// reset, for its next reply would be taken for the lost one.
    pub fn pass(&self) {
        *self.shared.loss.lock().unwrap() = None;
        self.set(Mode::Pass);
    }

    /// Every reply comes this much later; how many are on the way at once is not limited by it.
    pub fn delay(&self, by: Duration) {
        self.set(Mode::Delay(by));
    }

    /// Requests arrive and are carried out, replies vanish, connections stay.
    pub fn swallow_replies(&self) {
        self.set(Mode::SwallowReplies);
    }

    /// The next request that contains these bytes is carried out; its reply is lost and the
    /// connection reset.
    pub fn swallow_reply_to(&self, request: &str) {
        self.lose(Loss::To(request.as_bytes().to_vec()));
    }

    /// Everything passes but the reply to each request that contains these bytes: it is carried out, its
    /// reply is lost and the connection reset. Until [`FaultProxy::pass`].
    pub fn swallow_every_reply_to(&self, request: &str) {
        self.lose(Loss::EveryTo(request.as_bytes().to_vec()));
        self.set(Mode::Pass);
    }

    /// The next reply that contains these bytes is lost and its connection reset.
    pub fn swallow_reply_containing(&self, reply: &str) {
        self.lose(Loss::Containing(reply.as_bytes().to_vec()));
    }

    /// `count` replies pass, over all connections; the one after them is lost and its connection reset.
    pub fn swallow_reply_after(&self, count: u64) {
        self.lose(Loss::After(count));
    }

    /// Nothing passes either way, connections stay open, new ones are accepted and silent.
    pub fn black_hole(&self) {
        self.set(Mode::BlackHole);
    }

    /// Resets every connection and refuses new ones.
    pub fn refuse(&self) {
        self.set(Mode::Refuse);
    }

    /// How many connections were ever accepted.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(SeqCst)
    }

    /// Bytes that went to Redis.
    pub fn bytes_up(&self) -> u64 {
        self.shared.bytes_up.load(SeqCst)
    }

    /// Whole requests that went to Redis.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(SeqCst)
    }

    /// Replies that a fault swallowed.
    pub fn replies_lost(&self) -> u64 {
        self.shared.replies_lost.load(SeqCst)
    }

    fn lose(&self, loss: Loss) {
        *self.shared.loss.lock().unwrap() = Some(loss);
    }

    fn set(&self, mode: Mode) {
        let (done, is_done) = blocking::channel();
        let orders = self.orders.as_ref().unwrap();
        orders.send((mode, done)).unwrap();
        is_done.recv_timeout(PATIENCE).unwrap();
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Accepts, and obeys orders until there is nobody to give them.
async fn run(
    port: Port,
    upstream: SocketAddr,
    shared: Arc<Shared>,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    let (modes, mode) = watch::channel(Mode::Pass);
    let mut listener = None;
    let mut links = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => {
                let (mode, done) = order.map_or((Mode::Refuse, None), |(m, d)| (m, Some(d)));
                match mode {
                    Mode::Refuse => listener = None,
                    _ => { listener.get_or_insert_with(|| listen(&port)); }
                }
                modes.send_replace(mode);
                if mode == Mode::Refuse {
                    while links.join_next().await.is_some() {}
                    until_refused(port.address).await;
                }
                let Some(done) = done else { return };
                done.send(()).unwrap_or_default();
            }
            client = accept(listener.as_ref()) => {
                shared.connections.fetch_add(1, SeqCst);
                let link = Link::new(Arc::clone(&shared), mode.clone());
                links.spawn_local(link.serve(client, upstream));
            }
            Some(_) = links.join_next() => {}
        }
    }
}

fn listen(port: &Port) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(port.address).unwrap();
    socket.listen(1024).unwrap()
}

/// A process that another test is just starting has our sockets too, until it becomes what it shall be.
async fn until_refused(address: SocketAddr) {
    while TcpStream::connect(address).await.is_ok() {
        sleep(Duration::from_millis(1)).await;
    }
}

async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    listener.accept().await.unwrap().0
}

/// One connection, and the one to Redis that belongs to it.
struct Link {
    shared: Arc<Shared>,
    mode: watch::Receiver<Mode>,
    sent: Cell<u64>,
    /// Which of its requests gets no reply, counted from 1.
    doomed: Cell<Option<u64>>,
    has_lost: Cell<bool>,
}

/// The connection is to end by a reset.
struct Reset;

impl From<io::Error> for Reset {
    fn from(_: io::Error) -> Self {
        Reset
    }
}

/// On its way to the client.
enum Part {
    Bytes(Instant, Bytes),
    Cut,
}

impl Link {
    fn new(shared: Arc<Shared>, mode: watch::Receiver<Mode>) -> Rc<Self> {
        Rc::new(Link {
            shared,
            mode,
            sent: Cell::new(0),
            doomed: Cell::new(None),
            has_lost: Cell::new(false),
        })
    }

    async fn serve(self: Rc<Self>, mut client: TcpStream, upstream: SocketAddr) {
        let end = tokio::select! {
            biased;
            () = self.until_reset() => Err(Reset),
            end = self.carry(&mut client, upstream) => end,
        };
        if end.is_err() {
            client.set_zero_linger().unwrap();
        }
    }

    /// Until the mode is such that this connection cannot stay.
    async fn until_reset(&self) {
        let cannot_stay = |mode: &Mode| match mode {
            Mode::Refuse => true,
            Mode::SwallowReplies | Mode::BlackHole => false,
            _ => self.has_lost.get(),
        };
        self.mode.clone().wait_for(cannot_stay).await.ok();
    }

    async fn carry(&self, client: &mut TcpStream, upstream: SocketAddr) -> Result<(), Reset> {
        client.set_nodelay(true)?;
        self.when_open(async || ()).await;
        let mut upstream = TcpStream::connect(upstream).await?;
        upstream.set_nodelay(true)?;
        let (from_client, to_client) = client.split();
        let (from_redis, to_redis) = upstream.split();
        let (parts, queue) = mpsc::channel(1024);
        tokio::try_join!(
            self.carry_requests(from_client, to_redis),
            self.read_replies(from_redis, parts),
            self.write_replies(queue, to_client),
        )?;
        Ok(())
    }

    /// Does it while there is no black hole; what a black hole interrupts begins anew after it.
    async fn when_open<T>(&self, mut act: impl AsyncFnMut() -> T) -> T {
        let mut mode = self.mode.clone();
        loop {
            if mode
                .wait_for(|mode| *mode != Mode::BlackHole)
                .await
                .is_err()
            {
                std::future::pending::<()>().await;
            }
            tokio::select! {
                biased;
                _ = mode.changed() => {}
                value = act() => return value,
            }
        }
    }

    async fn read(&self, from: &mut ReadHalf<'_>) -> Result<Bytes, Reset> {
        let mut chunk = vec![0; 64 * 1024];
        let length = self.when_open(async || from.read(&mut chunk).await).await?;
        chunk.truncate(length);
        Ok(Bytes::from(chunk))
    }

    async fn write(&self, to: &mut WriteHalf<'_>, mut bytes: &[u8]) -> Result<(), Reset> {
        while !bytes.is_empty() {
            let length = self.when_open(async || to.write(bytes).await).await?;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    async fn carry_requests(
        &self,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
    ) -> Result<(), Reset> {
        let mut frames = Frames::default();
        loop {
            let chunk = self.read(&mut from).await?;
            if chunk.is_empty() {
                to.shutdown().await?;
                return Ok(());
            }
            frames.buffer.extend_from_slice(&chunk);
            let mut whole = 0;
            while let Some(request) = frames.next() {
                // Before its last byte goes on, so that no reply can be faster.
                self.mark(&request);
                whole += 1;
            }
            self.write(&mut to, &chunk).await?;
            self.shared.bytes_up.fetch_add(chunk.len() as u64, SeqCst);
            let whole = if frames.is_opaque { 0 } else { whole };
            self.shared.requests.fetch_add(whole, SeqCst);
        }
    }

    fn mark(&self, request: &[u8]) {
        self.sent.set(self.sent.get() + 1);
        let mut loss = self.shared.loss.lock().unwrap();
        let (Some(Loss::To(needle)) | Some(Loss::EveryTo(needle))) = &*loss else {
            return;
        };
        if contains(request, needle) {
            self.doomed.set(Some(self.sent.get()));
            if let Some(Loss::To(_)) = &*loss {
                *loss = None;
            }
        }
    }

    async fn read_replies(
        &self,
        mut from: ReadHalf<'_>,
        parts: mpsc::Sender<Part>,
    ) -> Result<(), Reset> {
        let mut frames = Frames::default();
        let mut received = 0;
        loop {
            let chunk = self.read(&mut from).await?;
            if chunk.is_empty() {
                return Ok(());
            }
            frames.buffer.extend_from_slice(&chunk);
            while let Some(frame) = frames.next() {
                // A push answers no request.
                received += u64::from(!frame.starts_with(b">"));
                if !frames.is_opaque && self.is_lost(&frame, received) {
                    self.shared.replies_lost.fetch_add(1, SeqCst);
                    parts.send(Part::Cut).await.ok();
                    return Ok(());
                }
                let delay = match *self.mode.borrow() {
                    Mode::Delay(delay) => delay,
                    _ => Duration::ZERO,
                };
                let part = Part::Bytes(Instant::now() + delay, frame);
                parts.send(part).await.map_err(|_| Reset)?;
            }
        }
    }

    fn is_lost(&self, frame: &[u8], received: u64) -> bool {
        if frame.starts_with(b">") {
            return false;
        }
        if self.doomed.get() == Some(received) {
            return true;
        }
        let mut loss = self.shared.loss.lock().unwrap();
        let is_lost = match &mut *loss {
            Some(Loss::Containing(needle)) => contains(frame, needle),
            Some(Loss::After(0)) => true,
            Some(Loss::After(count)) => {
                *count -= 1;
                false
            }
            Some(Loss::To(_) | Loss::EveryTo(_)) | None => false,
        };
        if is_lost {
            *loss = None;
        }
        is_lost
    }

    async fn write_replies(
        &self,
        mut queue: mpsc::Receiver<Part>,
        mut to: WriteHalf<'_>,
    ) -> Result<(), Reset> {
        while let Some(part) = queue.recv().await {
            let Part::Bytes(due, bytes) = part else {
                return Err(Reset);
            };
            sleep_until(due).await;
            if *self.mode.borrow() == Mode::SwallowReplies {
                self.has_lost.set(true);
                self.shared.replies_lost.fetch_add(1, SeqCst);
            } else {
                self.write(&mut to, &bytes).await?;
            }
        }
        to.shutdown().await?;
        Ok(())
    }
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(bytes, needle).is_some()
}

/// Cuts a stream into RESP values (RESP2 and RESP3). What is not RESP comes out as it came in.
#[derive(Default)]
struct Frames {
    buffer: BytesMut,
    is_opaque: bool,
}

impl Frames {
    /// The next whole value, if it has arrived.
    fn next(&mut self) -> Option<Bytes> {
        if !self.is_opaque {
            match frame_length(&self.buffer) {
                Ok(length) => return length.map(|length| self.buffer.split_to(length).freeze()),
                Err(NotResp) => self.is_opaque = true,
            }
        }
        let rest = self.buffer.split().freeze();
        (!rest.is_empty()).then_some(rest)
    }
}

struct NotResp;

/// How long the first value is; `None` while its end has not arrived.
fn frame_length(bytes: &[u8]) -> Result<Option<usize>, NotResp> {
    let mut values = 1;
    let mut at = 0;
    while values > 0 {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(kind) = rest.first() else {
            return Ok(None);
        };
        if !b"+-:_,#($=!*~>%|".contains(kind) {
            return Err(NotResp);
        }
        let Some(end) = memchr::memchr(b'\n', rest) else {
            return Ok(None);
        };
        let line = rest[1..end].strip_suffix(b"\r").ok_or(NotResp)?;
        at += end + 1;
        values -= 1;
        if b"$=!*~>%|".contains(kind) {
            let text = std::str::from_utf8(line).map_err(|_| NotResp)?;
            let count: i64 = text.parse().map_err(|_| NotResp)?;
            let count = usize::try_from(count).ok();
            match kind {
                b'$' | b'=' | b'!' => at += count.map_or(0, |length| length + 2),
                b'%' => values += 2 * count.unwrap_or(0),
                // An attribute comes before the value it belongs to.
                b'|' => values += 2 * count.unwrap_or(0) + 1,
                _ => values += count.unwrap_or(0),
            }
        }
    }
    Ok((at <= bytes.len()).then_some(at))
}
