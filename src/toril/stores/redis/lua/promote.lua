-- Let delayed jobs run now.
-- KEYS  *queues
-- ARGV  now *refs(queue id)
-- RETURNS  of each job done, missing or wrong-state
-- include: enqueue

local answers = {}
for place, ref in ipairs(A.refs) do
  local Q = queue_at(ref.queue)
  local key = Q.base .. ref.id
  if redis.call("ZREM", Q.delayed, ref.id) == 0 then
    answers[place] = redis.call("EXISTS", key) == 1 and "wrong-state" or "missing"
  else
    put_behind(Q, ref.id, tonumber(redis.call("HGET", key, "priority")) or 0, false)
    emit(Q, "waiting", "jobId", ref.id, "prev", "delayed")
    redis.call("HSET", key, "delay", "0")
    answers[place] = "done"
  end
end
wind_up()
return answers
