-- Store units of jobs, each all or nothing.
-- KEYS  *queues
-- ARGV  now again *kinds(name opts delay priority lifo parent_key parent has_children)
--       *jobs(unit queue kind id data timestamp nonce)
-- RETURNS  for each unit {0, 1 for a duplicate else 0, ... one per member}, or {code, place of the refused member, detail}:
--          -5 its parent is missing, -7 it has another parent, -20 its queue is full (detail: how many wait, the limit)
-- include: parent

local now = tonumber(A.now)
local counted = {}
local back = {}

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

local function refusal_of(job, members, standing)
  local parent_key = job.kind.parent_key
  if parent_key == "" then
    return nil
  end
  if not members[parent_key] and redis.call("EXISTS", parent_key) == 0 then
    return -5
  end
  local other = standing and standing.parent_key
  if other and other ~= parent_key and redis.call("EXISTS", other) == 1 then
    return -7, other
  end
end

local function overfull(jobs, standing)
  local coming = {}
  for place, job in ipairs(jobs) do
    local Q = job.queue
    local limit = settings(Q).max_waiting
    if limit and not standing[place] and job.kind.has_children == "0" then
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
  if job.nonce == "" and kind.parent_key == "" then
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
    redis.call("SADD", parent_key .. ":dependencies", job.key)
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
  store(Q, job)
  return 0
end

-- After all children are in: one that had completed before must not release its parent too early.
local function release_parents(jobs, members)
  local released = {}
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
  local members, standing, twice, repeated, answer = {}, {}, {}, false, { 0 }
  for place, job in ipairs(jobs) do
    local same = false
    if not new then
      same, standing[place] = look_up(job)
    end
    twice[place] = members[job.key]
    members[job.key] = true
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
    if twice[place] then -- a member may repeat the id of one before it
      local _
      _, standing[place] = look_up(job)
    end
    answer[place + 1] = store_or_adopt(job, members, standing[place])
  end
  release_parents(jobs, members)
  return answer
end

local units = {}
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
