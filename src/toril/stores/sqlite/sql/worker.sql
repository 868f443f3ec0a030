-- Workers that were seen.

-- :announce
INSERT OR REPLACE INTO worker (prefix, id, seen_at_ms, ttl_ms, info) VALUES (:prefix, :id, :seen_at_ms, :ttl_ms, :info);

-- :forget
DELETE FROM worker WHERE prefix = :prefix AND (id = :id OR seen_at_ms + ttl_ms * 10 < :now);

-- :seen
SELECT info FROM worker WHERE prefix = :prefix AND seen_at_ms + ttl_ms > :now ORDER BY id;
