-- Remove a paused queue with everything in it, some of it at a time.
-- KEYS  *queues
-- ARGV  now call limit force remains cursor
-- RETURNS  {0 when nothing is left, 1 when more is, -1 not paused, -2 jobs are running; how many jobs were removed or run;
--          the cursor to go on with}
-- FLAGS  allow-oom
-- include: remove

local Q = queue_at(1)
-- Parents first, so that none comes back to its list because its children go.
local STATES = { "waiting-children", "active", "wait", "paused", "delayed", "prioritized", "completed", "failed" }

local function always()
  return "remove"
end

local function remove_jobs()
  local removed = 0
  for _, name in ipairs(STATES) do
    local finished = false
    while not finished and work_left > 0 do
      local ids
      ids, _, finished = sweep(Q, name, "", always)
      removed = removed + #ids
    end
  end
  return removed
end

local function remove_schedulers()
  local ids = work_left > 0 and redis.call("ZRANGE", Q["repeat"], 0, math.floor(work_left)) or {}
  for _, id in ipairs(ids) do
    redis.call("DEL", Q["repeat:"] .. id)
    redis.call("ZREM", Q["repeat"], id)
    worked(1)
  end
end

-- Nothing lists what is remembered of jobs that are gone, so it is looked for among all keys.
local function remove_remains(cursor)
  local page = redis.call("SCAN", cursor, "MATCH", A.remains, "COUNT", A.limit)
  for _, key in ipairs(page[2]) do
    local suffix = string.sub(key, #Q.base + 1)
    if string.find(suffix, "^py:receipt:") or string.find(suffix, "^d[en]:") then
      redis.call("DEL", key)
    end
  end
  return page[1]
end

local function is_empty()
  return redis.call(
    "EXISTS", Q["waiting-children"], Q.active, Q.wait, Q.paused, Q.delayed, Q.prioritized, Q.completed, Q.failed, Q["repeat"]
  ) == 0
end

local function remove_queue()
  redis.call(
    "DEL", Q.events, Q.delay, Q["stalled-check"], Q.stalled, Q.id, Q.pc, Q.marker, Q.limiter, Q.meta,
    Q["metrics:completed"], Q["metrics:failed"], Q["metrics:completed:data"], Q["metrics:failed:data"]
  )
end

if not settings(Q).paused then
  return { -1, 0, "0" }
end
local running = redis.call("LLEN", Q.active)
if running > 0 and A.force == "0" then
  return { -2, running, "0" }
end
local removed = remove_jobs()
remove_schedulers()
wind_up()
if not is_empty() then
  return { 1, removed, A.cursor }
end
local cursor = remove_remains(A.cursor)
if cursor ~= "0" then
  return { 1, removed, cursor }
end
remove_queue()
return { 0, removed, "0" }
