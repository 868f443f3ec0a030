-- Look at the keys of a queue that hold no jobs, and at the kinds of all; mend what is wrong if asked.
-- KEYS  *queues
-- ARGV  now mend *kinds(suffix kind)
-- RETURNS  {{kind, suffix, detail} of what was found, the suffixes of the keys that are of their kind, what made the queue}
-- FLAGS  allow-oom
-- include: home

local Q = queue_at(1)
local found, sound = {}, {}

for _, wanted in ipairs(A.kinds) do
  local kind = kind_of(Q[wanted.suffix])
  if kind == wanted.kind then
    sound[#sound + 1] = wanted.suffix
  elseif kind ~= "none" then
    found[#found + 1] = { "wrong-kind", wanted.suffix, kind }
  end
end
for _, suffix in ipairs({ "limiter", "stalled-check" }) do
  if redis.call("PTTL", Q[suffix]) == -1 then
    found[#found + 1] = { suffix, suffix, "" }
    if A.mend == "1" then
      redis.call("DEL", Q[suffix])
    end
  end
end
return { found, sound, tried("HGET", Q.meta, "version") or "" }
