-- A scope's counters and the server's clock. KEYS: the counters. ARGV: wall, steady.
local wall, steady = clock(tonumber(ARGV[1]), tonumber(ARGV[2]))
return {wall, steady, redis.call('GET', KEYS[1])}
