-- What a job gave up for want of memory is told with its video.
BEGIN IMMEDIATE;

ALTER TABLE jobs ADD COLUMN given_up TEXT NOT NULL DEFAULT '';  -- words for people, '' for nothing

PRAGMA user_version = 6;
COMMIT;
