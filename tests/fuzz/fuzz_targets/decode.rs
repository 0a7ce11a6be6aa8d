#![no_main]
//! See `quota_proxy_fuzz::decode`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| quota_proxy_fuzz::decode(data));
