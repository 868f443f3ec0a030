-- Store units of jobs.

-- :known  Jobs and receipts that have one of these ids already.
SELECT json_group_array(json_array(w.key, j.row, j.nonce, j.parent_row, r.nonce, r.id IS NOT NULL))
  FROM json_each(:ids) w
  LEFT JOIN job j ON j.qid = w.value ->> 0 AND j.id = w.value ->> 1
  LEFT JOIN receipt r ON r.qid = w.value ->> 0 AND r.id = w.value ->> 1 AND r.until_ms > :now
 WHERE j.row IS NOT NULL OR r.id IS NOT NULL;

-- :insert  New jobs; the row of values is repeated for each.
INSERT INTO job (qid, id, state, rank, place, priority, delay_ms, name, data, options, nonce, created_at_ms, ready_at_ms,
                 parent_row, policy, pending, deduplication, schedule)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (qid, id) DO NOTHING;

-- :parent  Its name.
SELECT q.name, j.id FROM job j JOIN queue q ON q.qid = j.qid WHERE j.row = :row;

-- :child  Tell a parent of its child, also of one that it had before.
INSERT OR REPLACE INTO child (parent_row, qid, id) VALUES (:parent_row, :qid, :id);

-- :attach  Tell a child of its parent.
UPDATE job SET parent_row = :parent_row, policy = :policy WHERE row = :row;

-- :completed  What a child that has completed already brings along.
UPDATE child SET state = 'completed', result = (SELECT result FROM job WHERE row = :row)
 WHERE parent_row = :parent_row AND qid = :qid AND id = :id AND state = 'pending';

-- :reason  Why a child has failed already.
SELECT reason FROM job WHERE row = :row;

-- :expect  Count children that a parent waits for.
UPDATE job SET pending = (SELECT count(*) FROM child WHERE parent_row = :parent_row AND state = 'pending')
 WHERE row = :parent_row;
