-- List the workers that have said on a queue what they are: those whose first queue it is.
-- KEYS  *queues
-- ARGV  now
-- RETURNS  {1 if it lives else 0, what it has said of itself} of each that is remembered
-- FLAGS  allow-oom
-- include: queue

local Q = queue_at(1)
local now = tonumber(A.now)
local told = {}
local members = redis.call("ZRANGE", Q["py:workers"], 0, -1, "WITHSCORES")
for i = 1, #members, 2 do
  local info = redis.call("GET", Q["py:worker:"] .. members[i])
  if info then
    told[#told + 1] = { tonumber(members[i + 1]) > now and 1 or 0, info }
  end
end
return told
