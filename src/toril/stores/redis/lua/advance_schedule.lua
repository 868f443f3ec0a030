-- Make the run of a schedule that comes after the one at its time, or that very one where it has vanished.
-- KEYS  *queues
-- ARGV  now id score extras renewed at opts priority lifo deid
-- RETURNS  done, changed (it is not as it was seen) or taken (there is a job of that time)
-- FLAGS  allow-oom
-- include: schedule

local Q = queue_at(1)
local known = schedule_of(Q, A.id)
if not known or not is_as_seen(known) then
  return "changed"
end
local id = run_id(A.id, A.at)
if redis.call("EXISTS", Q.base .. id) == 1 then
  return id == known.run and "changed" or "taken"
end
if id ~= known.run then
  redis.call("ZADD", Q["repeat"], A.at, A.id)
  redis.call("HINCRBY", Q["repeat:"] .. A.id, "ic", 1)
end
if A.renewed ~= A.extras then
  redis.call("HSET", Q["repeat:"] .. A.id, "py:schedule", A.renewed)
end
make_run(Q)
wind_up()
return "done"
