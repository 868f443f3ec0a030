-- Store units of jobs, each all or nothing.
-- KEYS  *queues
-- ARGV  now *jobs(unit queue id name data opts timestamp delay priority lifo nonce parent_key parent has_children)
-- RETURNS  for each unit {0, 1 for a duplicate else 0, ... one per member}, or {code, place of the refused member, detail}:
--          -5 its parent is missing, -7 it has another parent, -20 its queue is full (detail: how many wait, the limit)
-- include: parent

local now = tonumber(A.now)
local counted = {}
local back = {}

local function key_of(job)
  return queue_at(job.queue).base .. job.id
end

-- Whether this very job has been stored before, and what stands under its id.
local function look_up(job)
  local Q = queue_at(job.queue)
  local key = key_of(job)
  if job.nonce == "" then
    return redis.call("EXISTS", key, Q["py:receipt:"] .. job.id) > 0, nil
  end
  local found = redis.call("HMGET", key, "timestamp", "py:nonce", "parentKey", "returnvalue")
  if found[1] then
    return found[2] == job.nonce, { parent_key = found[3], result = found[4] }
  end
  local receipt = redis.call("GET", Q["py:receipt:"] .. job.id)
  return receipt ~= false and cjson.decode(receipt)["py:nonce"] == job.nonce, nil
end

local function refusal_of(job, members, standing)
  if job.parent_key == "" then
    return nil
  end
  if not members[job.parent_key] and redis.call("EXISTS", job.parent_key) == 0 then
    return -5
  end
  local other = standing and standing.parent_key
  if other and other ~= job.parent_key and redis.call("EXISTS", other) == 1 then
    return -7, other
  end
end

local function overfull(jobs, standing)
  local coming = {}
  for place, job in ipairs(jobs) do
    local Q = queue_at(job.queue)
    local limit = settings(Q).max_waiting
    if limit and not standing[place] and job.has_children == "0" then
      local waiting = redis.call("LLEN", Q.wait) + redis.call("ZCARD", Q.prioritized) + (back[Q] and #back[Q] or 0)
      if tonumber(job.delay) == 0 then
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
  local delay = tonumber(job.delay)
  if job.has_children == "1" then
    redis.call("ZADD", Q["waiting-children"], job.timestamp, job.id)
    emit(Q, "waiting-children", "jobId", job.id)
    return
  end
  if delay > 0 then
    put_in_delayed(Q, job.id, tonumber(job.timestamp) + delay)
    return
  end
  if tonumber(job.priority) > 0 then
    put_in_prioritized(Q, job.id, tonumber(job.priority))
  elseif job.lifo == "1" then
    put_in_wait(Q, job.id, true)
  else
    put_back(Q, job.id)
  end
  emit(Q, "waiting", "jobId", job.id)
end

local function store(Q, job)
  local fields = {
    "name", job.name, "data", job.data, "opts", job.opts, "timestamp", job.timestamp, "delay", job.delay,
    "priority", job.priority,
  }
  local function set(name, text)
    if text ~= "" then
      fields[#fields + 1] = name
      fields[#fields + 1] = text
    end
  end
  set("parentKey", job.parent_key)
  set("parent", job.parent)
  set("py:nonce", job.nonce)
  redis.call("HSET", Q.base .. job.id, unpack(fields))
  emit(Q, "added", "jobId", job.id, "name", job.name)
  enqueue(Q, job)
  if job.parent_key ~= "" then
    redis.call("SADD", job.parent_key .. ":dependencies", Q.base .. job.id)
  end
end

-- A job that stands already becomes the parent's child, if it has none that lives.
local function adopt(Q, job, standing, in_unit)
  local key = Q.base .. job.id
  if job.parent_key == "" then
    return
  end
  if redis.call("ZSCORE", Q.completed, job.id) then
    redis.call("HSET", job.parent_key .. ":processed", key, standing.result or "null")
    if not in_unit then
      release_if_done(job.parent_key, now)
    end
  else
    redis.call("SADD", job.parent_key .. ":dependencies", key)
  end
  redis.call("HSET", key, "parentKey", job.parent_key, "parent", job.parent)
end

local function store_or_adopt(job, members)
  local Q = queue_at(job.queue)
  counted[Q] = (counted[Q] or 0) + 1
  local _, standing = look_up(job) -- again: a member may repeat the id of one before it
  if standing then
    adopt(Q, job, standing, members[job.parent_key])
    emit(Q, "duplicated", "jobId", job.id)
    return 1
  end
  store(Q, job)
  return 0
end

local function add_unit(jobs)
  local members, standing, repeated, answer = {}, {}, false, { 0 }
  for place, job in ipairs(jobs) do
    members[key_of(job)] = true
    local same
    same, standing[place] = look_up(job)
    repeated = repeated or same
    answer[place + 1] = (standing[place] and not same) and 1 or 0
  end
  if repeated then
    return answer -- a unit is stored whole, so one member that is known says that all of it was
  end
  for place, job in ipairs(jobs) do
    local code, detail = refusal_of(job, members, standing[place])
    if code then
      return { code, place, detail or "" }
    end
  end
  local full = overfull(jobs, standing)
  if full then
    return full
  end
  for place, job in ipairs(jobs) do
    answer[place + 1] = store_or_adopt(job, members)
  end
  -- Only once all children are in: one that had completed before must not release its parent too early.
  local released = {}
  for _, job in ipairs(jobs) do
    if members[job.parent_key] and not released[job.parent_key] then
      released[job.parent_key] = true
      release_if_done(job.parent_key, now)
    end
  end
  return answer
end

local units = {}
for _, job in ipairs(A.jobs) do
  local place = tonumber(job.unit)
  units[place] = units[place] or {}
  table.insert(units[place], job)
end
local answers = {}
for place, jobs in ipairs(units) do
  answers[place] = add_unit(jobs)
end
for Q, count in pairs(counted) do
  redis.call("INCRBY", Q.id, count)
end
for Q, ids in pairs(back) do
  with_all("LPUSH", Q.wait, ids)
end
ring_bells()
return answers
