-- Giving back what one scope holds and booking what was charged, in the window the hold came from.
-- `e`: wall, steady, rated, late, void, held, charged; `taken`: from the tokens bucket, -1 none; `numbers`: of
-- the windows the hold came from.
local function close(c, e, taken, numbers)
  turn_windows(c, e.wall)
  for n = 1, 3 do
    local count = COUNTS[n]
    c[count + BOOKED] = c[count + BOOKED] + e.charged[n]
    if numbers[n] == PRESENT or c[count + NUMBER] == numbers[n] then
      c[count + USED] = c[count + USED] + e.charged[n]
      if not e.late then c[count + HELD] = c[count + HELD] - e.held[n] end
    end
  end
  -- What is given back or taken late must not depend on who asked meanwhile.
  refill(c, REQUESTS_BUCKET, c[REQUESTS_BUCKET + LIMIT], e.steady)
  refill(c, TOKENS_BUCKET, c[TOKENS_BUCKET + LIMIT], e.steady)
  if not e.rated then return end
  local has_bucket = c[TOKENS_BUCKET + LIMIT] > 0
  if e.late then
    if has_bucket then take(c, TOKENS_BUCKET, e.charged[2]) end
    return
  end
  c[RUNNING] = c[RUNNING] - 1
  if taken >= 0 and has_bucket then give_back(c, TOKENS_BUCKET, taken - e.charged[2]) end
  if e.void and c[REQUESTS_BUCKET + LIMIT] > 0 then give_back(c, REQUESTS_BUCKET, 1) end
end
