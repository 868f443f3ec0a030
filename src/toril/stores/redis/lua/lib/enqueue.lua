-- Put jobs where they wait.
-- include: queue

local PRIORITY = 4294967296
local PLACES = 4096

local function put_in_wait(Q, id, in_front)
  redis.call(in_front and "RPUSH" or "LPUSH", waiting_list(Q), id)
  ring(Q)
end

local function put_in_prioritized(Q, id, priority)
  local turn = redis.call("INCR", Q.pc)
  redis.call("ZADD", Q.prioritized, priority * PRIORITY + turn % PRIORITY, id)
  ring(Q)
end

-- Jobs due in the same millisecond keep their order, up to 4096 of them.
local function put_in_delayed(Q, id, due)
  local floor, ceil = due * PLACES, (due + 1) * PLACES - 1
  local last = redis.call("ZREVRANGEBYSCORE", Q.delayed, ceil, floor, "WITHSCORES", "LIMIT", 0, 1)
  local score = last[2] and math.min(tonumber(last[2]) + 1, ceil) or floor
  redis.call("ZADD", Q.delayed, score, id)
  emit(Q, "delayed", "jobId", id, "delay", string.format("%.0f", due))
  ring_for_delay(Q)
end

local function put_behind(Q, id, priority, lifo)
  if priority > 0 then
    put_in_prioritized(Q, id, priority)
  else
    put_in_wait(Q, id, lifo)
  end
end

-- Before all that waits, or before all of the same priority.
local function put_in_front(Q, id, priority)
  if priority > 0 then
    redis.call("ZADD", Q.prioritized, priority * PRIORITY, id)
    ring(Q)
  else
    put_in_wait(Q, id, true)
  end
end

local function promote_due(Q, now)
  local due = redis.call("ZRANGEBYSCORE", Q.delayed, 0, (now + 1) * PLACES - 1, "LIMIT", 0, 1000)
  if #due == 0 then
    return
  end
  redis.call("ZREM", Q.delayed, unpack(due))
  for _, id in ipairs(due) do
    local priority = redis.call("HGET", Q.base .. id, "priority")
    -- An id without a job would be handed out as a job without a name.
    if priority or redis.call("EXISTS", Q.base .. id) == 1 then
      put_behind(Q, id, tonumber(priority) or 0, false)
      emit(Q, "waiting", "jobId", id, "prev", "delayed")
      redis.call("HSET", Q.base .. id, "delay", "0")
    end
  end
end
