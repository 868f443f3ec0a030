-- Remove jobs with all that belongs to them, the jobs below them included.
-- KEYS  *queues
-- ARGV  now limit *refs(queue id)
-- RETURNS  of each job done, missing, locked (it or one below it runs) or wrong-state (its scheduler waits for it); of
--          fewer jobs than were asked about when so much has been done: ask again about the rest
-- FLAGS  allow-oom
-- include: remove

local now = tonumber(A.now)

local function children_of(key)
  local found = {}
  if redis.call("EXISTS", key .. ":dependencies", key .. ":processed", key .. ":failed", key .. ":unsuccessful") == 0 then
    return found
  end
  local function tell(children)
    for _, child in ipairs(children) do
      found[#found + 1] = child
    end
  end
  tell(redis.call("HKEYS", key .. ":processed"))
  tell(redis.call("HKEYS", key .. ":failed"))
  tell(redis.call("ZRANGE", key .. ":unsuccessful", 0, -1))
  tell(redis.call("SMEMBERS", key .. ":dependencies"))
  table.sort(found)
  return found
end

-- A job and those below it, children before their parents. A child that has another parent by now stays with that one.
local function gather(Q, id, family, seen)
  local key = Q.base .. id
  seen[key] = true
  for _, child in ipairs(children_of(key)) do
    if not seen[child] and redis.call("HGET", child, "parentKey") == key then
      local base, child_id = split(child)
      gather(queue(base), child_id, family, seen)
    end
  end
  family[#family + 1] = { queue = Q, id = id }
  return family
end

local function refusal_of(Q, id, family)
  local top = look_at(Q, id)
  if not top.name then
    return "missing"
  elseif is_awaited(Q, top) then
    return "wrong-state"
  end
  for _, member in ipairs(family) do
    if is_held(member.queue, member.id) then
      return "locked"
    end
  end
end

local function remove(Q, id)
  local job = look_at(Q, id)
  local before = take_out(Q, id)
  forget(Q, job, now)
  emit(Q, "removed", "jobId", id, "prev", before)
  worked(1)
end

-- As many of a family as there is time for; whether that was all of them.
local function remove_all(family)
  for _, member in ipairs(family) do
    if work_left <= 0 then
      return false
    end
    remove(member.queue, member.id)
  end
  return true
end

local answers = {}
for place, ref in ipairs(A.refs) do
  local Q = queue_at(ref.queue)
  local family = gather(Q, ref.id, {}, {})
  local refusal = refusal_of(Q, ref.id, family)
  if not refusal and not remove_all(family) then
    break
  end
  answers[place] = refusal or "done"
end
wind_up()
return answers
