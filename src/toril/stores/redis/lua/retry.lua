-- Run finished jobs again; one whose children have not all ended, when they have.
-- KEYS  *queues
-- ARGV  now call reset_attempts with_data data *refs(queue id)
-- RETURNS  of each job done, missing or wrong-state
-- include: enqueue

-- Its parent, if it still waits, waits for it again.
local function return_to_parent(key, state)
  local parent = redis.call("HGET", key, "parentKey")
  if not parent or redis.call("EXISTS", parent) == 0 then
    return
  end
  local removed
  if state == "completed" then
    removed = redis.call("HDEL", parent .. ":processed", key) == 1
  else
    removed = redis.call("ZREM", parent .. ":unsuccessful", key) == 1 or redis.call("HDEL", parent .. ":failed", key) == 1
  end
  if removed then
    redis.call("SADD", parent .. ":dependencies", key)
  end
end

-- Whoever runs a parent again does so in spite of the children that have failed: they hold it back no longer.
local function forgive_children(key)
  for _, child in ipairs(redis.call("ZRANGE", key .. ":unsuccessful", 0, -1)) do
    redis.call("HSET", key .. ":failed", child, redis.call("HGET", child, "failedReason") or "")
  end
  redis.call("DEL", key .. ":unsuccessful")
end

local function retry(Q, id)
  local key = Q.base .. id
  local job = redis.call("HMGET", key, "opts", "priority")
  if not job[1] then
    return "missing"
  end
  local state = redis.call("ZREM", Q.failed, id) == 1 and "failed"
    or redis.call("ZREM", Q.completed, id) == 1 and "completed"
  if not state then
    return "wrong-state"
  end
  redis.call("HDEL", key, "finishedOn", "processedOn", "defa", state == "failed" and "failedReason" or "returnvalue")
  if A.reset_attempts == "1" then
    redis.call("HDEL", key, "atm", "ats", "stc")
  end
  if A.with_data == "1" then
    redis.call("HSET", key, "data", A.data)
  end
  return_to_parent(key, state)
  forgive_children(key)
  if redis.call("EXISTS", key .. ":dependencies") == 1 then
    redis.call("HSET", key, "delay", "0")
    redis.call("ZADD", Q["waiting-children"], A.now, id)
    emit(Q, "waiting-children", "jobId", id, "prev", state)
    return "done"
  end
  local known, opts = pcall(cjson.decode, job[1])
  put_behind(Q, id, tonumber(job[2]) or 0, known and opts.lifo == true)
  emit(Q, "waiting", "jobId", id, "prev", state)
  return "done"
end

local answers = {}
for place, ref in ipairs(A.refs) do
  answers[place] = retry(queue_at(ref.queue), ref.id)
end
wind_up()
return answers
