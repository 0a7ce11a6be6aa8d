//! The Pingora shell: each callback of the proxy phase, and nothing that decides.
