-- Change jobs.
-- KEYS  *queues
-- ARGV  now call limit keep_logs *updates(queue id data progress clear_logs priority lifo delay) *lines(update text)
-- RETURNS  of each job done, missing or wrong-state (a delay for one that is not delayed); of fewer jobs than were named
--          when so much has been done: ask again about the rest
-- include: enqueue work

local now = tonumber(A.now)
local lines_of = {}
for _, line in ipairs(A.lines) do
  lines_of[line.update] = lines_of[line.update] or {}
  table.insert(lines_of[line.update], line.text)
end

local function keep_last(key, count)
  if count > 0 then
    redis.call("LTRIM", key, -count, -1)
  else
    redis.call("DEL", key)
  end
end

local function append(key, opts, lines)
  local known, options = pcall(cjson.decode, opts)
  local kept = known and type(options) == "table" and tonumber(options.kl) or tonumber(A.keep_logs)
  with_all("RPUSH", key, lines)
  keep_last(key, kept)
end

local function leave_place(Q, id)
  if redis.call("ZREM", Q.prioritized, id) == 1 then
    return true
  end
  searched(redis.call("LLEN", Q.wait) + redis.call("LLEN", Q.paused))
  return redis.call("LREM", Q.wait, -1, id) == 1 or redis.call("LREM", Q.paused, -1, id) == 1
end

local function change_priority(Q, id, priority, in_front)
  if leave_place(Q, id) then
    local put = in_front and put_in_front or put_behind
    put(Q, id, priority)
  end
  redis.call("HSET", Q.base .. id, "priority", tostring(priority))
end

local function update(Q, change, lines)
  local id, key = change.id, Q.base .. change.id
  local found = redis.call("HMGET", key, "name", "opts")
  if not found[1] then
    return "missing"
  end
  if change.delay ~= "" and not redis.call("ZSCORE", Q.delayed, id) then
    return "wrong-state"
  end
  if change.data ~= "" then
    redis.call("HSET", key, "data", change.data)
  end
  if change.progress ~= "" then
    redis.call("HSET", key, "progress", change.progress)
    emit(Q, "progress", "jobId", id, "data", change.progress)
  end
  if change.clear_logs ~= "" then
    keep_last(key .. ":logs", tonumber(change.clear_logs))
  end
  if lines then
    append(key .. ":logs", found[2] or "{}", lines)
  end
  if change.priority ~= "" then
    change_priority(Q, id, tonumber(change.priority), change.lifo == "1")
  end
  if change.delay ~= "" then
    redis.call("HSET", key, "delay", change.delay)
    put_in_delayed(Q, id, now + tonumber(change.delay))
  end
  return "done"
end

local answers = {}
for place, change in ipairs(A.updates) do
  if work_left <= 0 then
    break
  end
  answers[place] = update(queue_at(change.queue), change, lines_of[tostring(place)])
  worked(1)
end
wind_up()
return answers
