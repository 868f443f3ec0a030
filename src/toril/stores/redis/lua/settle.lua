-- Record what became of claimed jobs, and hand out the next ones.
-- KEYS  *queues
-- ARGV  now token lock_ms worker again *slots(queue free max per_ms) *named(slot id)
--       *terms(attempts lifo keep_count keep_age_ms receipt_ms) *details(stacktrace history delay)
--       *settled(queue id token started outcome value terms detail)
-- RETURNS  {{place of the settlement, code}, ... where not recorded}, claims, queues left wanting (as claim does):
--          1 no children pending, -1 gone, -2 another's lock or none, -3 not active, -4 children pending, -9 a child failed
-- FLAGS  allow-oom
-- include: finish hand_out

local now = tonumber(A.now)
local outcomes = {}

local function spent(job)
  return string.format("%.0f", (tonumber(job.atm) or 0) + 1)
end

local function with_stack(item, fields)
  if item.detail.stacktrace ~= "" then
    fields[#fields + 1] = "stacktrace"
    fields[#fields + 1] = item.detail.stacktrace
  end
  return fields
end

local function note(key, item, ...)
  redis.call("HSET", key, "py:history", item.detail.history, ...)
end

local function in_front(Q, key, item, job)
  put_in_front(Q, item.id, tonumber(job.priority) or 0)
  emit(Q, "waiting", "jobId", item.id, "prev", "active")
  note(key, item)
end

function outcomes.completed(Q, key, item, job)
  finish(Q, key, item, job, "completed", now)
end

function outcomes.failed(Q, key, item, job)
  finish(Q, key, item, job, "failed", now, with_stack(item, { "py:history", item.detail.history }))
end

function outcomes.retried(Q, key, item, job)
  local delay = tonumber(item.detail.delay)
  local fields = with_stack(item, { "atm", spent(job), "failedReason", item.value })
  if delay > 0 then
    put_in_delayed(Q, item.id, now + delay)
    note(key, item, "delay", item.detail.delay, unpack(fields))
    return
  end
  promote_due(Q, now)
  put_behind(Q, item.id, tonumber(job.priority) or 0, item.terms.lifo == "1")
  emit(Q, "waiting", "jobId", item.id, "prev", "active")
  note(key, item, unpack(fields))
end

function outcomes.delayed(Q, key, item)
  put_in_delayed(Q, item.id, now + tonumber(item.detail.delay))
  note(key, item, "delay", item.detail.delay)
end

-- Node's workers read the key, and only those with a limit of their own; ours read the setting, with the others. A longer
-- wish stays as it is.
function outcomes.throttled(Q, key, item, job)
  local known, until_ms = settings(Q), now + tonumber(item.detail.delay)
  if until_ms > now and until_ms > known.throttled_until then
    redis.call("SET", Q.limiter, "9007199254740991", "PX", item.detail.delay)
    redis.call("HSET", Q.meta, "py:throttled-until", string.format("%.0f", until_ms))
    known.throttled_until = until_ms
  end
  in_front(Q, key, item, job)
end

outcomes.released = in_front

outcomes["awaiting-children"] = function(Q, key, item)
  redis.call("ZADD", Q["waiting-children"], now, item.id)
  emit(Q, "waiting-children", "jobId", item.id, "prev", "active")
  note(key, item)
end

-- Why a job cannot have this outcome, as a code.
local function refusal_of(item, key)
  if item.outcome == "completed" then
    if redis.call("EXISTS", key .. ":dependencies", key .. ":unsuccessful") == 0 then
      return nil
    end
    return redis.call("EXISTS", key .. ":unsuccessful") == 1 and -9 or -4
  end
  if item.outcome == "awaiting-children" then
    if redis.call("EXISTS", key .. ":unsuccessful") == 1 then
      return -9
    end
    return redis.call("EXISTS", key .. ":dependencies") == 0 and 1 or nil
  end
end

-- Whether this run has been recorded before, and only the answer was lost. A run that completed is told by when it began.
local function recorded(Q, key, item)
  local job = redis.call("HMGET", key, "processedOn", "returnvalue", "py:history")
  local began, result, history = job[1], job[2], job[3]
  if not began then
    local receipt = redis.call("GET", Q["py:receipt:"] .. item.id)
    local left = receipt and cjson.decode(receipt) or {}
    began, result, history = left.processedOn, left.returnvalue, left["py:history"]
  end
  if result and began == item.started then
    return true
  end
  local known, entries = pcall(cjson.decode, history or "[]")
  for _, entry in ipairs(known and entries or {}) do
    if entry.token == item.token then
      return true
    end
  end
  return false
end

-- The items whose lock is still theirs; for each of the others, a code.
local function held(items, codes)
  local locks, kept, seen = {}, {}, {}
  for place, item in ipairs(items) do
    locks[place] = item.key .. ":lock"
  end
  for first = 1, #locks, 1000 do
    for i, token in ipairs(redis.call("MGET", unpack(locks, first, math.min(first + 999, #locks)))) do
      local item = items[first + i - 1]
      if token ~= item.token then
        codes[item] = recorded(item.queue, item.key, item) and 0 or -2
      elseif seen[item.key] then
        codes[item] = 0 -- named twice: the first counts
      else
        seen[item.key] = true
        kept[#kept + 1] = item
      end
    end
  end
  return kept
end

local function has_children(items)
  local keys = {}
  for _, item in ipairs(items) do
    if item.outcome == "awaiting-children" then
      return true
    elseif item.outcome == "completed" then
      keys[#keys + 1] = item.key .. ":dependencies"
      keys[#keys + 1] = item.key .. ":unsuccessful"
    end
  end
  for first = 1, #keys, 1000 do
    if redis.call("EXISTS", unpack(keys, first, math.min(first + 999, #keys))) > 0 then
      return true
    end
  end
  return false
end

-- Take jobs out of `active`: with one cut where they are the oldest there, as they mostly are. Returns those that were not
-- in it, as a set, or nothing.
local function take_out(Q, items)
  local mine, absent = {}, nil
  for _, item in ipairs(items) do
    mine[item.id] = true
  end
  local oldest, all = redis.call("LRANGE", Q.active, -#items, -1), true
  for _, id in ipairs(oldest) do
    all = all and mine[id]
  end
  if all and #oldest == #items then
    redis.call("LTRIM", Q.active, 0, -#items - 1)
    return nil
  end
  for _, item in ipairs(items) do
    if redis.call("LREM", Q.active, -1, item.id) == 0 then
      absent = absent or {}
      absent[item] = true
    end
  end
  return absent
end

local function unlock(items)
  local locks, ids = {}, {}
  for place, item in ipairs(items) do
    locks[place] = item.key .. ":lock"
    ids[item.queue] = ids[item.queue] or {}
    table.insert(ids[item.queue], item.id)
  end
  delete_keys(locks)
  for Q, some in pairs(ids) do
    with_all("SREM", Q.stalled, some)
  end
end

local function record(item, codes)
  local found
  if item.outcome == "completed" then
    found = redis.call("HMGET", item.key, "timestamp", "atm", "parentKey", "deid")
  else
    found = redis.call("HMGET", item.key, "timestamp", "atm", "parentKey", "deid", "parent", "priority", "defa")
  end
  if not found[1] then
    codes[item] = -1
    return
  end
  outcomes[item.outcome](item.queue, item.key, item, {
    atm = found[2], parentKey = found[3], deid = found[4], parent = found[5], priority = found[6], defa = found[7],
  })
end

local function settle(items, codes)
  local by_queue = {}
  for _, item in ipairs(items) do
    by_queue[item.queue] = by_queue[item.queue] or {}
    table.insert(by_queue[item.queue], item)
  end
  local going = {}
  for Q, some in pairs(by_queue) do
    local absent = take_out(Q, some)
    for _, item in ipairs(some) do
      if absent and absent[item] then
        codes[item] = redis.call("EXISTS", item.key) == 1 and -3 or -1
      end
    end
  end
  for _, item in ipairs(items) do
    if not codes[item] then
      going[#going + 1] = item
    end
  end
  if #going > 0 then
    unlock(going)
  end
  for _, item in ipairs(going) do
    if settings(item.queue).concurrency then
      ring(item.queue) -- there is room again; who was told that there is none does not look by himself
    end
    record(item, codes)
  end
end

local codes = {}
for _, item in ipairs(A.settled) do
  item.queue = queue_at(item.queue)
  item.key = item.queue.base .. item.id
  item.terms = A.terms[tonumber(item.terms)]
  item.detail = A.details[tonumber(item.detail)]
end
local items = held(A.settled, codes)
if has_children(items) then
  for _, item in ipairs(items) do -- one by one: what one does to its parent decides what becomes of that
    local code = refusal_of(item, item.key)
    if code then
      codes[item] = code
    else
      settle({ item }, codes)
    end
  end
elseif #items > 0 then
  settle(items, codes)
end
put_away(now)
local claims, idle, awaited = hand_out(now)
emit_drained(awaited)
wind_up()
local unrecorded = {}
for place, item in ipairs(A.settled) do
  if codes[item] and codes[item] ~= 0 then
    unrecorded[#unrecorded + 1] = { place, codes[item] }
  end
end
return { unrecorded, claims, idle }
