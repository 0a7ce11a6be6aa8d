//! The admin listener under a real Pingora server: bound before it runs, drained when it stops.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::routing::get;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use quota_proxy::admin::listen;
use quota_proxy::server::bind::{WithSockets, bind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};

/// Ends the server when the test says so.
struct Stop(Mutex<Option<oneshot::Receiver<()>>>);

#[async_trait]
impl ShutdownSignalWatch for Stop {
    async fn recv(&self) -> ShutdownSignal {
        let told = self.0.lock().unwrap().take().unwrap();
        told.await.unwrap();
        ShutdownSignal::GracefulTerminate
    }
}

struct Running {
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    server: std::thread::JoinHandle<()>,
}

fn start(router: Router) -> Running {
    let bound = bind("admin.listen", "127.0.0.1:0".parse().unwrap(), None).unwrap();
    let addr = bound.addr();
    let (stop, told) = oneshot::channel();
    let server = std::thread::spawn(move || {
        let conf = ServerConf {
            // Longer than an idle connection is kept after the end.
            grace_period_seconds: Some(4),
            graceful_shutdown_timeout_seconds: Some(1),
            ..ServerConf::default()
        };
        let mut server = Server::new_with_opt_and_conf(None, conf);
        server.bootstrap();
        let service = listen::service(router, &bound.endpoint());
        server.add_service(WithSockets::new(service, vec![bound]));
        server.run(RunArgs {
            shutdown_signal: Box::new(Stop(Mutex::new(Some(told)))),
        });
    });
    Running { addr, stop, server }
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let read = stream.read_to_string(&mut text);
    tokio::time::timeout(Duration::from_secs(20), read)
        .await
        .expect("the connection was not closed")
        .unwrap();
    text
}

#[tokio::test]
async fn answers_where_it_was_bound_and_drains() {
    let begun: &'static Notify = Box::leak(Box::new(Notify::new()));
    let go_on: &'static Notify = Box::leak(Box::new(Notify::new()));
    let slow = get(async || {
        begun.notify_one();
        go_on.notified().await;
        "slow"
    });
    let who = get(async |request: axum::extract::Request| {
        let from = request.extensions().get::<listen::ClientAddr>().copied();
        format!("{:?}", from.unwrap().0.unwrap())
    });
    let running = start(Router::new().route("/slow", slow).route("/who", who));

    let base = format!("http://{}", running.addr);
    let from = reqwest::get(format!("{base}/who")).await.unwrap();
    assert_eq!(from.text().await.unwrap(), "127.0.0.1");

    // An idle connection and a running request, when the server is told to stop.
    let mut idle = TcpStream::connect(running.addr).await.unwrap();
    let head = b"GET /who HTTP/1.1\r\nhost: a\r\n\r\n";
    idle.write_all(head).await.unwrap();
    let mut start_of_answer = [0; 12];
    idle.read_exact(&mut start_of_answer).await.unwrap();
    assert_eq!(&start_of_answer, b"HTTP/1.1 200");
    let mut busy = TcpStream::connect(running.addr).await.unwrap();
    let head = b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n";
    busy.write_all(head).await.unwrap();
    begun.notified().await;
    running.stop.send(()).unwrap();

    // The idle one is closed, the running one is answered and then closed.
    read_to_end(&mut idle).await;
    go_on.notify_one();
    let answer = read_to_end(&mut busy).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("slow"), "{answer}");
    tokio::task::spawn_blocking(|| running.server.join().unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_head_without_end_or_bound_is_refused() {
    let running = start(Router::new().route("/", get(async || "ok")));
    let mut many = TcpStream::connect(running.addr).await.unwrap();
    let headers: String = (0..70).map(|i| format!("x-{i}: 1\r\n")).collect();
    let head = format!("GET / HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
    many.write_all(head.as_bytes()).await.unwrap();
    let answer = read_to_end(&mut many).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");

    let mut long = TcpStream::connect(running.addr).await.unwrap();
    long.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
    long.write_all(&[b'a'; 40 * 1024]).await.unwrap();
    let answer = read_to_end(&mut long).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");

    running.stop.send(()).unwrap();
    tokio::task::spawn_blocking(|| running.server.join().unwrap())
        .await
        .unwrap();
}
