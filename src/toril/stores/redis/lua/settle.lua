-- Record what became of claimed jobs, and hand out the next ones.
-- KEYS  *queues
-- ARGV  now token lock_ms worker again *slots(queue free max per_ms) *named(slot id)
--       *settled(queue id token outcome value stacktrace history delay attempts lifo keep_count keep_age_ms receipt_ms)
-- RETURNS  {{place of the settlement, code}, ... where not recorded}, claims, queues left wanting (as claim does):
--          1 no children pending, -1 gone, -2 another's lock or none, -3 not active, -4 children pending, -9 a child failed
-- include: finish hand_out

local now = tonumber(A.now)
local outcomes = {}

local function requeue(key, item, fields)
  fields = fields or {}
  fields[#fields + 1] = "py:history"
  fields[#fields + 1] = item.history
  redis.call("HSET", key, unpack(fields))
end

local function attempt_spent(item, job)
  local fields = { "atm", tostring((tonumber(job.atm) or 0) + 1), "failedReason", item.value }
  if item.stacktrace ~= "" then
    fields[#fields + 1] = "stacktrace"
    fields[#fields + 1] = item.stacktrace
  end
  return fields
end

local function with_delay(item, fields)
  fields[#fields + 1] = "delay"
  fields[#fields + 1] = item.delay
  return fields
end

local function in_front(Q, key, item, job)
  put_in_front(Q, item.id, tonumber(job.priority) or 0)
  emit(Q, "waiting", "jobId", item.id, "prev", "active")
  requeue(key, item)
end

function outcomes.completed(Q, key, item, job)
  finish(Q, key, item, job, "completed", now)
end

function outcomes.failed(Q, key, item, job)
  finish(Q, key, item, job, "failed", now)
end

function outcomes.retried(Q, key, item, job)
  local delay = tonumber(item.delay)
  if delay > 0 then
    put_in_delayed(Q, item.id, now + delay)
    requeue(key, item, with_delay(item, attempt_spent(item, job)))
    return
  end
  promote_due(Q, now)
  put_behind(Q, item.id, tonumber(job.priority) or 0, item.lifo == "1")
  emit(Q, "waiting", "jobId", item.id, "prev", "active")
  requeue(key, item, attempt_spent(item, job))
end

function outcomes.delayed(Q, key, item)
  put_in_delayed(Q, item.id, now + tonumber(item.delay))
  requeue(key, item, with_delay(item, {}))
end

-- Node's workers read the key, and only those with a limit of their own; ours read the setting, with the others.
function outcomes.throttled(Q, key, item, job)
  local for_ms = tonumber(item.delay)
  if for_ms > 0 then
    redis.call("SET", Q.limiter, "9007199254740991", "PX", for_ms)
    redis.call("HSET", Q.meta, "py:throttled-until", string.format("%.0f", now + for_ms))
    settings(Q).throttled_until = now + for_ms
  end
  in_front(Q, key, item, job)
end

outcomes.released = in_front

outcomes["awaiting-children"] = function(Q, key, item)
  redis.call("ZADD", Q["waiting-children"], now, item.id)
  emit(Q, "waiting-children", "jobId", item.id, "prev", "active")
  requeue(key, item)
end

-- Why a job cannot have this outcome, as a code.
local function refusal_of(item, key)
  if item.outcome == "completed" then
    if redis.call("EXISTS", key .. ":dependencies", key .. ":unsuccessful") == 0 then
      return nil
    end
    return redis.call("EXISTS", key .. ":dependencies") == 1 and -4 or -9
  end
  if item.outcome == "awaiting-children" then
    if redis.call("EXISTS", key .. ":unsuccessful") == 1 then
      return -9
    end
    return redis.call("EXISTS", key .. ":dependencies") == 0 and 1 or nil
  end
end

local function settled_under(history, token)
  local known, entries = pcall(cjson.decode, history or "[]")
  for _, entry in ipairs(known and entries or {}) do
    if entry.token == token then
      return true
    end
  end
  return false
end

-- Whether this token has settled the job before, and only the answer was lost.
local function recorded(Q, key, item)
  if settled_under(redis.call("HGET", key, "py:history"), item.token) then
    return true
  end
  local receipt = redis.call("GET", Q["py:receipt:"] .. item.id)
  return receipt ~= false and settled_under(cjson.decode(receipt)["py:history"], item.token)
end

local function settle(item)
  local Q = queue_at(item.queue)
  local key = Q.base .. item.id
  if redis.call("GET", key .. ":lock") ~= item.token then
    return recorded(Q, key, item) and 0 or -2
  end
  local found = redis.call("HMGET", key, "opts", "atm", "priority", "parentKey", "parent", "deid", "defa")
  if not found[1] then
    return -1
  end
  local code = refusal_of(item, key)
  if code then
    return code
  end
  if redis.call("LREM", Q.active, -1, item.id) == 0 then
    return -3
  end
  redis.call("DEL", key .. ":lock")
  redis.call("SREM", Q.stalled, item.id)
  outcomes[item.outcome](Q, key, item, {
    atm = found[2], priority = found[3], parentKey = found[4], parent = found[5], deid = found[6], defa = found[7],
  })
  return 0
end

local codes = {}
for place, item in ipairs(A.settled) do
  local code = settle(item)
  if code ~= 0 then
    codes[#codes + 1] = { place, code }
  end
end
evict_all(now)
local claims, idle, awaited = hand_out(now)
emit_drained(awaited)
ring_bells()
return { codes, claims, idle }
