-- Turns: a job may hold the GPU several times, and who was served less goes first.
BEGIN IMMEDIATE;

ALTER TABLE jobs ADD COLUMN weight    REAL    NOT NULL DEFAULT 1 CHECK (weight > 0);  -- of the asker's role
ALTER TABLE jobs ADD COLUMN share_ms  INTEGER NOT NULL DEFAULT 0;  -- what its user was served lately, by weight
ALTER TABLE jobs ADD COLUMN turns     INTEGER NOT NULL DEFAULT 0;  -- that ended before the job did
ALTER TABLE jobs ADD COLUMN worked_ms INTEGER NOT NULL DEFAULT 0;  -- GPU time of the turns that are over
ALTER TABLE jobs ADD COLUMN furthest  REAL    NOT NULL DEFAULT 0;  -- of 0 to 1, as last written down

CREATE INDEX jobs_queue ON jobs (priority DESC, share_ms, number) WHERE state = 'queued';

CREATE TABLE served (  -- GPU time of the last hours; the window's end takes rows away
    number      INTEGER PRIMARY KEY,
    job_id      TEXT    NOT NULL,
    user_id     INTEGER NOT NULL,
    at_ms       INTEGER NOT NULL,
    ms          INTEGER NOT NULL,
    weighted_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX served_by_user ON served (user_id, weighted_ms);
CREATE INDEX served_by_time ON served (at_ms);

-- The share stands on every unfinished row, so that claiming is one look at one index.
CREATE TRIGGER served_more AFTER INSERT ON served BEGIN
    UPDATE jobs SET worked_ms = worked_ms + NEW.ms WHERE id = NEW.job_id;
    UPDATE jobs SET share_ms = share_ms + NEW.weighted_ms
        WHERE user_id = NEW.user_id AND state IN ('queued', 'running');
END;

CREATE TRIGGER served_long_ago AFTER DELETE ON served BEGIN
    UPDATE jobs SET share_ms = share_ms - OLD.weighted_ms
        WHERE user_id = OLD.user_id AND state IN ('queued', 'running');
END;

PRAGMA user_version = 3;
COMMIT;
