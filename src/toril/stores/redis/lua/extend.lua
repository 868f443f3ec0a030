-- Renew locks.
-- KEYS  *queues
-- ARGV  now lock_ms *claims(queue id token)
-- RETURNS  the places of the claims that are no longer the caller's
-- FLAGS  allow-oom

local lost = {}
for place, claim in ipairs(A.claims) do
  local base = K.queues[tonumber(claim.queue)]
  local lock = base .. claim.id .. ":lock"
  if redis.call("GET", lock) == claim.token then
    redis.call("SET", lock, claim.token, "PX", A.lock_ms)
    redis.call("SREM", base .. "stalled", claim.id)
  else
    lost[#lost + 1] = place
  end
end
return lost
