-- Queues, jobs and what belongs to them. `qid` stands for (prefix, queue name) in every key.

CREATE TABLE queue (
  qid INTEGER PRIMARY KEY,
  prefix TEXT NOT NULL,
  name TEXT NOT NULL,
  -- tickets: the next push to the back takes `tail`, the next push to the front `head`
  tail INTEGER NOT NULL DEFAULT 0,
  head INTEGER NOT NULL DEFAULT -1,
  -- settings
  paused INTEGER NOT NULL DEFAULT 0,
  concurrency INTEGER,
  rate_max INTEGER,
  rate_per_ms INTEGER,
  max_waiting INTEGER,
  events INTEGER NOT NULL DEFAULT 1,
  max_events INTEGER NOT NULL DEFAULT 10000,
  -- limits in force
  limited_until_ms INTEGER NOT NULL DEFAULT 0,
  window_started INTEGER NOT NULL DEFAULT 0,
  window_until_ms INTEGER NOT NULL DEFAULT 0,
  stalled_check_until_ms INTEGER NOT NULL DEFAULT 0,
  event_tail INTEGER NOT NULL DEFAULT 0,
  -- how many jobs are in each state, kept by the transaction that moves them
  waiting INTEGER NOT NULL DEFAULT 0,
  prioritized INTEGER NOT NULL DEFAULT 0,
  delayed INTEGER NOT NULL DEFAULT 0,
  active INTEGER NOT NULL DEFAULT 0,
  waiting_children INTEGER NOT NULL DEFAULT 0,
  completed INTEGER NOT NULL DEFAULT 0,
  failed INTEGER NOT NULL DEFAULT 0,
  UNIQUE (prefix, name)
);

CREATE TABLE job (
  row INTEGER PRIMARY KEY,
  qid INTEGER NOT NULL,
  id TEXT NOT NULL,
  -- where it stands: each state is one list, ordered by (rank, place)
  state TEXT NOT NULL,
  rank INTEGER NOT NULL,
  place INTEGER NOT NULL,
  priority INTEGER NOT NULL DEFAULT 0,
  delay_ms INTEGER NOT NULL DEFAULT 0,
  name TEXT NOT NULL,
  data TEXT NOT NULL,
  options TEXT,
  nonce TEXT,
  created_at_ms INTEGER NOT NULL,
  ready_at_ms INTEGER,
  processed_at_ms INTEGER,
  finished_at_ms INTEGER,
  attempts_made INTEGER NOT NULL DEFAULT 0,
  attempts_started INTEGER NOT NULL DEFAULT 0,
  stalled INTEGER NOT NULL DEFAULT 0,
  token TEXT,
  locked_until_ms INTEGER,
  suspect INTEGER NOT NULL DEFAULT 0,
  worker TEXT,
  progress TEXT,
  result TEXT,
  reason TEXT,
  deferred TEXT,
  history TEXT,
  log_tail INTEGER NOT NULL DEFAULT 0,
  parent_row INTEGER,
  policy TEXT,
  pending INTEGER NOT NULL DEFAULT 0
);

CREATE UNIQUE INDEX job_id ON job (qid, id);
CREATE INDEX job_order ON job (qid, state, rank, place);

CREATE TABLE child (
  parent_row INTEGER NOT NULL,
  qid INTEGER NOT NULL,
  id TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'pending',
  result TEXT,
  reason TEXT,
  PRIMARY KEY (parent_row, qid, id)
) WITHOUT ROWID;

CREATE TABLE log (
  job_row INTEGER NOT NULL,
  n INTEGER NOT NULL,
  line TEXT NOT NULL,
  PRIMARY KEY (job_row, n)
) WITHOUT ROWID;

-- What is remembered of a job that its keep rule removed: that it was there, and its result.
CREATE TABLE receipt (
  qid INTEGER NOT NULL,
  id TEXT NOT NULL,
  name TEXT NOT NULL,
  state TEXT NOT NULL,
  nonce TEXT,
  token TEXT,
  result TEXT,
  reason TEXT,
  attempts_made INTEGER NOT NULL,
  created_at_ms INTEGER NOT NULL,
  processed_at_ms INTEGER,
  finished_at_ms INTEGER NOT NULL,
  until_ms INTEGER NOT NULL,
  PRIMARY KEY (qid, id)
) WITHOUT ROWID;

CREATE INDEX receipt_until ON receipt (until_ms);

-- The events of one transaction on one queue; they are numbered up to `last`.
CREATE TABLE event (
  qid INTEGER NOT NULL,
  last INTEGER NOT NULL,
  at_ms INTEGER NOT NULL,
  items TEXT NOT NULL,
  PRIMARY KEY (qid, last)
) WITHOUT ROWID;

CREATE TABLE worker (
  prefix TEXT NOT NULL,
  id TEXT NOT NULL,
  seen_at_ms INTEGER NOT NULL,
  ttl_ms INTEGER NOT NULL,
  info TEXT NOT NULL,
  PRIMARY KEY (prefix, id)
) WITHOUT ROWID;
