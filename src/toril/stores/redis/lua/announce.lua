-- Say on a queue that a worker lives, or no longer does.
-- KEYS  *queues
-- ARGV  now id ttl_ms remember_ms info
-- RETURNS  how many workers the queue remembers
-- FLAGS  allow-oom
-- include: queue

-- `info` is what the worker says of itself, on its first queue only; a worker with a ttl of 0 has gone.
local Q = queue_at(1)
local now, ttl_ms, remember_ms = tonumber(A.now), tonumber(A.ttl_ms), tonumber(A.remember_ms)
local workers, worker = Q["py:workers"], Q["py:worker:"] .. A.id

redis.call("ZREMRANGEBYSCORE", workers, "-inf", now - remember_ms)
if ttl_ms == 0 then
  redis.call("ZREM", workers, A.id)
  redis.call("DEL", worker)
else
  redis.call("ZADD", workers, now + ttl_ms, A.id)
  redis.call("PEXPIRE", workers, ttl_ms + remember_ms)
  if A.info ~= "" then
    redis.call("SET", worker, A.info, "PX", ttl_ms + remember_ms)
  end
end
return redis.call("ZCARD", workers)
