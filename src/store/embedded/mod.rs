//! The embedded engine: the ledger in memory, one SQLite file, one writer, group commit.
