//! See `quota_proxy_fuzz::usage`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quota_proxy_fuzz::usage(data));
