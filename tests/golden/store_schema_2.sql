-- A store's file as version 2 of the schema wrote it: `.dump` of sqlite3, and what that leaves out.
-- Key 1 has five rows of two days, three of which drew on the request quota; key 2 is gone.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
PRAGMA user_version=2;
CREATE TABLE key_numbers (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id  TEXT NOT NULL UNIQUE
);
INSERT INTO key_numbers VALUES(1,'00000000-0000-0000-0000-000000000001');
INSERT INTO key_numbers VALUES(2,'00000000-0000-0000-0000-000000000002');
CREATE TABLE keys (
    seq                  INTEGER PRIMARY KEY REFERENCES key_numbers (seq),
    id                   TEXT NOT NULL UNIQUE,
    hash                 BLOB NOT NULL UNIQUE, -- SHA-256 of the secret
    previous_hash        BLOB,                 -- of the secret before the last rotation
    previous_valid_until INTEGER,
    record               TEXT NOT NULL         -- JSON: everything else
);
INSERT INTO keys VALUES(1,'00000000-0000-0000-0000-000000000001',X'7c3ccd10bb7ec37b46d37926ae6274267f007a34aeaf15c882a715a7f3300529',NULL,NULL,'{"id":"00000000-0000-0000-0000-000000000001","seq":1,"version":1,"name":"a key","description":null,"masked":"sk-proxy_AbCd…wxyz","prefix":"sk-proxy","owner":null,"group":null,"tier":"unlimited","quotas":{"requests":{"limit":0,"period":"total"},"tokens":{"limit":0,"period":"total"},"usd":{"limit":0,"period":"total"}},"allowed_ips":[],"denied_ips":[],"allowed_origins":[],"allowed_models":[],"metadata":null,"active":true,"deleted":false,"expires_at":null,"created_at":"1970-01-01T00:00:00.000Z","updated_at":"1970-01-01T00:00:00.000Z"}');
CREATE TABLE groups (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    id     TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL -- JSON
);
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
, requests_window INTEGER NOT NULL DEFAULT 0, tokens_window INTEGER NOT NULL DEFAULT 0, usd_window INTEGER NOT NULL DEFAULT 0);
INSERT INTO counters VALUES(1,4,50,50,'total','total','total',0,0,0,4,50,50,NULL,NULL,NULL,NULL,1795315499123,4,2,1795315499123,0,0,0);
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
INSERT INTO usage_events VALUES(1882434147841998849,'00000000-0000-0000-0000-000000000011',1,'r','POST','/v1',1,200,1,30,5,1,20,0,0,0,0,20,'gpt-x','p','q',0,NULL,NULL,NULL,20,0,NULL,0,NULL,NULL,1795229099123);
INSERT INTO usage_events VALUES(1882434147841998850,'00000000-0000-0000-0000-000000000012',1,'r','POST','/v1',1,429,1,30,5,0,0,0,0,0,0,0,'gpt-x','p','q',1,'QUOTA_EXCEEDED',NULL,NULL,0,0,NULL,0,NULL,NULL,1795229099123);
INSERT INTO usage_events VALUES(1882524744808398849,'00000000-0000-0000-0000-000000000013',1,'r','POST','/v1',1,429,1,30,5,1,30,0,0,0,0,30,'gpt-x','p','q',1,'UPSTREAM',NULL,NULL,30,0,NULL,0,NULL,NULL,1795315499123);
INSERT INTO usage_events VALUES(1882524744808398850,'00000000-0000-0000-0000-000000000014',1,'r','POST','/v1',1,200,1,30,5,2,0,0,0,0,0,0,'gpt-x','p','q',0,NULL,NULL,NULL,0,0,NULL,0,NULL,NULL,1795315499123);
INSERT INTO usage_events VALUES(1882524744808398851,'00000000-0000-0000-0000-000000000015',1,'r','POST','/v1',1,200,1,30,5,0,0,0,0,0,0,0,'gpt-x','p','q',0,NULL,NULL,NULL,0,0,NULL,0,NULL,NULL,1795315499123);
INSERT INTO usage_events VALUES(1882524744808398852,'00000000-0000-0000-0000-000000000016',2,'r','POST','/v1',1,200,1,30,5,1,5,0,0,0,0,5,'gpt-x','p','q',0,NULL,NULL,NULL,5,0,NULL,0,NULL,NULL,1795315499123);
CREATE TABLE event_counts (
    day     TEXT NOT NULL,
    key_seq INTEGER NOT NULL,
    events  INTEGER NOT NULL,
    PRIMARY KEY (day, key_seq)
) WITHOUT ROWID;
INSERT INTO event_counts VALUES('2026-11-21',1,2);
INSERT INTO event_counts VALUES('2026-11-22',1,3);
INSERT INTO event_counts VALUES('2026-11-22',2,1);
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
INSERT INTO daily_rollups VALUES('2026-11-21',1,'gpt-x',1,20,20,0,20,1,60);
INSERT INTO daily_rollups VALUES('2026-11-22',1,'gpt-x',3,30,30,0,30,1,90);
INSERT INTO daily_rollups VALUES('2026-11-22',2,'gpt-x',1,5,5,0,5,0,30);
CREATE TABLE daily_errors (
    day     TEXT NOT NULL,
    key_seq INTEGER NOT NULL,
    code    TEXT NOT NULL,
    errors  INTEGER NOT NULL,
    PRIMARY KEY (day, key_seq, code)
) WITHOUT ROWID;
INSERT INTO daily_errors VALUES('2026-11-21',1,'QUOTA_EXCEEDED',1);
INSERT INTO daily_errors VALUES('2026-11-22',1,'UPSTREAM',1);
CREATE TABLE audit_log (
    no      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    who     TEXT NOT NULL,
    what    TEXT NOT NULL,
    subject TEXT NOT NULL,
    before  TEXT,
    after   TEXT
);
INSERT INTO audit_log VALUES(1,1795229099123,'admin','create key','k',NULL,NULL);
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO settings VALUES('secret_key','s');
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('key_numbers',2);
INSERT INTO sqlite_sequence VALUES('audit_log',1);
CREATE INDEX usage_events_by_key ON usage_events (key_seq);
CREATE INDEX event_counts_by_key ON event_counts (key_seq, day, events);
CREATE INDEX daily_rollups_by_key ON daily_rollups (key_seq, day);
CREATE INDEX daily_errors_by_key ON daily_errors (key_seq, day);
CREATE VIEW usage AS
SELECT strftime('%Y-%m-%dT%H:%M:%fZ', e.created_at / 1000.0, 'unixepoch') AS created_at,
       n.id AS api_key_id, e.request_id, e.request_path, e.response_status, e.model, e.pool, e.peer,
       e.requests, e.prompt_tokens, e.completion_tokens, e.total_tokens,
       e.total_cost_nano / 1e9 AS usd, e.error_code, e.reason, e.end_user
FROM usage_events e JOIN key_numbers n ON n.seq = e.key_seq
ORDER BY e.no DESC;
COMMIT;
