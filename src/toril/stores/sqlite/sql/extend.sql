-- Renew locks.

-- :renew
UPDATE job SET locked_until_ms = :until, suspect = 0
  FROM json_each(:claims) b
 WHERE job.row = b.value ->> 0 AND job.token = b.value ->> 1 AND job.state = 'active'
   AND job.locked_until_ms > :now;

-- :held  Which of them are still the caller's.
SELECT json_group_array(b.key)
  FROM json_each(:claims) b
  JOIN job ON job.row = b.value ->> 0 AND job.token = b.value ->> 1 AND job.state = 'active'
   AND job.locked_until_ms > :now;
