-- Change settings of a queue; workers learn of it.
-- KEYS  *queues
-- ARGV  now call limit *values(name text)
-- RETURNS  1 when it is to be called again, else 0
-- FLAGS  allow-oom
-- include: queue

local Q = queue_at(1)

-- Old versions of Node keep the jobs of a paused queue in a list of its own, which nobody serves after them. They waited
-- before those of `wait`.
local function merge_paused()
  if redis.call("EXISTS", Q.wait) == 0 and redis.call("EXISTS", Q.paused) == 1 then
    redis.call("RENAME", Q.paused, Q.wait)
    return 0
  end
  local ids = redis.call("LRANGE", Q.paused, 0, tonumber(A.limit) - 1)
  with_all("RPUSH", Q.wait, ids)
  redis.call("LTRIM", Q.paused, #ids, -1)
  return redis.call("EXISTS", Q.paused)
end

-- They would put their list in the place of ours when they resume a queue that we have paused.
local function put_aside()
  while redis.call("RPOPLPUSH", Q.wait, waiting_list(Q)) do
  end
end

local before = redis.call("HEXISTS", Q.meta, "paused")
for _, value in ipairs(A.values) do
  if value.text == "" then
    redis.call("HDEL", Q.meta, value.name)
  else
    redis.call("HSET", Q.meta, value.name, value.text)
  end
end
local after = redis.call("HEXISTS", Q.meta, "paused")
local left = after == 0 and merge_paused() or 0
local waiting = redis.call("EXISTS", Q.wait, Q.prioritized) > 0
if after == 1 then
  redis.call("DEL", Q.marker)
  if waiting_list(Q) == Q.paused then
    put_aside()
  end
elseif waiting then
  ring(Q)
end
if before > after then
  ring_for_delay(Q)
  emit(Q, "resumed")
elseif before < after then
  emit(Q, "paused")
end
wind_up()
return left
