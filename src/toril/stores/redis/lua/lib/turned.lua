-- Let keys expire by the clock that a test turns: their times lie so far ahead that the server's clock never reaches
-- them, and `age` deletes what is due. Events say that clock's time too, unless the server's has been there before. Put
-- before every script when the clock is turned; needs A.now.

local FAR_MS = 1000000000000
local server = redis
local redis = {}

local function moment(ms)
  return string.format("%.0f", FAR_MS + tonumber(A.now) + tonumber(ms))
end

local function remaining(key)
  local at = server.call("PEXPIRETIME", key)
  return at < 0 and at or math.max(0, at - FAR_MS - tonumber(A.now))
end

local function append(key, ...)
  local words = { ... }
  for i, word in ipairs(words) do
    if word == "*" then
      words[i] = A.now .. "-*"
      break
    end
  end
  local id = server.pcall("XADD", key, unpack(words))
  return type(id) == "string" and id or server.call("XADD", key, ...)
end

function redis.call(command, ...)
  if command == "PTTL" then
    return remaining(...)
  elseif command == "XADD" then
    return append(...)
  elseif command == "PEXPIRE" then
    local key, ms = ...
    return server.call("PEXPIREAT", key, moment(ms))
  elseif command ~= "SET" then
    return server.call(command, ...)
  end
  local words = { ... }
  for i = 3, #words - 1 do
    if words[i] == "PX" then
      words[i], words[i + 1] = "PXAT", moment(words[i + 1])
      break
    end
  end
  return server.call("SET", unpack(words))
end
