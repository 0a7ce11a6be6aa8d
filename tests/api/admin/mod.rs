//! The admin service as its clients meet it, over the embedded store.

mod access;
mod api;
mod rig;
mod trial;
