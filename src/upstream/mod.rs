//! WHERE a request goes: pools, peers, and which one is next.
