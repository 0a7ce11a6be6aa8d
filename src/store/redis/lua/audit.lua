-- Notes what an operator did, by the server's clock in microseconds. Entries differ, so one that is
-- noted again is there once.
local function note(audit, entry)
  local time = redis.call('TIME')
  redis.call('ZADD', audit, time[1] * 1000000 + time[2], entry)
end
