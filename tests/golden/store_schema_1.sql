-- A store's file as version 1 of the schema wrote it: `.dump` of sqlite3, and what that leaves out.
-- Key 1 (tokens by the day) and the group hold 50 tokens of yesterday and 40 of today; key 2 (no counters
-- written yet) holds 60.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
PRAGMA user_version=1;
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
INSERT INTO keys VALUES(2,'00000000-0000-0000-0000-000000000002',X'692865c9a376a1a82d161b0f9578595554873797fa9ebbb068b797828122e61d',NULL,NULL,'{"id":"00000000-0000-0000-0000-000000000002","seq":2,"version":1,"name":"a key","description":null,"masked":"sk-proxy_AbCd…wxyz","prefix":"sk-proxy","owner":null,"group":null,"tier":"unlimited","quotas":{"requests":{"limit":0,"period":"total"},"tokens":{"limit":0,"period":"total"},"usd":{"limit":0,"period":"total"}},"allowed_ips":[],"denied_ips":[],"allowed_origins":[],"allowed_models":[],"metadata":null,"active":true,"deleted":false,"expires_at":null,"created_at":"1970-01-01T00:00:00.000Z","updated_at":"1970-01-01T00:00:00.000Z"}');
CREATE TABLE groups (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    id     TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL -- JSON
);
INSERT INTO "groups" VALUES(1,'00000000-0000-0000-0000-000000000003','{"id":"00000000-0000-0000-0000-000000000003","name":"group","quotas":{"requests":{"limit":0,"period":"total"},"tokens":{"limit":0,"period":"total"},"usd":{"limit":0,"period":"total"}},"allowed_pools":[],"allowed_models":[],"version":1,"created_at":"1970-01-01T00:00:00.000Z","updated_at":"1970-01-01T00:00:00.000Z"}');
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
INSERT INTO counters VALUES(-1,1,20,20,'total','total','total',0,0,0,1,20,20,NULL,NULL,NULL,NULL,1795315499123,0,0,NULL);
INSERT INTO counters VALUES(1,1,20,20,'total','daily','total',0,1795305600000,0,1,20,20,NULL,NULL,NULL,NULL,1795315499123,1,0,1795315499123);
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
INSERT INTO reservations VALUES(1,'00000000-0000-0000-0000-00000000000b','00000000-0000-0000-0000-000000000001',1,50,50,'[[1,0,1795219200000,0],[-1,0,0,0]]',1795229099123,1795229159123,'00000000-0000-0000-0000-00000000000b','POST','/v1/chat/completions','m',NULL,NULL,0);
INSERT INTO reservations VALUES(3,'00000000-0000-0000-0000-00000000000d','00000000-0000-0000-0000-000000000001',1,40,40,'[[1,0,1795305600000,0],[-1,0,0,0]]',1795315499123,1795315559123,'00000000-0000-0000-0000-00000000000d','POST','/v1/chat/completions','m',NULL,NULL,0);
INSERT INTO reservations VALUES(4,'00000000-0000-0000-0000-00000000000e','00000000-0000-0000-0000-000000000002',1,60,60,'[[2,0,0,0]]',1795315499123,1795315559123,'00000000-0000-0000-0000-00000000000e','POST','/v1/chat/completions','m',NULL,NULL,0);
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
INSERT INTO usage_events VALUES(1882524744808398849,'00000000-0000-0000-0000-00000000000c',1,'00000000-0000-0000-0000-00000000000c','POST','/v1/chat/completions',0,200,0,0,NULL,1,0,0,0,0,0,20,'m',NULL,NULL,0,NULL,NULL,NULL,20,0,NULL,0,NULL,NULL,1795315499123);
CREATE TABLE event_counts (
    day     TEXT NOT NULL,
    key_seq INTEGER NOT NULL,
    events  INTEGER NOT NULL,
    PRIMARY KEY (day, key_seq)
) WITHOUT ROWID;
INSERT INTO event_counts VALUES('2026-11-22',1,1);
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
INSERT INTO daily_rollups VALUES('2026-11-22',1,'m',1,20,0,0,20,0,0);
CREATE TABLE daily_errors (
    day     TEXT NOT NULL,
    key_seq INTEGER NOT NULL,
    code    TEXT NOT NULL,
    errors  INTEGER NOT NULL,
    PRIMARY KEY (day, key_seq, code)
) WITHOUT ROWID;
CREATE TABLE audit_log (
    no      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    who     TEXT NOT NULL,
    what    TEXT NOT NULL,
    subject TEXT NOT NULL,
    before  TEXT,
    after   TEXT
);
INSERT INTO audit_log VALUES(1,0,'test','change','',NULL,NULL);
INSERT INTO audit_log VALUES(2,0,'test','change','',NULL,NULL);
INSERT INTO audit_log VALUES(3,0,'test','change','',NULL,NULL);
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('key_numbers',2);
INSERT INTO sqlite_sequence VALUES('audit_log',3);
INSERT INTO sqlite_sequence VALUES('groups',1);
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
