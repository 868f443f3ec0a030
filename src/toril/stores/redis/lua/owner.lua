-- Tell which job owns a deduplication id.
-- KEYS  *queues
-- ARGV  now deduplication_id
-- RETURNS  its id, which may be that of a job that is gone; "" when nobody does
-- FLAGS  no-writes
-- include: owner

return owner_of(queue_at(1), A.deduplication_id) or ""
