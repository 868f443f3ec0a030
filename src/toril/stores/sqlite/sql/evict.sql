-- Remove jobs with all that belongs to them.

-- :receipts  Remember those whose result is still promised, and each for a minute, so that a repeated add finds it.
INSERT OR REPLACE INTO receipt (qid, id, name, state, nonce, token, result, reason, attempts_made, created_at_ms,
                                processed_at_ms, finished_at_ms, until_ms)
SELECT qid, id, name, state, nonce, token, result, reason, attempts_made, created_at_ms, processed_at_ms, finished_at_ms,
       finished_at_ms + max(60000, coalesce(options ->> '$.keep_result_ms', 600000))
  FROM job
 WHERE row IN (SELECT value FROM json_each(:rows))
   AND finished_at_ms + max(60000, coalesce(options ->> '$.keep_result_ms', 600000)) > :now;

-- :family  Those among them that are children or parents, or were added under a deduplication id.
SELECT json_group_array(json_array(row, qid, id, parent_row, deduplication))
  FROM job
 WHERE row IN (SELECT value FROM json_each(:rows))
   AND (parent_row IS NOT NULL OR deduplication IS NOT NULL
        OR EXISTS (SELECT 1 FROM child WHERE child.parent_row = job.row));

-- :orphan  Children whose parent goes.
UPDATE job SET parent_row = NULL, policy = NULL
 WHERE row IN (SELECT j.row FROM child c JOIN job j ON j.qid = c.qid AND j.id = c.id
                WHERE c.parent_row = :row AND j.parent_row = :row);

-- :childless
DELETE FROM child WHERE parent_row = :row;

-- :logs
DELETE FROM log WHERE job_row IN (SELECT value FROM json_each(:rows));

-- :jobs
DELETE FROM job WHERE row IN (SELECT value FROM json_each(:rows));

-- :forget  Receipts whose time is over.
DELETE FROM receipt WHERE (qid, id) IN (SELECT qid, id FROM receipt WHERE until_ms <= :now ORDER BY until_ms LIMIT 1000);
