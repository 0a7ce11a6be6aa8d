//! One proxy whose admin service lets people register, on either store, and a client of it.

use reqwest::Method;
use serde_json::{Value, json};

use crate::reply::{Reply, reply};
use crate::support::admin::TOKEN;
use crate::support::redis_server::RedisServer;
use crate::support::rig::{Builder, Rig};

/// The password of the operator of the configuration, whose name is `admin`.
pub const OPERATOR_PASSWORD: &str = "the operator's password";
pub const PASSWORD: &str = "a member's password";

pub struct House {
    pub rig: Rig,
    _redis: Option<RedisServer>,
    http: reqwest::Client,
}

impl House {
    pub async fn embedded() -> Self {
        House::of(Rig::builder(), None).await
    }

    pub async fn redis() -> Self {
        let redis = RedisServer::start();
        let store = json!({"kind": "redis", "path": "quota.db", "redis": {
            "mode": "standalone", "urls": [redis.url()], "timeout": "5s",
        }});
        House::of(Rig::builder().set("store", store), Some(redis)).await
    }

    async fn of(builder: Builder, redis: Option<RedisServer>) -> Self {
        let rig = builder
            .set("admin.password", json!(OPERATOR_PASSWORD))
            .set("admin.allow_registration", json!(true))
            .start()
            .await;
        House {
            rig,
            _redis: redis,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("http://{}{path}", self.rig.process().admin);
        self.http.request(method, url)
    }

    pub async fn call(&self, bearer: &str, method: &str, path: &str, body: Value) -> Reply {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.request(method, path).bearer_auth(bearer);
        let request = match body {
            Value::Null => request,
            body => request.json(&body),
        };
        reply(request).await
    }

    pub async fn get(&self, bearer: &str, path: &str) -> Reply {
        self.call(bearer, "GET", path, Value::Null).await
    }

    /// As the operator with the admin token.
    pub async fn operate(&self, method: &str, path: &str, body: Value) -> Reply {
        self.call(TOKEN, method, path, body).await
    }

    pub async fn post_open(&self, path: &str, body: Value) -> Reply {
        let request = self.request(Method::POST, path).json(&body);
        reply(request).await
    }

    pub async fn register(&self, name: &str) -> Value {
        let body = json!({
            "username": name, "email": format!("{name}@example.com"), "password": PASSWORD,
        });
        self.post_open("/api/auth/register", body).await.ok()
    }

    pub async fn sign_in(&self, login: &str, password: &str) -> Reply {
        let body = json!({"username": login, "password": password});
        self.post_open("/api/auth/login", body).await
    }

    /// A session of a user.
    pub async fn session(&self, login: &str, password: &str) -> String {
        let session = self.sign_in(login, password).await.ok();
        session["access_token"].as_str().unwrap().to_owned()
    }

    /// A new member, signed in.
    pub async fn member(&self, name: &str) -> String {
        self.register(name).await;
        self.session(name, PASSWORD).await
    }
}
