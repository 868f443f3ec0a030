-- Tell where a job is, and where it belongs by its own fields.
-- include: queue

local SCORED = { "delayed", "prioritized", "waiting-children", "completed", "failed" }
local LISTED = { "wait", "paused", "active" }

-- Where a job is least harmful when its fields do not say where it belongs: rather run twice than never.
local SAFEST = { "wait", "paused", "prioritized", "delayed", "active", "waiting-children", "failed", "completed" }

-- The answer of a command; nil where the key is of another kind, which is found out and told elsewhere.
local function tried(...)
  local done, answer = pcall(redis.call, ...)
  return done and answer or nil
end

local function kind_of(key)
  return redis.call("TYPE", key).ok
end

local function is_job(key)
  return (tried("HSTRLEN", key, "timestamp") or 0) > 0 and redis.call("HSTRLEN", key, "opts") > 0
end

local filled = {}

-- The sorted collections in which there is something.
local function filled_of(Q)
  if not filled[Q] then
    filled[Q] = {}
    for _, name in ipairs(SCORED) do
      if kind_of(Q[name]) == "zset" then
        table.insert(filled[Q], name)
      end
    end
  end
  return filled[Q]
end

-- The sorted collections that hold an id.
local function scored_places(Q, id)
  local places = {}
  for _, name in ipairs(filled_of(Q)) do
    if redis.call("ZSCORE", Q[name], id) then
      places[#places + 1] = name
    end
  end
  return places
end

-- How often each list holds an id. Reads the lists from end to end.
local function listed_places(Q, id)
  local counts = {}
  for _, name in ipairs(LISTED) do
    local positions = tried("LPOS", Q[name], id, "COUNT", 0)
    counts[name] = positions and #positions or 0
  end
  return counts
end

local function home(Q, id)
  local key = Q.base .. id
  local job = redis.call("HMGET", key, "finishedOn", "returnvalue", "delay", "priority")
  if job[1] then
    return job[2] and "completed" or "failed"
  elseif redis.call("EXISTS", key .. ":lock") == 1 then
    return "active"
  elseif redis.call("EXISTS", key .. ":dependencies") == 1 then
    return "waiting-children"
  elseif (tonumber(job[3]) or 0) > 0 then
    return "delayed"
  end
  return (tonumber(job[4]) or 0) > 0 and "prioritized" or "wait"
end

-- In which of several places a job that is in all of them belongs.
local function home_among(Q, id, places)
  local there = {}
  for _, name in ipairs(places) do
    there[name] = true
  end
  local wanted = home(Q, id)
  if there[wanted] then
    return wanted
  end
  for _, name in ipairs(SAFEST) do
    if there[name] then
      return name
    end
  end
end
