-- Look at deduplication ids whose owner has ended or is gone, and at what was kept until it has; mend both if asked.
-- KEYS  *queues
-- ARGV  now mend *ids(id)
-- RETURNS  {kind, id, the owner or the name of the job that was kept} of what was found
-- FLAGS  allow-oom
-- include: home finish

local Q = queue_at(1)
local mend = A.mend == "1"
local found = {}

local function stands(id)
  local key = Q.base .. id
  local kind = kind_of(key)
  return kind == "hash" and is_unfinished(key) or (kind ~= "hash" and kind ~= "none")
end

local running

-- Whether the job for whose end something is kept is still to end, though somebody has forgotten whose the id is. Node does
-- not say which that is: one that runs.
local function is_awaited(deduplication_id, owner)
  if owner then
    return stands(owner)
  end
  if not running then
    running = {}
    for _, id in ipairs(tried("LRANGE", Q.active, 0, -1) or {}) do
      running[tried("HGET", Q.base .. id, "deid") or ""] = true
    end
  end
  return running[deduplication_id]
end

local function look_at_id(id)
  local key, place = Q["de:"] .. id, Q["dn:"] .. id
  local owner = kind_of(key) == "string" and redis.call("GET", key)
  local owned = owner and stands(owner)
  if owner and not owned and redis.call("PTTL", key) == -1 then
    found[#found + 1] = { "owned", id, owner }
    if mend then
      redis.call("DEL", key)
    end
  end
  local kept = not owned and tried("HMGET", place, "name", "py:owner")
  if kept and kept[1] and not is_awaited(id, kept[2]) then
    found[#found + 1] = { "kept", id, kept[1] }
    if mend then
      add_kept(Q, id, tonumber(A.now))
    end
  end
end

for _, item in ipairs(A.ids) do
  look_at_id(item.id)
end
wind_up()
return found
