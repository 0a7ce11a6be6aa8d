-- People who sign in. Names and addresses are unique whatever the case of their letters.
CREATE TABLE users (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    id            TEXT NOT NULL UNIQUE,
    name_lower    TEXT NOT NULL UNIQUE,
    email_lower   TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL, -- argon2id, a PHC string
    record        TEXT NOT NULL  -- JSON: everything else
);

-- Sessions that were ended before their time. A row is pruned once its session would be over anyway.
CREATE TABLE ended_sessions (
    id      TEXT PRIMARY KEY,
    over_at INTEGER NOT NULL
) WITHOUT ROWID;

-- What was left of the request quota when the event's exchange was admitted.
ALTER TABLE usage_events ADD COLUMN requests_remaining INTEGER;

-- A page of charged events passes over the others in the index alone.
DROP INDEX usage_events_by_key;
CREATE INDEX usage_events_by_key ON usage_events (key_seq, no, requests);

-- How many of the rows drew on the request quota.
ALTER TABLE event_counts ADD COLUMN charged INTEGER NOT NULL DEFAULT 0;
UPDATE event_counts SET charged = of_day.charged FROM (
    SELECT strftime('%Y-%m-%d', (no >> 20) / 1000, 'unixepoch') AS day, key_seq, count(*) AS charged
    FROM usage_events WHERE requests > 0 GROUP BY 1, 2) AS of_day
WHERE of_day.day = event_counts.day AND of_day.key_seq = event_counts.key_seq;
DROP INDEX event_counts_by_key;
CREATE INDEX event_counts_by_key ON event_counts (key_seq, day, events, charged);

-- Everything that was asked: exchanges, draws and refusals. Of days before this column nobody counted
-- them: requests and errors together are the best guess. It takes an answer that was charged and
-- failed for two, a draw of n requests for n, and a void answer without an error for none.
ALTER TABLE daily_rollups ADD COLUMN calls INTEGER NOT NULL DEFAULT 0;
UPDATE daily_rollups SET calls = requests + errors;

-- Newest first, also where a backup brought older ones later.
CREATE INDEX audit_log_by_time ON audit_log (at);
