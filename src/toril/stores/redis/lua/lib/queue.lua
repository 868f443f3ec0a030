-- Name the keys of a queue, know its settings, write its events and ring its bell.

local EVENTS_KEPT = "10000"

local queues = {}
local settings_of = {}
local rung = {}
local rung_for_delay = {}
local told = {}

local function named(Q, suffix)
  local key = Q.base .. suffix
  rawset(Q, suffix, key)
  return key
end

-- A queue by what its keys begin with: Q.wait, Q["waiting-children"] and Q.base .. id are keys.
local function queue(base)
  local Q = queues[base]
  if not Q then
    Q = setmetatable({ base = base }, { __index = named })
    queues[base] = Q
  end
  return Q
end

-- The queue at this place in KEYS.
local function queue_at(place)
  return queue(K.queues[tonumber(place)])
end

local function settings(Q)
  local known = settings_of[Q]
  if known then
    return known
  end
  local found = redis.call(
    "HMGET", Q.meta,
    "paused", "concurrency", "max", "duration", "opts.maxLenEvents", "py:events", "py:throttled-until", "py:max-waiting",
    "py:metrics", "version"
  )
  known = {
    paused = found[1],
    concurrency = tonumber(found[2]),
    max = tonumber(found[3]),
    duration = tonumber(found[4]),
    events_kept = found[5],
    silent = found[6] == "0",
    throttled_until = tonumber(found[7]) or 0,
    max_waiting = tonumber(found[8]),
    metrics = tonumber(found[9]) or 1440,
    old = string.find(found[10] or "", "^bullmq:[1-5]%.") ~= nil,
  }
  settings_of[Q] = known
  return known
end

-- Where plain jobs wait. While a queue is paused, versions of Node before 6 keep them in `paused`, and put that list in the
-- place of `wait` when they resume it: what had been put there meanwhile would be lost. So their list is used where it is,
-- and where such a version was the last to open the queue.
local function waiting_list(Q)
  local known = settings(Q)
  if known.paused and (known.old or redis.call("EXISTS", Q.paused) == 1) then
    return Q.paused
  end
  return Q.wait
end

-- Whatever may have put events on a queue leaves their limit in its settings, where Node looks for it.
local function events_kept(Q)
  local known = settings(Q)
  if not known.events_kept then
    redis.call("HSET", Q.meta, "opts.maxLenEvents", EVENTS_KEPT)
    known.events_kept = EVENTS_KEPT
  end
  return known.events_kept
end

local function emit(Q, ...)
  if not told[Q] then
    told[Q] = events_kept(Q)
  end
  if not settings(Q).silent then
    redis.call("XADD", Q.events, "*", "event", ...)
  end
end

local function blocked(Q)
  local known = settings(Q)
  if known.paused then
    return true
  end
  return known.concurrency ~= nil and redis.call("LLEN", Q.active) >= known.concurrency
end

local function ring(Q)
  rung[Q] = true
end

local function ring_for_delay(Q)
  rung_for_delay[Q] = true
end

local function first_due(Q)
  local first = redis.call("ZRANGE", Q.delayed, 0, 0, "WITHSCORES")
  return first[2] and tonumber(first[2]) / 4096
end

-- Ring each bell once, and keep no more events than are wanted: the end of each script that rings or emits. A blocked queue
-- must not be rung: workers would wake, find nothing that they may take, and spin.
local function wind_up()
  for Q in pairs(rung) do
    if not blocked(Q) then
      redis.call("ZADD", Q.marker, 0, "0")
    end
  end
  for Q in pairs(rung_for_delay) do
    local due = first_due(Q)
    if due then
      redis.call("ZADD", Q.marker, due, "1")
    end
  end
  for Q, kept in pairs(told) do
    redis.call("XTRIM", Q.events, "MAXLEN", "~", kept)
  end
end

-- The queue's base and the id of a full job key. Ids may have colons, as those of schedules' runs have, and names of queues
-- have none. A key under another prefix is cut at its last colon, as Node cuts all.
local function split(job_key)
  local prefix = string.match(K.queues[1], "^(.*:)[^:]*:$")
  local queue_name = string.sub(job_key, 1, #prefix) == prefix and string.match(job_key, "^[^:]*:", #prefix + 1)
  local id = queue_name and string.sub(job_key, #prefix + #queue_name + 1) or string.match(job_key, "[^:]*$")
  return string.sub(job_key, 1, #job_key - #id), id
end

local function field(flat, name)
  for i = 1, #flat, 2 do
    if flat[i] == name then
      return flat[i + 1]
    end
  end
  return nil
end

-- Call a command with many members, in pieces that Lua's stack can hold.
local function with_all(command, key, members)
  for first = 1, #members, 6000 do
    redis.call(command, key, unpack(members, first, math.min(first + 5999, #members)))
  end
end

local function delete_keys(keys)
  for first = 1, #keys, 6000 do
    redis.call("DEL", unpack(keys, first, math.min(first + 5999, #keys)))
  end
end
