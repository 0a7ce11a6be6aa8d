//! `quota-proxy`: see `quota-proxy --help`.
fn main() {}
