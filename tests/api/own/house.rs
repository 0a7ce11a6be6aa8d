//! The real server on one of its stores, and a client of its two ports.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::reply::{Reply, reply};
use crate::support::admin::TOKEN;
use crate::support::fleet::healthy;
use crate::support::redis_server::RedisServer;
use crate::support::rig::{CHAT, Rig, chat};
use crate::support::wait::{PATIENCE, eventually, that};

/// A server with its store.
pub struct House {
    pub rig: Rig,
    http: reqwest::Client,
    _redis: Option<RedisServer>,
}

impl House {
    pub async fn embedded() -> Self {
        House::over(Rig::start().await, None)
    }

    /// With the admin service on the edge port too.
    pub async fn mounted() -> Self {
        let rig = Rig::builder().set("edge.mount_admin", json!(true));
        House::over(rig.start().await, None)
    }

    pub async fn redis() -> Self {
        let server = RedisServer::start();
        let redis = json!({"mode": "standalone", "urls": [server.url()], "timeout": "5s"});
        let store = json!({"kind": "redis", "path": "quota.db", "redis": redis});
        let rig = Rig::builder().set("store", store).start().await;
        healthy(&rig, "ok").await;
        House::over(rig, Some(server))
    }

    /// Kills the server and starts it again on the same books.
    pub async fn restart(&mut self) {
        self.rig.restart().await;
        healthy(&self.rig, "ok").await;
    }

    fn over(rig: Rig, redis: Option<RedisServer>) -> Self {
        House {
            rig,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            _redis: redis,
        }
    }

    /// A request to the edge, with no credential yet.
    pub fn edge(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.rig.url()))
    }

    /// A request to the side port, with no credential yet.
    pub fn side(&self, method: Method, path: &str) -> RequestBuilder {
        let address = self.rig.process().admin;
        self.http.request(method, format!("http://{address}{path}"))
    }

    pub async fn get(&self, path: &str, key: &str) -> Reply {
        reply(self.edge(Method::GET, path).bearer_auth(key)).await
    }

    pub async fn post(&self, path: &str, key: &str, body: &Value) -> Reply {
        reply(self.edge(Method::POST, path).bearer_auth(key).json(body)).await
    }

    /// As an operator.
    pub async fn manage(&self, path: &str, body: &Value) -> Reply {
        reply(self.side(Method::POST, path).bearer_auth(TOKEN).json(body)).await
    }

    /// As an operator.
    pub async fn look(&self, path: &str) -> Reply {
        reply(self.side(Method::GET, path).bearer_auth(TOKEN)).await
    }

    /// A trial key with this quota: its id and its secret.
    pub async fn key(&self, quota: i64) -> (String, String) {
        let body = json!({"prefix": "roc", "quota": quota});
        let made = self.manage("/admin/keys", &body).await.ok();
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        (text("id"), text("key"))
    }

    /// A forwarded call, answered and booked.
    pub async fn call(&self, key: &str, model: &str) {
        let before = self.events(key).await;
        let answer = self.rig.post(CHAT, key, &chat(model)).await;
        answer.bytes().await.unwrap();
        eventually(PATIENCE, || async {
            that(self.events(key).await, |events| *events > before)
        })
        .await;
    }

    async fn events(&self, key: &str) -> usize {
        let events = self.get("/api/usage/logs?limit=1000", key).await.ok();
        events.as_array().unwrap().len()
    }
}
