-- Record progress and logs of running jobs.
-- KEYS  *queues
-- ARGV  now call *reports(queue id token progress keep_logs) *lines(report text)
-- RETURNS  the places of the reports whose job is no longer the reporter's
-- FLAGS  allow-oom
-- include: queue

local lost, own = {}, {}
for place, report in ipairs(A.reports) do
  local Q = queue_at(report.queue)
  local key = Q.base .. report.id
  if redis.call("GET", key .. ":lock") ~= report.token then
    lost[#lost + 1] = place
  else
    own[tostring(place)] = { key = key .. ":logs", keep = tonumber(report.keep_logs) }
    if report.progress ~= "" then
      redis.call("HSET", key, "progress", report.progress)
      emit(Q, "progress", "jobId", report.id, "data", report.progress)
    end
  end
end
local written = {}
for _, line in ipairs(A.lines) do
  local log = own[line.report]
  if log then
    redis.call("RPUSH", log.key, line.text)
    written[log.key] = log.keep
  end
end
for key, keep in pairs(written) do
  if keep > 0 then
    redis.call("LTRIM", key, -keep, -1)
  else
    redis.call("DEL", key)
  end
end
return lost
