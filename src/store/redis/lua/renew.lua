-- Extends leases of those still open. KEYS: the leases. ARGV: wall, steady, the lease, then ids.
local _, steady = clock(tonumber(ARGV[1]), tonumber(ARGV[2]))
local deadline = steady + tonumber(ARGV[3])
for n = 4, #ARGV do redis.call('ZADD', KEYS[1], 'XX', deadline, ARGV[n]) end
return 1
