-- Remove what waits, some of it at a time. The iterations that schedulers wait for stay.
-- KEYS  *queues
-- ARGV  now call limit delayed place behind
-- RETURNS  {how many jobs were removed, the collection to go on with (0 when all were looked through), the id behind
--          which to go on}
-- FLAGS  allow-oom
-- include: remove

local Q = queue_at(1)
local names = { "wait", "paused", "prioritized", A.delayed == "1" and "delayed" or nil }
local place, behind, removed = tonumber(A.place), A.behind, 0

local function verdict_on(job)
  return is_awaited(Q, job) and "keep" or "remove"
end

while place > 0 and work_left > 0 do
  local ids, last, finished = sweep(Q, names[place], behind, verdict_on)
  removed = removed + #ids
  behind = finished and "" or last
  if finished then
    place = names[place + 1] and place + 1 or 0
  end
end
wind_up()
return { removed, place, behind }
