//! A script, and how it is called.

use redis::{Cmd, ToRedisArgs};

use super::fold::folded;

/// The script of these files of `lua/`, one after the other: what it shares with others first.
macro_rules! script {
    ($($file:literal),+) => {
        crate::store::redis::script::Script::new(concat!($(
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"), "/src/store/redis/lua/", $file, ".lua"
            )),
        )+))
    };
}
pub(super) use script;

/// One server-side step: its Lua source and the SHA-1 by which the server knows it.
#[derive(Debug)]
pub(super) struct Script {
    source: String,
    hash: String,
}

impl Script {
    pub(super) fn new(source: &str) -> Self {
        let source = folded(source);
        Script {
            hash: redis::Script::new(&source).get_hash().to_owned(),
            source,
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
