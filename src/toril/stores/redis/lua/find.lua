-- Page through a collection, beginning with the job that runs next or has ended first, or at the other end.
-- KEYS  *queues
-- ARGV  now collection last_id next_id place limit reversed
-- RETURNS  {id, place} of each. The last id of a page, the one that came next and the place of the last say where the page
--          behind it begins: a place is a score, or how many are before it in a list
-- FLAGS  no-writes
-- include: queue

local Q = queue_at(1)
local key = Q[A.collection]
local limit = tonumber(A.limit)
local reversed = A.reversed == "1"
local found = {}

-- Jobs come and go meanwhile, and may have been put elsewhere: better to show one twice than to pass one over.
local function first_of(rank_of, fallback)
  if A.last_id == "" then
    return 0
  end
  local last, upcoming = rank_of(A.last_id), rank_of(A.next_id)
  if last and upcoming then
    return math.min(last + 1, upcoming)
  end
  return last and last + 1 or upcoming or fallback()
end

-- Lists are served from their tail; of two, the second is served first.
local function list_page(lists)
  local before, length = {}, 0
  for n, list in ipairs(lists) do
    before[n] = length
    length = length + redis.call("LLEN", list)
  end
  local function place_of(id)
    for n, list in ipairs(lists) do
      local at = redis.call("LPOS", list, id, "RANK", reversed and 1 or -1)
      if at then
        return before[n] + at
      end
    end
  end
  local function rank_of(id)
    local at = place_of(id)
    return at and (reversed and at or length - 1 - at)
  end
  local first = first_of(rank_of, function()
    return tonumber(A.place)
  end)
  local head = reversed and first or length - first - limit
  local ids = {}
  for n, list in ipairs(lists) do
    local from, to = head - before[n], head + limit - 1 - before[n]
    for _, id in ipairs(to >= 0 and redis.call("LRANGE", list, math.max(0, from), to) or {}) do
      ids[#ids + 1] = id
    end
  end
  for i = 1, #ids do
    found[i] = { ids[reversed and i or #ids + 1 - i], tostring(first + i - 1) }
  end
end

local function set_page()
  local function rank_of(id)
    return redis.call(reversed and "ZREVRANK" or "ZRANK", key, id)
  end
  local first = first_of(rank_of, function()
    return redis.call("ZCOUNT", key, unpack(reversed and { A.place, "+inf" } or { "-inf", A.place }))
  end)
  local page = redis.call(reversed and "ZREVRANGE" or "ZRANGE", key, first, first + limit - 1, "WITHSCORES")
  for i = 1, #page, 2 do
    found[#found + 1] = { page[i], page[i + 1] }
  end
end

if A.collection == "wait" then
  list_page({ Q.wait, Q.paused }) -- in a pause by versions of Node before 6, jobs wait in the other
elseif A.collection == "active" then
  list_page({ Q.active })
else
  set_page()
end
return found
