-- How many jobs of a queue have ended, minute by minute.

ALTER TABLE queue ADD COLUMN metrics_minutes INTEGER NOT NULL DEFAULT 1440;
-- the minute that was counted last, since the epoch, and how many were counted in all
ALTER TABLE queue ADD COLUMN counted_minute INTEGER NOT NULL DEFAULT 0;
ALTER TABLE queue ADD COLUMN counted_completed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE queue ADD COLUMN counted_failed INTEGER NOT NULL DEFAULT 0;

CREATE TABLE finished (
  qid INTEGER NOT NULL,
  minute INTEGER NOT NULL,
  state TEXT NOT NULL,
  jobs INTEGER NOT NULL,
  PRIMARY KEY (qid, minute, state)
) WITHOUT ROWID;
