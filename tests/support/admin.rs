//! The admin API, as tests use it.

use std::net::SocketAddr;

use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::wait::{PATIENCE, eventually, that};

/// The static bearer token that every rig is configured with.
pub const TOKEN: &str = "rig-admin-token-0123456789";

/// A client of `/admin`.
#[derive(Clone, Debug)]
pub struct Admin {
    url: String,
    http: reqwest::Client,
}

/// A key that was just made.
#[derive(Clone, Debug)]
pub struct Key {
    pub id: String,
    /// The whole key, as a client sends it.
    pub secret: String,
}

impl Admin {
    pub fn new(address: SocketAddr) -> Self {
        Admin {
            url: format!("http://{address}"),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    /// Any call, signed in.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Response {
        let request = self.http.request(method, format!("{}{path}", self.url));
        let request = request.bearer_auth(TOKEN);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        request.send().await.unwrap()
    }

    /// A call that must be answered with 200.
    ///
    /// # Panics
    /// On any other status, with the body.
    pub async fn ok(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        let answer = self.call(method.clone(), path, body).await;
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 200, "{method} {path} {body:?}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub async fn get(&self, path: &str) -> Value {
        self.ok(Method::GET, path, None).await
    }

    /// Makes a key from a body of `POST /admin/api-keys`.
    pub async fn create(&self, body: Value) -> Key {
        let made = self.ok(Method::POST, "/admin/api-keys", Some(&body)).await;
        let text = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
        Key {
            id: text("id"),
            secret: text("api_key"),
        }
    }

    /// A key with this token quota (0 is unlimited) and no rate limits.
    pub async fn key(&self, token_limit: u64) -> Key {
        let body =
            json!({"name": "test", "token_limit": token_limit, "rate_limit_tier": "unlimited"});
        self.create(body).await
    }

    pub async fn show(&self, key: &Key) -> Value {
        self.get(&format!("/admin/api-keys/{}", key.id)).await
    }

    /// The key once `test` holds for it: an answer reaches its client before it is settled.
    pub async fn show_when(&self, key: &Key, test: impl Fn(&Value) -> bool) -> Value {
        eventually(PATIENCE, || async { that(self.show(key).await, &test) }).await
    }

    pub async fn patch(&self, key: &Key, change: Value) -> Value {
        let path = format!("/admin/api-keys/{}", key.id);
        self.ok(Method::PATCH, &path, Some(&change)).await
    }

    /// `disable`, `enable`, `rotate` or `reset`.
    pub async fn act(&self, key: &Key, action: &str) -> Value {
        let path = format!("/admin/api-keys/{}/{action}", key.id);
        self.ok(Method::POST, &path, None).await
    }

    pub async fn delete(&self, key: &Key, hard: bool) -> Value {
        let path = format!("/admin/api-keys/{}?hard_delete={hard}", key.id);
        self.ok(Method::DELETE, &path, None).await
    }

    /// The usage events of a key, newest first, by its own right.
    pub async fn usage_logs(&self, key: &Key) -> Vec<Value> {
        let url = format!("{}/api/usage/logs?limit=1000", self.url);
        let answer = self.http.get(url).bearer_auth(&key.secret).send().await;
        answer.unwrap().json().await.unwrap()
    }

    /// What running exchanges hold now, of all keys together.
    pub async fn held_tokens(&self) -> f64 {
        self.metric("quota_held_tokens").await
    }

    /// Waits until nothing is held: every exchange that ran is settled.
    pub async fn settled(&self) {
        eventually(PATIENCE, || async {
            let open = self.metric("quota_reservations_open").await;
            that(open, |&open| open == 0.0)
        })
        .await;
    }

    /// The events of a key, newest first, once there are so many.
    pub async fn usage_logs_when(&self, key: &Key, count: usize) -> Vec<Value> {
        eventually(PATIENCE, || async {
            that(self.usage_logs(key).await, |logs| logs.len() == count)
        })
        .await
    }

    /// The text of `GET /metrics`.
    pub async fn metrics(&self) -> String {
        let answer = self.call(Method::GET, "/metrics", None).await;
        answer.text().await.unwrap()
    }

    /// The sum over all series of one metric; 0 where there is none.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.metrics().await;
        let series = text.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        series
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}
