//! `quota-proxy prices import`.
