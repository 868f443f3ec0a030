-- Find ids that lists hold twice; leave each in one place if asked.
-- KEYS  *queues
-- ARGV  now mend *jobs(id)
-- RETURNS  {id, where it is and belongs} of each
-- FLAGS  allow-oom
-- include: home

local Q = queue_at(1)

-- Out of every place but one; of several in one list, the one that is served first stays.
local function leave_in(belongs, id, counts)
  for name, count in pairs(counts) do
    local surplus = name == belongs and count - 1 or count
    if surplus > 0 then
      redis.call("LREM", Q[name], surplus, id)
    end
  end
  for _, name in ipairs(scored_places(Q, id)) do
    if name ~= belongs then
      redis.call("ZREM", Q[name], id)
    end
  end
end

local found = {}
for _, job in ipairs(A.jobs) do
  local places, counts = scored_places(Q, job.id), listed_places(Q, job.id)
  for _, name in ipairs(LISTED) do
    for _ = 1, counts[name] do
      table.insert(places, 1, name)
    end
  end
  if #places > 1 then
    local belongs = home_among(Q, job.id, places)
    found[#found + 1] = { job.id, table.concat(places, " and in ") .. ", and belongs in " .. belongs }
    if A.mend == "1" then
      leave_in(belongs, job.id, counts)
    end
  end
end
return found
