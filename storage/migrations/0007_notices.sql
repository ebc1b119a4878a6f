-- Who was promised to be mentioned is mentioned too when there will be no video.
BEGIN IMMEDIATE;

ALTER TABLE jobs ADD COLUMN notice_due INTEGER NOT NULL DEFAULT 0 CHECK (notice_due IN (0, 1));  -- to its owner

CREATE INDEX jobs_noticed ON jobs (number) WHERE notice_due = 1;

PRAGMA user_version = 7;
COMMIT;
