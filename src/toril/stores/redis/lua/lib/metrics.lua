-- Count finished jobs by the minute, where Node counts them and Bull Board looks: a hash with how many there were in all
-- (count), when the last minute was begun (prevTS) and how many there were before it (prevCount); and a list of the
-- minutes before that one, newest first.
-- include: queue

local MINUTE_MS = 60000

-- The minute that was begun is over, and so are all that have passed since without a job.
local function end_minutes(data, jobs, passed, kept)
  local counts = { jobs }
  for place = 2, passed do
    counts[place] = 0
  end
  with_all("LPUSH", data, counts)
  redis.call("LTRIM", data, 0, kept - 1)
end

-- So many jobs of a queue have ended in this state now: what counting them one after the other would leave.
local function count_finished(Q, state, jobs, now)
  local kept = settings(Q).metrics
  if kept <= 0 or jobs == 0 then
    return
  end
  local key = Q["metrics:" .. state]
  local found = redis.call("HMGET", key, "count", "prevTS", "prevCount")
  local count, begun, before = tonumber(found[1]) or 0, tonumber(found[2]), tonumber(found[3]) or 0
  local passed = begun and math.min(math.floor(now / MINUTE_MS) - math.floor(begun / MINUTE_MS), kept)
  if begun and passed <= 0 then
    redis.call("HINCRBY", key, "count", jobs)
    return
  end
  if begun then
    end_minutes(key .. ":data", count - before, passed, kept)
  end
  redis.call(
    "HSET", key, "count", count + jobs, "prevTS", string.format("%.0f", now), "prevCount", begun and count or 0
  )
end
