-- Writing an event and the sums of its day. Shared by the steps that book.
local SUMS, SUMS_BYTES = '>i8i8i8i8i8i8i8i8', 64

local function note_activity(c, requests, is_error, created)
  c[REQUEST_COUNT] = c[REQUEST_COUNT] + requests
  c[ERROR_COUNT] = c[ERROR_COUNT] + is_error
  c[EVENTS] = c[EVENTS] + 1
  if requests > 0 then c[LAST_USED] = max(c[LAST_USED], created) end
end

-- `sets`: from where on KEYS are the events that drew on the request quota, the shard's index of such,
-- and the same of those that did not. `order` tells events of one millisecond apart; `row` is false
-- where only the sums move.
local function book(sets, sums_key, errors, days, order, late, created, charged, prompt,
    completion, took, is_error, event, model, error_code, key_id, row)
  if row then
    local set = charged[1] > 0 and sets or sets + 2
    local head = struct.pack('>i8i8i8i8i8', order, charged[1], charged[2], charged[3], late and 1 or 0)
    redis.call('ZADD', KEYS[set], created, head .. event)
    redis.call('ZADD', KEYS[set + 1], created, struct.pack('>i8', order) .. key_id)
  end
  local sums = {0, 0, 0, 0, 0, 0, 0, 0}
  local known = redis.call('HGET', sums_key, model)
  if known then
    -- Older rows end before the calls, which were charged or failed then.
    if #known < SUMS_BYTES then
      local requests, _, _, _, _, failed = struct.unpack(SUMS, known .. struct.pack('>i8', 0))
      known = known .. struct.pack('>i8', requests + failed)
    end
    sums = {struct.unpack(SUMS, known)}
  else
    redis.call('ZADD', days, 0, string.sub(sums_key, -10) .. key_id)
  end
  local more = {charged[1], charged[2], prompt, completion, charged[3], is_error, took, 1}
  for n = 1, 8 do sums[n] = sums[n] + more[n] end
  redis.call('HSET', sums_key, model, struct.pack(SUMS, unpack(sums, 1, 8)))
  if is_error == 1 then redis.call('HINCRBY', errors, error_code, 1) end
end
