-- Let jobs be children no longer.
-- KEYS  *queues
-- ARGV  now call *refs(queue id)
-- RETURNS  of each job done, missing or wrong-state (it has no parent, or has ended for it)
-- FLAGS  allow-oom
-- include: parent

local now = tonumber(A.now)

local function detach(Q, id)
  local key = Q.base .. id
  local job = redis.call("HMGET", key, "timestamp", "parentKey")
  local parent_key = job[2]
  if not job[1] then
    return "missing"
  elseif not parent_key or redis.call("SREM", parent_key .. ":dependencies", key) == 0 then
    return "wrong-state"
  end
  redis.call("HDEL", key, "parentKey", "parent")
  release_if_done(parent_key, now)
  return "done"
end

local answers = {}
for place, ref in ipairs(A.refs) do
  answers[place] = detach(queue_at(ref.queue), ref.id)
end
wind_up()
return answers
