//! How long to look for faults.

/// By how much more a test does when asked to (`QUOTA_PROXY_SOAK=1`).
pub fn soak() -> u32 {
    let asked = std::env::var_os("QUOTA_PROXY_SOAK").is_some();
    if asked { 50 } else { 1 }
}
