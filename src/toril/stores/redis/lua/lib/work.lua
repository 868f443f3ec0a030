-- Keep a call short: what it does is counted, and when it has done its share it ends, to be made again for the rest.
-- Needs A.limit: about how many jobs it may change.

local ITEMS = 500 -- of a list are searched in the time in which one job is changed

local work_left = tonumber(A.limit)

local function worked(jobs)
  work_left = work_left - jobs
end

local function searched(items)
  work_left = work_left - items / ITEMS
end
