-- Jobs that stand for others of the same deduplication id, and schedules.

ALTER TABLE job ADD COLUMN deduplication TEXT;
ALTER TABLE job ADD COLUMN schedule TEXT;

-- Who owns a deduplication id: until a moment, or, without one, until it has ended.
CREATE TABLE deduplication (
  qid INTEGER NOT NULL,
  id TEXT NOT NULL,
  owner TEXT NOT NULL,
  until_ms INTEGER,
  PRIMARY KEY (qid, id)
) WITHOUT ROWID;

CREATE INDEX deduplication_until ON deduplication (until_ms) WHERE until_ms IS NOT NULL;

-- The last of the adds that came while the owner of a deduplication id ran: it is added when that has ended.
CREATE TABLE kept (
  qid INTEGER NOT NULL,
  deduplication TEXT NOT NULL,
  id TEXT NOT NULL,
  name TEXT NOT NULL,
  data TEXT NOT NULL,
  options TEXT,
  nonce TEXT,
  parent_queue TEXT,
  parent_id TEXT,
  policy TEXT,
  PRIMARY KEY (qid, deduplication)
) WITHOUT ROWID;

-- Its run to come is the job `repeat:<id>:<next_at_ms>`. `count` counts its runs since it was put, `iterations` all.
CREATE TABLE schedule (
  qid INTEGER NOT NULL,
  id TEXT NOT NULL,
  next_at_ms INTEGER NOT NULL,
  iterations INTEGER NOT NULL DEFAULT 1,
  count INTEGER NOT NULL,
  running TEXT,
  -- the job that it makes
  name TEXT NOT NULL,
  data TEXT NOT NULL,
  options TEXT,
  -- when
  pattern TEXT,
  tz TEXT,
  every_ms INTEGER,
  offset_ms INTEGER,
  run_limit INTEGER,
  start_at_ms INTEGER,
  end_at_ms INTEGER,
  missed TEXT NOT NULL,
  overlap TEXT NOT NULL,
  -- whose it is
  declared TEXT,
  paused INTEGER NOT NULL DEFAULT 0,
  superseded TEXT,
  PRIMARY KEY (qid, id)
) WITHOUT ROWID;
