-- Remove jobs of a state that are old enough, some at a time: none that a worker holds, or that a scheduler waits for.
-- KEYS  *queues
-- ARGV  now call limit collection before most behind removed
-- RETURNS  {ids of the jobs removed, 1 when that was the last piece, the id behind which to go on}
-- FLAGS  allow-oom
-- include: remove

local Q = queue_at(1)
local by_age = A.collection == "completed" or A.collection == "failed"
local left = tonumber(A.most)

local function verdict_on(job)
  if left <= 0 then
    return "stop"
  end
  local ended_or_begun = tonumber(job.finishedOn or job.processedOn or job.timestamp) or 0
  if ended_or_begun > tonumber(A.before) then
    return by_age and "stop" or "keep"
  end
  if is_awaited(Q, job) or (A.collection == "active" and is_held(Q, job.id)) then
    return "keep"
  end
  left = left - 1
  return "remove"
end

local ids, behind, finished = sweep(Q, A.collection, A.behind, verdict_on)
finished = finished or left <= 0
if finished and redis.call("EXISTS", Q.meta) == 1 then
  emit(Q, "cleaned", "count", tostring(tonumber(A.removed) + #ids))
end
wind_up()
return { ids, finished and 1 or 0, behind }
