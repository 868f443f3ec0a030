-- Look at jobs.
-- KEYS  *queues
-- ARGV  now *refs(queue id)
-- RETURNS  for each ref {collection, score, the flat hash, ms left of its lock, pending children}, {"receipt", text} of one
--          that was removed and whose result is kept, or {} of one that is unknown. A parent that has gone is left out
-- FLAGS  no-writes
-- include: place

local function without_parent(job)
  local kept = {}
  for i = 1, #job, 2 do
    if job[i] ~= "parent" then
      kept[#kept + 1] = job[i]
      kept[#kept + 1] = job[i + 1]
    end
  end
  return kept
end

local answers = {}
for place, ref in ipairs(A.refs) do
  local Q = queue_at(ref.queue)
  local key = Q.base .. ref.id
  local job = redis.call("HGETALL", key)
  if #job > 0 then
    local parent_key = field(job, "parentKey")
    if parent_key and redis.call("EXISTS", parent_key) == 0 then
      job = without_parent(job)
    end
    local name, score = place_of(Q, ref.id)
    answers[place] = {
      name, score, job, redis.call("PTTL", key .. ":lock"), redis.call("SCARD", key .. ":dependencies"),
    }
  else
    local receipt = redis.call("GET", Q["py:receipt:"] .. ref.id)
    answers[place] = receipt and { "receipt", receipt } or {}
  end
end
return answers
