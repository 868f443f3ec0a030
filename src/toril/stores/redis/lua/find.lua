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

-- Lists are served from their tail.
local function list_page()
  local length = redis.call("LLEN", key)
  local function rank_of(id)
    local at = redis.call("LPOS", key, id, "RANK", reversed and 1 or -1)
    return at and (reversed and at or length - 1 - at)
  end
  local first = first_of(rank_of, function()
    return tonumber(A.place)
  end)
  local ids = redis.call("LRANGE", key, unpack(reversed and { first, first + limit - 1 } or { -first - limit, -first - 1 }))
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

if A.collection == "wait" or A.collection == "active" then
  list_page()
else
  set_page()
end
return found
