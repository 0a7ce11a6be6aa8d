-- A claim, as it stands in the packed arguments from `at`: version, three limits, three periods,
-- requests and tokens per minute, concurrency.
local CLAIM = 10

local function refresh(c, a, at, wall, steady)
  for n = 1, 3 do turn(c, COUNTS[n], a[at + 3 + n], wall) end
  refill(c, REQUESTS_BUCKET, a[at + 7], steady)
  refill(c, TOKENS_BUCKET, a[at + 8], steady)
end

-- What is left of each resource; math.huge where unlimited.
local function left_of(c, a, at)
  local left = {0, 0, 0}
  for n = 1, 3 do
    local limit, count = a[at + n], COUNTS[n]
    left[n] = limit == 0 and math.huge or limit - c[count + USED] - c[count + HELD]
  end
  return left
end
