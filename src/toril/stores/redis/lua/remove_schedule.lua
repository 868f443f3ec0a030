-- Remove a schedule, and its run to come if that is delayed. One that waits for a worker still runs.
-- KEYS  *queues
-- ARGV  now call id
-- RETURNS  1, or 0 when there is no such schedule
-- FLAGS  allow-oom
-- include: schedule

local Q = queue_at(1)
local known = schedule_of(Q, A.id)
if not known then
  return 0
end
if redis.call("ZSCORE", Q.delayed, known.run) then
  take_back(Q, known.run, "delayed")
  emit(Q, "removed", "jobId", known.run, "prev", "delayed")
end
redis.call("ZREM", Q["repeat"], A.id)
redis.call("DEL", Q["repeat:"] .. A.id)
wind_up()
return 1
