//! Which path answers what.

use std::sync::Arc;

use http::request::Parts;
use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::metering::Dialect;
use crate::time::UnixMs;

use super::ask::{Ask, Plan};
use super::fault::Fault;
use super::ledger::hex;
use super::reply::Reply;
use super::service::Arrived;
use super::{Options, anthropic, gemini, media, openai, responses};

/// Paths that take a JSON body with a model in it.
const POST_PATHS: [&str; 8] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/images/generations",
    "/v1/audio/speech",
    "/v1/messages",
    "/v1/messages/count_tokens",
];

/// Whose API a request speaks.
pub fn dialect(parts: &Parts) -> Dialect {
    let path = parts.uri.path();
    if path.starts_with("/v1/messages") || parts.headers.contains_key("anthropic-version") {
        Dialect::Anthropic
    } else if path.starts_with("/v1beta") {
        Dialect::Gemini
    } else {
        Dialect::OpenAi
    }
}

/// Bodies that are not JSON: of them only the beginning is kept.
pub fn is_upload(parts: &Parts) -> bool {
    let kind = parts.headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| !kind.as_bytes().starts_with(b"application/json"))
}

/// The reply for a request. Takes what the model's name asks for into its directives.
///
/// # Errors
/// The provider's answer to a path, method or body that it does not know.
pub fn route(options: &Options, arrived: &mut Arrived) -> Result<Reply, Fault> {
    let path = arrived.parts.uri.path().to_owned();
    let method = arrived.parts.method.clone();
    if arrived.control.echo || path == "/_fake/echo" {
        return Ok(Reply::json(echo(arrived)));
    }
    if method == Method::GET {
        let list = models(&path, arrived.dialect);
        return list
            .map(Reply::json)
            .ok_or_else(|| Fault::unknown_path(&method, &path));
    }
    let google = path
        .strip_prefix("/v1beta/models/")
        .and_then(|rest| rest.split_once(':'));
    match (path.as_str(), google) {
        (_, Some((model, action))) => google_reply(options, arrived, model, action),
        ("/v1/audio/transcriptions" | "/v1/audio/translations", _) => Ok(transcription(arrived)),
        (path, _) if POST_PATHS.contains(&path) => json_reply(options, arrived, path),
        _ => Err(Fault::unknown_path(&method, &path)),
    }
}

fn json_reply(options: &Options, arrived: &mut Arrived, path: &str) -> Result<Reply, Fault> {
    let body = json_body(arrived)?;
    let mut ask = Ask::of(&body);
    if ask.model.is_empty() {
        let message = "you must provide a model parameter";
        return Err(Fault::new(StatusCode::BAD_REQUEST, message));
    }
    if matches!(path, "/v1/messages" | "/v1/responses") {
        ask.choices = 1;
    }
    arrived.control.apply_model(&ask.model);
    let record = &arrived.record;
    let input = ask.input_tokens();
    record.asked(&ask.model, ask.stream, input);
    Ok(match path {
        "/v1/embeddings" => Reply::json(media::embeddings(&body, &ask)),
        "/v1/images/generations" => {
            let (answer, output) = media::images(&ask, UnixMs::now().0 / 1000);
            Reply::Json(answer, output)
        }
        "/v1/audio/speech" => Reply::Bytes("audio/mpeg", media::speech(&body)),
        "/v1/messages/count_tokens" => Reply::json(json!({"input_tokens": input})),
        _ => {
            let plan = ask.plan(record.id(), &arrived.control, options.tokens);
            record.asked(&ask.model, ask.stream, plan.input_tokens());
            generated(path, plan, ask.stream)
        }
    })
}

