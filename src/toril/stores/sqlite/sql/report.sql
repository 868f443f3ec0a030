-- Record what running jobs say of themselves.

-- :progress
UPDATE job SET progress = :progress WHERE row = :row;

-- :log  A line at the end.
INSERT INTO log (job_row, n, line) VALUES (:row, :n, :line);

-- :log_tail
UPDATE job SET log_tail = log_tail + :count WHERE row = :row RETURNING log_tail;

-- :log_trim  Only the newest lines stay.
DELETE FROM log WHERE job_row = :row AND n < :first;
