-- Writing an event and the sums of its day. Shared by the steps that book.
local SUMS = '>i8i8i8i8i8i8i8'

local function note_activity(c, requests, is_error, created)
  c[REQUEST_COUNT] = c[REQUEST_COUNT] + requests
  c[ERROR_COUNT] = c[ERROR_COUNT] + is_error
  c[EVENTS] = c[EVENTS] + 1
  if requests > 0 then c[LAST_USED] = max(c[LAST_USED], created) end
end

-- `order` tells events of one millisecond apart; `row` is false where only the sums move.
local function book(events, shard_events, sums_key, errors, days, order, late, created, charged, prompt,
    completion, took, is_error, event, model, error_code, key_id, row)
  if row then
    local head = struct.pack('>i8i8i8i8i8', order, charged[1], charged[2], charged[3], late and 1 or 0)
    redis.call('ZADD', events, created, head .. event)
    redis.call('ZADD', shard_events, created, struct.pack('>i8', order) .. key_id)
  end
  local sums = {0, 0, 0, 0, 0, 0, 0}
  local known = redis.call('HGET', sums_key, model)
  if known then
    sums = {struct.unpack(SUMS, known)}
  else
    redis.call('ZADD', days, 0, string.sub(sums_key, -10) .. key_id)
  end
  local more = {charged[1], charged[2], prompt, completion, charged[3], is_error, took}
  for n = 1, 7 do sums[n] = sums[n] + more[n] end
  redis.call('HSET', sums_key, model, struct.pack(SUMS, unpack(sums, 1, 7)))
  if is_error == 1 then redis.call('HINCRBY', errors, error_code, 1) end
end
