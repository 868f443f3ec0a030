-- Remove jobs with all that belongs to them.
-- include: finish work

local LISTED = { wait = true, paused = true, active = true }
local COLLECTIONS = { "completed", "waiting-children", "delayed", "failed", "prioritized", "active", "wait", "paused" }
local KNOWN = { "name", "timestamp", "processedOn", "finishedOn", "rjk", "parentKey", "deid" }

local function look_at(Q, id)
  local found = redis.call("HMGET", Q.base .. id, unpack(KNOWN))
  local job = { id = id }
  for i, name in ipairs(KNOWN) do
    job[name] = found[i] or nil
  end
  return job
end

-- Whether a worker holds it. A lock alone does not say so: Node leaves one behind where it moves a job without its token.
local function is_held(Q, id)
  return redis.call("EXISTS", Q.base .. id .. ":lock") == 1 and redis.call("LPOS", Q.active, id) ~= false
end

-- Whether it is the iteration that a scheduler waits for: without it, the scheduler would stand still for ever.
local function is_awaited(Q, job)
  local due = job.rjk and redis.call("ZSCORE", Q["repeat"], job.rjk)
  return due and job.id == "repeat:" .. job.rjk .. ":" .. string.format("%.0f", due)
end

-- Lists are searched from the end that they are served from: those who look at jobs begin there.
local function leave(Q, name, id)
  if LISTED[name] then
    return redis.call("LREM", Q[name], -1, id) == 1
  end
  return redis.call("ZREM", Q[name], id) == 1
end

-- Take a job out of the one of these collections in which it is, and say which that was.
local function take_out(Q, id, names)
  for _, name in ipairs(names) do
    searched(LISTED[name] and redis.call("LLEN", Q[name]) or 0)
    if leave(Q, name, id) then
      return name
    end
  end
  return nil
end

-- What belongs to a job that is in no collection any more. A parent that waited for it alone is released.
local function forget(Q, job)
  local key = Q.base .. job.id
  if job.parentKey then
    drop_child(job.parentKey, key)
  end
  if job.deid and redis.call("GET", Q["de:"] .. job.deid) == job.id then
    redis.call("DEL", Q["de:"] .. job.deid, Q["dn:"] .. job.deid)
  end
  delete_job(key)
  redis.call("DEL", key .. ":lock")
  redis.call("SREM", Q.stalled, job.id)
end

-- The next ids of a collection behind this one (or the first), and how many are before them. They come in the order in
-- which they will run, or have ended.
local function ids_behind(Q, name, id, count)
  local key = Q[name]
  if not LISTED[name] then
    local rank = id ~= "" and redis.call("ZRANK", key, id)
    local first = rank and rank + 1 or 0
    return redis.call("ZRANGE", key, first, first + count - 1), first
  end
  local at = id ~= "" and redis.call("LPOS", key, id, "RANK", -1)
  local first = at and redis.call("LLEN", key) - at or 0
  local ids = redis.call("LRANGE", key, -first - count, -first - 1)
  for i = 1, math.floor(#ids / 2) do
    ids[i], ids[#ids + 1 - i] = ids[#ids + 1 - i], ids[i]
  end
  return ids, first
end

-- Remove jobs of a collection, those behind this id (or the first) on, if `verdict_on` says "remove" and not "keep" or
-- "stop". Returns their ids, behind which id to go on, and whether the end was reached.
local function sweep(Q, name, behind, verdict_on)
  local wanted = math.max(1, math.ceil(work_left))
  local ids, kept = ids_behind(Q, name, behind, wanted)
  local doomed, removed, verdict = {}, {}, nil
  for _, id in ipairs(ids) do
    if work_left <= 0 then
      break
    end
    local job = look_at(Q, id)
    verdict = verdict_on(job)
    if verdict == "stop" then
      break
    end
    worked(1)
    if verdict == "keep" then
      behind, kept = id, kept + 1
    else
      doomed[#doomed + 1] = job
      searched(LISTED[name] and kept or 0)
    end
  end
  -- All leave before the first is forgotten, so that none of them is released by another.
  for _, job in ipairs(doomed) do
    leave(Q, name, job.id)
  end
  for _, job in ipairs(doomed) do
    forget(Q, job)
    if job.name then
      removed[#removed + 1] = job.id
    end
  end
  return removed, behind, verdict == "stop" or (#ids < wanted and work_left > 0)
end
