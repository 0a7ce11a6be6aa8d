//! What a request says of a user, and the record that comes of it.

use serde_json::Value;
use uuid::Uuid;

use super::body::{Fields, Given};
use super::failure::Failure;
use super::fault::{Allowed, Fault, Problem};
use super::{Admin, groups};
use crate::quota::GroupId;
use crate::store::{Role, UserRecord};
use crate::time::UnixMs;

/// Characters of a password. The most is what a hash is worth working for.
const PASSWORD: std::ops::RangeInclusive<usize> = 8..=256;
/// Bytes of an e-mail address at most (RFC 5321).
const MAX_EMAIL: usize = 254;

/// The fields of a user that may change.
#[derive(Debug)]
pub(super) struct UserChange {
    pub email: Given<String>,
    pub password: Given<String>,
    role: Given<Role>,
    active: Given<bool>,
    groups: Given<Vec<String>>,
}

/// The same with groups looked up and the password hashed.
#[derive(Clone, Debug)]
pub(super) struct ReadyChange {
    email: Option<String>,
    password_hash: Option<String>,
    role: Option<Role>,
    active: Option<bool>,
    groups: Option<Vec<GroupId>>,
}

/// The name of a new user. It holds no `@`: a name is never another's address.
pub(super) fn username(fields: &mut Fields) -> Given<String> {
    let allowed = "3 to 64 letters, digits, dots, - or _";
    fields.take("username", allowed, |raw| {
        let name: String = serde_json::from_str(raw).ok()?;
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        ((3..=64).contains(&name.len()) && name.bytes().all(fits)).then_some(name)
    })
}

/// A field whose value is never shown, not even in a fault.
pub(super) fn hidden(
    fields: &mut Fields,
    name: &'static str,
    allowed: impl Into<Allowed>,
    read: impl FnOnce(String) -> Option<String>,
) -> Given<String> {
    let given = fields.take(name, "", |raw| {
        Some(serde_json::from_str(raw).ok().and_then(read))
    });
    match given {
        Given::Absent => Given::Absent,
        Given::Null => Given::Null,
        Given::Value(Some(text)) => Given::Value(text),
        Given::Value(None) => {
            let problem = Problem::Expected {
                found: String::from("(hidden)"),
                allowed: allowed.into(),
            };
            fields.fault(Fault::new(name, problem));
            Given::Absent
        }
    }
}

fn email(fields: &mut Fields) -> Given<String> {
    fields.take("email", "an e-mail address", |raw| {
        let text: String = serde_json::from_str(raw).ok()?;
        let (local, domain) = text.rsplit_once('@')?;
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '@';
        let labels = domain.split('.').all(|label| !label.is_empty());
        let fits = !local.is_empty()
            && domain.contains('.')
            && labels
            && local.chars().all(plain)
            && domain.chars().all(plain)
            && text.len() <= MAX_EMAIL;
        fits.then_some(text)
    })
}

impl UserChange {
    /// What people may say of themselves. Faults stay with `fields`.
    pub fn read_own(fields: &mut Fields) -> Self {
        let length = Allowed::Text(*PASSWORD.start(), *PASSWORD.end());
        UserChange {
            email: email(fields),
            password: hidden(fields, "password", length, |text| {
                PASSWORD.contains(&text.chars().count()).then_some(text)
            }),
            role: Given::Absent,
            active: Given::Absent,
            groups: Given::Absent,
        }
    }

    /// What operators may say too.
    pub fn read(fields: &mut Fields) -> Self {
        UserChange {
            role: fields.take("role", "admin or member", |raw| {
                serde_json::from_str(raw).ok()
            }),
            active: fields.flag("active"),
            groups: fields.list("groups", "ids or names of groups", |g| !g.is_empty()),
            ..UserChange::read_own(fields)
        }
    }

    /// Says what a new user lacks.
    pub fn require_login(&self, fields: &mut Fields) {
        for (name, given) in [("email", &self.email), ("password", &self.password)] {
            if !matches!(given, Given::Value(_)) {
                fields.require(name);
            }
        }
    }

    /// Looks up the groups and hashes the password.
    ///
    /// # Errors
    /// When a group is not there, too many passwords are being hashed, or the store is away.
    pub async fn ready(self, admin: &Admin) -> Result<ReadyChange, Failure> {
        let groups = match self.groups {
            Given::Absent => None,
            Given::Null => Some(Vec::new()),
            Given::Value(names) => Some(group_ids(admin, &names).await?),
        };
        let password_hash = match self.password.value() {
            Some(password) => Some(admin.guard.hashed(password).await?),
            None => None,
        };
        Ok(ReadyChange {
            email: self.email.value(),
            password_hash,
            role: self.role.value(),
            active: self.active.value(),
            groups,
        })
    }
}

async fn group_ids(admin: &Admin, names: &[String]) -> Result<Vec<GroupId>, Failure> {
    let mut ids = Vec::with_capacity(names.len());
    for name in names {
        let Some(group) = groups::named(admin, name).await? else {
            let problem = Problem::Expected {
                found: format!("{name:?}"),
                allowed: "ids or names of groups".into(),
            };
            return Err(Fault::new("groups", problem).into());
        };
        ids.push(group.id);
    }
    Ok(ids)
}

impl ReadyChange {
    pub fn sets_password(&self) -> bool {
        self.password_hash.is_some()
    }

    /// Puts what is given into a record.
    pub fn apply(&self, user: &mut UserRecord) {
        if let Some(email) = &self.email {
            user.email.clone_from(email);
        }
        if let Some(hash) = &self.password_hash {
            user.password_hash.clone_from(hash);
        }
        user.role = self.role.unwrap_or(user.role);
        user.active = self.active.unwrap_or(user.active);
        if let Some(groups) = &self.groups {
            user.groups.clone_from(groups);
        }
    }
}

/// A member without anything yet.
pub(super) fn new_user(username: String, now: UnixMs) -> UserRecord {
    UserRecord {
        id: Uuid::new_v4(),
        version: 1,
        username,
        email: String::new(),
        password_hash: String::new(),
        role: Role::Member,
        groups: Vec::new(),
        active: true,
        created_at: now,
        updated_at: now,
    }
}

/// The record as the audit log shows it: of a password only that it was set.
pub(super) fn shown(user: &UserRecord, password_set: bool) -> Option<Value> {
    let mut value = serde_json::to_value(user).ok()?;
    if password_set {
        value["password"] = Value::from("set");
    }
    Some(value)
}
