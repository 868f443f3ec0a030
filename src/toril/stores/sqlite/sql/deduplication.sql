-- Deduplication ids, their owners, and the adds that wait for those to end.

-- :owner  Who owns an id, until when, and where that job stands.
SELECT d.owner, d.until_ms, j.row, j.state
  FROM deduplication d LEFT JOIN job j ON j.qid = d.qid AND j.id = d.owner
 WHERE d.qid = :qid AND d.id = :id AND (d.until_ms IS NULL OR d.until_ms > :now);

-- :own
INSERT OR REPLACE INTO deduplication (qid, id, owner, until_ms) VALUES (:qid, :id, :owner, :until);

-- :extend
UPDATE deduplication SET until_ms = :until WHERE qid = :qid AND id = :id;

-- :end  The owner has ended: an id that is kept for a time stays.
DELETE FROM deduplication WHERE qid = :qid AND id = :id AND owner = :owner AND until_ms IS NULL;

-- :disown  The owner was removed.
DELETE FROM deduplication WHERE qid = :qid AND id = :id AND owner = :owner;

-- :forget  Whoever owns it.
DELETE FROM deduplication WHERE qid = :qid AND id = :id AND (until_ms IS NULL OR until_ms > :now);

-- :expire  Ids whose time is over.
DELETE FROM deduplication
 WHERE (qid, id) IN (SELECT qid, id FROM deduplication WHERE until_ms <= :now ORDER BY until_ms LIMIT 1000);

-- :keep
INSERT OR REPLACE INTO kept (qid, deduplication, id, name, data, options, nonce, parent_queue, parent_id, policy)
VALUES (:qid, :deduplication, :id, :name, :data, :options, :nonce, :parent_queue, :parent_id, :policy);

-- :kept
SELECT id FROM kept WHERE qid = :qid AND deduplication = :id;

-- :drop_kept
DELETE FROM kept WHERE qid = :qid AND deduplication = :id;

-- :take_kept  None as long as there is an owner that has not ended.
DELETE FROM kept
 WHERE qid = :qid AND deduplication = :id
   AND NOT EXISTS (SELECT 1 FROM deduplication d JOIN job j ON j.qid = d.qid AND j.id = d.owner
                    WHERE d.qid = :qid AND d.id = :id AND d.owner <> :but AND (d.until_ms IS NULL OR d.until_ms > :now)
                      AND j.state NOT IN ('completed', 'failed'))
RETURNING id, name, data, options, nonce, parent_queue, parent_id, policy;

-- :left  Adds that were kept, and no job that has still to end will bring them.
SELECT k.deduplication, k.id FROM kept k
 WHERE k.qid = :qid
   AND NOT EXISTS (SELECT 1 FROM job j WHERE j.qid = k.qid AND j.deduplication = k.deduplication
                                         AND j.state NOT IN ('completed', 'failed'))
 ORDER BY k.deduplication;

-- :stale  Ids that nobody gives back: their owner is gone, or has ended.
SELECT d.id, d.owner
  FROM deduplication d LEFT JOIN job j ON j.qid = d.qid AND j.id = d.owner
 WHERE d.qid = :qid AND d.until_ms IS NULL AND (j.row IS NULL OR j.state IN ('completed', 'failed'))
 ORDER BY d.id;
