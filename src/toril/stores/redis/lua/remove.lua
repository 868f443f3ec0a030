-- Remove jobs with all that belongs to them, the jobs below them included.
-- KEYS  *queues
-- ARGV  now call limit begun *refs(queue id)
-- RETURNS  {of each job done, missing, locked (it or one below it runs) or wrong-state (its scheduler waits for it); 1 when
--          the removal of the next one has begun, else 0}: when it has done so much it ends, to be called for the rest
-- FLAGS  allow-oom
-- include: remove

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
  return found
end

-- A job and those below it, children before their parents, at most so many; whether that is all of them. A child that has
-- another parent by now, or none, stays.
local function gather(Q, id, family, most)
  local key = Q.base .. id
  family.seen[key] = true
  for _, child in ipairs(children_of(key)) do
    if #family >= most then
      return false
    end
    if not family.seen[child] and redis.call("HGET", child, "parentKey") == key then
      local base, child_id = split(child)
      if not gather(queue(base), child_id, family, most) then
        return false
      end
    end
  end
  family[#family + 1] = { queue = Q, id = id }
  return true
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
  local before = take_out(Q, id, COLLECTIONS) or "unknown"
  forget(Q, job)
  emit(Q, "removed", "jobId", id, "prev", before)
  worked(1)
end

-- As many as there is time for; whether that was all of them.
local function remove_all(family)
  for _, member in ipairs(family) do
    if work_left <= 0 then
      return false
    end
    remove(member.queue, member.id)
  end
  return true
end

local answers, begun = {}, A.begun == "1"
for place, ref in ipairs(A.refs) do
  if work_left <= 0 then
    break
  end
  local Q, family = queue_at(ref.queue), { seen = {} }
  -- The whole family is looked at before the first of it goes, and then only as much as goes in one call.
  local whole = gather(Q, ref.id, family, begun and math.ceil(work_left) or math.huge)
  local refusal = refusal_of(Q, ref.id, family)
  if not refusal and not (remove_all(family) and whole) then
    begun = true
    break
  end
  answers[place], begun = refusal or "done", false
end
wind_up()
return { answers, begun and 1 or 0 }
