//! Sessions of operators: JSON Web Tokens, HS256 (RFC 7519), and nothing else.

use std::time::Duration;

use base64::Engine as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;

use crate::config::{AdminConfig, SecretText};
use crate::store::UserRecord;
use crate::time::UnixMs;

const ISSUER: &str = "quota-proxy";

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    jti: Uuid,
    /// Seconds since the epoch.
    iat: i64,
    exp: i64,
    /// Marks the credential that signed in: a changed password ends its sessions.
    cred: String,
    /// A user of the store; none for the operator of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<Uuid>,
}

/// Who a session is for.
#[derive(Debug)]
pub struct Holder<'a> {
    name: &'a str,
    user: Option<Uuid>,
    secrets: Vec<&'a str>,
}

impl<'a> Holder<'a> {
    pub fn of_config(config: &'a AdminConfig) -> Self {
        let secrets = [&config.password, &config.password_hash];
        Holder {
            name: &config.username,
            user: None,
            secrets: secrets
                .into_iter()
                .flatten()
                .map(SecretText::reveal)
                .collect(),
        }
    }

    pub fn of_user(user: &'a UserRecord) -> Self {
        Holder {
            name: &user.username,
            user: Some(user.id),
            secrets: vec![&user.password_hash],
        }
    }
}

/// A token that we signed and whose time is not over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub id: Uuid,
    pub name: String,
    pub user: Option<Uuid>,
    pub until: UnixMs,
    credential: String,
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

    /// A token for this holder, good for `ttl` from `now`.
    ///
    /// # Errors
    /// When the token cannot be encoded; not expected to happen.
    pub fn open(
        &self,
        holder: &Holder<'_>,
        ttl: Duration,
        now: UnixMs,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let iat = now.0 / 1_000;
        let claims = Claims {
            iss: String::from(ISSUER),
            sub: holder.name.to_owned(),
            jti: Uuid::new_v4(),
            iat,
            exp: iat.saturating_add(seconds),
            cred: self.credential_mark(holder),
            uid: holder.user,
        };
        let key = EncodingKey::from_secret(&self.signing_key);
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
    }

    /// Reads a token. Whether its holder is still there, and still has the credential, is asked with
    /// [`Sessions::fits`].
    pub fn read(&self, token: &str, now: UnixMs) -> Result<Token, NoSession> {
        // The algorithm is ours to say, never the token's; and the clock is given to us.
        let mut rules = Validation::new(Algorithm::HS256);
        rules.set_issuer(&[ISSUER]);
        rules.set_required_spec_claims(&["exp", "iss", "sub"]);
        rules.validate_exp = false;
        let key = DecodingKey::from_secret(&self.signing_key);
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &rules)
            .map_err(|_| NoSession::Forged)?
            .claims;
        if claims.exp <= now.0 / 1_000 {
            return Err(NoSession::Expired);
        }
        Ok(Token {
            id: claims.jti,
            name: claims.sub,
            user: claims.uid,
            until: UnixMs(claims.exp.saturating_mul(1_000)),
            credential: claims.cred,
        })
    }

    /// Whether a token is this holder's, by the credential as it is now.
    pub fn fits(&self, token: &Token, holder: &Holder<'_>) -> bool {
        token.name == holder.name
            && token.user == holder.user
            && token.credential == self.credential_mark(holder)
    }

    /// Eight bytes that change with the password and say nothing of it without the signing key.
    fn credential_mark(&self, holder: &Holder<'_>) -> String {
        let mut mac = match Hmac::<Sha256>::new_from_slice(&self.signing_key) {
            Ok(mac) => mac,
            // HMAC takes keys of every length (RFC 2104); an empty mark fits no other.
            Err(_) => return String::new(),
        };
        for part in &holder.secrets {
            mac.update(part.as_bytes());
        }
        let mark = mac.finalize().into_bytes();
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&mark[..8])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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

    fn open(sessions: &Sessions, config: &AdminConfig) -> String {
        let holder = Holder::of_config(config);
        sessions.open(&holder, config.session_ttl, NOW).unwrap()
    }

    #[test]
    fn a_session_ends_with_its_time() {
        let sessions = Sessions::new(&[1; 32]);
        let config = config("p");
        let text = open(&sessions, &config);
        let token = sessions.read(&text, NOW).unwrap();
        assert_eq!(token.name, "admin");
        assert!(sessions.fits(&token, &Holder::of_config(&config)));
        let last = NOW.plus_ms(86_399_000);
        assert_eq!(sessions.read(&text, last), Ok(token));
        let over = sessions.read(&text, NOW.plus_ms(86_400_000));
        assert_eq!(over, Err(NoSession::Expired));
    }

    #[test]
    fn a_session_ends_with_its_password_and_its_key() {
        let sessions = Sessions::new(&[1; 32]);
        let text = open(&sessions, &config("p"));
        let token = sessions.read(&text, NOW).unwrap();
        assert!(!sessions.fits(&token, &Holder::of_config(&config("q"))));
        let other = Sessions::new(&[2; 32]).read(&text, NOW);
        assert_eq!(other, Err(NoSession::Forged));
    }

    #[test]
    fn forged_tokens_are_refused() {
        let sessions = Sessions::new(&[1; 32]);
        let token = open(&sessions, &config("p"));
        let claims = token.split('.').nth(1).unwrap();
        let signature = token.split('.').nth(2).unwrap();
        for alg in ["none", "None", "HS384", "RS256", "HS512"] {
            let header = part(&json!({"alg": alg, "typ": "JWT"}));
            for signature in ["", signature] {
                let forged = format!("{header}.{claims}.{signature}");
                assert_eq!(sessions.read(&forged, NOW), Err(NoSession::Forged), "{alg}");
            }
        }
        let id = Uuid::nil();
        let better = json!({
            "iss": ISSUER, "sub": "admin", "jti": id, "iat": 0, "exp": i64::MAX, "cred": "",
        });
        let header = token.split('.').next().unwrap();
        let forged = format!("{header}.{}.{signature}", part(&better));
        assert_eq!(sessions.read(&forged, NOW), Err(NoSession::Forged));
        for text in ["", ".", "..", "a.b.c", "ä.ö.ü", &token[..token.len() - 1]] {
            assert_eq!(sessions.read(text, NOW), Err(NoSession::Forged));
        }
    }
}
