-- Checks and takes every claim of an ask, all or nothing.
-- KEYS: the reservation, the leases, the key's counters, the group's counters (where claimed).
-- ARGV: the packed ask, the reservation's id, its subject.
-- Answers a packed code and figures, then the counters of each scope.
local GRANTED_CODE, SHORT, CHANGED, RESOLVED, OUT_OF_RANGE = 1, 2, 3, 4, 5
local WALL, STEADY, ADMISSION, REQUESTS, INPUT, OUTPUT, LEAST, FIXED, PRICE, LIMITED, LEASE = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
local CLAIMS = {12, 22}
local CLAMP, STRICT = 0, 1

local scopes = #KEYS - 2
local a = {struct.unpack('>' .. string.rep('i8', 11 + scopes * CLAIM), ARGV[1])}
local wall, steady = clock(a[WALL], a[STEADY])

local function answer(code, output, left, requests, tokens, usd, blobs)
  local head = struct.pack('>i8i8i8i8i8i8i8i8', code, output, left, requests, tokens, usd, wall, steady)
  return head .. table.concat(blobs)
end

local counters = {}
for n = 1, scopes do
  local c = read_counters(KEYS[2 + n])
  local version = a[CLAIMS[n]]
  -- A record is changed before its counters hear of it: an ask by the newer record brings the news.
  if not c or c[VERSION] < 0 or (version >= 0 and c[VERSION] > version) then
    return answer(CHANGED, 0, 0, 0, 0, 0, {})
  end
  if version > c[VERSION] then c[VERSION] = version c.changed = true end
  refresh(c, a, CLAIMS[n], wall, steady)
  counters[n] = c
end

local function blobs(write)
  local all = {}
  for n, c in ipairs(counters) do
    all[n] = write and write_counters(c) or packed(c)
  end
  return all
end

local known = read_reservation(KEYS[1])
if known then
  if known[STATE] ~= OPEN then return answer(RESOLVED, 0, 0, 0, 0, 0, {}) end
  local g = GRANTED
  return answer(GRANTED_CODE, known[GRANTED_OUTPUT], known[GRANTED_LEFT], known[g], known[g + 1], known[g + 2], blobs(false))
end

local function refuse(code)
  -- Windows that turned stay turned; a mere refill need not be written.
  for _, c in ipairs(counters) do
    if c.changed then write_counters(c) end
  end
  return answer(code, 0, 0, 0, 0, 0, blobs(false))
end

local input, price, fixed = a[INPUT], a[PRICE], a[FIXED]
local function amounts_for(output)
  return {a[REQUESTS], input + output, fixed + cost_of(output, price)}
end

local least
if a[ADMISSION] == CLAMP then
  least = amounts_for(min(a[OUTPUT], a[LEAST]))
elseif a[ADMISSION] == STRICT then
  least = amounts_for(a[OUTPUT])
else
  least = {1, 1, 1}
end
local lefts = {}
for n, c in ipairs(counters) do
  lefts[n] = left_of(c, a, CLAIMS[n])
  for resource = 1, 3 do
    if least[resource] > lefts[n][resource] then return refuse(SHORT) end
  end
end

local output = a[OUTPUT]
if a[ADMISSION] == CLAMP then
  for _, left in ipairs(lefts) do
    output = min(output, left[2] - input, tokens_for(left[3] - fixed, price))
  end
end
local held = amounts_for(output)
if a[ADMISSION] ~= CLAMP and a[ADMISSION] ~= STRICT then
  for _, left in ipairs(lefts) do
    for resource = 1, 3 do held[resource] = min(held[resource], left[resource]) end
  end
end
if max(held[1], held[2], held[3]) > MOST then return answer(OUT_OF_RANGE, 0, 0, 0, 0, 0, {}) end
local output_left = math.huge
for _, left in ipairs(lefts) do
  output_left = min(output_left, max(left[2] - held[2], 0), tokens_for(max(left[3] - held[3], 0), price))
end
if output_left == math.huge then output_left = -1 end
output_left = min(output_left, MOST)

local limited = a[LIMITED] == 1
if limited then
  for n, c in ipairs(counters) do
    local bucket = c[REQUESTS_BUCKET + LIMIT]
    if bucket > 0 and PARTS > c[REQUESTS_BUCKET + LEVEL] then return refuse(SHORT) end
    bucket = c[TOKENS_BUCKET + LIMIT]
    if bucket > 0 and min(held[2], bucket) * PARTS > c[TOKENS_BUCKET + LEVEL] then return refuse(SHORT) end
    local most = a[CLAIMS[n] + 9]
    if most > 0 and c[RUNNING] >= most then return refuse(SHORT) end
  end
end

local r = {OPEN, output, output_left, held[1], held[2], held[3], held[1], held[2], held[3], a[LIMITED]}
for n = 1, 2 do
  local c, taken = counters[n], -1
  if c then
    for resource, count in ipairs(COUNTS) do c[count + HELD] = c[count + HELD] + held[resource] end
    if limited then
      c[RUNNING] = c[RUNNING] + 1
      if c[REQUESTS_BUCKET + LIMIT] > 0 then take(c, REQUESTS_BUCKET, 1) end
      if c[TOKENS_BUCKET + LIMIT] > 0 then
        taken = min(held[2], c[TOKENS_BUCKET + LIMIT])
        take(c, TOKENS_BUCKET, taken)
      end
    end
  end
  r[SCOPES[n]] = taken
  for resource, count in ipairs(COUNTS) do
    r[SCOPES[n] + resource] = c and c[count + NUMBER] or 0
  end
end
for n = 0, 2 do r[CHARGED + n] = 0 end
r.key, r.subject = KEYS[1], ARGV[3]
write_reservation(r)
redis.call('ZADD', KEYS[2], steady + a[LEASE], ARGV[2])
return answer(GRANTED_CODE, output, output_left, held[1], held[2], held[3], blobs(true))
