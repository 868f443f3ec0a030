-- Take notice of every ring so far.
-- KEYS  *queues
-- ARGV  now
-- RETURNS  the places of the queues that rang
-- FLAGS  allow-oom
-- include: queue

local rang = {}
for place, base in ipairs(K.queues) do
  local markers = redis.call("ZPOPMIN", queue(base).marker, 2)
  if #markers > 0 then
    rang[#rang + 1] = place
  end
end
return rang
