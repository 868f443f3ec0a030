-- Jobs by name.

-- :columns  What a record is made of.
SELECT j.row, q.name, j.id, j.name, j.data, j.options, j.state, j.rank, j.place, j.priority, j.delay_ms, j.created_at_ms,
       j.processed_at_ms, j.finished_at_ms, j.attempts_made, j.attempts_started, j.stalled, j.worker, j.locked_until_ms,
       j.progress, j.result, j.reason, j.deferred, j.history, j.pending, j.policy, pq.name, p.id, j.schedule
  FROM job j
  JOIN queue q ON q.qid = j.qid
  LEFT JOIN job p ON p.row = j.parent_row
  LEFT JOIN queue pq ON pq.qid = p.qid;

-- :receipt
SELECT name, state, result, reason, attempts_made, created_at_ms, processed_at_ms, finished_at_ms
  FROM receipt WHERE qid = :qid AND id = :id AND until_ms > :now;

-- :get  What changing one job needs to know.
SELECT row, id, state, rank, place, priority, delay_ms, token, locked_until_ms, parent_row, policy, pending, history, options,
       log_tail, qid, deduplication, schedule
  FROM job WHERE qid = :qid AND id = :id;

-- :get_row
SELECT row, id, state, rank, place, priority, delay_ms, token, locked_until_ms, parent_row, policy, pending, history, options,
       log_tail, qid, deduplication, schedule
  FROM job WHERE row = :row;

-- :move
UPDATE job SET state = :state, rank = :rank, place = :place, delay_ms = :delay_ms, ready_at_ms = :ready_at_ms WHERE row = :row;

-- :retry
UPDATE job
   SET state = :state, rank = :rank, place = :place, ready_at_ms = :now, finished_at_ms = NULL, processed_at_ms = NULL,
       result = NULL, reason = NULL, token = NULL, deferred = NULL, data = coalesce(:data, data), delay_ms = 0,
       attempts_made = CASE WHEN :reset THEN 0 ELSE attempts_made END,
       attempts_started = CASE WHEN :reset THEN 0 ELSE attempts_started END,
       stalled = CASE WHEN :reset THEN 0 ELSE stalled END
 WHERE row = :row;

-- :reattach  A retried child is waited for again.
UPDATE child SET state = 'pending', result = NULL, reason = NULL
 WHERE parent_row = :parent_row AND qid = :qid AND id = :id AND state <> 'pending';

-- :forgive  Children that have failed hold a parent back no longer.
UPDATE child SET state = 'ignored' WHERE parent_row = :row AND state = 'failed';

-- :expect
UPDATE job SET pending = pending + 1 WHERE row = :row;

-- :set_free  A child is one no longer.
UPDATE job SET parent_row = NULL, policy = NULL WHERE row = :row;

-- :cancel  It has failed without a run.
UPDATE job
   SET state = 'failed', rank = :now, place = :place, finished_at_ms = :now, reason = :reason, deferred = NULL, delay_ms = 0
 WHERE row = :row;

-- :set_data
UPDATE job SET data = :value WHERE row = :row;

-- :set_priority
UPDATE job SET priority = :priority, state = :state, rank = :rank, place = :place WHERE row = :row;

-- :children
SELECT q.name, c.id, c.state, c.result, c.reason
  FROM child c JOIN queue q ON q.qid = c.qid WHERE c.parent_row = :row ORDER BY q.name, c.id;

-- :child_rows
SELECT j.row FROM child c JOIN job j ON j.qid = c.qid AND j.id = c.id WHERE c.parent_row = :row AND j.parent_row = :row;

-- :in_state  Rows of a state from its front, for removal in pieces.
SELECT row FROM job WHERE qid = :qid AND state = :state ORDER BY rank, place LIMIT :limit;

-- :drainable  The same, without the runs that schedules wait for.
SELECT row FROM job
 WHERE qid = :qid AND state = :state
   AND NOT (schedule IS NOT NULL AND EXISTS (SELECT 1 FROM schedule s WHERE s.qid = job.qid AND s.id = job.schedule
                                             AND job.id = 'repeat:' || s.id || ':' || s.next_at_ms))
 ORDER BY rank, place LIMIT :limit;

-- :older  Rows of a state that are older than a moment: none that is locked, or that a schedule waits for.
SELECT row, id FROM job
 WHERE qid = :qid AND state = :state AND coalesce(finished_at_ms, processed_at_ms, created_at_ms) <= :before
   AND NOT (state = 'active' AND locked_until_ms > :now)
   AND NOT (schedule IS NOT NULL AND EXISTS (SELECT 1 FROM schedule s WHERE s.qid = job.qid AND s.id = job.schedule
                                             AND job.id = 'repeat:' || s.id || ':' || s.next_at_ms))
 ORDER BY rank, place LIMIT :limit;

-- :states  How many of these rows are in each state.
SELECT qid, state, count(*) FROM job WHERE row IN (SELECT value FROM json_each(:rows)) GROUP BY qid, state;

-- :log_lines
SELECT line FROM log WHERE job_row = :row ORDER BY n LIMIT :limit OFFSET :first;

-- :log_count
SELECT count(*) FROM log WHERE job_row = :row;

-- :stuck  Parents that wait for children of which none is pending.
SELECT row, id FROM job
 WHERE qid = :qid AND state = 'waiting-children'
   AND NOT EXISTS (SELECT 1 FROM child WHERE child.parent_row = job.row AND child.state = 'pending')
 ORDER BY rank, place;
