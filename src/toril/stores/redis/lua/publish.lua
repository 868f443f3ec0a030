-- Append an event of the caller's own.
-- KEYS  *queues
-- ARGV  now call event *fields(name text)
-- RETURNS  its id; that of the last event when the queue keeps none
-- include: queue

local Q = queue_at(1)
local kept = events_kept(Q)
if settings(Q).silent then
  local last = redis.call("XREVRANGE", Q.events, "+", "-", "COUNT", 1)[1]
  return last and last[1] or "0-0"
end
local words = {}
for _, field in ipairs(A.fields) do
  words[#words + 1] = field.name == "job_id" and "jobId" or field.name
  words[#words + 1] = field.text
end
return redis.call("XADD", Q.events, "MAXLEN", "~", kept, "*", "event", A.event, unpack(words))
