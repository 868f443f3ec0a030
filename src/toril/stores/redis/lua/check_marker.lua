-- Find jobs that wait although no marker wakes a worker and none is at work; ring for the one that was found before.
-- KEYS  *queues
-- ARGV  now mend id
-- RETURNS  the id of the next job if its marker is lost, else ""
-- FLAGS  allow-oom
-- include: home

local Q = queue_at(1)

-- A worker that was told to wait has taken the marker with it, and comes back by itself.
local function is_limited()
  return settings(Q).throttled_until > tonumber(A.now) or (tried("PTTL", Q.limiter) or -1) > 0
end

local id = tried("LINDEX", Q.wait, -1) or (tried("ZRANGE", Q.prioritized, 0, 0) or {})[1]
if not id or blocked(Q) or is_limited() or (tried("LLEN", Q.active) or 0) > 0 or tried("ZSCORE", Q.marker, "0") then
  return ""
end
if A.mend == "1" and A.id == id then
  ring(Q)
  wind_up()
end
return id
