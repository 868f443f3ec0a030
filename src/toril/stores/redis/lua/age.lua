-- Let time pass for every key that expires, in tests whose clock is turned by hand.
-- KEYS
-- ARGV  ms pattern
-- RETURNS  how many keys have expired by it

local expired, cursor = 0, "0"
local keys = {}
repeat
  local page = redis.call("SCAN", cursor, "MATCH", A.pattern, "COUNT", 1000)
  cursor = page[1]
  for _, key in ipairs(page[2]) do
    keys[key] = true -- a scan may show a key twice
  end
until cursor == "0"
for key in pairs(keys) do
  local ttl = redis.call("PTTL", key)
  if ttl >= 0 and ttl <= tonumber(A.ms) then
    redis.call("DEL", key)
    expired = expired + 1
  elseif ttl > 0 then
    redis.call("PEXPIRE", key, ttl - tonumber(A.ms))
  end
end
return expired
