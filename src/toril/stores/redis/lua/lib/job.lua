-- Name the keys of a job, delete them, and say whether it is still to end.
-- include: queue

local function keys_of_job(key, keys)
  local n = #keys
  keys[n + 1], keys[n + 2], keys[n + 3] = key, key .. ":logs", key .. ":dependencies"
  keys[n + 4], keys[n + 5], keys[n + 6] = key .. ":processed", key .. ":failed", key .. ":unsuccessful"
end

local function delete_job(key)
  local keys = {}
  keys_of_job(key, keys)
  delete_keys(keys)
end

-- Whether a job is there and has not ended.
local function is_unfinished(key)
  local found = redis.call("HMGET", key, "timestamp", "finishedOn")
  return found[1] ~= false and not found[2]
end
