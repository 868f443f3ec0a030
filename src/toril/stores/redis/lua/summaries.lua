-- Count the jobs of queues by state.
-- KEYS  *queues
-- ARGV  now *asked(queue)
-- RETURNS  for each queue {wait, prioritized, delayed, active, waiting-children, completed, failed, flat settings,
--          when the next job to run was added or ""}
-- FLAGS  no-writes
-- include: queue

local answers = {}
for place, asked in ipairs(A.asked) do
  local Q = queue_at(asked.queue)
  local next_id = redis.call("LINDEX", Q.paused, -1) or redis.call("LINDEX", Q.wait, -1)
    or redis.call("ZRANGE", Q.prioritized, 0, 0)[1]
  answers[place] = {
    redis.call("LLEN", Q.wait) + redis.call("LLEN", Q.paused), redis.call("ZCARD", Q.prioritized), redis.call("ZCARD", Q.delayed),
    redis.call("LLEN", Q.active), redis.call("ZCARD", Q["waiting-children"]), redis.call("ZCARD", Q.completed),
    redis.call("ZCARD", Q.failed), redis.call("HGETALL", Q.meta),
    next_id and redis.call("HGET", Q.base .. next_id, "timestamp") or "",
  }
end
return answers
