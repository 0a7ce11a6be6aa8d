//! See `quota_proxy_fuzz::sse`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quota_proxy_fuzz::sse(data));
