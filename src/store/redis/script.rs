//! A script, and how it is called.

use redis::{Cmd, ToRedisArgs};

/// One server-side step: its Lua source and the SHA-1 by which the server knows it.
#[derive(Debug)]
pub(super) struct Script {
    source: String,
    hash: String,
}

impl Script {
    pub(super) fn new(source: &str) -> Self {
        Script {
            source: source.to_owned(),
            hash: redis::Script::new(source).get_hash().to_owned(),
        }
    }

    pub(super) fn by_hash<K: ToRedisArgs, A: ToRedisArgs>(&self, keys: &[K], args: &[A]) -> Cmd {
        call("EVALSHA", &self.hash, keys, args)
    }

    /// For a server that lost the script, which learns it by this.
    pub(super) fn by_source<K: ToRedisArgs, A: ToRedisArgs>(&self, keys: &[K], args: &[A]) -> Cmd {
        call("EVAL", &self.source, keys, args)
    }
}

fn call<K: ToRedisArgs, A: ToRedisArgs>(name: &str, script: &str, keys: &[K], args: &[A]) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(script).arg(keys.len());
    for key in keys {
        command.arg(key);
    }
    for arg in args {
        command.arg(arg);
    }
    command
}
