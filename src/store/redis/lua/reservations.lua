-- Reservations: fields of 8 bytes, big-endian, then the subject. See replies.rs.
local STATE, GRANTED_OUTPUT, GRANTED_LEFT, GRANTED, HOLD, RATED = 1, 2, 3, 4, 7, 10
local SCOPES = {11, 15} -- of each: tokens taken (-1: no bucket), three window numbers
local CHARGED, SUBJECT = 19, 22
local RESERVATION = '>' .. string.rep('i8', 21)
local OPEN, SETTLED, EXPIRED, SETTLED_LATE = 0, 1, 2, 3

local function read_reservation(key)
  local blob = redis.call('GET', key)
  if not blob then return nil end
  if #blob < 168 then return {SETTLED} end
  local r = {struct.unpack(RESERVATION, blob)}
  r[SUBJECT] = string.sub(blob, 169)
  return r
end

local function write_reservation(key, r)
  redis.call('SET', key, struct.pack(RESERVATION, unpack(r, 1, 21)) .. r[SUBJECT])
end
