-- What happened, in the order of commits.

-- :append
INSERT INTO event (qid, last, at_ms, items) VALUES (:qid, :last, :at_ms, :items);

-- :trim
DELETE FROM event WHERE qid = :qid AND last <= :last;

-- :read
SELECT last, at_ms, items FROM event WHERE qid = :qid AND last > :after ORDER BY last LIMIT :limit;
