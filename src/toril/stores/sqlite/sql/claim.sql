-- Hand jobs out.

-- :due  When the next delayed job is due.
SELECT rank FROM job WHERE qid = :qid AND state = 'delayed' ORDER BY rank, place LIMIT 1;

-- :ripe  Delayed jobs that are due, in order.
SELECT json_group_array(json_array(row, id, priority))
  FROM (SELECT row, id, priority FROM job WHERE qid = :qid AND state = 'delayed' AND rank <= :now ORDER BY rank, place LIMIT 1000);

-- :ripen  Put them behind what waits.
UPDATE job
   SET state = CASE WHEN priority = 0 THEN 'waiting' ELSE 'prioritized' END,
       rank = priority, place = :place + b.key, delay_ms = 0, ready_at_ms = job.rank
  FROM json_each(:rows) b
 WHERE job.row = b.value;

-- :pick  The first jobs of a state.
SELECT json_group_array(json_array(row, id, name, data, options, attempts_made, attempts_started, stalled, priority,
                                   created_at_ms, deferred, parent_row, policy, schedule))
  FROM (SELECT * FROM job WHERE qid = :qid AND state = :state ORDER BY rank, place LIMIT :free);

-- :named  The very jobs that somebody wants.
SELECT json_group_array(json_array(row, id, name, data, options, attempts_made, attempts_started, stalled, priority,
                                   created_at_ms, deferred, parent_row, policy, schedule, state))
  FROM (SELECT job.* FROM json_each(:ids) w JOIN job ON job.qid = :qid AND job.id = w.value
         WHERE job.state IN ('waiting', 'prioritized', 'delayed') ORDER BY w.key);

-- :again  What this wish has brought before.
SELECT json_group_array(json_array(row, id, name, data, options, attempts_made, attempts_started - 1, stalled, priority,
                                   created_at_ms, deferred, parent_row, policy, schedule))
  FROM (SELECT * FROM job WHERE qid = :qid AND state = 'active' AND token = :token ORDER BY rank, place);

-- :take  Lock them.
UPDATE job
   SET state = 'active', rank = :now, place = :place + b.key, token = :token, locked_until_ms = :until, suspect = 0,
       worker = :worker, processed_at_ms = :now, attempts_started = attempts_started + 1, delay_ms = 0
  FROM json_each(:rows) b
 WHERE job.row = b.value;

-- :parents  Names of parents.
SELECT json_group_array(json_array(p.row, q.name, p.id))
  FROM json_each(:rows) w JOIN job p ON p.row = w.value JOIN queue q ON q.qid = p.qid;
