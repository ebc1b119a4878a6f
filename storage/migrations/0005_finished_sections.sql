-- A job that is stopped may end in the video of the sections that it had finished; and a status
-- message that was deleted is told from one that was never posted.
BEGIN IMMEDIATE;

ALTER TABLE jobs ADD COLUMN sections_made    INTEGER NOT NULL DEFAULT 0;  -- finished so far
ALTER TABLE jobs ADD COLUMN sections         INTEGER NOT NULL DEFAULT 0;  -- of how many; 0: not known yet
ALTER TABLE jobs ADD COLUMN finish_requested INTEGER NOT NULL DEFAULT 0 CHECK (finish_requested IN (0, 1));
ALTER TABLE jobs ADD COLUMN status_deleted   INTEGER NOT NULL DEFAULT 0 CHECK (status_deleted IN (0, 1));

CREATE TABLE preferences (  -- of the whole bot, made by admins; the config's counts where there is none
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE spent (  -- of videos whose jobs were erased: they count until their day is over
    user_id    INTEGER NOT NULL,
    guild_id   INTEGER,
    created_ms INTEGER NOT NULL
) STRICT;

PRAGMA user_version = 5;
COMMIT;
