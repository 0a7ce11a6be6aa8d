//! What a newcomer reads of the demo: where things are, and lines to copy.

use super::demo::Providers;
use super::fleet::Fleet;
use crate::keys::KeyId;

/// What the story tells of. Addresses are URLs.
pub(super) struct Story<'a> {
    pub(super) edge: String,
    pub(super) admin: String,
    pub(super) key: &'a str,
    pub(super) id: KeyId,
    pub(super) token: &'a str,
    pub(super) providers: &'a Providers,
    pub(super) fleet: Option<&'a Fleet>,
}

impl Story<'_> {
    /// The whole text.
    pub(super) fn tell(&self) -> String {
        let mut lines = self.places();
        lines.extend(self.requests());
        lines.extend(self.fleet.map(|fleet| self.of_fleet(fleet)));
        lines.push("Ctrl-C ends all of it.\n".to_owned());
        lines.join("\n")
    }

    fn places(&self) -> Vec<String> {
        let Story {
            edge,
            admin,
            key,
            token,
            ..
        } = self;
        let behind = if self.providers.any_real() {
            "the real provider, on your account"
        } else {
            "a built-in fake LLM"
        };
        let second = self.fleet.map(|fleet| {
            format!(
                "  edge 2     {}\n  admin 2    {}\n  books      {}",
                fleet.edge, fleet.admin, fleet.redis.told
            )
        });
        let what = self
            .fleet
            .map_or("quota-proxy is", |_| "Two edges of quota-proxy are");
        let mut lines = vec![
            format!("{what} running, in front of {behind}.\n"),
            format!("  edge       {edge}      (base URL for your SDK: {edge}/v1)"),
            format!("  admin      {admin}      (metrics: {admin}/metrics)"),
        ];
        lines.extend(second);
        lines.push(format!(
            "  key        {key}      (1,000 requests, 1,000,000 tokens, 5 USD)"
        ));
        lines.push(format!("  admin token {token}\n"));
        lines
    }

    fn requests(&self) -> Vec<String> {
        let Story {
            edge,
            admin,
            key,
            token,
            providers,
            ..
        } = self;
        let mut lines = Vec::new();
        if providers.openai || !providers.any_real() {
            let stream = self.chat(edge, ", \"stream\": true");
            lines.push(format!("A plain request:\n\n  {}\n", self.chat(edge, "")));
            lines.push(format!(
                "A stream:\n\n  {}\n",
                stream.replacen("curl ", "curl -N ", 1)
            ));
        }
        if providers.anthropic || !providers.any_real() {
            lines.push(format!(
                "Anthropic's dialect:\n\n  {}\n",
                self.messages(edge)
            ));
        }
        lines.push(format!(
            "What the key has used:\n\n  curl {edge}/api/usage/quota -H 'Authorization: Bearer {key}'\n"
        ));
        lines.push(format!(
            "All keys:\n\n  curl {admin}/admin/api-keys -H 'Authorization: Bearer {token}'\n"
        ));
        lines
    }

    /// What two edges on one Redis are.
    fn of_fleet(&self, fleet: &Fleet) -> String {
        let Fleet { edge, admin, .. } = fleet;
        let Story { key, id, token, .. } = self;
        let ask = match self.providers {
            Providers {
                openai: false,
                anthropic: true,
            } => self.messages(edge),
            _ => self.chat(edge, ""),
        };
        let act = |admin: &str, act: &str| {
            format!(
                "curl -X POST {admin}/admin/api-keys/{}/{act} -H 'Authorization: Bearer {token}'",
                id.0
            )
        };
        let (disable, enable) = (act(&self.admin, "disable"), act(admin, "enable"));
        format!(
            "The same key on edge 2:\n\n  {ask}\n\n\
             One set of books: edge 2 tells what both have served:\n\n  \
             curl {edge}/api/usage/quota -H 'Authorization: Bearer {key}'\n\n\
             Disable the key on edge 1, and edge 2 refuses it; then enable it on edge 2:\n\n  \
             {disable}\n\n  {ask}\n\n  {enable}\n"
        )
    }

    fn chat(&self, edge: &str, stream: &str) -> String {
        let key = self.key;
        format!(
            "curl {edge}/v1/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\\n    -d '{{\"model\": \"gpt-4o-mini\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello!\"}}]{stream}}}'"
        )
    }

    fn messages(&self, edge: &str) -> String {
        let key = self.key;
        format!(
            "curl {edge}/v1/messages -H 'x-api-key: {key}' -H 'anthropic-version: 2023-06-01' -H 'Content-Type: application/json' \\\n    -d '{{\"model\": \"claude-haiku-4-5\", \"max_tokens\": 64, \"messages\": [{{\"role\": \"user\", \"content\": \"Hello!\"}}]}}'"
        )
    }
}
