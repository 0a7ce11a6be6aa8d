-- Takes numbers that nobody gets a second time. KEYS: the last number given. ARGV: below which none is
-- given any more, how many are taken. Answers the last of them.
local last = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), tonumber(ARGV[1])) + tonumber(ARGV[2])
redis.call('SET', KEYS[1], string.format('%.0f', last))
return last
