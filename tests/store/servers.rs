//! The rig's Redis servers and the fault proxy before them: what the tests of a fleet rely on.

/// How long nothing is heard before it counts as silence.
const SILENCE: std::time::Duration = std::time::Duration::from_millis(50);
/// Longer than any answer takes.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

mod server {
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::sync::mpsc;

    use redis::{Client, Value};

    use super::{PATIENCE, SILENCE};
    use crate::redis_server::RedisServer;

    #[test]
    fn a_kill_loses_what_was_not_to_be_kept_and_no_more() {
        let volatile = RedisServer::start();
        let durable = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
        for redis in [&volatile, &durable] {
            let answer = redis.command(&["SET", "a", "1"]);
            assert_eq!(answer, Value::Okay);
            let (port, pid) = (redis.port(), redis.pid());
            redis.kill();
            assert!(!redis.is_running());
            let refused = std::net::TcpStream::connect(redis.address());
            assert!(refused.is_err(), "{refused:?}");
            redis.restart();
            assert_eq!(redis.port(), port);
            assert_ne!(redis.pid(), pid);
        }
        assert_eq!(volatile.command(&["GET", "a"]), Value::Nil);
        assert_eq!(durable.ask::<String>(&["GET", "a"]), "1");
    }

    #[test]
    fn a_pause_is_silence_and_ends() {
        let redis = RedisServer::start();
        let mut client = std::net::TcpStream::connect(redis.address()).unwrap();
        client.set_read_timeout(Some(SILENCE)).unwrap();
        redis.pause();
        let mut answer = [0; 7];
        client.write_all(b"PING\r\n").unwrap();
        let silence = client.read_exact(&mut answer).unwrap_err();
        assert_eq!(silence.kind(), ErrorKind::WouldBlock);
        redis.resume();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"+PONG\r\n");
        assert_eq!(redis.info("tcp_port"), Some(redis.port().to_string()));
        assert_eq!(redis.info("no_such_field"), None);
    }

    #[test]
    fn it_is_gone_when_its_test_fails() {
        let (tell, told) = mpsc::channel();
        let failed = std::thread::spawn(move || {
            let redis = RedisServer::start();
            tell.send((redis.pid(), redis.ca_path())).unwrap();
            panic!("on purpose");
        });
        assert!(failed.join().is_err());
        let (pid, path) = told.recv().unwrap();
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(!path.parent().unwrap().exists());
    }

    #[test]
    fn only_its_user_gets_in_and_only_where_allowed() {
        let redis = RedisServer::start_acl("edge", "s3cret", &["~qp:*", "+@all"]);
        let open = |url: String| Client::open(url).unwrap().get_connection();
        let mut client = open(redis.url()).unwrap();
        let set = |key: &str| redis::cmd("SET").arg(key).arg(1).to_owned();
        set("qp:a").exec(&mut client).unwrap();
        let refused = set("other").exec(&mut client).unwrap_err();
        assert_eq!(refused.code(), Some("NOPERM"));
        let wrong = open(redis.url().replace("s3cret", "guess"));
        let wrong = wrong.err().unwrap();
        assert_eq!(wrong.kind(), redis::ErrorKind::AuthenticationFailed);
        let mut stranger = open(format!("redis://{}", redis.address())).unwrap();
        let refused = set("qp:a").exec(&mut stranger).unwrap_err();
        assert_eq!(refused.code(), Some("NOAUTH"));
        // The test itself may always.
        assert_eq!(redis.ask::<String>(&["GET", "qp:a"]), "1");
        redis.command(&["ACL", "SETUSER", "edge", "resetpass", ">other"]);
        assert!(open(redis.url()).is_err());
        open(redis.url().replace("s3cret", "other")).unwrap();
    }

    #[test]
    fn tls_is_proved_by_its_own_ca() {
        let redis = RedisServer::start_tls();
        assert_eq!(redis.url(), format!("rediss://{}", redis.address()));
        for name in ["localhost", "127.0.0.1"] {
            let trusted = handshake(&redis, &redis.ca_path(), name);
            assert!(trusted.contains("Verify return code: 0 (ok)"), "{trusted}");
        }
        let elsewhere = handshake(&redis, &redis.ca_path(), "example.com");
        assert!(elsewhere.contains("Verify return code: 62"), "{elsewhere}");
        let stranger = RedisServer::start_tls();
        let distrusted = handshake(&redis, &stranger.ca_path(), "localhost");
        assert!(!distrusted.contains("code: 0 (ok)"), "{distrusted}");
    }

    /// What OpenSSL says of a handshake in which it trusts that CA.
    fn handshake(redis: &RedisServer, ca: &Path, name: &str) -> String {
        let check = match name.parse::<std::net::IpAddr>() {
            Ok(_) => "-verify_ip",
            Err(_) => "-verify_hostname",
        };
        let mut command = Command::new("openssl");
        command.arg("s_client").args([check, name]).arg("-CAfile");
        command.arg(ca).arg("-connect");
        command.arg(redis.address().to_string());
        let output = command.stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

mod proxy {
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::net::TcpStream;
    use std::time::{Duration, Instant};

    use redis::{Client, Cmd, Connection, IntoConnectionInfo as _, ProtocolVersion, RedisResult};

    use super::{PATIENCE, SILENCE};
    use crate::fault_proxy::FaultProxy;
    use crate::redis_server::{RedisServer, soon};

    fn rig() -> (RedisServer, FaultProxy) {
        let redis = RedisServer::start();
        let proxy = FaultProxy::start(redis.address());
        (redis, proxy)
    }

    fn connect(redis: &RedisServer, proxy: &FaultProxy) -> Connection {
        connect_in(redis, proxy, ProtocolVersion::RESP2)
    }

    fn connect_in(redis: &RedisServer, proxy: &FaultProxy, version: ProtocolVersion) -> Connection {
        let info = redis.url_at(proxy.addr()).into_connection_info().unwrap();
        let settings = info.redis_settings().clone().set_skip_set_lib_name();
        let info = info.set_redis_settings(settings.set_protocol(version));
        let client = Client::open(info).unwrap().get_connection().unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    fn incr(key: &str) -> Cmd {
        redis::cmd("INCR").arg(key).to_owned()
    }

    /// What Redis itself holds there.
    fn count(redis: &RedisServer, key: &str) -> i64 {
        let count: Option<i64> = redis.ask(&["GET", key]);
        count.unwrap_or(0)
    }

    fn soon_counts(redis: &RedisServer, key: &str, expected: i64) {
        soon("the count", || match count(redis, key) {
            found if found == expected => Ok(()),
            found => Err(found),
        });
    }

    #[tokio::test]
    async fn it_passes_and_counts() {
        let (redis, proxy) = rig();
        let mut client = connect(&redis, &proxy);
        for expected in 1..=10_i64 {
            let found: RedisResult<i64> = incr("a").query(&mut client);
            assert_eq!(found.unwrap(), expected);
        }
        let large = "x".repeat(1 << 20);
        let set = redis::cmd("SET").arg("b").arg(&large).to_owned();
        set.exec(&mut client).unwrap();
        let back: String = redis::cmd("GET").arg("b").query(&mut client).unwrap();
        assert!(back == large);
        assert_eq!((proxy.requests(), proxy.connections()), (12, 1));
        assert!(proxy.bytes_up() > 1 << 20);
        let address = proxy.addr();
        drop(proxy);
        assert!(TcpStream::connect(address).is_err());
        assert!(incr("a").exec(&mut client).is_err());
    }

    #[test]
    fn the_reply_to_one_request_is_lost() {
        let (redis, proxy) = rig();
        let mut pipeline = redis::pipe();
        pipeline.cmd("SET").arg("before").arg(1);
        pipeline.add_command(incr("a")).add_command(incr("b"));
        let mut client = connect(&redis, &proxy);
        let mut other = connect(&redis, &proxy);
        proxy.swallow_reply_to("\r\na\r\n");
        assert!(pipeline.exec(&mut client).is_err());
        soon_counts(&redis, "a", 1);
        assert_eq!(proxy.replies_lost(), 1);
        // It is the only one, and another connection knows nothing of it.
        let found: i64 = incr("a").query(&mut other).unwrap();
        assert_eq!(found, 2);
    }

    #[test]
    fn every_reply_to_a_request_is_lost_until_all_passes() {
        let (redis, proxy) = rig();
        proxy.refuse();
        proxy.swallow_every_reply_to("\r\na\r\n");
        for sent in 1..=2 {
            let mut client = connect(&redis, &proxy);
            incr("b").exec(&mut client).unwrap();
            assert!(incr("a").exec(&mut client).is_err());
            soon_counts(&redis, "a", sent);
            assert_eq!(proxy.replies_lost(), sent as u64);
        }
        proxy.pass();
        incr("a").exec(&mut connect(&redis, &proxy)).unwrap();
    }

    #[test]
    fn the_reply_with_some_words_is_lost() {
        let (redis, proxy) = rig();
        let mut client = connect(&redis, &proxy);
        proxy.swallow_reply_containing("needle");
        incr("a").exec(&mut client).unwrap();
        let echo = redis::cmd("ECHO").arg("a needle").to_owned();
        assert!(echo.exec(&mut client).is_err());
        assert_eq!(proxy.replies_lost(), 1);
        let mut client = connect(&redis, &proxy);
        echo.exec(&mut client).unwrap();
    }

    #[test]
    fn replies_of_every_shape_are_counted() {
        for version in [ProtocolVersion::RESP2, ProtocolVersion::RESP3] {
            let (redis, proxy) = rig();
            let mut client = connect_in(&redis, &proxy, version);
            proxy.swallow_reply_after(5);
            let script = "return {1, {2, {'x', false}}, {}, redis.status_reply('y')}";
            let mut pipeline = redis::pipe();
            pipeline.cmd("EVAL").arg(script).arg(0);
            pipeline.cmd("COMMAND").cmd("GET").arg("absent");
            pipeline.cmd("CONFIG").arg("GET").arg("*");
            pipeline.cmd("NO-SUCH-COMMAND");
            // It fails by the last command alone; all five replies arrive.
            let failed = pipeline.exec(&mut client).unwrap_err();
            assert_eq!(failed.code(), Some("ERR"), "{failed}");
            assert_eq!(proxy.replies_lost(), 0);
            assert!(incr("a").exec(&mut client).unwrap_err().is_io_error());
            assert_eq!((count(&redis, "a"), proxy.replies_lost()), (1, 1));
        }
    }

    #[test]
    fn replies_vanish_and_requests_do_not() {
        let (redis, proxy) = rig();
        let mut client = connect(&redis, &proxy);
        client.set_read_timeout(Some(SILENCE)).unwrap();
        proxy.swallow_replies();
        assert!(incr("a").exec(&mut client).unwrap_err().is_timeout());
        soon_counts(&redis, "a", 1);
        let mut raw = TcpStream::connect(proxy.addr()).unwrap();
        raw.write_all(b"*2\r\n$4\r\nINCR\r\n$1\r\na\r\n").unwrap();
        soon_counts(&redis, "a", 2);
        soon("both replies are lost", || match proxy.replies_lost() {
            2 => Ok(()),
            lost => Err(lost),
        });
        // A late reply must not be taken for the lost one.
        proxy.pass();
        raw.set_read_timeout(Some(PATIENCE)).unwrap();
        let ended = raw.read(&mut [0; 1]).unwrap_err();
        assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
        incr("a").exec(&mut connect(&redis, &proxy)).unwrap();
    }

    #[test]
    fn a_black_hole_is_silent_and_what_it_held_arrives() {
        let (redis, proxy) = rig();
        let mut client = connect(&redis, &proxy);
        client.set_read_timeout(Some(SILENCE)).unwrap();
        proxy.black_hole();
        assert!(incr("a").exec(&mut client).unwrap_err().is_timeout());
        let mut raw = TcpStream::connect(proxy.addr()).unwrap();
        raw.set_read_timeout(Some(SILENCE)).unwrap();
        raw.write_all(b"*1\r\n$4\r\nPING\r\n").unwrap();
        let mut answer = [0; 7];
        let silence = raw.read(&mut answer).unwrap_err();
        assert_eq!(silence.kind(), ErrorKind::WouldBlock);
        assert_eq!((count(&redis, "a"), proxy.replies_lost()), (0, 0));
        proxy.pass();
        raw.set_read_timeout(Some(PATIENCE)).unwrap();
        raw.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"+PONG\r\n");
        soon_counts(&redis, "a", 1);
    }

    #[test]
    fn it_refuses_old_and_new() {
        let (redis, proxy) = rig();
        let mut raw = TcpStream::connect(proxy.addr()).unwrap();
        raw.set_read_timeout(Some(PATIENCE)).unwrap();
        raw.write_all(b"*1\r\n$4\r\nPING\r\n").unwrap();
        raw.read_exact(&mut [0; 7]).unwrap();
        for _ in 0..3 {
            proxy.refuse();
            let refused = TcpStream::connect(proxy.addr()).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            proxy.pass();
            incr("a").exec(&mut connect(&redis, &proxy)).unwrap();
        }
        let ended = raw.read(&mut [0; 1]).unwrap_err();
        assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn each_reply_is_late_but_not_the_more_the_more_there_are() {
        const DELAY: Duration = Duration::from_millis(150);
        const REQUESTS: u32 = 100;
        let (redis, proxy) = rig();
        let mut raw = TcpStream::connect(proxy.addr()).unwrap();
        raw.set_read_timeout(Some(PATIENCE)).unwrap();
        proxy.delay(DELAY);
        let start = Instant::now();
        for _ in 0..REQUESTS {
            raw.write_all(b"*1\r\n$4\r\nPING\r\n").unwrap();
        }
        raw.read_exact(&mut [0; 7]).unwrap();
        assert!(start.elapsed() >= DELAY, "{:?}", start.elapsed());
        raw.read_exact(&mut [0; 7 * (REQUESTS as usize - 1)])
            .unwrap();
        let elapsed = start.elapsed();
        assert!(elapsed < DELAY * REQUESTS, "{elapsed:?}");
        assert_eq!(proxy.requests(), u64::from(REQUESTS));
        assert!(redis.is_running());
    }

    #[test]
    fn a_dead_redis_resets_its_clients() {
        let (redis, proxy) = rig();
        redis.kill();
        let mut raw = TcpStream::connect(proxy.addr()).unwrap();
        raw.set_read_timeout(Some(PATIENCE)).unwrap();
        let ended = raw.read(&mut [0; 1]).unwrap_err();
        assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
        redis.restart();
        incr("a").exec(&mut connect(&redis, &proxy)).unwrap();
    }

    #[test]
    fn what_is_no_resp_passes_as_it_is() {
        let redis = RedisServer::start_tls();
        let proxy = FaultProxy::start(redis.address());
        let mut command = std::process::Command::new("openssl");
        command.args(["s_client", "-quiet", "-connect"]);
        command.arg(proxy.addr().to_string()).arg("-CAfile");
        command.arg(redis.ca_path());
        command.stdin(std::process::Stdio::piped());
        command.stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::null());
        let mut client = command.spawn().unwrap();
        let mut input = client.stdin.take().unwrap();
        input.write_all(b"QUIT\r\n").unwrap();
        let output = client.wait_with_output().unwrap();
        assert_eq!(output.stdout, b"+OK\r\n");
        assert_eq!(proxy.requests(), 0);
        assert!(proxy.bytes_up() > 0);
    }
}

mod sentinel {
    use redis::Value;

    use crate::redis_sentinel::SentinelSet;

    #[test]
    fn the_replica_takes_over_when_the_primary_dies() {
        let set = SentinelSet::start();
        let first = set.primary();
        for url in set.sentinel_urls() {
            let mut client = redis::Client::open(url).unwrap().get_connection().unwrap();
            let mut ask = redis::cmd("SENTINEL");
            ask.arg("GET-MASTER-ADDR-BY-NAME").arg(set.primary_name());
            let (_, port): (String, u16) = ask.query(&mut client).unwrap();
            assert_eq!(port, first.port());
        }
        assert_eq!(first.command(&["SET", "a", "1"]), Value::Okay);
        first.wait_until_replicated();
        set.kill_primary();
        let promoted = set.wait_for_failover();
        assert_ne!(promoted.port(), first.port());
        assert_eq!(promoted.ask::<String>(&["GET", "a"]), "1");
        assert_eq!(promoted.command(&["SET", "a", "2"]), Value::Okay);
        // The old one comes back as a replica.
        first.restart();
        set.wait_until_whole();
        promoted.wait_until_replicated();
        assert_eq!(first.ask::<String>(&["GET", "a"]), "2");
        let refused = first.attempt::<Value>(&["SET", "a", "3"]).unwrap_err();
        assert_eq!(refused.code(), Some("READONLY"));
    }

    #[test]
    fn a_failover_by_order_leaves_both_alive() {
        let set = SentinelSet::start_with(&["--appendonly", "yes"]);
        let first = set.primary();
        set.failover();
        let promoted = set.wait_for_failover();
        assert!(first.is_running());
        assert_eq!(promoted.command(&["SET", "a", "1"]), Value::Okay);
        set.wait_until_whole();
        assert_eq!(set.replica().port(), first.port());
    }
}

mod cluster {
    use redis::{Client, Connection, Value};

    use super::PATIENCE;
    use crate::redis_cluster::RedisCluster;
    use crate::redis_server::RedisServer;

    const KEYS: usize = 250;

    fn connect(url: &str) -> Connection {
        let client = Client::open(url).unwrap().get_connection().unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    fn set(server: &RedisServer, key: &str) -> redis::RedisResult<Value> {
        server.attempt(&["SET", key, "1"])
    }

    fn code(answer: redis::RedisResult<Value>) -> String {
        answer.unwrap_err().code().unwrap_or_default().to_owned()
    }

    #[test]
    fn a_slot_moves_with_its_keys_and_a_replica_takes_over() {
        let cluster = RedisCluster::start();
        assert_eq!((cluster.urls().len(), cluster.nodes().count()), (6, 6));
        let key = |at: usize| format!("{{group}}:{at}");
        let slot = cluster.slot_of(&key(0));
        let (from, to) = (cluster.primary_of(slot), cluster.other_primary(slot));
        for at in 0..KEYS {
            set(from, &key(at)).unwrap();
        }
        assert_eq!(code(set(to, &key(0))), "MOVED");
        cluster.begin_move(slot, to);
        set(from, &key(0)).unwrap();
        assert_eq!(code(set(from, "{group}:new")), "ASK");
        cluster.move_keys(slot, to);
        assert_eq!(code(set(from, &key(0))), "ASK");
        cluster.finish_move(slot, to);
        assert_eq!(cluster.primary_of(slot).port(), to.port());
        assert_eq!(code(set(from, &key(0))), "MOVED");
        let count = |server: &RedisServer| -> usize {
            server.ask(&["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()])
        };
        assert_eq!((count(from), count(to)), (0, KEYS));
        to.wait_until_replicated();
        let dead = cluster.kill_primary_of(slot);
        assert_eq!(dead.port(), to.port());
        let promoted = cluster.wait_for_primary_of(slot);
        assert_ne!(promoted.port(), to.port());
        assert_eq!(count(promoted), KEYS);
        set(promoted, &key(0)).unwrap();
        dead.restart();
        cluster.wait_until_whole();
        assert_eq!(code(set(dead, &key(0))), "MOVED");
        // And back again, at one stroke.
        cluster.move_slot(slot, from);
        assert_eq!((count(promoted), count(from)), (0, KEYS));
    }

    #[test]
    fn clients_are_sent_by_way_of_the_proxies() {
        let cluster = RedisCluster::start_behind_proxies();
        let slot = cluster.slot_of("a");
        let (primary, other) = (cluster.primary_of(slot), cluster.other_primary(slot));
        let proxy = cluster.proxy_of(primary);
        let moved = set(other, "a").unwrap_err();
        let announced = format!("{slot} {}", proxy.addr());
        assert_eq!(moved.detail(), Some(announced.as_str()));
        let url = primary.url_at(proxy.addr());
        assert!(cluster.urls().contains(&url));
        proxy.swallow_reply_to("INCR");
        let incr = redis::cmd("INCR").arg("a").to_owned();
        assert!(incr.exec(&mut connect(&url)).is_err());
        let found: i64 = incr.query(&mut connect(&url)).unwrap();
        assert_eq!((found, proxy.replies_lost()), (2, 1));
    }
}
