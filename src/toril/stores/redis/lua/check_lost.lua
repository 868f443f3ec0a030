-- Find jobs that are in no collection; put them where they belong if asked. One under a lock may be put nowhere.
-- KEYS  *queues
-- ARGV  now mend *jobs(id)
-- RETURNS  {id, where it belongs, which is active for one under a lock} of each
-- FLAGS  allow-oom
-- include: home enqueue

local Q = queue_at(1)
local now = tonumber(A.now)
local put = {}

local function put_in_line(id, priority)
  put_behind(Q, id, tonumber(priority) or 0, false)
  emit(Q, "waiting", "jobId", id)
end

function put.wait(id, job)
  put_in_line(id, job.priority)
end

put.prioritized = put.wait

function put.delayed(id, job)
  local due = (tonumber(job.timestamp) or 0) + tonumber(job.delay)
  if due > now then
    put_in_delayed(Q, id, due)
  else
    redis.call("HSET", Q.base .. id, "delay", "0")
    put_in_line(id, job.priority)
  end
end

put["waiting-children"] = function(id)
  redis.call("ZADD", Q["waiting-children"], now, id)
end

function put.completed(id, job)
  redis.call("ZADD", Q.completed, tonumber(job.finished_on) or now, id)
end

function put.failed(id, job)
  redis.call("HSETNX", Q.base .. id, "failedReason", "why it failed was lost")
  redis.call("ZADD", Q.failed, tonumber(job.finished_on) or now, id)
end

local function is_placed(id)
  if #scored_places(Q, id) > 0 then
    return true
  end
  local counts = listed_places(Q, id)
  return counts.wait + counts.paused + counts.active > 0
end

local found = {}
for _, job in ipairs(A.jobs) do
  local key = Q.base .. job.id
  if is_job(key) and not is_placed(job.id) then
    local belongs = home(Q, job.id)
    found[#found + 1] = { job.id, belongs }
    if A.mend == "1" and put[belongs] then
      local known = redis.call("HMGET", key, "timestamp", "delay", "priority", "finishedOn")
      put[belongs](job.id, { timestamp = known[1], delay = known[2], priority = known[3], finished_on = known[4] })
    end
  end
end
wind_up()
return found
