-- The embedded store's tables, made to be read with the sqlite3 shell.
--
-- Times are integer milliseconds since the Unix epoch (compact, and they sort); show one with
--   SELECT strftime('%Y-%m-%dT%H:%M:%fZ', created_at / 1000.0, 'unixepoch')
-- Money is integer nano-USD: divide by 1e9. Ids are UUIDs in text. The view `usage` does all of that.

-- Every key there ever was has a number, which is never given twice: events outlive their key.
CREATE TABLE key_numbers (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id  TEXT NOT NULL UNIQUE
);

CREATE TABLE keys (
    seq                  INTEGER PRIMARY KEY REFERENCES key_numbers (seq),
    id                   TEXT NOT NULL UNIQUE,
    hash                 BLOB NOT NULL UNIQUE, -- SHA-256 of the secret
    previous_hash        BLOB,                 -- of the secret before the last rotation
    previous_valid_until INTEGER,
    record               TEXT NOT NULL         -- JSON: everything else
);

CREATE TABLE groups (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    id     TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL -- JSON
);

-- `scope` is a key's number, or a group's number below zero. `used` is what is settled in the window
-- that began at `since`; `booked` is everything ever settled: the sum of the scope's usage events.
CREATE TABLE counters (
    scope                 INTEGER PRIMARY KEY,
    requests_used         INTEGER NOT NULL,
    tokens_used           INTEGER NOT NULL,
    nano_usd_used         INTEGER NOT NULL,
    requests_period       TEXT NOT NULL,
    tokens_period         TEXT NOT NULL,
    usd_period            TEXT NOT NULL,
    requests_since        INTEGER NOT NULL,
    tokens_since          INTEGER NOT NULL,
    usd_since             INTEGER NOT NULL,
    requests_booked       INTEGER NOT NULL,
    tokens_booked         INTEGER NOT NULL,
    nano_usd_booked       INTEGER NOT NULL,
    -- Per-minute buckets at `buckets_at`: what is in them in 60 000ths, and their limit.
    requests_bucket       INTEGER,
    requests_bucket_limit INTEGER,
    tokens_bucket         INTEGER,
    tokens_bucket_limit   INTEGER,
    buckets_at            INTEGER NOT NULL,
    -- Of keys: what the listing shows.
    request_count         INTEGER NOT NULL,
    error_count           INTEGER NOT NULL,
    last_used_at          INTEGER
);

-- What running exchanges hold. A row lives from the reserve step to its settlement.
CREATE TABLE reservations (
    serial       INTEGER PRIMARY KEY,
    id           TEXT NOT NULL,
    key_id       TEXT NOT NULL,
    requests     INTEGER NOT NULL,
    tokens       INTEGER NOT NULL,
    nano_usd     INTEGER NOT NULL,
    holds        TEXT NOT NULL, -- [[scope, start of its requests, tokens and USD window], …]
    opened_at    INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    request_id   TEXT NOT NULL,
    method       TEXT NOT NULL,
    path         TEXT NOT NULL,
    model        TEXT,
    pool         TEXT,
    end_user     TEXT,
    input_tokens INTEGER NOT NULL
);

-- `no` is created_at * 2^20 + a running number: the primary key is the order of time, and so is each
-- key's part of the index.
CREATE TABLE usage_events (
    no                  INTEGER PRIMARY KEY,
    id                  TEXT NOT NULL,
    key_seq             INTEGER NOT NULL,
    request_id          TEXT NOT NULL,
    request_method      TEXT NOT NULL,
    request_path        TEXT NOT NULL,
    request_size        INTEGER NOT NULL,
    response_status     INTEGER NOT NULL,
    response_size       INTEGER NOT NULL,
    response_time_ms    INTEGER NOT NULL,
    first_byte_ms       INTEGER,
    requests            INTEGER NOT NULL,
    prompt_tokens       INTEGER NOT NULL,
    completion_tokens   INTEGER NOT NULL,
    cached_tokens       INTEGER NOT NULL,
    cache_write_tokens  INTEGER NOT NULL,
    reasoning_tokens    INTEGER NOT NULL,
    total_tokens        INTEGER NOT NULL,
    model               TEXT,
    pool                TEXT,
    peer                TEXT,
    is_error            INTEGER NOT NULL,
    error_code          TEXT,
    error_message       TEXT,
    total_error_message TEXT,
    total_cost_nano     INTEGER NOT NULL,
    estimated           INTEGER NOT NULL,
    end_user            TEXT,
    client_disconnected INTEGER NOT NULL,
    reason              TEXT,
    metadata            TEXT,
    created_at          INTEGER NOT NULL
);
CREATE INDEX usage_events_by_key ON usage_events (key_seq);

-- How many rows `usage_events` has per day and key, so that a page's total is never counted by hand.
CREATE TABLE event_counts (
    day     TEXT NOT NULL,
    key_seq INTEGER NOT NULL,
    events  INTEGER NOT NULL,
    PRIMARY KEY (day, key_seq)
) WITHOUT ROWID;
CREATE INDEX event_counts_by_key ON event_counts (key_seq, day, events);

-- Kept for good. `requests`, `tokens` and `cost_nano` are what was charged; `errors` counts failed
-- answers and refusals.
CREATE TABLE daily_rollups (
    day               TEXT NOT NULL,
    key_seq           INTEGER NOT NULL,
    model             TEXT NOT NULL,
    requests          INTEGER NOT NULL,
    tokens            INTEGER NOT NULL,
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cost_nano         INTEGER NOT NULL,
    errors            INTEGER NOT NULL,
    response_time_ms  INTEGER NOT NULL,
    PRIMARY KEY (day, key_seq, model)
) WITHOUT ROWID;
CREATE INDEX daily_rollups_by_key ON daily_rollups (key_seq, day);

CREATE TABLE daily_errors (
    day     TEXT NOT NULL,
    key_seq INTEGER NOT NULL,
    code    TEXT NOT NULL,
    errors  INTEGER NOT NULL,
    PRIMARY KEY (day, key_seq, code)
) WITHOUT ROWID;
CREATE INDEX daily_errors_by_key ON daily_errors (key_seq, day);

CREATE TABLE audit_log (
    no      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    who     TEXT NOT NULL,
    what    TEXT NOT NULL,
    subject TEXT NOT NULL,
    before  TEXT,
    after   TEXT
);

CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE VIEW usage AS
SELECT strftime('%Y-%m-%dT%H:%M:%fZ', e.created_at / 1000.0, 'unixepoch') AS created_at,
       n.id AS api_key_id, e.request_id, e.request_path, e.response_status, e.model, e.pool, e.peer,
       e.requests, e.prompt_tokens, e.completion_tokens, e.total_tokens,
       e.total_cost_nano / 1e9 AS usd, e.error_code, e.reason, e.end_user
FROM usage_events e JOIN key_numbers n ON n.seq = e.key_seq
ORDER BY e.no DESC;
