//! Sessions of operators: JSON Web Tokens, HS256 (RFC 7519), and nothing else.

use base64::Engine as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::config::AdminConfig;
use crate::time::UnixMs;

const ISSUER: &str = "quota-proxy";

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    /// Seconds since the epoch.
    iat: i64,
    exp: i64,
    /// Marks the credential that signed in: a changed password ends its sessions.
    cred: String,
}

/// Why a token is no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSession {
    /// It was one.
    Expired,
    /// Not signed by us, by another algorithm, or for another credential.
    Forged,
}

/// Makes and reads tokens under one signing key.
pub struct Sessions {
    signing_key: Vec<u8>,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sessions(…)")
    }
}

impl Sessions {
    pub fn new(signing_key: &[u8]) -> Self {
        Sessions {
            signing_key: signing_key.to_vec(),
        }
    }

    /// A token for the configured user, good for `session_ttl` from `now`.
    ///
    /// # Errors
    /// When the token cannot be encoded; not expected to happen.
    pub fn open(
        &self,
        config: &AdminConfig,
        now: UnixMs,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let seconds = i64::try_from(config.session_ttl.as_secs()).unwrap_or(i64::MAX);
        let iat = now.0 / 1_000;
        let claims = Claims {
            iss: String::from(ISSUER),
            sub: config.username.clone(),
            iat,
            exp: iat.saturating_add(seconds),
            cred: self.credential_mark(config),
        };
        let key = EncodingKey::from_secret(&self.signing_key);
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
    }

    /// The user a token was made for.
    pub fn read(
        &self,
        token: &str,
        config: &AdminConfig,
        now: UnixMs,
    ) -> Result<String, NoSession> {
        // The algorithm is ours to say, never the token's; and the clock is given to us.
        let mut rules = Validation::new(Algorithm::HS256);
        rules.set_issuer(&[ISSUER]);
        rules.set_required_spec_claims(&["exp", "iss", "sub"]);
        rules.validate_exp = false;
        let key = DecodingKey::from_secret(&self.signing_key);
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &rules)
            .map_err(|_| NoSession::Forged)?
            .claims;
        if claims.sub != config.username || claims.cred != self.credential_mark(config) {
            return Err(NoSession::Forged);
        }
        if claims.exp <= now.0 / 1_000 {
            return Err(NoSession::Expired);
        }
        Ok(claims.sub)
    }

    /// Eight bytes that change with the password and say nothing of it without the signing key.
    fn credential_mark(&self, config: &AdminConfig) -> String {
        let mut mac = match Hmac::<Sha256>::new_from_slice(&self.signing_key) {
            Ok(mac) => mac,
            // HMAC takes keys of every length (RFC 2104); an empty mark fits no other.
            Err(_) => return String::new(),
        };
        for part in [&config.password, &config.password_hash]
            .into_iter()
            .flatten()
        {
            mac.update(part.reveal().as_bytes());
        }
        let mark = mac.finalize().into_bytes();
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&mark[..8])
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::config::SecretText;

    const NOW: UnixMs = UnixMs(1_795_229_099_123);

    fn config(password: &str) -> AdminConfig {
        AdminConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            username: String::from("admin"),
            password: Some(SecretText::new(password)),
            password_hash: None,
            token: None,
            secret_key: None,
            environment: String::from("test"),
            session_ttl: Duration::from_secs(86_400),
            allow_registration: false,
            master_key: Vec::new(),
        }
    }

    fn part(value: &serde_json::Value) -> String {
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string())
    }

    #[test]
    fn a_session_ends_with_its_time() {
        let sessions = Sessions::new(&[1; 32]);
        let config = config("p");
        let token = sessions.open(&config, NOW).unwrap();
        let day = 86_400_000;
        assert_eq!(sessions.read(&token, &config, NOW).as_deref(), Ok("admin"));
        let last = NOW.plus_ms(day - 1_000);
        assert_eq!(sessions.read(&token, &config, last).as_deref(), Ok("admin"));
        let over = sessions.read(&token, &config, NOW.plus_ms(day));
        assert_eq!(over, Err(NoSession::Expired));
    }

    #[test]
    fn a_session_ends_with_its_password_and_its_key() {
        let sessions = Sessions::new(&[1; 32]);
        let token = sessions.open(&config("p"), NOW).unwrap();
        let other = sessions.read(&token, &config("q"), NOW);
        assert_eq!(other, Err(NoSession::Forged));
        let other = Sessions::new(&[2; 32]).read(&token, &config("p"), NOW);
        assert_eq!(other, Err(NoSession::Forged));
    }

    #[test]
    fn forged_tokens_are_refused() {
        let sessions = Sessions::new(&[1; 32]);
        let config = config("p");
        let token = sessions.open(&config, NOW).unwrap();
        let claims = token.split('.').nth(1).unwrap();
        let signature = token.split('.').nth(2).unwrap();
        for alg in ["none", "None", "HS384", "RS256", "HS512"] {
            let header = part(&json!({"alg": alg, "typ": "JWT"}));
            for signature in ["", signature] {
                let forged = format!("{header}.{claims}.{signature}");
                let read = sessions.read(&forged, &config, NOW);
                assert_eq!(read, Err(NoSession::Forged), "{alg}");
            }
        }
        let better =
            part(&json!({"iss": ISSUER, "sub": "admin", "iat": 0, "exp": i64::MAX, "cred": ""}));
        let header = token.split('.').next().unwrap();
        let forged = format!("{header}.{better}.{signature}");
        assert_eq!(sessions.read(&forged, &config, NOW), Err(NoSession::Forged));
        for text in ["", ".", "..", "a.b.c", "ä.ö.ü", &token[..token.len() - 1]] {
            assert_eq!(sessions.read(text, &config, NOW), Err(NoSession::Forged));
        }
    }
}
