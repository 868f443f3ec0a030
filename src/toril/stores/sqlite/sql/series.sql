-- How many jobs have ended in a minute.

-- :count  More of them: [qid, minute, state, jobs].
INSERT INTO finished (qid, minute, state, jobs)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(:batch) WHERE true
    ON CONFLICT (qid, minute, state) DO UPDATE SET jobs = jobs + excluded.jobs;

-- :forget  Minutes that are too old.
DELETE FROM finished WHERE qid = :qid AND minute < :first;

-- :read
SELECT json_group_array(json_array(minute, jobs))
  FROM finished WHERE qid = :qid AND minute BETWEEN :first AND :last AND state = :state;
