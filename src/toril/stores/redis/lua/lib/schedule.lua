-- Look at schedules, and make and take back their runs.
-- include: place remove

local PENDING = { wait = true, prioritized = true, delayed = true }

local function run_id(schedule, at)
  return "repeat:" .. schedule .. ":" .. at
end

-- What stands of a schedule. One without a count of its runs is of a version that Node no longer serves: none of ours.
local function schedule_of(Q, id)
  local time = redis.call("ZSCORE", Q["repeat"], id)
  local found = time and redis.call("HMGET", Q["repeat:"] .. id, "ic", "py:schedule")
  if not found or not found[1] then
    return nil
  end
  return {
    time = time,
    run = run_id(id, string.format("%.0f", time)),
    iterations = tonumber(found[1]) or 0,
    extras = found[2] or "",
  }
end

-- The collection in which the run of a schedule's time is, if there is such a job.
local function place_of_run(Q, known)
  return redis.call("EXISTS", Q.base .. known.run) == 1 and place_of(Q, known.run) or nil
end

-- Whether a schedule is still as the caller has seen it; A.score is empty when it was not there.
local function is_as_seen(known)
  if not known then
    return A.score == ""
  end
  return known.time == A.score and known.extras == A.extras
end

-- The run at A.at of the schedule A.id, by the name and data that its record has now.
local function make_run(Q)
  local id, at = run_id(A.id, A.at), tonumber(A.at)
  local delay = math.max(0, at - tonumber(A.now))
  local template = redis.call("HMGET", Q["repeat:"] .. A.id, "name", "data")
  redis.call("INCR", Q.id)
  redis.call(
    "HSET", Q.base .. id, "name", template[1] or "", "data", template[2] or "{}", "opts", A.opts, "timestamp", A.now,
    "delay", string.format("%.0f", delay), "priority", A.priority, "rjk", A.id
  )
  if A.deid ~= "" then
    redis.call("HSET", Q.base .. id, "deid", A.deid) -- as Node has it, though no run looks for others or keeps them away
  end
  emit(Q, "added", "jobId", id, "name", template[1] or "")
  if delay > 0 then
    put_in_delayed(Q, id, at)
  else
    put_behind(Q, id, tonumber(A.priority), A.lifo == "1")
    emit(Q, "waiting", "jobId", id)
  end
end

-- Jobs wait in either list: in a pause, versions of Node before 6 keep theirs in the other.
local function take_back(Q, id, place)
  if not leave(Q, place, id) and place == "wait" then
    leave(Q, "paused", id)
  end
  forget(Q, look_at(Q, id))
end
