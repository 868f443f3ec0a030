-- Let a deduplication id have no owner. What is kept until that has ended is added then.
-- KEYS  *queues
-- ARGV  now call deduplication_id
-- RETURNS  1 if it had one, else 0
-- FLAGS  allow-oom
-- include: queue

return redis.call("DEL", queue_at(1)["de:"] .. A.deduplication_id)
