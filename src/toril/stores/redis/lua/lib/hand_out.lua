-- Hand out what may run now, and say of each queue left wanting why.
-- include: enqueue

local function start(Q, id, slot, now)
  local key = Q.base .. id
  local job = redis.call("HGETALL", key)
  if #job == 0 then
    redis.call("LREM", Q.active, 1, id) -- it was removed by force, and its id left behind
    return nil
  end
  local max = settings(Q).max or tonumber(slot.max)
  if max and not field(job, "defa") and redis.call("INCR", Q.limiter) == 1 then
    redis.call("PEXPIRE", Q.limiter, tonumber(slot.per_ms) or settings(Q).duration)
  end
  local started = {
    "processedOn", string.format("%.0f", now), "ats", tostring((tonumber(field(job, "ats")) or 0) + 1),
  }
  if A.worker ~= "" then
    started[5], started[6] = "pb", A.worker
  end
  redis.call("SET", key .. ":lock", A.token, "PX", A.lock_ms)
  emit(Q, "active", "jobId", id, "prev", "waiting")
  redis.call("HSET", key, unpack(started))
  for _, text in ipairs(started) do
    job[#job + 1] = text
  end
  return { tonumber(slot.queue), id, job }
end

local function next_id(Q)
  local id = redis.call("RPOPLPUSH", Q.wait, Q.active)
  if id and string.sub(id, 1, 2) == "0:" then -- a marker of old versions
    redis.call("LREM", Q.active, 1, id)
    id = redis.call("RPOPLPUSH", Q.wait, Q.active)
  end
  if id then
    return id
  end
  local first = redis.call("ZPOPMIN", Q.prioritized)
  if first[1] then
    redis.call("LPUSH", Q.active, first[1])
    return first[1]
  end
  redis.call("DEL", Q.pc)
  return nil
end

-- Why a queue gives nothing right now: a reason and until when; nothing when it may give.
local function held_back(Q, slot, now)
  local known = settings(Q)
  if known.paused then
    return "paused"
  end
  if known.throttled_until > now then
    return "limited", known.throttled_until
  end
  local max = known.max or tonumber(slot.max)
  if max and (tonumber(redis.call("GET", Q.limiter)) or 0) >= max then
    local ttl = redis.call("PTTL", Q.limiter)
    if ttl > 0 then
      return "limited", now + ttl
    elseif ttl == 0 then
      redis.call("DEL", Q.limiter)
    end
  end
  if blocked(Q) then
    return "full"
  end
end

local function hand_out_next(Q, slot, now, claims)
  promote_due(Q, now)
  local left = tonumber(slot.free)
  while left > 0 do
    local reason, until_ms = held_back(Q, slot, now)
    if reason then
      return reason, until_ms
    end
    local id = next_id(Q)
    if not id then
      local due = first_due(Q)
      return "empty", due and math.floor(due)
    end
    local claim = start(Q, id, slot, now)
    if claim then
      claims[#claims + 1] = claim
      left = left - 1
    end
  end
end

local function take(Q, id)
  return redis.call("LREM", Q.wait, 1, id) == 1
    or redis.call("ZREM", Q.prioritized, id) == 1
    or redis.call("ZREM", Q.delayed, id) == 1
end

local function hand_out_named(Q, slot, ids, now, claims)
  for _, id in ipairs(ids) do
    if redis.call("EXISTS", Q.base .. id) == 1 and take(Q, id) then
      redis.call("LPUSH", Q.active, id)
      redis.call("HSET", Q.base .. id, "delay", "0")
      claims[#claims + 1] = start(Q, id, slot, now)
    end
  end
end

-- What this wish has brought before, when its answer was lost.
local function hand_out_again(claims)
  local found = {}
  for _, slot in ipairs(A.slots) do
    local Q, before = queue_at(slot.queue), #claims
    local active = redis.call("LRANGE", Q.active, 0, -1)
    for i = #active, 1, -1 do
      if redis.call("GET", Q.base .. active[i] .. ":lock") == A.token then
        claims[#claims + 1] = { tonumber(slot.queue), active[i], redis.call("HGETALL", Q.base .. active[i]) }
      end
    end
    found[slot.queue] = #claims - before
  end
  return found
end

-- Returns the claims, the queues left wanting as {place, reason, until or 0}, and those of them that a finish must not
-- call drained.
local function hand_out(now)
  local claims, idle, awaited = {}, {}, {}
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
