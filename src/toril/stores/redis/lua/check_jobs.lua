-- Look at keys that may be jobs: whether a sorted collection has them, and the texts that must be JSON.
-- KEYS  *queues
-- ARGV  now room with_texts *jobs(id)
-- RETURNS  for each {} if it is no job, else {how many sorted collections have it} and, if asked, data, opts, progress and
--          parent; for the first ones only when the texts of all are longer than `room` bytes together
-- FLAGS  allow-oom
-- include: home

local TEXTS = { "data", "opts", "progress", "parent" }

local Q = queue_at(1)
local room = tonumber(A.room)

local function size_of(key)
  local size = 0
  for _, name in ipairs(TEXTS) do
    size = size + redis.call("HSTRLEN", key, name)
  end
  return size
end

local answers = {}
for place, job in ipairs(A.jobs) do
  local key = Q.base .. job.id
  local answer = {}
  if is_job(key) then
    answer[1] = #scored_places(Q, job.id)
    if A.with_texts == "1" then
      room = room - size_of(key)
      if room < 0 and place > 1 then
        break
      end
      answer = { answer[1], unpack(redis.call("HMGET", key, unpack(TEXTS))) }
    end
  end
  answers[place] = answer
end
return answers
