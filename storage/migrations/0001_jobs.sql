-- executescript() commits whatever was open, so each migration carries its own transaction: either
-- the tables and the new version are there, or neither is.
BEGIN IMMEDIATE;

CREATE TABLE jobs (
    number            INTEGER PRIMARY KEY AUTOINCREMENT,  -- the queue's order; a clock may jump, this never does
    id                TEXT    NOT NULL UNIQUE,
    interaction_id    INTEGER NOT NULL,
    ordinal           INTEGER NOT NULL,                   -- which of an interaction's jobs, from 0
    guild_id          INTEGER,
    channel_id        INTEGER NOT NULL,
    user_id           INTEGER NOT NULL,
    request           TEXT    NOT NULL,                   -- a JobRequest as JSON
    input_note        TEXT    NOT NULL DEFAULT '',
    state             TEXT    NOT NULL DEFAULT 'queued'
                      CHECK (state IN ('queued', 'running', 'finished', 'failed', 'cancelled')),
    delivery          TEXT    NOT NULL DEFAULT 'none'
                      CHECK (delivery IN ('none', 'pending', 'delivered', 'undeliverable')),
    cancel_requested  INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    status_message_id INTEGER,
    result_message_id INTEGER,
    created_ms        INTEGER NOT NULL,                   -- milliseconds since 1970, UTC, as all *_ms
    started_ms        INTEGER,
    ended_ms          INTEGER,
    error_kind        TEXT,
    error             TEXT,
    video             TEXT,                               -- a file name in the job's folder
    attempts          INTEGER NOT NULL DEFAULT 0,
    delivery_attempts INTEGER NOT NULL DEFAULT 0,
    UNIQUE (interaction_id, ordinal),
    CHECK ((delivery = 'none') = (state <> 'finished'))
) STRICT;

CREATE INDEX jobs_by_state ON jobs (state, number);
CREATE INDEX jobs_by_user ON jobs (user_id, state, number);
CREATE INDEX jobs_undelivered ON jobs (number) WHERE delivery = 'pending';

PRAGMA application_id = 1179664980;  -- "FPBT": tells our file from any other program's
PRAGMA user_version = 1;
COMMIT;
