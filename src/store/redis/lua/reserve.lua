-- Checks and takes every claim of an ask, all or nothing.
-- KEYS: the reservation, the leases, the key's counters, the group's counters (where claimed).
-- ARGV: the packed ask, the reservation's id, its subject.
-- Answers a packed code and figures, then the counters of each scope.
local GRANTED_CODE, SHORT, CHANGED, RESOLVED, OUT_OF_RANGE = 1, 2, 3, 4, 5
local WALL, STEADY, ADMISSION, REQUESTS, INPUT, OUTPUT, LEAST, FIXED, PRICE, LIMITED, LEASE = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
local CLAIMS = {12, 22}
local CLAMP, STRICT = 0, 1
local OF_KEY, OF_KEY_AND_GROUP = '>' .. string.rep('i8', 21), '>' .. string.rep('i8', 31)

local scopes = #KEYS - 2
local a = {struct.unpack(scopes == 1 and OF_KEY or OF_KEY_AND_GROUP, ARGV[1])}
local wall, steady = clock(a[WALL], a[STEADY])

local function answer(code, output, left, requests, tokens, usd, blobs)
  return struct.pack('>i8i8i8i8i8i8i8i8', code, output, left, requests, tokens, usd, wall, steady) .. blobs
end

local counters = {}
for n = 1, scopes do
  local c = read_counters(KEYS[2 + n])
  local version = a[CLAIMS[n]]
  -- A record is changed before its counters hear of it: an ask by the newer record brings the news.
  if not c or c[VERSION] < 0 or (version >= 0 and c[VERSION] > version) then
    return answer(CHANGED, 0, 0, 0, 0, 0, '')
  end
  if version > c[VERSION] then c[VERSION], c[TURNED] = version, true end
  refresh(c, a, CLAIMS[n], wall, steady)
  counters[n] = c
end

-- Every scope's counters, one after the other: `packed`, or written too.
local function blobs(as)
  local blob = as(counters[1])
  return scopes == 1 and blob or blob .. as(counters[2])
end

local known = read_reservation(KEYS[1])
if known then
  if known[STATE] ~= OPEN then return answer(RESOLVED, 0, 0, 0, 0, 0, '') end
  local g = GRANTED
  return answer(GRANTED_CODE, known[GRANTED_OUTPUT], known[GRANTED_LEFT], known[g], known[g + 1], known[g + 2], blobs(packed))
end

local function refuse(code)
  -- Windows that turned stay turned; a mere refill need not be written.
  for n = 1, scopes do
    if counters[n][TURNED] then write_counters(counters[n]) end
  end
  return answer(code, 0, 0, 0, 0, 0, blobs(packed))
end

-- Of each resource, what the scope with the least of it has left.
local requests_left, tokens_left, usd_left = math.huge, math.huge, math.huge
for n = 1, scopes do
  local left = left_of(counters[n], a, CLAIMS[n])
  requests_left, tokens_left, usd_left = min(requests_left, left[1]), min(tokens_left, left[2]), min(usd_left, left[3])
end

local admission, input, output, fixed, price = a[ADMISSION], a[INPUT], a[OUTPUT], a[FIXED], a[PRICE]
local is_open = admission ~= CLAMP and admission ~= STRICT
local requests, tokens, usd = 1, 1, 1
if not is_open then
  local least = admission == CLAMP and min(output, a[LEAST]) or output
  requests, tokens, usd = a[REQUESTS], input + least, fixed + cost_of(least, price)
end
if requests > requests_left or tokens > tokens_left or usd > usd_left then return refuse(SHORT) end

if admission == CLAMP then output = min(output, tokens_left - input, tokens_for(usd_left - fixed, price)) end
requests, tokens, usd = a[REQUESTS], input + output, fixed + cost_of(output, price)
if is_open then
  requests, tokens, usd = min(requests, requests_left), min(tokens, tokens_left), min(usd, usd_left)
end
if max(requests, tokens, usd) > MOST then return answer(OUT_OF_RANGE, 0, 0, 0, 0, 0, '') end
local output_left = min(max(tokens_left - tokens, 0), tokens_for(max(usd_left - usd, 0), price))
output_left = output_left == math.huge and -1 or min(output_left, MOST)

local limited = a[LIMITED] == 1
if limited then
  for n = 1, scopes do
    local c = counters[n]
    local bucket = c[REQUESTS_BUCKET + LIMIT]
    if bucket > 0 and PARTS > c[REQUESTS_BUCKET + LEVEL] then return refuse(SHORT) end
    bucket = c[TOKENS_BUCKET + LIMIT]
    if bucket > 0 and min(tokens, bucket) * PARTS > c[TOKENS_BUCKET + LEVEL] then return refuse(SHORT) end
    local most = a[CLAIMS[n] + 9]
    if most > 0 and c[RUNNING] >= most then return refuse(SHORT) end
  end
end

local r = {OPEN, output, output_left, requests, tokens, usd, requests, tokens, usd, a[LIMITED],
  -1, 0, 0, 0, -1, 0, 0, 0, 0, 0, 0, ARGV[3]}
for n = 1, scopes do
  local c, scope = counters[n], SCOPES[n]
  for resource = 1, 3 do
    local count = COUNTS[resource]
    c[count + HELD] = c[count + HELD] + r[HOLD + resource - 1]
    r[scope + resource] = c[count + NUMBER]
  end
  if limited then
    c[RUNNING] = c[RUNNING] + 1
    if c[REQUESTS_BUCKET + LIMIT] > 0 then take(c, REQUESTS_BUCKET, 1) end
    if c[TOKENS_BUCKET + LIMIT] > 0 then
      r[scope] = min(tokens, c[TOKENS_BUCKET + LIMIT])
      take(c, TOKENS_BUCKET, r[scope])
    end
  end
end
write_reservation(KEYS[1], r)
redis.call('ZADD', KEYS[2], steady + a[LEASE], ARGV[2])
return answer(GRANTED_CODE, output, output_left, requests, tokens, usd, blobs(write_counters))
