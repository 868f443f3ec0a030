-- Hand out jobs under a lock.
-- KEYS  *queues
-- ARGV  now token lock_ms worker again *slots(queue free max per_ms) *named(slot id)
-- RETURNS  {claims as {place of the queue, id, what hand_out tells}, queues left wanting as {place, reason, until or 0}}
-- FLAGS  allow-oom
-- include: hand_out

local claims, idle = hand_out(tonumber(A.now))
wind_up()
return { claims, idle }
