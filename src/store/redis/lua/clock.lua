-- The server's clock, unless the caller brings one (tests do).
local floor, fmod, min, max = math.floor, math.fmod, math.min, math.max

local function clock(wall, steady)
  if wall >= 0 then return wall, steady end
  local time = redis.call('TIME')
  local now = time[1] * 1000 + floor(time[2] / 1000)
  return now, now
end
