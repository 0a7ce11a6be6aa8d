//! Asking the sentinels which server is the primary now.

use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, RedisConnectionInfo,
    RedisError, RedisResult,
};
use tokio::time::timeout;

use super::fault::text;

/// Where one sentinel says the primary is, as a server to connect to: with the user, password and
/// database of the sentinel's URL, and over TLS where that is.
pub(super) async fn primary_by(
    sentinel: ConnectionInfo,
    primary: &str,
    wait: Duration,
) -> Result<ConnectionInfo, String> {
    let answer = match timeout(wait, ask(&sentinel, primary, wait)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(format!("sentinel {}: {}", sentinel.addr(), text(&error))),
        Err(_) => {
            return Err(format!(
                "sentinel {} did not answer in time",
                sentinel.addr()
            ));
        }
    };
    let Some((host, port)) = answer else {
        return Err(format!(
            "sentinel {} knows no primary named {primary}",
            sentinel.addr()
        ));
    };
    let address = match sentinel.addr() {
        ConnectionAddr::TcpTls {
            insecure,
            tls_params,
            ..
        } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host, port),
    };
    Ok(sentinel.set_addr(address))
}

/// Sentinels have passwords of their own or none: the URL's is tried first, then none.
async fn ask(
    sentinel: &ConnectionInfo,
    primary: &str,
    wait: Duration,
) -> RedisResult<Option<(String, u16)>> {
    let own = sentinel.redis_settings();
    let bare = RedisConnectionInfo::default();
    let known = match (own.username(), own.password()) {
        (Some(user), Some(password)) => bare.clone().set_username(user).set_password(password),
        (None, Some(password)) => bare.clone().set_password(password),
        (_, None) => return ask_as(sentinel, bare, primary, wait).await,
    };
    match ask_as(sentinel, known, primary, wait).await {
        Err(error) if error.kind() == ErrorKind::AuthenticationFailed => {
            ask_as(sentinel, bare, primary, wait).await
        }
        answer => answer,
    }
}

async fn ask_as(
    sentinel: &ConnectionInfo,
    who: RedisConnectionInfo,
    primary: &str,
    wait: Duration,
) -> Result<Option<(String, u16)>, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(wait))
        .set_response_timeout(Some(wait));
    let mut connection = Client::open(sentinel.clone().set_redis_settings(who))?
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    redis::cmd("SENTINEL")
        .arg("GET-MASTER-ADDR-BY-NAME")
        .arg(primary)
        .query_async(&mut connection)
        .await
}
