-- Look through a piece of a collection for what should not be there; mend it if asked.
-- KEYS  *queues
-- ARGV  now mend collection cursor limit
-- RETURNS  {where the next piece begins or "" at the end, the ids if it is a list, {kind, id, detail} of what was found}
-- FLAGS  allow-oom
-- include: home parent

local GONE = "\0"

local Q = queue_at(1)
local key = Q[A.collection]
local mend = A.mend == "1"
local found = {}

local function tell(kind, id, detail)
  found[#found + 1] = { kind, id, detail }
end

-- A job that is in a sorted collection besides this one. Whether it has to leave this one.
local function leaves(id, places)
  table.insert(places, 1, A.collection)
  local belongs = home_among(Q, id, places)
  tell("twice", id, table.concat(places, " and in ") .. ", and belongs in " .. belongs)
  for _, name in ipairs(places) do
    if mend and name ~= belongs and name ~= A.collection then
      redis.call("ZREM", Q[name], id)
    end
  end
  return belongs ~= A.collection
end

-- Say what is wrong with one id. Whether it has to go.
local function faulty(id)
  local kind = kind_of(Q.base .. id)
  if kind == "none" then
    tell(string.sub(id, 1, 2) == "0:" and "old-marker" or "dangling", id, A.collection)
    return true
  elseif kind ~= "hash" then
    tell("no-job", id, kind)
    return false
  end
  if A.collection == "active" and redis.call("EXISTS", Q.base .. id .. ":lock") == 0 then
    tell("unlocked", id, "")
  end
  local others = {}
  for _, name in ipairs(scored_places(Q, id)) do
    if name ~= A.collection then
      others[#others + 1] = name
    end
  end
  if #others > 0 then
    return leaves(id, others)
  end
  if A.collection == "waiting-children" and redis.call("EXISTS", Q.base .. id .. ":dependencies") == 0 then
    tell("childless", id, "")
    if mend then
      release(Q.base .. id, tonumber(A.now))
    end
  end
  return false
end

-- From the serving end, since what is added to the other meanwhile moves nothing here.
local function list_piece()
  local passed = tonumber(A.cursor)
  local last = redis.call("LLEN", key) - passed - 1
  if last < 0 then
    return "", {}
  end
  local first = math.max(0, last + 1 - tonumber(A.limit))
  local ids = redis.call("LRANGE", key, first, last)
  local removed = 0
  for place, id in ipairs(ids) do
    if faulty(id) and mend then
      redis.call("LSET", key, first + place - 1, GONE)
      removed = removed + 1
    end
  end
  if removed > 0 then
    redis.call("LREM", key, 0, GONE)
  end
  return first == 0 and "" or tostring(passed + #ids - removed), ids
end

local function set_piece()
  local page = redis.call("ZSCAN", key, A.cursor, "COUNT", A.limit)
  for i = 1, #page[2], 2 do
    if faulty(page[2][i]) and mend then
      redis.call("ZREM", key, page[2][i])
    end
  end
  return page[1] == "0" and "" or page[1], {}
end

local is_list = A.collection == "wait" or A.collection == "paused" or A.collection == "active"
local following, ids = (is_list and list_piece or set_piece)()
wind_up()
return { following, ids, found }
