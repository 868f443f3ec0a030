-- Find jobs whose worker has vanished.

-- :lapsed  Seen active by the last check, and their lock has lapsed.
SELECT json_group_array(json_array(row, id, stalled, history, worker, processed_at_ms, attempts_made, schedule))
  FROM (SELECT * FROM job WHERE qid = :qid AND state = 'active' AND suspect = 1 AND locked_until_ms <= :now ORDER BY rank, place);

-- :suspect  Remember who is active now.
UPDATE job SET suspect = 1 WHERE qid = :qid AND state = 'active' AND suspect = 0;

-- :requeue  [row, place, history, deferred]
UPDATE job
   SET state = 'waiting', rank = 0, place = b.value ->> 1, history = b.value ->> 2, deferred = coalesce(b.value ->> 3, deferred),
       stalled = stalled + 1, token = NULL, locked_until_ms = NULL, suspect = 0, ready_at_ms = :now
  FROM json_each(:batch) b
 WHERE job.row = b.value ->> 0;
