//! Configurations: the files in conf/, every fault, pools, prices.

#[path = "../support/mod.rs"]
mod support;

mod examples;
mod faults;
mod pools;
mod prices;
