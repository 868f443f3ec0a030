-- Page through the ids of a collection, from the one that runs next, or has ended first.
-- KEYS  *queues
-- ARGV  now collection after_id after_place limit reversed
-- RETURNS  {id, place} of each, where a place is a score, or a position counted from the serving end of a list
-- include: queue

local Q = queue_at(1)
local key = Q[A.collection]
local limit = tonumber(A.limit)
local reversed = A.reversed == "1"
local found = {}

-- Lists are served from their tail.
local function list_page()
  local length = redis.call("LLEN", key)
  local step = reversed and -1 or 1
  local first = reversed and length - 1 or 0
  if A.after_id ~= "" then
    local at = redis.call("LPOS", key, A.after_id)
    first = at and (length - 1 - at) + step or tonumber(A.after_place)
  end
  for place = first, first + step * (limit - 1), step do
    local id = place >= 0 and place < length and redis.call("LINDEX", key, -1 - place)
    if not id then
      return
    end
    found[#found + 1] = { id, tostring(place) }
  end
end

local function set_page()
  local rank, range = reversed and "ZREVRANK" or "ZRANK", reversed and "ZREVRANGE" or "ZRANGE"
  local first = 0
  if A.after_id ~= "" then
    local at = redis.call(rank, key, A.after_id)
    if at then
      first = at + 1
    elseif reversed then
      first = redis.call("ZCOUNT", key, A.after_place, "+inf")
    else
      first = redis.call("ZCOUNT", key, "-inf", A.after_place)
    end
  end
  local page = redis.call(range, key, first, first + limit - 1, "WITHSCORES")
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
