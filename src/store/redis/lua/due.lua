-- Which leases have run out. KEYS: the leases. ARGV: wall, steady, how many at the most.
-- Answers the server's clock in milliseconds, then ids.
local _, steady = clock(tonumber(ARGV[1]), tonumber(ARGV[2]))
local ids = redis.call('ZRANGE', KEYS[1], '-inf', steady, 'BYSCORE', 'LIMIT', 0, ARGV[3])
table.insert(ids, 1, steady)
return ids