fn generated(path: &str, plan: Arc<Plan>, stream: bool) -> Reply {
    use openai::Form;
    if stream {
        return Reply::events(match path {
            "/v1/messages" => anthropic::stream(plan),
            "/v1/responses" => responses::stream(plan),
            "/v1/completions" => openai::stream(Form::Text, plan),
            _ => openai::stream(Form::Chat, plan),
        });
    }
    let answer = match path {
        "/v1/messages" => anthropic::plain(&plan),
        "/v1/responses" => responses::plain(&plan),
        "/v1/completions" => openai::plain(Form::Text, &plan),
        _ => openai::plain(Form::Chat, &plan),
    };
    Reply::Json(answer, plan.output_tokens())
}

fn google_reply(
    options: &Options,
    arrived: &mut Arrived,
    model: &str,
    action: &str,
) -> Result<Reply, Fault> {
    let mut ask = Ask::of(&json_body(arrived)?);
    ask.model = model.to_owned();
    ask.stream = action == "streamGenerateContent";
    arrived.control.apply_model(model);
    let record = &arrived.record;
    let plan = ask.plan(record.id(), &arrived.control, options.tokens);
    record.asked(model, ask.stream, plan.input_tokens());
    match action {
        "generateContent" => Ok(Reply::Json(gemini::plain(&plan), plan.output_tokens())),
        "streamGenerateContent" => {
            let sse = is_sse(&arrived.parts);
            let steps = gemini::stream(plan, sse);
            Ok(if sse {
                Reply::events(steps)
            } else {
                Reply::growing_json(steps)
            })
        }
        "countTokens" => Ok(Reply::json(json!({"totalTokens": plan.input_tokens()}))),
        "embedContent" => {
            let values = vec![0.5; 16];
            Ok(Reply::json(json!({"embedding": {"values": values}})))
        }
        _ => Err(Fault::unknown_path(
            &arrived.parts.method,
            arrived.parts.uri.path(),
        )),
    }
}

/// Whether a Gemini stream was asked for as server-sent events.
pub fn is_sse(parts: &Parts) -> bool {
    let query = parts.uri.query().unwrap_or_default();
    query.split('&').any(|pair| pair == "alt=sse")
}

fn transcription(arrived: &mut Arrived) -> Reply {
    let field = |name| media::form_field(&arrived.body, name);
    let model = field("model").unwrap_or_else(|| "whisper-1".to_owned());
    let is_text = field("response_format").as_deref() == Some("text");
    let (answer, input, output) = media::transcription(&model, arrived.body_bytes);
    arrived.control.apply_model(&model);
    arrived.record.asked(&model, false, input);
    match answer["text"].as_str() {
        Some(text) if is_text => Reply::Bytes("text/plain", text.into()),
        _ => Reply::Json(answer, output),
    }
}

fn models(path: &str, dialect: Dialect) -> Option<Value> {
    let one = path.strip_prefix("/v1/models/");
    match (path, one, dialect) {
        ("/v1beta/models", ..) => Some(media::gemini_models()),
        ("/v1/models", _, Dialect::Anthropic) => Some(media::anthropic_models()),
        ("/v1/models", ..) => Some(media::openai_models()),
        (_, Some(id), Dialect::Anthropic) => Some(media::anthropic_model(id)),
        (_, Some(id), _) => Some(media::openai_model(id)),
        _ => None,
    }
}

fn json_body(arrived: &Arrived) -> Result<Value, Fault> {
    let body: Result<Value, _> = serde_json::from_slice(&arrived.body);
    body.ok().filter(Value::is_object).ok_or_else(|| {
        let message = "We could not parse the JSON body of your request.";
        Fault::new(StatusCode::BAD_REQUEST, message)
    })
}

/// What arrived, without its credential.
fn echo(arrived: &Arrived) -> Value {
    let headers = &arrived.parts.headers;
    let names: Vec<&str> = headers.keys().map(http::HeaderName::as_str).collect();
    json!({
        "method": arrived.parts.method.as_str(),
        "path": arrived.parts.uri.path(),
        "body_bytes": arrived.body_bytes,
        "body_sha256": arrived.sha256.map(|digest| hex(&digest)),
        "header_names": names,
    })
}
