-- Delete what has expired by the clock that a test turns.
-- KEYS  *queues
-- ARGV  now pattern
-- RETURNS  how many keys have expired
-- FLAGS  allow-oom
-- include: queue

local expired, cursor = 0, "0"
repeat
  local page = redis.call("SCAN", cursor, "MATCH", A.pattern, "COUNT", 1000)
  cursor = page[1]
  for _, key in ipairs(page[2]) do
    if redis.call("PTTL", key) == 0 then
      expired = expired + redis.call("DEL", key)
    end
  end
until cursor == "0"
return expired
