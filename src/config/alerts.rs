//! `alerts` and `plugins`: checked whole, though what they switch on comes with later releases.

use super::PluginConfig;
use super::document::Value;
use super::scalar::{boolean, choice, text, whole};
use super::secret::SecretText;
use super::section::{Field, LATER, Section};

/// Where alerts go.
#[derive(Clone, Debug, Default)]
pub struct AlertsConfig {
    pub smtp: Option<SmtpConfig>,
    pub webhooks: Vec<WebhookConfig>,
}

#[derive(Clone, Debug)]
pub struct SmtpConfig {
    pub server: String,
    pub port: u16,
    pub user: Option<String>,
    pub password: Option<SecretText>,
    pub from: String,
    pub to: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// Chat webhooks carry their secret in the URL.
    pub url: SecretText,
    pub format: WebhookFormat,
    /// Signs the body.
    pub secret: Option<SecretText>,
    /// Whether it may go to private addresses, and without TLS.
    pub allow_private: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookFormat {
    Json,
    Slack,
    DingTalk,
    Feishu,
    WeCom,
    Telegram,
}

/// Reads `alerts.*`: where alerts go, and the percentages of a quota that raise one.
pub fn alerts(mut section: Section<'_>) -> (AlertsConfig, Vec<u8>) {
    let webhooks = section.items("webhooks");
    let alerts = AlertsConfig {
        smtp: section
            .field("smtp")
            .and_then(|field| smtp(field.section())),
        webhooks: webhooks
            .iter()
            .filter_map(|field| webhook(field.section()))
            .collect(),
    };
    let mut thresholds = section.list("key_thresholds", vec![80, 95, 100], |text| {
        whole(1, 100)(text).map_err(|_| String::from("expected a percentage from 1 to 100"))
    });
    thresholds.sort_unstable();
    thresholds.dedup();
    section.finish();
    (alerts, thresholds)
}

fn smtp(mut section: Section<'_>) -> Option<SmtpConfig> {
    let server = section.need("server", "the name of a mail server", host);
    let from = section.need("from", "an e-mail address", mail_address);
    let to = section.list("to", Vec::new(), mail_address);
    if section.lacks("to") {
        section.missing("to", "a list of e-mail addresses such as [ops@example.com]");
    }
    let port = section.or("port", 587, whole(1, 65_535));
    let user = section.get("user", |user| Ok(String::from(user)));
    let password = section.secret("password");
    section.finish();
    Some(SmtpConfig {
        server: server?,
        port,
        user: user.filter(|user| !user.is_empty()),
        password,
        from: from?,
        to,
    })
}

fn host(name: &str) -> Result<String, String> {
    let fits =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if name.is_empty() || !name.chars().all(fits) {
        return Err(String::from(
            "expected a host name such as smtp.example.com",
        ));
    }
    Ok(String::from(name))
}

fn mail_address(address: &str) -> Result<String, String> {
    let bare = address
        .rsplit_once('<')
        .map_or(address, |(_, bare)| bare.trim_end_matches('>'));
    let fits = bare.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty() && !domain.is_empty() && !domain.contains('@')
    });
    if !fits || bare.contains(char::is_whitespace) || address.contains(char::is_control) {
        return Err(String::from(
            "expected an e-mail address such as ops@example.com",
        ));
    }
    Ok(String::from(address))
}

fn webhook(mut section: Section<'_>) -> Option<WebhookConfig> {
    use WebhookFormat::{DingTalk, Feishu, Json, Slack, Telegram, WeCom};
    let allow_private = section.or("allow_private", false, boolean);
    let format = section.or(
        "format",
        Json,
        choice(&[
            ("json", Json),
            ("slack", Slack),
            ("dingtalk", DingTalk),
            ("feishu", Feishu),
            ("wecom", WeCom),
            ("telegram", Telegram),
        ]),
    );
    let secret = section.secret("secret");
    let url = match section.field("url") {
        Some(field) => field.hidden(|url| webhook_url(url, allow_private)),
        None => {
            section.missing("url", "a URL such as https://hooks.example.com/quota");
            None
        }
    };
    section.finish();
    Some(WebhookConfig {
        url: url?,
        format,
        secret,
        allow_private,
    })
}

fn webhook_url(url: &str, allow_private: bool) -> Result<SecretText, String> {
    let uri: Option<http::Uri> = url.parse().ok();
    let scheme = uri.as_ref().and_then(http::Uri::scheme_str);
    let has_host = uri
        .as_ref()
        .and_then(http::Uri::host)
        .is_some_and(|host| !host.is_empty());
    match scheme {
        Some("https") if has_host => Ok(SecretText::new(url)),
        Some("http") if has_host && allow_private => Ok(SecretText::new(url)),
        _ => Err(String::from(
            "expected an https:// URL (http:// only with allow_private: true)",
        )),
    }
}

/// Reads `plugins`.
pub fn plugins(root: &mut Section<'_>) -> Vec<PluginConfig> {
    let fields = root.items("plugins");
    fields.iter().filter_map(plugin).collect()
}

fn plugin(field: &Field<'_>) -> Option<PluginConfig> {
    let mut section = field.section();
    let name = section.need("name", "the name of a plugin", text);
    let config = match section.field("config") {
        Some(field) if matches!(field.node.value, Value::Map(_)) => own_value(&field),
        Some(field) => {
            field
                .at
                .fault("found no mapping, expected the plugin's own fields, as in {}");
            serde_yaml::Value::Null
        }
        None => serde_yaml::Value::Mapping(serde_yaml::Mapping::new()),
    };
    field.at.notice(LATER);
    section.finish();
    Some(PluginConfig {
        name: name?,
        config,
    })
}

/// A part of the file that only a plugin understands, with its variables expanded.
fn own_value(field: &Field<'_>) -> serde_yaml::Value {
    match &field.node.value {
        Value::Scalar { plain, .. } => scalar(field, *plain),
        Value::List(_) => field.items().iter().map(own_value).collect(),
        Value::Map(_) => {
            let own = |(name, field): (&str, Field<'_>)| (name.into(), own_value(&field));
            serde_yaml::Value::Mapping(field.named().into_iter().map(own).collect())
        }
    }
}

/// A plain scalar has the type it looks like; a quoted one is text.
fn scalar(field: &Field<'_>, plain: bool) -> serde_yaml::Value {
    let Some(text) = field.value(|text| Ok(String::from(text))) else {
        return serde_yaml::Value::Null;
    };
    let typed = plain.then(|| serde_yaml::from_str::<serde_yaml::Value>(&text).ok());
    match typed.flatten() {
        Some(value @ (serde_yaml::Value::Bool(_) | serde_yaml::Value::Number(_))) => value,
        _ => serde_yaml::Value::String(text),
    }
}
