-- End jobs: keep them by their rule, or remove them and remember what somebody may still ask for.
-- include: parent

local evictions = {}
local finished = {}

local REMEMBERED = {
  "name", "timestamp", "processedOn", "finishedOn", "atm", "ats", "stc", "pb", "returnvalue", "failedReason",
  "py:nonce", "py:history",
}

local function delete_job(key)
  redis.call(
    "DEL", key, key .. ":logs", key .. ":dependencies", key .. ":processed", key .. ":failed", key .. ":unsuccessful"
  )
end

-- What is still known of a job that its keep rule has removed: that it was there, and its result.
local function leave_receipt(Q, id, state, ttl_ms, latest)
  local found = redis.call("HMGET", Q.base .. id, unpack(REMEMBERED))
  local receipt = { state = state }
  for i, name in ipairs(REMEMBERED) do
    receipt[name] = latest and latest[name] or found[i] or nil
  end
  redis.call("SET", Q["py:receipt:"] .. id, cjson.encode(receipt), "PX", ttl_ms)
end

local function remove_finished(Q, id)
  local key = Q.base .. id
  local parent_key = redis.call("HGET", key, "parentKey")
  if parent_key and redis.call("EXISTS", parent_key) == 1 then
    drop_child(parent_key, key)
  end
  delete_job(key)
end

local function evict_ids(Q, state, now, receipt_ms, with_scores)
  local ids = {}
  for i = 1, #with_scores, 2 do
    local id = with_scores[i]
    local remaining = tonumber(with_scores[i + 1]) + receipt_ms - now
    if remaining > 0 then
      leave_receipt(Q, id, state, remaining)
    end
    remove_finished(Q, id)
    ids[#ids + 1] = id
  end
  if #ids > 0 then
    redis.call("ZREM", Q[state], unpack(ids))
  end
end

-- At most 1,000 by age and 1,000 by count each time, so that a rule that was tightened does not stop the server.
local function evict(Q, state, now, rule)
  if rule.age_ms then
    local old = redis.call(
      "ZRANGEBYSCORE", Q[state], 0, now - rule.age_ms, "WITHSCORES", "LIMIT", 0, 1000
    )
    evict_ids(Q, state, now, rule.receipt_ms, old)
  end
  if rule.count then
    local excess = redis.call("ZCARD", Q[state]) - rule.count
    if excess > 0 then
      local oldest = redis.call("ZRANGE", Q[state], 0, math.min(excess, 1000) - 1, "WITHSCORES")
      evict_ids(Q, state, now, rule.receipt_ms, oldest)
    end
  end
end

local function evict_later(Q, state, item)
  if item.keep_count == "" and item.keep_age_ms == "" then
    return
  end
  local name = table.concat({ Q.base, state, item.keep_count, item.keep_age_ms, item.receipt_ms }, "\n")
  evictions[name] = evictions[name] or {
    queue = Q,
    state = state,
    count = tonumber(item.keep_count),
    age_ms = tonumber(item.keep_age_ms),
    receipt_ms = tonumber(item.receipt_ms),
  }
end

local function evict_all(now)
  for _, rule in pairs(evictions) do
    evict(rule.queue, rule.state, now, rule)
  end
end

local function forget_deduplication(Q, deduplication_id, id)
  local key = Q["de:"] .. deduplication_id
  local ttl = redis.call("PTTL", key)
  if ttl == 0 or (ttl == -1 and redis.call("GET", key) == id) then
    redis.call("DEL", key)
  end
end

-- `job` is what settle.lua has read of the hash, `item` the settlement.
local function finish(Q, key, item, job, state, now)
  local id, value = item.id, item.value
  if job.deid then
    forget_deduplication(Q, job.deid, id)
  end
  if job.parentKey and state == "completed" then
    child_completed(job.parentKey, key, value, now)
  elseif job.parentKey then
    child_failed(job.parentKey, job.parent, key, value, now)
  end

  local made = (tonumber(job.atm) or 0) + 1
  local fields = { atm = tostring(made), finishedOn = string.format("%.0f", now), ["py:history"] = item.history }
  fields[state == "completed" and "returnvalue" or "failedReason"] = value
  if item.stacktrace ~= "" then
    fields.stacktrace = item.stacktrace
  end
  if item.keep_count == "0" then
    leave_receipt(Q, id, state, item.receipt_ms, fields)
    delete_job(key)
    if job.parentKey then
      drop_child(job.parentKey, key)
    end
  else
    local flat = {}
    for name, text in pairs(fields) do
      flat[#flat + 1] = name
      flat[#flat + 1] = text
    end
    redis.call("HSET", key, unpack(flat))
    redis.call("ZADD", Q[state], now, id)
    if job.defa and state == "failed" then
      redis.call("HDEL", key, "defa")
    end
    evict_later(Q, state, item)
  end

  finished[Q] = true
  if state == "completed" then
    emit(Q, "completed", "jobId", id, "returnvalue", value, "prev", "active")
    return
  end
  emit(Q, "failed", "jobId", id, "failedReason", value, "prev", "active")
  if made >= tonumber(item.attempts) then
    emit(Q, "retries-exhausted", "jobId", id, "attemptsMade", tostring(made))
  end
end

-- `awaited` holds the queues whose next jobs were asked for and were held back or are still to come due.
local function emit_drained(awaited)
  for Q in pairs(finished) do
    if not awaited[Q] and redis.call("EXISTS", Q.wait, Q.active, Q.prioritized) == 0 then
      emit(Q, "drained")
    end
  end
end
