-- Let delayed jobs run now.
-- KEYS  *queues
-- ARGV  now call *refs(queue id)
-- RETURNS  of each job done, missing or wrong-state
-- FLAGS  allow-oom
-- include: enqueue

local function promote(Q, id)
  local key = Q.base .. id
  local was_delayed = redis.call("ZREM", Q.delayed, id) == 1
  local job = redis.call("HMGET", key, "name", "priority")
  if not job[1] then
    return "missing" -- and an id without a job must not come among those that wait
  elseif not was_delayed then
    return "wrong-state"
  end
  put_behind(Q, id, tonumber(job[2]) or 0, false)
  emit(Q, "waiting", "jobId", id, "prev", "delayed")
  redis.call("HSET", key, "delay", "0")
  return "done"
end

local answers = {}
for place, ref in ipairs(A.refs) do
  answers[place] = promote(queue_at(ref.queue), ref.id)
end
wind_up()
return answers
