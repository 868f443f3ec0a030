-- Fail jobs that wait, are delayed or wait for children.
-- KEYS  *queues
-- ARGV  now call limit reason *refs(queue id)
-- RETURNS  of each job done, missing, locked (it runs) or wrong-state (it has ended, or its scheduler waits for it); of the
--          first ones only when this call has done its share
-- FLAGS  allow-oom
-- include: remove

local now = tonumber(A.now)
local PLACES = { "waiting-children", "delayed", "prioritized", "wait", "paused" }
local WAITING = { wait = "waiting", paused = "waiting" }
local KEEP_RESULT_MS, SHORTEST_RECEIPT_MS = 600000, 60000
local terms_of = {}

local function whole(number)
  return number and number >= 0 and string.format("%.0f", number) or ""
end

-- What of a job's options decides how long it stays. Alike ones are the same, so that each rule is applied once.
local function terms(text)
  if terms_of[text] then
    return terms_of[text]
  end
  local known, opts = pcall(cjson.decode, text)
  opts = known and type(opts) == "table" and opts or {}
  local keep = opts.removeOnFail
  local rule = type(keep) == "table" and keep or { count = keep == true and 0 or tonumber(keep) }
  local age, count = tonumber(rule.age), tonumber(rule.count)
  local ours = type(opts.py) == "table" and opts.py or {}
  local receipt_ms = math.max(tonumber(ours.keepResult) or KEEP_RESULT_MS, SHORTEST_RECEIPT_MS)
  local found = { keep_count = whole(count), keep_age_ms = whole(age and age * 1000), receipt_ms = receipt_ms }
  local same = found.keep_count .. " " .. found.keep_age_ms .. " " .. receipt_ms
  terms_of[same] = terms_of[same] or found
  terms_of[text] = terms_of[same]
  return terms_of[text]
end

local function cancel(Q, id)
  local key = Q.base .. id
  local found = redis.call("HMGET", key, "timestamp", "opts", "parentKey", "parent", "deid", "defa", "rjk", "finishedOn")
  if not found[1] then
    return "missing"
  elseif found[8] or is_awaited(Q, { id = id, rjk = found[7] }) then
    return "wrong-state"
  elseif redis.call("LPOS", Q.active, id) then
    return "locked"
  end
  local before = take_out(Q, id, PLACES)
  if not before then
    return "wrong-state"
  end
  local item = { id = id, value = A.reason, terms = terms(found[2] or "{}") }
  local job = { parentKey = found[3], parent = found[4], deid = found[5], defa = found[6] }
  conclude(Q, key, item, job, "failed", now, "delay", "0")
  emit(Q, "failed", "jobId", id, "failedReason", A.reason, "prev", WAITING[before] or before)
  return "done"
end

local answers = {}
for place, ref in ipairs(A.refs) do
  if work_left <= 0 then
    break
  end
  answers[place] = cancel(queue_at(ref.queue), ref.id)
  worked(1)
end
put_away(now)
wind_up()
return answers
