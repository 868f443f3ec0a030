-- Look at schedules.
-- KEYS  *queues
-- ARGV  now *ids(id)
-- RETURNS  for each id {score, the flat hash, collection and opts of the run at that time, empty without one}, or {} of one
--          that is not there or of a version that Node no longer serves
-- FLAGS  no-writes
-- include: schedule

local Q = queue_at(1)
local answers = {}
for place, wanted in ipairs(A.ids) do
  local known = schedule_of(Q, wanted.id)
  local answer = {}
  if known then
    local where = place_of_run(Q, known)
    local opts = where and redis.call("HGET", Q.base .. known.run, "opts")
    answer = { known.time, redis.call("HGETALL", Q["repeat:"] .. wanted.id), where or "", opts or "" }
  end
  answers[place] = answer
end
return answers
