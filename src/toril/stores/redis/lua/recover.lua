-- Put jobs back in front whose lock has lapsed over two checks.
-- KEYS  *queues
-- ARGV  now max_stalled interval_ms *checked(queue)
-- RETURNS  {place of the queue, id, 1 when it has stalled too often else 0} of each job that was moved
-- FLAGS  allow-oom
-- include: enqueue

local now = tonumber(A.now)
local moved = {}

local function is_iteration(Q, scheduler)
  return scheduler and (redis.call("EXISTS", Q["repeat:"] .. scheduler) == 1
    or redis.call("ZSCORE", Q["repeat"], scheduler) ~= false)
end

local function with_stall(history, job)
  local entry = cjson.encode({
    number = (tonumber(job[2]) or 0) + 1, worker = job[4] or nil, started = tonumber(job[5]) or now, ended = now,
    outcome = "stalled", reason = "its worker stopped renewing its lock",
  })
  if not history or history == "[]" then
    return "[" .. entry .. "]"
  end
  return string.sub(history, 1, -2) .. "," .. entry .. "]"
end

local function put_back(place, Q, id)
  local key = Q.base .. id
  local job = redis.call("HMGET", key, "opts", "atm", "rjk", "pb", "processedOn", "py:history", "stc")
  if not job[1] then
    return
  end
  local stalled = (tonumber(job[7]) or 0) + 1
  local fields = { "stc", tostring(stalled), "py:history", with_stall(job[6], job) }
  local too_often = stalled > tonumber(A.max_stalled) and not is_iteration(Q, job[3])
  if too_often then
    fields[5], fields[6] = "defa", "job stalled more than allowable limit"
  end
  redis.call("HSET", key, unpack(fields))
  put_in_wait(Q, id, true)
  emit(Q, "waiting", "jobId", id, "prev", "active")
  emit(Q, "stalled", "jobId", id)
  moved[#moved + 1] = { place, id, too_often and 1 or 0 }
end

-- Those that ran longest come back last, and so in front: they keep their order.
local function judge(place, Q, active)
  local suspect, still = {}, {}
  for _, id in ipairs(redis.call("SMEMBERS", Q.stalled)) do
    suspect[id] = true
  end
  redis.call("DEL", Q.stalled)
  for _, id in ipairs(active) do
    if suspect[id] and string.sub(id, 1, 2) == "0:" then
      redis.call("LREM", Q.active, 1, id)
    elseif suspect[id] and redis.call("EXISTS", Q.base .. id .. ":lock") == 0 then
      redis.call("LREM", Q.active, 1, id)
      put_back(place, Q, id)
    else
      still[#still + 1] = id
    end
  end
  return still
end

for place, checked in ipairs(A.checked) do
  local Q = queue_at(checked.queue)
  if redis.call("SET", Q["stalled-check"], A.now, "PX", A.interval_ms, "NX") then
    local active = judge(place, Q, redis.call("LRANGE", Q.active, 0, -1))
    with_all("SADD", Q.stalled, active)
  end
end
wind_up()
return moved
