-- Change settings of a queue; workers learn of it.
-- KEYS  *queues
-- ARGV  now *values(name text)
-- RETURNS  1 when it was paused by this, -1 when it was resumed, else 0
-- include: queue

local Q = queue_at(1)
local before = redis.call("HEXISTS", Q.meta, "paused")
for _, value in ipairs(A.values) do
  if value.text == "" then
    redis.call("HDEL", Q.meta, value.name)
  else
    redis.call("HSET", Q.meta, value.name, value.text)
  end
end
local after = redis.call("HEXISTS", Q.meta, "paused")
local waiting = redis.call("EXISTS", Q.wait, Q.prioritized) > 0
if before == after then
  if waiting then
    ring(Q)
  end
elseif after == 1 then
  redis.call("DEL", Q.marker)
  emit(Q, "paused")
else
  if waiting then
    ring(Q)
  end
  ring_for_delay(Q)
  emit(Q, "resumed")
end
ring_bells()
return after - before
