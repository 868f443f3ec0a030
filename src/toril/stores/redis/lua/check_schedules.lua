-- Look through a piece of the schedules for those of versions that Node no longer serves.
-- KEYS  *queues
-- ARGV  now cursor limit
-- RETURNS  {where the next piece begins or "" at the end, the names of those found}
-- FLAGS  allow-oom
-- include: home

local Q = queue_at(1)
local found = {}

-- name:id:end:zone:pattern, where the pattern is a cron line or milliseconds
local function looks_old(name)
  local ends, pattern = string.match(name, "^[^:]*:[^:]*:([^:]*):[^:]*:(.+)$")
  return ends ~= nil and string.find(ends, "^%d*$") ~= nil
    and (string.find(pattern, "%s") ~= nil or string.find(pattern, "^%d+$") ~= nil)
end

local page = redis.call("ZSCAN", Q["repeat"], A.cursor, "COUNT", A.limit)
for i = 1, #page[2], 2 do
  local name = page[2][i]
  local record = Q["repeat:"] .. name
  local kind = kind_of(record)
  local is_old = kind == "none" and looks_old(name) or kind == "hash" and redis.call("HEXISTS", record, "ic") == 0
  if is_old then
    found[#found + 1] = name
  end
end
return { page[1] == "0" and "" or page[1], found }
