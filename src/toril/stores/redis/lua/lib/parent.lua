-- Tell parents what becomes of their children, and release them.
-- include: enqueue

local function enqueue_released(P, id, now)
  local known = redis.call("HMGET", P.base .. id, "priority", "delay")
  local priority, delay = tonumber(known[1]) or 0, tonumber(known[2]) or 0
  if delay > 0 then
    redis.call("ZADD", P.delayed, (now + delay) * 4096, id)
    emit(P, "delayed", "jobId", id, "delay", string.format("%.0f", now + delay))
    ring_for_delay(P)
    return
  end
  if priority > 0 then
    put_in_prioritized(P, id, priority)
  else
    put_in_wait(P, id, true)
  end
  emit(P, "waiting", "jobId", id, "prev", "waiting-children")
end

local function release(parent_key, now)
  local base, id = split(parent_key)
  local P = queue(base)
  if redis.call("EXISTS", parent_key) == 1 and redis.call("ZREM", P["waiting-children"], id) == 1 then
    enqueue_released(P, id, now)
  end
end

local function release_if_done(parent_key, now)
  if redis.call("EXISTS", parent_key .. ":dependencies") == 0 then
    release(parent_key, now)
  end
end

local function child_completed(parent_key, child_key, result, now)
  if redis.call("SREM", parent_key .. ":dependencies", child_key) == 1 then
    redis.call("HSET", parent_key .. ":processed", child_key, result)
    release_if_done(parent_key, now)
  end
end

-- The parent fails too: when it is handed out next, or has to settle.
local function fail_parent(parent_key, child_key, now)
  redis.call("ZADD", parent_key .. ":unsuccessful", now, child_key)
  if redis.call("EXISTS", parent_key) == 0 then
    return
  end
  local base, id = split(parent_key)
  local P = queue(base)
  local reason = "child " .. child_key .. " failed"
  if redis.call("ZREM", P["waiting-children"], id) == 1 then
    redis.call("HSET", parent_key, "defa", reason)
    enqueue_released(P, id, now)
  elseif redis.call("ZREM", P.delayed, id) == 1 then
    redis.call("HSET", parent_key, "delay", "0", "defa", reason)
    enqueue_released(P, id, now)
  elseif not redis.call("ZSCORE", P.failed, id) then
    redis.call("HSET", parent_key, "defa", reason)
  end
end

local function child_failed(parent_key, parent, child_key, reason, now)
  local known, policy = pcall(cjson.decode, parent or "{}")
  policy = known and policy or {}
  if not (policy.fpof or policy.cpof or policy.idof or policy.rdof) then
    return
  end
  if redis.call("SREM", parent_key .. ":dependencies", child_key) == 0 then
    return
  end
  if policy.fpof then
    fail_parent(parent_key, child_key, now)
  elseif policy.cpof then
    redis.call("HSET", parent_key .. ":failed", child_key, reason)
    release(parent_key, now)
  else
    if policy.idof then
      redis.call("HSET", parent_key .. ":failed", child_key, reason)
    end
    release_if_done(parent_key, now)
  end
end

-- A child that goes without having ended for its parent: the parent waits for it no longer.
local function drop_child(parent_key, child_key)
  if redis.call("SREM", parent_key .. ":dependencies", child_key) == 1 then
    release_if_done(parent_key, tonumber(A.now))
  end
end
