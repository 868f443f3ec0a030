-- Move a piece of the list `paused` of old versions into `wait`, where it is served first and in its order.
-- KEYS  *queues
-- ARGV  now limit
-- RETURNS  how many are left
-- FLAGS  allow-oom
-- include: queue

local Q = queue_at(1)

if redis.call("EXISTS", Q.paused) == 0 then
  return 0
elseif redis.call("EXISTS", Q.wait) == 0 then
  redis.call("RENAME", Q.paused, Q.wait)
else
  local ids = redis.call("LRANGE", Q.paused, 0, tonumber(A.limit) - 1)
  redis.call("LTRIM", Q.paused, #ids, -1)
  redis.call("RPUSH", Q.wait, unpack(ids))
end
ring(Q)
wind_up()
return redis.call("LLEN", Q.paused)
