//! How many files the process may have open, and what of it the edge's connections may take.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Without a limit of the system's.
const UNLIMITED: u64 = 1 << 21;

/// Descriptors that are no connection's at the most: books, logs, listeners, the admin port.
const OWN: u64 = 512;

/// Raises the process's own limit to what the system allows it (many systems begin with 1,024, for
/// programs that would not stand more), and answers it.
pub fn raise() -> u64 {
    let limits = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limits.maximum,
        maximum: limits.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limits.maximum,
        Err(cause) => {
            log::warn!("the limit of open files stays as it is: {cause}");
            limits.current
        }
    };
    current.unwrap_or(UNLIMITED)
}

/// How many connections the edge may have under this limit: every exchange has one at each side.
/// `configured`: what the operator wants, 0 where that is left to us.
pub fn connections(configured: usize, limit: u64) -> usize {
    let left = limit - OWN.min(limit / 4);
    let derived = usize::try_from(left / 2).unwrap_or(usize::MAX).max(1);
    if configured == 0 {
        return derived;
    }
    let bearable = usize::try_from(left).unwrap_or(usize::MAX).max(1);
    if configured > bearable {
        log::warn!(
            "edge.max_connections is {configured}, but with {limit} open files there can be only {bearable}"
        );
    }
    configured.min(bearable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_is_left_is_for_clients() {
        assert_eq!(connections(0, 65_536), 32_512);
        assert_eq!(connections(0, 1_024), 384);
        assert_eq!(connections(0, 0), 1);
        assert_eq!(connections(100, 1_024), 100);
        assert_eq!(connections(5_000, 1_024), 768);
    }
}
