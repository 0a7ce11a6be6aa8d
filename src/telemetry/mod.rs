//! Seeing it run: events, metrics, access log, log lines.
