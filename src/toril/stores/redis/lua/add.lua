-- Store units of jobs, each all or nothing.
-- KEYS  *queues
-- ARGV  now again *kinds(name opts delay priority lifo parent_key parent has_children deduplication)
--       *jobs(unit queue kind id data timestamp nonce)
-- RETURNS  for each unit {0, ... one per member}: 0 stored, 1 its id was there, 2 stored in the place of a delayed job,
--          {owner, 1 if it was kept until that has ended else 0} its deduplication id has an owner; or
--          {code, place of the refused member, detail}: -5 its parent is missing, -7 it has another parent, -20 its queue is
--          full (detail: how many wait, the limit)
-- include: parent owner

local now = tonumber(A.now)
local counted = {}
local back = {}
local replaced = {} -- the keys of jobs in whose place others are
local dropped = {} -- those of them that were children
local adopted = {} -- children that had failed before

-- What stands under a job's id, and whether it is this very job, stored before. A drawn id that is known is its own repeat.
local function look_up(job)
  if job.nonce == "" then
    return redis.call("EXISTS", job.key, job.queue["py:receipt:"] .. job.id) > 0, nil
  end
  local found = redis.call("HMGET", job.key, "timestamp", "py:nonce", "parentKey", "returnvalue")
  if found[1] then
    return found[2] == job.nonce, { parent_key = found[3], result = found[4] }
  end
  local receipt = redis.call("GET", job.queue["py:receipt:"] .. job.id)
  return receipt ~= false and cjson.decode(receipt)["py:nonce"] == job.nonce, nil
end

-- `parents` holds, by their keys, whose children the members before it are.
local function refusal_of(job, members, parents, standing)
  local parent_key = job.kind.parent_key
  if parent_key == "" then
    return nil
  end
  parents[job.key] = parents[job.key] or parent_key
  if parents[job.key] ~= parent_key then
    return -7, parents[job.key]
  end
  if not members[parent_key] and redis.call("EXISTS", parent_key) == 0 then
    return -5
  end
  local other = standing and standing.parent_key
  if other and other ~= parent_key and redis.call("EXISTS", other) == 1 then
    return -7, other
  end
end

local function may_replace(job)
  return job.kind.wish.replace and job.kind.has_children == "0"
end

-- Whether a job will meet an owner, once those of its unit before it are stored: `owners` says whom they leave.
local function will_meet(job, owners)
  local Q, kind = job.queue, job.kind
  if not kind.wish then
    return false
  end
  local key = Q["de:"] .. kind.wish.id
  if owners[key] == nil then
    local owner = owner_of(Q, kind.wish.id)
    owners[key] = owner and { delayed = redis.call("ZSCORE", Q.delayed, owner) ~= false } or false
  end
  if owners[key] and not (owners[key].delayed and may_replace(job)) then
    return true
  end
  owners[key] = { delayed = kind.delay ~= "0" and kind.has_children == "0" }
  return false
end

