-- Remove a paused queue with everything in it, so many jobs at a time.
-- KEYS  *queues
-- ARGV  now force limit
-- RETURNS  {0 when nothing is left, 1 when more is, -1 not paused, -2 jobs are running; how many jobs were removed or run}
-- include: finish

local Q = queue_at(1)
local left = tonumber(A.limit)

local function remove_all(ids)
  for _, id in ipairs(ids) do
    local key = Q.base .. id
    local parent_key = redis.call("HGET", key, "parentKey")
    if parent_key and redis.call("EXISTS", parent_key) == 1 then
      drop_child(parent_key, key)
    end
    local deduplication_id = redis.call("HGET", key, "deid")
    if deduplication_id and redis.call("GET", Q["de:"] .. deduplication_id) == id then
      redis.call("DEL", Q["de:"] .. deduplication_id, Q["dn:"] .. deduplication_id)
    end
    delete_job(key)
    redis.call("DEL", key .. ":lock")
  end
  left = left - #ids
end

local function empty_list(key)
  local ids = left > 0 and redis.call("LRANGE", key, 0, left - 1) or {}
  if #ids > 0 then
    redis.call("LTRIM", key, #ids, -1)
    remove_all(ids)
  end
end

local function empty_set(key)
  local ids = left > 0 and redis.call("ZRANGE", key, 0, left - 1) or {}
  if #ids > 0 then
    redis.call("ZREM", key, unpack(ids))
    remove_all(ids)
  end
end

if not settings(Q).paused then
  return { -1, 0 }
end
local running = redis.call("LLEN", Q.active)
if running > 0 and A.force == "0" then
  return { -2, running }
end
for _, name in ipairs({ "active", "wait", "paused" }) do
  empty_list(Q[name])
end
for _, name in ipairs({ "delayed", "prioritized", "waiting-children", "completed", "failed" }) do
  empty_set(Q[name])
end
ring_bells() -- of other queues: of this one nothing stays
local removed = tonumber(A.limit) - left
-- A parent may have come back to its list because its children went.
if redis.call("EXISTS", Q.wait, Q.delayed, Q.prioritized, Q["waiting-children"], Q.completed, Q.failed) > 0 then
  return { 1, removed }
end
redis.call(
  "DEL", Q.events, Q.delay, Q["stalled-check"], Q.stalled, Q.id, Q.pc, Q.marker, Q.limiter, Q.meta, Q["repeat"],
  Q["metrics:completed"], Q["metrics:failed"], Q["metrics:completed:data"], Q["metrics:failed:data"]
)
return { 0, removed }
