-- Set what a schedule is, and put its run to come in the place of one that is pending.
-- KEYS  *queues
-- ARGV  now call id score extras pending at opts priority lifo deid *fields(name text)
-- RETURNS  done, changed (it is not as it was seen) or taken (there is a job of that time)
-- include: schedule

local Q = queue_at(1)
local record = Q["repeat:"] .. A.id
local known = schedule_of(Q, A.id)
local place = known and place_of_run(Q, known)
local pending = PENDING[place] == true

local function is_taken()
  local id = run_id(A.id, A.at)
  return A.at ~= "" and redis.call("EXISTS", Q.base .. id) == 1 and not (pending and known.run == id)
end

if not is_as_seen(known) or pending ~= (A.pending == "1") then
  return "changed"
elseif is_taken() then
  return "taken"
end
if pending then
  take_back(Q, known.run, place)
end
local made = known and known.iterations or 0
local fields = { "ic", string.format("%.0f", A.at ~= "" and math.max(1, made) or made) }
for _, field in ipairs(A.fields) do
  fields[#fields + 1], fields[#fields + 2] = field.name, field.text
end
redis.call("ZADD", Q["repeat"], A.at ~= "" and A.at or known and known.time or A.now, A.id)
redis.call("DEL", record)
redis.call("HSET", record, unpack(fields))
events_kept(Q) -- a queue is known by its settings, also one that has nothing but a paused schedule
if A.at ~= "" then
  make_run(Q)
end
wind_up()
return "done"
