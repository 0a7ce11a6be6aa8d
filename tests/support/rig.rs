//! Fakes, one proxy in front of them, and clients of it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use quota_proxy::cli::fake_upstream::Options;
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};

use super::admin::{Admin, TOKEN};
use super::books::Books;
use super::fake::Fake;
use super::process::Process;
use super::wire::Wire;

/// Where OpenAI's clients ask for a chat.
pub const CHAT: &str = "/v1/chat/completions";

/// The credential that the proxy holds for the fakes.
pub const CREDENTIAL: &str = "sk-upstream-credential-7777";

/// A fake provider, a proxy and its clients. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Rig {
    process: Option<Process>,
    fakes: Vec<Fake>,
    http: reqwest::Client,
    envs: Vec<(String, String)>,
    prelude: String,
    folder: tempfile::TempDir,
}

/// What a rig is to be made of.
#[derive(Debug)]
pub struct Builder {
    fakes: Vec<Options>,
    /// Of a fake that others use too, in place of our own.
    shared: Option<String>,
    changes: Vec<(String, Value)>,
    envs: Vec<(String, String)>,
    prelude: String,
}

impl Rig {
    pub fn builder() -> Builder {
        Builder {
            fakes: Vec::new(),
            shared: None,
            changes: Vec::new(),
            envs: Vec::new(),
            prelude: String::new(),
        }
    }

