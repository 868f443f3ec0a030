-- List the children of a job and what became of them.
-- KEYS  *queues
-- ARGV  now id
-- RETURNS  {full job key, pending|completed|failed|ignored, result or reason} of each; one that has failed and is waited
--          for all the same is pending
-- FLAGS  no-writes
-- include: queue

local key = queue_at(1).base .. A.id
local children = {}

local function tell(child, state, text)
  children[#children + 1] = { child, state, text or "" }
end

local processed = redis.call("HGETALL", key .. ":processed")
for i = 1, #processed, 2 do
  tell(processed[i], "completed", processed[i + 1])
end
for _, child in ipairs(redis.call("SMEMBERS", key .. ":dependencies")) do
  tell(child, "pending")
end
local ignored = redis.call("HGETALL", key .. ":failed")
for i = 1, #ignored, 2 do
  tell(ignored[i], "ignored", ignored[i + 1])
end
for _, child in ipairs(redis.call("ZRANGE", key .. ":unsuccessful", 0, -1)) do
  tell(child, "failed", redis.call("HGET", child, "failedReason"))
end
return children
