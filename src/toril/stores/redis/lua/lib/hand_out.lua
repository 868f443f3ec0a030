-- Hand out what may run now, and say of each queue left wanting why.
-- include: enqueue

-- What of a job its worker is told, in this order.
local function tell(key)
  return redis.call(
    "HMGET", key, "opts", "name", "data", "timestamp", "priority", "atm", "ats", "stc", "defa", "parent", "processedOn",
    "py:history", "stacktrace", "rjk"
  )
end

-- A job that is in `active` is this worker's from now on; nothing when it is there no more, and only its id was left.
local function start(Q, id, slot)
  local key = Q.base .. id
  local job = tell(key)
  if not job[4] then
    redis.call("LREM", Q.active, 1, id)
    return nil
  end
  job[7], job[11] = job[7] and string.format("%.0f", job[7] + 1) or "1", A.now
  redis.call("SET", key .. ":lock", A.token, "PX", A.lock_ms)
  emit(Q, "active", "jobId", id, "prev", "waiting")
  if A.worker ~= "" then
    redis.call("HSET", key, "processedOn", A.now, "ats", job[7], "pb", A.worker)
  else
    redis.call("HSET", key, "processedOn", A.now, "ats", job[7])
  end
  return { tonumber(slot.queue), id, job }
end

-- So many ids of those that run next, put into `active`.
local function next_ids(Q, count)
  local ids = redis.call("RPOP", Q.wait, count) or {}
  for i = #ids, 1, -1 do
    if string.sub(ids[i], 1, 2) == "0:" then -- a marker of old versions
      table.remove(ids, i)
    end
  end
  local missing = count - #ids
  if missing > 0 then
    local first = redis.call("ZPOPMIN", Q.prioritized, missing)
    for i = 1, #first, 2 do
      ids[#ids + 1] = first[i]
    end
    if #first == 0 then
      redis.call("DEL", Q.pc)
    end
  end
  if #ids > 0 then
    with_all("LPUSH", Q.active, ids)
  end
  return ids
end

-- How many jobs a queue may give right now; when none, why, and until when.
local function room(Q, slot, now, wanted)
  local known = settings(Q)
  if known.paused then
    return 0, "paused"
  end
  if known.throttled_until > now then
    return 0, "limited", known.throttled_until
  end
  local max = known.max or tonumber(slot.max)
  if max then
    local left = max - (tonumber(redis.call("GET", Q.limiter)) or 0)
    if left <= 0 then
      local ttl = redis.call("PTTL", Q.limiter)
      if ttl > 0 then
        return 0, "limited", now + ttl
      end
      redis.call("DEL", Q.limiter) -- it ends now, or was left without an end
      left = max
    end
    wanted = math.min(wanted, left)
  end
  if known.concurrency then
    local left = known.concurrency - redis.call("LLEN", Q.active)
    if left <= 0 then
      return 0, "full"
    end
    wanted = math.min(wanted, left)
  end
  return wanted
end

-- Jobs that are only handed out to be failed do not count.
local function count_started(Q, slot, started)
  if (settings(Q).max or tonumber(slot.max)) and started > 0
    and redis.call("INCRBY", Q.limiter, started) == started then
    redis.call("PEXPIRE", Q.limiter, tonumber(slot.per_ms) or settings(Q).duration)
  end
end

local function hand_out_next(Q, slot, now, claims)
  promote_due(Q, now)
  local left = tonumber(slot.free)
  while left > 0 do
    local count, reason, until_ms = room(Q, slot, now, left)
    if count == 0 then
      return reason, until_ms
    end
    local ids = next_ids(Q, count)
    if #ids == 0 then
      local due = first_due(Q)
      return "empty", due and math.floor(due)
    end
    local started = 0
    for _, id in ipairs(ids) do
      local claim = start(Q, id, slot)
      if claim then
        claims[#claims + 1] = claim
        left = left - 1
        started = started + (claim[3][9] and 0 or 1)
      end
    end
    count_started(Q, slot, started)
  end
end

local function take(Q, id)
  return redis.call("LREM", Q.wait, 1, id) == 1
    or redis.call("LREM", Q.paused, 1, id) == 1
    or redis.call("ZREM", Q.prioritized, id) == 1
    or redis.call("ZREM", Q.delayed, id) == 1
end

local function hand_out_named(Q, slot, ids, now, claims)
  local started = 0
  for _, id in ipairs(ids) do
    if redis.call("EXISTS", Q.base .. id) == 1 and take(Q, id) then
      redis.call("LPUSH", Q.active, id)
      redis.call("HSET", Q.base .. id, "delay", "0")
      claims[#claims + 1] = start(Q, id, slot)
      started = started + 1
    end
  end
  count_started(Q, slot, started)
end

-- What this wish has brought before, when its answer was lost.
local function hand_out_again(claims)
  local found = {}
  for _, slot in ipairs(A.slots) do
    local Q, before = queue_at(slot.queue), #claims
    local active = redis.call("LRANGE", Q.active, 0, -1)
    for i = #active, 1, -1 do
      if redis.call("GET", Q.base .. active[i] .. ":lock") == A.token then
        claims[#claims + 1] = { tonumber(slot.queue), active[i], tell(Q.base .. active[i]) }
      end
    end
    found[slot.queue] = #claims - before
  end
  return found
end

-- Whether this is a copy of a wish that got stuck on its way, and that was repeated since: nobody waits for its answer.
local function outdated()
  if not A.slots[1] then
    return false
  end
  local repeated = queue_at(A.slots[1].queue)["py:repeated:"] .. A.token
  if A.again == "1" then
    redis.call("SET", repeated, "1", "PX", A.lock_ms)
    return false
  end
  return redis.call("EXISTS", repeated) == 1
end

-- Returns the claims, the queues left wanting as {place, reason, until or 0}, and those of them that a finish must not
-- call drained.
local function hand_out(now)
  local claims, idle, awaited = {}, {}, {}
  if outdated() then
    return claims, idle, awaited
  end
  local found = A.again == "1" and hand_out_again(claims)
  local again = #claims > 0
  local named = {}
  for _, wish in ipairs(A.named) do
    named[wish.slot] = named[wish.slot] or {}
    table.insert(named[wish.slot], wish.id)
  end
  for place, slot in ipairs(A.slots) do
    local Q = queue_at(slot.queue)
    local before = #claims
    local ids = named[tostring(place)]
    local reason, until_ms
    if again then
      local wanted = ids and #ids or tonumber(slot.free)
      if found[slot.queue] < wanted then
        reason, until_ms = "empty", first_due(Q)
      end
    elseif ids then
      hand_out_named(Q, slot, ids, now, claims)
      reason = #claims - before < #ids and "empty" or nil
    else
      reason, until_ms = hand_out_next(Q, slot, now, claims)
    end
    if #claims > before then
      redis.call("ZADD", Q.marker, 0, "0") -- wakes the next idle worker, which does the same, until one finds nothing
      awaited[Q] = true
    end
    if reason then
      idle[#idle + 1] = { tonumber(slot.queue), reason, until_ms and math.floor(until_ms) or 0 }
      awaited[Q] = awaited[Q] or reason ~= "empty" or until_ms ~= nil
    end
  end
  return claims, idle, awaited
end
