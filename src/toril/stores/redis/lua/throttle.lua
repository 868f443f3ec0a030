-- Hand out no jobs of a queue for so long, or lift that and any limit that was reached.
-- KEYS  *queues
-- ARGV  now call for_ms
-- RETURNS  nothing
-- FLAGS  allow-oom
-- include: queue

local MORE_THAN_ANY = "9007199254740991"

local Q = queue_at(1)
local for_ms = tonumber(A.for_ms)

-- Node's workers know nothing but the counter of started jobs. The queue's own limit, once reached, is not cut short.
local function hold_back_node()
  local started, max = redis.call("GET", Q.limiter), settings(Q).max
  local reached = started and max and started ~= MORE_THAN_ANY and tonumber(started) >= max
  if not reached or redis.call("PTTL", Q.limiter) < for_ms then
    redis.call("SET", Q.limiter, MORE_THAN_ANY, "PX", A.for_ms)
  end
end

if for_ms > 0 then
  redis.call("HSET", Q.meta, "py:throttled-until", string.format("%.0f", tonumber(A.now) + for_ms))
  hold_back_node()
else
  redis.call("HDEL", Q.meta, "py:throttled-until")
  redis.call("DEL", Q.limiter)
end
ring(Q)
wind_up()
return 0
