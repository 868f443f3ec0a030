-- End jobs: keep them by their rule, or remove them and remember what somebody may still ask for.
-- include: parent job metrics

local finished = {}

local REMEMBERED = {
  "name", "timestamp", "processedOn", "finishedOn", "atm", "ats", "stc", "pb", "returnvalue", "failedReason",
  "py:nonce", "py:history", "parentKey",
}

-- What is still known of a job that its keep rule has removed: that it was there, and its result.
local function leave_receipt(Q, id, state, ttl_ms, found)
  local receipt = { state = state }
  for i, name in ipairs(REMEMBERED) do
    receipt[name] = found[i] or nil
  end
  redis.call("SET", Q["py:receipt:"] .. id, cjson.encode(receipt), "PX", ttl_ms)
end

-- Remove jobs that have ended, given as {id, score, id, score, ...}.
local function evict(Q, state, now, receipt_ms, with_scores)
  local ids, keys = {}, {}
  for i = 1, #with_scores, 2 do
    local id = with_scores[i]
    local key = Q.base .. id
    local found = redis.call("HMGET", key, unpack(REMEMBERED))
    local remaining = tonumber(with_scores[i + 1]) + receipt_ms - now
    if remaining > 0 then
      leave_receipt(Q, id, state, remaining, found)
    end
    local parent_key = found[#REMEMBERED]
    if parent_key and redis.call("EXISTS", parent_key) == 1 then
      drop_child(parent_key, key)
    end
    keys_of_job(key, keys)
    ids[#ids + 1] = id
  end
  if #ids > 0 then
    delete_keys(keys)
    redis.call("ZREM", Q[state], unpack(ids))
  end
end

-- At most 1,000 by age and 1,000 by count each time, so that a rule that was tightened does not stop the server.
local function evict_by(Q, state, terms, now)
  local age_ms, count = tonumber(terms.keep_age_ms), tonumber(terms.keep_count)
  if age_ms then
    local old = redis.call("ZRANGEBYSCORE", Q[state], 0, now - age_ms, "WITHSCORES", "LIMIT", 0, 1000)
    evict(Q, state, now, tonumber(terms.receipt_ms), old)
  end
  if count then
    local excess = redis.call("ZCARD", Q[state]) - count
    if excess > 0 then
      local oldest = redis.call("ZRANGE", Q[state], 0, math.min(excess, 1000) - 1, "WITHSCORES")
      evict(Q, state, now, tonumber(terms.receipt_ms), oldest)
    end
  end
end

-- The deduplication id of a job that ends is free, unless it is kept for a time. Whether no other job has it by now.
local function forget_deduplication(Q, deduplication_id, id)
  local key = Q["de:"] .. deduplication_id
  local owner, ttl = redis.call("GET", key), redis.call("PTTL", key)
  if ttl == 0 or (ttl == -1 and owner == id) then
    redis.call("DEL", key)
  end
  return not owner or owner == id or ttl == 0 or not is_unfinished(Q.base .. owner)
end

-- Of the adds that came while a job with their deduplication id ran, the last one is kept: it is added when that ends. A
-- job that has its id by now stands as it is.
local function add_kept(Q, deduplication_id, now)
  local place = Q["dn:"] .. deduplication_id
  local kept = redis.call("HMGET", place, "name", "data", "opts", "jid", "pk", "pd", "pdk", "rjk", "py:nonce")
  if not kept[1] then
    return
  end
  redis.call("DEL", place)
  local drawn = redis.call("INCR", Q.id)
  local id = kept[4] or string.format("%.0f", drawn)
  local key = Q.base .. id
  if redis.call("EXISTS", key) == 1 then
    emit(Q, "duplicated", "jobId", id)
    return
  end
  local known, opts = pcall(cjson.decode, kept[3] or "{}")
  opts = known and opts or {}
  local delay, priority = tonumber(opts.delay) or 0, tonumber(opts.priority) or 0
  redis.call("SET", Q["de:"] .. deduplication_id, id)
  redis.call(
    "HSET", key, "name", kept[1], "data", kept[2] or "{}", "opts", kept[3] or "{}", "timestamp", A.now,
    "delay", delay, "priority", priority, "deid", deduplication_id
  )
  if kept[5] and redis.call("EXISTS", kept[5]) == 1 then
    redis.call("HSET", key, "parentKey", kept[5], "parent", kept[6] or "{}")
    redis.call("SADD", kept[7] or kept[5] .. ":dependencies", key)
  end
  if kept[8] then
    redis.call("HSET", key, "rjk", kept[8])
  end
  if kept[9] then
    redis.call("HSET", key, "py:nonce", kept[9])
  end
  emit(Q, "added", "jobId", id, "name", kept[1])
  if delay > 0 then
    put_in_delayed(Q, id, now + delay)
  else
    put_behind(Q, id, priority, opts.lifo == true)
    emit(Q, "waiting", "jobId", id)
  end
end

-- What is to be done once for all jobs of a queue that have ended in this state.
local function ended(Q, state)
  local both = finished[Q]
  if not both then
    both = {}
    finished[Q] = both
  end
  local group = both[state]
  if not group then
    group = { count = 0, scored = {}, terms = {} }
    both[state] = group
  end
  return group
end

-- End a job: its deduplication id is free, its parent is told, and it stays by its keep rule or goes. `job` is what was read
-- of it, `item` its id, value and terms; what follows are fields of its hash and their values.
local function conclude(Q, key, item, job, state, now, ...)
  local id, value = item.id, item.value
  local group = ended(Q, state)
  group.count = group.count + 1
  if job.deid and forget_deduplication(Q, job.deid, id) then
    add_kept(Q, job.deid, now)
  end
  if job.parentKey and state == "completed" then
    child_completed(job.parentKey, key, value, now)
  elseif job.parentKey then
    child_failed(job.parentKey, job.parent, key, value, now)
  end

  local result = state == "completed" and "returnvalue" or "failedReason"
  redis.call("HSET", key, "finishedOn", A.now, result, value, ...)
  if item.terms.keep_count == "0" then
    leave_receipt(Q, id, state, item.terms.receipt_ms, redis.call("HMGET", key, unpack(REMEMBERED)))
    delete_job(key)
    if job.parentKey then
      drop_child(job.parentKey, key)
    end
    return
  end
  group.terms[item.terms] = true
  if state == "completed" then
    local scored = group.scored
    scored[#scored + 1], scored[#scored + 2] = A.now, id
    return
  end
  redis.call("ZADD", Q.failed, A.now, id) -- at once: a child that fails in the same call must find it there
  if job.defa then
    redis.call("HDEL", key, "defa")
  end
end

-- End a job that has run; `fields` is what its hash gets besides.
local function finish(Q, key, item, job, state, now, fields)
  local id, value = item.id, item.value
  local made = job.atm and string.format("%.0f", job.atm + 1) or "1"
  conclude(Q, key, item, job, state, now, "atm", made, unpack(fields or {}))
  if state == "completed" then
    emit(Q, "completed", "jobId", id, "returnvalue", value, "prev", "active")
    return
  end
  emit(Q, "failed", "jobId", id, "failedReason", value, "prev", "active")
  if tonumber(made) >= tonumber(item.terms.attempts) then
    emit(Q, "retries-exhausted", "jobId", id, "attemptsMade", made)
  end
end

-- Put those that stay where ended jobs are, count them, and remove those that the keep rules do not let stay.
local function put_away(now)
  for Q, both in pairs(finished) do
    for state, group in pairs(both) do
      with_all("ZADD", Q[state], group.scored)
      count_finished(Q, state, group.count, now)
      for terms in pairs(group.terms) do
        evict_by(Q, state, terms, now)
      end
    end
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
