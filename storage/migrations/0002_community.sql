-- What a community needs besides jobs: presets, rules, bans, and who changed what.
BEGIN IMMEDIATE;

ALTER TABLE jobs ADD COLUMN spoiler INTEGER NOT NULL DEFAULT 0 CHECK (spoiler IN (0, 1));
ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;  -- set by admins; larger goes first

CREATE INDEX jobs_by_user_and_time ON jobs (user_id, created_ms);

CREATE TABLE presets (
    scope      TEXT    NOT NULL CHECK (scope IN ('user', 'guild')),
    owner_id   INTEGER NOT NULL,                   -- a user's id or a server's
    name       TEXT    NOT NULL,
    settings   TEXT    NOT NULL,                   -- fields of a JobRequest as JSON
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (scope, owner_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE rules (
    guild_id INTEGER PRIMARY KEY,
    settings TEXT    NOT NULL                      -- a Rules struct as JSON
) STRICT;

CREATE TABLE standings (
    guild_id INTEGER NOT NULL,
    user_id  INTEGER NOT NULL,
    settings TEXT    NOT NULL,                     -- a Standing struct as JSON
    PRIMARY KEY (guild_id, user_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE switches (
    name TEXT PRIMARY KEY CHECK (name IN ('paused', 'draining'))  -- on while the row is there
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    number   INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms    INTEGER NOT NULL,
    guild_id INTEGER NOT NULL,
    actor_id INTEGER NOT NULL,
    action   TEXT    NOT NULL,
    target   TEXT    NOT NULL,
    reason   TEXT    NOT NULL
) STRICT;

PRAGMA user_version = 2;
COMMIT;
