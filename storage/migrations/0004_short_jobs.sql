-- Short jobs go before long ones, so the queue's index knows how long each is and whether it had a turn.
BEGIN IMMEDIATE;

ALTER TABLE jobs ADD COLUMN seconds REAL
    GENERATED ALWAYS AS (ifnull(json_extract(request, '$.seconds'), 5.0)) VIRTUAL;  -- of video

DROP INDEX jobs_queue;
CREATE INDEX jobs_queue ON jobs (priority DESC, share_ms, number, seconds, turns, user_id)
    WHERE state = 'queued';

PRAGMA user_version = 4;
COMMIT;
