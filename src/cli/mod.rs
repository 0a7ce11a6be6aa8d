//! The command line.

pub mod check;
mod companion;
mod csv;
pub mod demo;
pub mod fake_upstream;
mod fleet;
pub mod key;
mod key_import;
pub mod manual;
pub mod prices;
mod private_file;
pub mod reload;
pub mod remote;
mod running;
mod scratch;
pub mod screen;
pub mod serve;
pub mod store;
mod story;
mod table;
pub mod upgrade;
pub mod usage;
mod wire;
