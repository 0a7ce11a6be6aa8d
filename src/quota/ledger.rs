//! The ledger: counters, buckets and open reservations in memory; the one place that decides.