    /// One fake that demands [`CREDENTIAL`], all defaults.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    pub fn edge(&self) -> SocketAddr {
        self.process().edge
    }

    /// `http://127.0.0.1:PORT` of the edge.
    pub fn url(&self) -> String {
        format!("http://{}", self.edge())
    }

    pub fn admin(&self) -> Admin {
        Admin::new(self.process().admin)
    }

    pub fn fake(&self) -> &Fake {
        &self.fakes[0]
    }

    pub fn fakes(&self) -> &[Fake] {
        &self.fakes
    }

    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the proxy was ended")
    }

    pub fn process_mut(&mut self) -> &mut Process {
        self.process.as_mut().expect("the proxy was ended")
    }

    /// A request to the edge with a key as OpenAI's clients send it.
    pub fn request(&self, method: reqwest::Method, path: &str, key: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.url());
        self.http.request(method, url).bearer_auth(key)
    }

    pub async fn post(&self, path: &str, key: &str, body: &Value) -> Response {
        let request = self.request(reqwest::Method::POST, path, key);
        request.json(body).send().await.unwrap()
    }

    /// The same, with directives for the fake.
    pub async fn post_fake(&self, path: &str, key: &str, body: &Value, wish: &str) -> Response {
        let request = self.request(reqwest::Method::POST, path, key);
        let request = request.header("x-fake", wish).json(body);
        request.send().await.unwrap()
    }

    /// A client that speaks HTTP/2 without TLS to the edge.
    pub fn h2(&self) -> reqwest::Client {
        let client = reqwest::Client::builder().no_proxy();
        client.http2_prior_knowledge().build().unwrap()
    }

    /// A raw connection to the edge.
    pub async fn wire(&self) -> Wire {
        Wire::connect(self.edge()).await
    }

    /// Ends the proxy by SIGKILL; the books lie as they are.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill9();
        }
    }

    /// Ends the proxy by SIGTERM and waits for it.
    pub async fn term(&mut self) -> std::process::ExitStatus {
        let mut process = self.process.take().expect("the proxy was ended");
        process.signal("TERM");
        process.exited(Duration::from_secs(60)).await
    }

    /// The end of a test: all is settled, the proxy ends well and never panicked, its books balance.
    /// Answers the books.
    ///
    /// # Panics
    /// Where it is not so.
    pub async fn end(mut self) -> Books {
        self.admin().settled().await;
        let said = self.process().output();
        assert!(!said.contains("panicked"), "{said}");
        assert!(self.term().await.success());
        let books = self.books();
        books.assert_balanced();
        books
    }

    /// Starts the proxy again on the same books, on new ports. Kills one that still runs.
    pub async fn restart(&mut self) {
        self.kill9();
        let process = Process::serve(&self.config_path(), &self.envs, &self.prelude).await;
        self.process = Some(process);
    }

    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("quota-proxy.yaml")
    }

    /// The configuration as it was written, to be changed and reloaded.
    pub fn config(&self) -> Value {
        let text = std::fs::read(self.config_path()).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    pub fn write_config(&self, config: &Value) {
        std::fs::write(self.config_path(), format!("{config:#}\n")).unwrap();
    }

    /// A copy of the books; see [`Books::copy`].
    pub fn books(&self) -> Books {
        Books::copy(&self.folder.path().join("quota.db"))
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
}

impl Builder {
    /// Adds a fake; without one there is one that demands [`CREDENTIAL`].
    pub fn fake(mut self, options: Options) -> Self {
        self.fakes.push(options);
        self
    }

    /// Uses this fake, which must demand [`CREDENTIAL`], and starts none.
    pub fn behind(mut self, fake: &Fake) -> Self {
        self.shared = Some(fake.url());
        self
    }

    /// Sets one value of the configuration, by its path: `quota.admission`, `pools.0.retry.attempts`.
    /// In a text `{fake0}` becomes the URL of the first fake.
    pub fn set(mut self, path: &str, value: Value) -> Self {
        self.changes.push((path.to_owned(), value));
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.envs.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Shell that the proxy's process runs before it becomes the proxy: limits, traps.
    pub fn prelude(mut self, shell: &str) -> Self {
        self.prelude = shell.to_owned();
        self
    }

    pub async fn start(mut self) -> Rig {
        if self.fakes.is_empty() && self.shared.is_none() {
            self.fakes.push(strict_fake());
        }
        let fakes: Vec<Fake> = self.fakes.into_iter().map(Fake::start).collect();
        let folder = tempfile::tempdir().unwrap();
        let mut config = default_config();
        for (path, value) in self.changes {
            set(&mut config, &path, value);
        }
        let urls = fakes.iter().map(Fake::url).chain(self.shared);
        fill_in(&mut config, &urls.collect::<Vec<_>>());
        let mut rig = Rig {
            process: None,
            fakes,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            envs: self.envs,
            prelude: self.prelude,
            folder,
        };
        rig.write_config(&config);
        rig.restart().await;
        rig
    }
}

/// All defaults, but it demands [`CREDENTIAL`].
pub fn strict_fake() -> Options {
    Options {
        require_credential: Some(CREDENTIAL.to_owned()),
        ..Options::default()
    }
}

/// A JSON text is a YAML text too.
fn default_config() -> Value {
    let pool = |name: &str, dialect: &str, models: &[&str]| {
        json!({
            "name": name, "dialect": dialect, "models": models,
            "peers": [{"url": "{fake0}", "credential": CREDENTIAL}],
        })
    };
    json!({
        "server": {"threads": 2, "grace_period_seconds": 10, "upgrade_sock": "upgrade.sock"},
        "edge": {"listen": ["127.0.0.1:0"]},
        "admin": {"listen": "127.0.0.1:0", "token": TOKEN},
        "store": {"kind": "embedded", "path": "quota.db"},
        "pools": [
            pool("claude", "anthropic", &["claude-*"]),
            pool("gemini", "gemini", &["gemini-*"]),
            pool("openai", "openai", &["gpt-*", "o*", "text-embedding-*", "whisper-*", "tts-*"]),
        ],
    })
}

fn set(config: &mut Value, path: &str, value: Value) {
    let mut place = config;
    for part in path.split('.') {
        place = match (part.parse::<usize>(), place.is_array()) {
            (Ok(at), true) => &mut place[at],
            _ => &mut place[part],
        };
    }
    *place = value;
}

fn fill_in(value: &mut Value, fakes: &[String]) {
    match value {
        Value::String(text) => {
            for (at, url) in fakes.iter().enumerate() {
                *text = text.replace(&format!("{{fake{at}}}"), url);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill_in(item, fakes)),
        Value::Object(fields) => fields.values_mut().for_each(|field| fill_in(field, fakes)),
        _ => {}
    }
}

/// The smallest chat request.
pub fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "hello there"}]})
}

/// The smallest chat request with a stream as its answer.
pub fn chat_stream(model: &str) -> Value {
    let mut body = chat(model);
    body["stream"] = json!(true);
    body
}
