//! An admin service over the embedded store, asked without a socket.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use http::Request;
use quota_proxy::admin::listen::ClientAddr;
use quota_proxy::admin::{self, AdminState, Clock};
use quota_proxy::config::{
    AdminConfig, Config, EdgeConfig, Estimate, LogConfig, OnClientGone, OnOverrun, QuotaConfig,
    SecretText, ServerConfig, StoreConfig,
};
use quota_proxy::exchange::{Desk, Live, Settler};
use quota_proxy::quota::{Admission, Rates};
use quota_proxy::store::LostReservation;
use quota_proxy::telemetry::Metrics;
use quota_proxy::time::UnixMs;
use serde_json::Value;
use tower::ServiceExt as _;

pub mod books;

use books::Books;

use crate::reply::Reply;

pub const TOKEN: &str = "an-admin-token";
pub const START: UnixMs = UnixMs(1_795_229_099_123);

/// An admin service and what a test turns in it.
pub struct Rig {
    router: Router,
    pub store: Arc<Books>,
    pub draining: Arc<AtomicBool>,
    now: Arc<AtomicI64>,
}

/// A request in the making, from 127.0.0.1.
pub struct Ask<'a> {
    rig: &'a Rig,
    request: http::request::Builder,
    from: IpAddr,
}

impl Ask<'_> {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub fn basic(self, user: &str, password: &str) -> Self {
        use base64::Engine as _;
        let both = format!("{user}:{password}");
        let both = base64::engine::general_purpose::STANDARD.encode(both);
        self.header("authorization", &format!("Basic {both}"))
    }

    pub fn from(mut self, ip: &str) -> Self {
        self.from = ip.parse().unwrap();
        self
    }

    pub async fn send(self, body: impl Into<Body>) -> Reply {
        let mut request = self.request.body(body.into()).unwrap();
        request.extensions_mut().insert(ClientAddr(Some(self.from)));
        let response = self.rig.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }
}

impl Rig {
    pub fn new() -> Self {
        Rig::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut AdminConfig)) -> Self {
        let mut config = config();
        change(&mut config.admin);
        let now = Arc::new(AtomicI64::new(START.0));
        let told = now.clone();
        let clock: Clock = Arc::new(move || UnixMs(told.load(Ordering::SeqCst)));
        let store = Arc::new(Books::open(clock.clone()));
        let draining = Arc::new(AtomicBool::new(false));
        let (settler, _queue) = Settler::new(config.quota.reservation_ttl);
        let desk = Desk {
            store: store.clone(),
            settler,
            live: ArcSwap::from_pointee(Live::new(Arc::new(config))),
        };
        let state = AdminState {
            desk: Arc::new(desk),
            metrics: Arc::new(Metrics::new().unwrap()),
            draining: draining.clone(),
            clock,
        };
        Rig {
            router: admin::router(state),
            store,
            draining,
            now,
        }
    }

    pub fn advance(&self, time: Duration) {
        let ms = i64::try_from(time.as_millis()).unwrap();
        self.now.fetch_add(ms, Ordering::SeqCst);
    }

    pub fn ask(&self, method: &str, uri: &str) -> Ask<'_> {
        Ask {
            rig: self,
            request: Request::builder().method(method).uri(uri),
            from: [127, 0, 0, 1].into(),
        }
    }

    /// As an operator.
    pub async fn get(&self, uri: &str) -> Reply {
        self.ask("GET", uri).bearer(TOKEN).send(Body::empty()).await
    }

    /// As an operator.
    pub async fn send(&self, method: &str, uri: &str, body: &Value) -> Reply {
        let ask = self.ask(method, uri).bearer(TOKEN);
        ask.send(body.to_string()).await
    }

    /// A key made from `body`: its id and its secret.
    pub async fn key(&self, body: Value) -> (String, String) {
        let made = self.send("POST", "/admin/api-keys", &body).await.ok();
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        (text("id"), text("api_key"))
    }
}

fn config() -> Config {
    let tier = |requests_per_minute| Rates {
        requests_per_minute,
        ..Rates::default()
    };
    Config {
        alerts: quota_proxy::config::AlertsConfig::default(),
        plugins: Vec::new(),
        server: ServerConfig {
            threads: 1,
            grace_period: Duration::ZERO,
            upgrade_sock: "u".into(),
        },
        edge: EdgeConfig {
            listen: Vec::new(),
            tls: Vec::new(),
            trusted_proxies: Vec::new(),
            max_request_body: 0,
            max_upload: 0,
            max_buffered: 0,
            request_timeout: Duration::ZERO,
            body_timeout: Duration::ZERO,
            max_connections: 0,
            self_service: true,
            cors_origins: Vec::new(),
            allow_unmetered: false,
            mount_admin: false,
        },
        admin: AdminConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            username: String::from("admin"),
            password: Some(SecretText::new("a-password")),
            password_hash: None,
            token: Some(SecretText::new(TOKEN)),
            secret_key: None,
            environment: String::from("test"),
            session_ttl: Duration::from_secs(86_400),
            allow_registration: false,
            master_key: Vec::new(),
        },
        store: StoreConfig::Embedded {
            path: "q.db".into(),
            sync_full: false,
            retention_days: 30,
        },
        quota: QuotaConfig {
            reservation_ttl: Duration::from_secs(900),
            lost_reservation: LostReservation::Charge,
            default_max_output_tokens: 4_096,
            estimate: Estimate::Auto,
            admission: Admission::Clamp,
            on_overrun: OnOverrun::TopUp,
            on_client_gone: OnClientGone::BillStreamed,
            local_slices: None,
        },
        tiers: BTreeMap::from([
            (String::from("basic"), tier(100)),
            (String::from("premium"), tier(1_000)),
            (String::from("unlimited"), tier(0)),
        ]),
        pools: Vec::new(),
        prices: Arc::default(),
        key_thresholds: Vec::new(),
        log: LogConfig {
            level: log::LevelFilter::Info,
            access: None,
        },
    }
}
