//! `quota-proxy key`, `usage` and `store`: the real binary against a real server.

#[path = "../support/mod.rs"]
mod support;

#[cfg(test)]
mod books;
#[cfg(test)]
mod command;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod import;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod service;
#[cfg(test)]
mod usage;
