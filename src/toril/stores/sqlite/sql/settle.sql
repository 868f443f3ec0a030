-- Record what became of claimed jobs.

-- :verify  Those whose token is still the claim's, with what settling them needs.
SELECT json_group_array(json_array(b.key, job.state, job.parent_row, job.policy, job.pending, job.history, job.attempts_made, job.deferred,
                                    job.priority, job.deduplication))
  FROM json_each(:claims) b JOIN job ON job.row = b.value ->> 0 AND job.token = b.value ->> 1
 WHERE job.state <> 'active' OR job.locked_until_ms > :now;

-- :receipts  Those that were recorded before and removed since.
SELECT json_group_array(b.key)
  FROM json_each(:claims) b JOIN receipt r ON r.qid = b.value ->> 0 AND r.id = b.value ->> 1 AND r.token = b.value ->> 2
 WHERE r.until_ms > :now;

-- :completed
UPDATE job
   SET state = 'completed', rank = :now, place = :place + b.key, finished_at_ms = :now, result = b.value ->> 1,
       attempts_made = attempts_made + 1, reason = NULL, locked_until_ms = NULL
  FROM json_each(:batch) b
 WHERE job.row = b.value ->> 0;

-- :failed
UPDATE job
   SET state = 'failed', rank = :now, place = :place + b.key, finished_at_ms = :now, reason = b.value ->> 1,
       history = b.value ->> 2, attempts_made = attempts_made + 1, deferred = NULL, locked_until_ms = NULL
  FROM json_each(:batch) b
 WHERE job.row = b.value ->> 0;

-- :reason
UPDATE job SET reason = :reason WHERE row = :row;

-- :requeued  Back among those that wait or are delayed: [row, state, rank, place, history, reason, attempts, delay].
UPDATE job
   SET state = b.value ->> 1, rank = b.value ->> 2, place = b.value ->> 3, history = b.value ->> 4,
       reason = coalesce(b.value ->> 5, reason), attempts_made = attempts_made + (b.value ->> 6),
       delay_ms = b.value ->> 7, ready_at_ms = :now, locked_until_ms = NULL
  FROM json_each(:batch) b
 WHERE job.row = b.value ->> 0;

-- :child  Tell a parent what became of its child.
UPDATE child SET state = :state, result = :result, reason = :reason
 WHERE parent_row = :parent_row AND qid = :qid AND id = :id AND state = 'pending';

-- :forget_child  A child that leaves no trace with its parent.
DELETE FROM child WHERE parent_row = :parent_row AND qid = :qid AND id = :id AND state = 'pending';

-- :failed_child  Whether a child has failed that its parent may not outlive.
SELECT 1 FROM child WHERE parent_row = :row AND state = 'failed' LIMIT 1;

-- :parent  A parent after one of its children has ended.
UPDATE job SET pending = pending - 1 WHERE row = :row
RETURNING qid, id, state, pending, priority, delay_ms;

-- :defer  Let the parent fail when it is handed out next.
UPDATE job SET deferred = coalesce(deferred, :reason), delay_ms = 0 WHERE row = :row;

-- :beyond_count  The oldest finished jobs, some at a time: a rule that was lowered must not hold up a settlement.
SELECT json_group_array(row)
  FROM (SELECT row FROM job WHERE qid = :qid AND state = :state ORDER BY rank, place LIMIT min(:excess, 1000));

-- :beyond_age  Jobs that finished before a moment.
SELECT json_group_array(row)
  FROM (SELECT row FROM job WHERE qid = :qid AND state = :state AND rank <= :before ORDER BY rank, place LIMIT 1000);
