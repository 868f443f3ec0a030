-- Queues, their settings, tickets and counts.

-- :load
SELECT qid, name, tail, head, paused, concurrency, rate_max, rate_per_ms, max_waiting, events, max_events, limited_until_ms,
       window_started, window_until_ms, stalled_check_until_ms, event_tail,
       waiting, prioritized, delayed, active, waiting_children, completed, failed,
       metrics_minutes, counted_minute, counted_completed, counted_failed,
       EXISTS (SELECT 1 FROM receipt WHERE receipt.qid = queue.qid)
  FROM queue WHERE prefix = :prefix AND name = :name;

-- :load_id
SELECT qid, name, tail, head, paused, concurrency, rate_max, rate_per_ms, max_waiting, events, max_events, limited_until_ms,
       window_started, window_until_ms, stalled_check_until_ms, event_tail,
       waiting, prioritized, delayed, active, waiting_children, completed, failed,
       metrics_minutes, counted_minute, counted_completed, counted_failed,
       EXISTS (SELECT 1 FROM receipt WHERE receipt.qid = queue.qid)
  FROM queue WHERE qid = :qid;

-- :all
SELECT qid, name, tail, head, paused, concurrency, rate_max, rate_per_ms, max_waiting, events, max_events, limited_until_ms,
       window_started, window_until_ms, stalled_check_until_ms, event_tail,
       waiting, prioritized, delayed, active, waiting_children, completed, failed,
       metrics_minutes, counted_minute, counted_completed, counted_failed,
       EXISTS (SELECT 1 FROM receipt WHERE receipt.qid = queue.qid)
  FROM queue WHERE prefix = :prefix ORDER BY name;

-- :create
INSERT INTO queue (prefix, name) VALUES (:prefix, :name);

-- :delete
DELETE FROM queue WHERE qid = :qid;

-- :delete_events
DELETE FROM event WHERE qid = :qid;

-- :delete_receipts
DELETE FROM receipt WHERE qid = :qid;

-- :delete_series
DELETE FROM finished WHERE qid = :qid;

-- :delete_deduplication
DELETE FROM deduplication WHERE qid = :qid;

-- :delete_kept
DELETE FROM kept WHERE qid = :qid;

-- :delete_schedules
DELETE FROM schedule WHERE qid = :qid;

-- :oldest  When the first of a state became ready.
SELECT ready_at_ms FROM job WHERE qid = :qid AND state = :state ORDER BY rank, place LIMIT 1;

-- :everywhere  All queues of the file, whatever their prefix.
SELECT prefix, qid FROM queue ORDER BY prefix, name;

-- :counted  The jobs of a queue by state, counted one by one.
SELECT state, count(*) FROM job WHERE qid = :qid GROUP BY state;