local function overfull(jobs, standing)
  local coming, owners = {}, {}
  for place, job in ipairs(jobs) do
    local Q = job.queue
    local limit = settings(Q).max_waiting
    if limit and not standing[place] and not will_meet(job, owners) and job.kind.has_children == "0" then
      local waiting = redis.call("LLEN", Q.wait) + redis.call("LLEN", Q.paused) + redis.call("ZCARD", Q.prioritized)
        + (back[Q] and #back[Q] or 0)
      if job.kind.delay == "0" then
        coming[Q] = (coming[Q] or 0) + 1
      end
      if waiting + (coming[Q] or 0) > limit then
        return { -20, place, waiting, limit }
      end
    end
  end
end

-- FIFO jobs of one queue go to its list together.
local function put_back(Q, id)
  back[Q] = back[Q] or {}
  table.insert(back[Q], id)
  ring(Q)
end

local function enqueue(Q, job)
  local kind = job.kind
  if kind.has_children == "1" then
    redis.call("ZADD", Q["waiting-children"], job.timestamp, job.id)
    emit(Q, "waiting-children", "jobId", job.id)
    return
  end
  if kind.delay ~= "0" then
    put_in_delayed(Q, job.id, tonumber(job.timestamp) + tonumber(kind.delay))
    return
  end
  if kind.priority ~= "0" then
    put_in_prioritized(Q, job.id, tonumber(kind.priority))
  elseif kind.lifo == "1" then
    put_in_wait(Q, job.id, true)
  else
    put_back(Q, job.id)
  end
  emit(Q, "waiting", "jobId", job.id)
end

local function store(Q, job)
  local kind = job.kind
  if job.nonce == "" and kind.parent_key == "" and not kind.wish then
    redis.call(
      "HSET", job.key, "name", kind.name, "data", job.data, "opts", kind.opts, "timestamp", job.timestamp,
      "delay", kind.delay, "priority", kind.priority
    )
  else
    local fields = {}
    if kind.parent_key ~= "" then
      fields = { "parentKey", kind.parent_key, "parent", kind.parent }
    end
    if job.nonce ~= "" then
      fields[#fields + 1], fields[#fields + 2] = "py:nonce", job.nonce
    end
    if kind.wish then
      fields[#fields + 1], fields[#fields + 2] = "deid", kind.wish.id
    end
    redis.call(
      "HSET", job.key, "name", kind.name, "data", job.data, "opts", kind.opts, "timestamp", job.timestamp,
      "delay", kind.delay, "priority", kind.priority, unpack(fields)
    )
  end
  emit(Q, "added", "jobId", job.id, "name", kind.name)
  enqueue(Q, job)
  if kind.parent_key ~= "" then
    redis.call("SADD", kind.parent_key .. ":dependencies", job.key)
  end
end

local function own(Q, wish, id)
  local key = Q["de:"] .. wish.id
  if wish.ttl and not wish.keepLastIfActive then
    redis.call("SET", key, id, "PX", string.format("%.0f", wish.ttl))
  else
    redis.call("SET", key, id)
  end
end

local function tell_deduplicated(Q, wish, id, other)
  emit(Q, "deduplicated", "jobId", id, "deduplicationId", wish.id, "deduplicatedJobId", other)
end

-- Take the place of the owner, which was delayed. Its parent waits for it no longer.
local function replace(Q, wish, job, owner)
  local gone = Q.base .. owner
  local parent_key = redis.call("HGET", gone, "parentKey")
  if parent_key then
    dropped[#dropped + 1] = { parent_key = parent_key, child_key = gone }
  end
  delete_job(gone)
  replaced[gone] = true
  emit(Q, "removed", "jobId", owner, "prev", "delayed")
  tell_deduplicated(Q, wish, job.id, owner)
  redis.call("DEL", Q["dn:"] .. wish.id)
  if wish.ttl and not wish.extend and not wish.keepLastIfActive then
    redis.call("SET", Q["de:"] .. wish.id, job.id, "KEEPTTL")
  else
    own(Q, wish, job.id)
  end
end

-- Keep a job until the owner, which runs, has ended. One that was kept before is dropped.
local function keep_for_later(Q, wish, job, owner)
  local kind, place = job.kind, Q["dn:"] .. wish.id
  if redis.call("HGET", place, "jid") ~= job.id then -- else it was kept and told before the answer was lost
    tell_deduplicated(Q, wish, owner, job.id)
  end
  redis.call("DEL", place)
  redis.call("HSET", place, "name", kind.name, "data", job.data, "opts", kind.opts, "jid", job.id, "py:owner", owner)
  if job.nonce ~= "" then
    redis.call("HSET", place, "py:nonce", job.nonce)
  end
  if kind.parent_key ~= "" then
    redis.call("HSET", place, "pk", kind.parent_key, "pd", kind.parent, "pdk", kind.parent_key .. ":dependencies")
  end
  redis.call("PERSIST", Q["de:"] .. wish.id)
end

-- The time of the id begins anew; it has none until its owner has ended, if the last add is to be kept.
local function extend(Q, wish, owner)
  local key = Q["de:"] .. wish.id
  if not wish.keepLastIfActive then
    redis.call("PEXPIRE", key, string.format("%.0f", wish.ttl))
  elseif is_unfinished(Q.base .. owner) then
    redis.call("PERSIST", key)
  end
end

local function reschedule(Q, job, owner)
  if redis.call("ZREM", Q.delayed, owner) == 1 then
    redis.call("HSET", Q.base .. owner, "delay", job.kind.delay)
    put_in_delayed(Q, owner, tonumber(job.timestamp) + tonumber(job.kind.delay))
  end
end

-- Let a job own its deduplication id. Returns its answer: 0, 2 if it takes the place of a delayed owner, or which owner it
-- has met and must not be stored beside.
local function deduplicate(job)
  local Q, wish = job.queue, job.kind.wish
  local owner = owner_of(Q, wish.id)
  if not owner then
    own(Q, wish, job.id)
    return 0
  end
  local replaces = may_replace(job)
  if replaces and redis.call("ZREM", Q.delayed, owner) == 1 then
    replace(Q, wish, job, owner)
    return 2
  end
  if wish.keepLastIfActive and redis.call("LPOS", Q.active, owner) then
    keep_for_later(Q, wish, job, owner)
    return { owner, 1 }
  end
  if not replaces then
    if wish.ttl and wish.extend then
      extend(Q, wish, owner)
    end
    if A.again == "0" then -- else it was told before the answer was lost
      tell_deduplicated(Q, wish, owner, job.id)
    end
    if wish.reschedule then
      reschedule(Q, job, owner)
    end
  end
  return { owner, 0 }
end

-- What a job that met an owner was answered, as far as that can still be seen.
local function met_before(job)
  local Q, wish = job.queue, job.kind.wish
  local owner = wish and redis.call("GET", Q["de:"] .. wish.id)
  if not owner or owner == job.id then
    return 0
  end
  return { owner, redis.call("HGET", Q["dn:"] .. wish.id, "jid") == job.id and 1 or 0 }
end

-- A job that stands already becomes the parent's child, if it has none that lives.
local function adopt(Q, job, standing, in_unit)
  local parent_key = job.kind.parent_key
  if parent_key == "" then
    return
  end
  if redis.call("ZSCORE", Q.completed, job.id) then
    redis.call("HSET", parent_key .. ":processed", job.key, standing.result or "null")
    if not in_unit then
      release_if_done(parent_key, now)
    end
  else
    redis.call("ZREM", parent_key .. ":unsuccessful", job.key)
    redis.call("HDEL", parent_key .. ":failed", job.key)
    redis.call("SADD", parent_key .. ":dependencies", job.key)
    if redis.call("ZSCORE", Q.failed, job.id) then
      adopted[#adopted + 1] = job
    end
  end
  redis.call("HSET", job.key, "parentKey", parent_key, "parent", job.kind.parent)
end

local function store_or_adopt(job, members, standing)
  local Q = job.queue
  local told = standing and A.again == "1" -- before the answer was lost
  counted[Q] = (counted[Q] or 0) + (told and 0 or 1)
  if standing then
    adopt(Q, job, standing, members[job.kind.parent_key])
    if not told then
      emit(Q, "duplicated", "jobId", job.id)
    end
    return 1
  end
  local answer = job.kind.wish and deduplicate(job) or 0
  if type(answer) == "number" then
    store(Q, job)
  end
  return answer
end

-- After all children are in: one that had ended before must not release its parent too early.
local function release_parents(jobs, members)
  local released = {}
  for _, child in ipairs(dropped) do
    drop_child(child.parent_key, child.child_key)
  end
  for _, child in ipairs(adopted) do
    local reason = redis.call("HGET", child.key, "failedReason") or ""
    child_failed(child.kind.parent_key, child.kind.parent, child.key, reason, now)
  end
  dropped, adopted = {}, {}
  for _, job in ipairs(jobs) do
    local parent_key = job.kind.parent_key
    if members[parent_key] and not released[parent_key] then
      released[parent_key] = true
      release_if_done(parent_key, now)
    end
  end
end

-- Whether nothing is known of any job: one look for all of them.
local function all_new(jobs)
  local keys = {}
  for _, job in ipairs(jobs) do
    keys[#keys + 1] = job.key
    keys[#keys + 1] = job.queue["py:receipt:"] .. job.id
  end
  for first = 1, #keys, 6000 do
    if redis.call("EXISTS", unpack(keys, first, math.min(first + 5999, #keys))) > 0 then
      return false
    end
  end
  return true
end

local function add_unit(jobs, new)
  local members, standing, known, twice, repeated, answer = {}, {}, {}, {}, false, { 0 }
  for place, job in ipairs(jobs) do
    local same = false
    if not new then
      same, standing[place] = look_up(job)
    end
    known[place], twice[place] = same, members[job.key]
    members[job.key] = true
    repeated = repeated or same
    answer[place + 1] = (standing[place] and not same) and 1 or 0
  end
  if repeated then -- a unit is stored whole, so one member that is known says that all of it was
    for place, job in ipairs(jobs) do
      if not standing[place] and not known[place] then
        answer[place + 1] = met_before(job)
      end
    end
    return answer
  end
  local parents = {}
  for place, job in ipairs(jobs) do
    local code, detail = refusal_of(job, members, parents, standing[place])
    if code then
      return { code, place, detail or "" }
    end
  end
  local full = overfull(jobs, standing)
  if full then
    return full
  end
  for place, job in ipairs(jobs) do
    if twice[place] or replaced[job.key] then -- a member may repeat the id of one before it, or of one that has just gone
      local _
      _, standing[place] = look_up(job)
    end
    answer[place + 1] = store_or_adopt(job, members, standing[place])
  end
  release_parents(jobs, members)
  return answer
end

local units = {}
for _, kind in ipairs(A.kinds) do
  kind.wish = kind.deduplication ~= "" and cjson.decode(kind.deduplication)
end
for _, job in ipairs(A.jobs) do
  job.queue = queue_at(job.queue)
  job.key = job.queue.base .. job.id
  job.kind = A.kinds[tonumber(job.kind)]
  local place = tonumber(job.unit)
  units[place] = units[place] or {}
  table.insert(units[place], job)
end
local new, ids, repeats = all_new(A.jobs), {}, false
for _, job in ipairs(A.jobs) do
  repeats = repeats or ids[job.key]
  ids[job.key] = true
end
local answers = {}
for place, jobs in ipairs(units) do
  answers[place] = add_unit(jobs, new and not repeats)
end
for Q, count in pairs(counted) do
  redis.call("INCRBY", Q.id, count)
end
for Q, some in pairs(back) do
  with_all("LPUSH", waiting_list(Q), some)
end
wind_up()
return answers
