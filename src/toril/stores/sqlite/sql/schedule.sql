-- Schedules.

-- :columns  What a record is made of.
SELECT q.name, s.id, s.next_at_ms, s.iterations, s.count, s.running, s.name, s.data, s.options, s.pattern, s.tz, s.every_ms,
       s.offset_ms, s.run_limit, s.start_at_ms, s.end_at_ms, s.missed, s.overlap, s.declared, s.paused, s.superseded, j.state
  FROM queue q
  JOIN schedule s ON s.qid = q.qid
  LEFT JOIN job j ON j.qid = s.qid AND j.id = 'repeat:' || s.id || ':' || s.next_at_ms;

-- :put  `runs` is 1 when a run of it is made, else 0.
INSERT INTO schedule (qid, id, next_at_ms, iterations, count, name, data, options, pattern, tz, every_ms, offset_ms, run_limit,
                      start_at_ms, end_at_ms, missed, overlap, declared, paused, superseded)
VALUES (:qid, :id, :next_at_ms, :runs, :count, :name, :data, :options, :pattern, :tz, :every_ms, :offset_ms, :run_limit,
        :start_at_ms, :end_at_ms, :missed, :overlap, :declared, :paused, :superseded)
    ON CONFLICT (qid, id) DO UPDATE
   SET next_at_ms = excluded.next_at_ms, iterations = max(iterations, excluded.iterations), count = excluded.count,
       name = excluded.name, data = excluded.data, options = excluded.options,
       pattern = excluded.pattern, tz = excluded.tz, every_ms = excluded.every_ms, offset_ms = excluded.offset_ms,
       run_limit = excluded.run_limit, start_at_ms = excluded.start_at_ms, end_at_ms = excluded.end_at_ms,
       missed = excluded.missed, overlap = excluded.overlap, declared = excluded.declared, paused = excluded.paused,
       superseded = excluded.superseded;

-- :advance
UPDATE schedule
   SET iterations = iterations + (next_at_ms <> :next_at_ms), count = count + (next_at_ms <> :next_at_ms),
       next_at_ms = :next_at_ms, running = coalesce(:running, running)
 WHERE qid = :qid AND id = :id;

-- :remove  Answers the time of its run to come.
DELETE FROM schedule WHERE qid = :qid AND id = :id RETURNING next_at_ms;

-- :awaits  Whether a job is the run that a schedule waits for.
SELECT 1 FROM schedule WHERE qid = :qid AND id = :id AND 'repeat:' || id || ':' || next_at_ms = :job_id;

-- :is_there
SELECT 1 FROM schedule WHERE qid = :qid AND id = :id;
