-- Say which job owns a deduplication id.
-- include: job

-- One without a time is free once its owner has ended or is gone, though nobody has said so.
local function owner_of(Q, deduplication_id)
  local key = Q["de:"] .. deduplication_id
  local owner = redis.call("GET", key)
  if not owner then
    return nil
  end
  local ttl = redis.call("PTTL", key)
  if ttl == 0 or (ttl == -1 and not is_unfinished(Q.base .. owner)) then
    return nil
  end
  return owner
end
