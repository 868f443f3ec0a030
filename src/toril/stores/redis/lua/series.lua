-- Say how many jobs of a queue have ended in a state: in all, and minute by minute.
-- KEYS  *queues
-- ARGV  now state limit
-- RETURNS  how many were counted, when the last of the minutes was begun, how many were counted before that, and how many
--          in each minute before it, newest first; nothing where none was counted
-- FLAGS  no-writes
-- include: queue

local Q = queue_at(1)
local key = Q["metrics:" .. A.state]
local answer = redis.call("HMGET", key, "count", "prevTS", "prevCount")
if not answer[2] then
  return {}
end
for _, count in ipairs(redis.call("LRANGE", key .. ":data", 0, A.limit - 1)) do
  answer[#answer + 1] = count
end
return answer
