-- Tell in which collection a job is.
-- include: queue

local BY_SCORE = { "completed", "failed", "delayed", "prioritized", "waiting-children" }

-- A job that is nowhere else waits. Nobody looks for it there: the list may be long, and would be searched for each job.
local function place_of(Q, id)
  for _, name in ipairs(BY_SCORE) do
    local score = redis.call("ZSCORE", Q[name], id)
    if score then
      return name, score
    end
  end
  return redis.call("LPOS", Q.active, id) and "active" or "wait", ""
end
