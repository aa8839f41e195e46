"""The Lua that makes filling an entry safe. A hit runs none of it.

The lease is the idea of "Scaling Memcache at Facebook" (Nishtala et al., NSDI 2013): a miss hands
out a token, only the holder of the token may store, and deleting the entry takes the token away.
So a load that began before an invalidation can never overwrite what came after it.
"""

from app.core.cache.entry import ID_OFFSET, ID_SIZE
from app.core.redis import Script

THROTTLED = "throttled"

# KEYS value, lease. ARGV token, lease ttl (ms), id of the entry the caller saw ("" for none).
# Answers {1} granted; {0, 1} what is stored is no longer what the caller saw; {0, holder, ms} the
# lease is taken, by the token of somebody else or for a failure that nobody should repeat yet.
_LEASE = f"""
local id = redis.pcall('GETRANGE', KEYS[1], {ID_OFFSET}, {ID_OFFSET + ID_SIZE - 1})
if type(id) == 'table' then id = '' end -- not a string: nothing that anybody could have seen
if id ~= ARGV[3] then return {{0, 1}} end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return {{1}} end
return {{0, redis.call('GET', KEYS[2]), redis.call('PTTL', KEYS[2])}}
"""

# KEYS value, lease. ARGV token, entry, ttl (ms).
_STORE = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[2])
return 1
"""

# KEYS lease. ARGV token, throttle (ms; 0 gives the lease back at once).
_RELEASE = f"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if tonumber(ARGV[2]) > 0 then redis.call('SET', KEYS[1], '{THROTTLED}', 'PX', ARGV[2])
else redis.call('DEL', KEYS[1]) end
return 1
"""

# KEYS lease. ARGV token, lease ttl (ms).
_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

# KEYS version. ARGV a new one, ttl (ms; 0: for good). Answers the version that there is now.
# `SET ... NX GET` would do the same, from Redis 7.0 on.
_VERSION = """
local known = redis.call('GET', KEYS[1])
if known then return known end
if ARGV[2] == '0' then redis.call('SET', KEYS[1], ARGV[1])
else redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return ARGV[1]
"""

# KEYS version. ARGV what it was, ttl (ms). Lets it last for as long as an entry that carries it.
_KEEP_VERSION = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local left, wanted = redis.call('PTTL', KEYS[1]), tonumber(ARGV[2])
if left >= 0 and left < wanted then redis.call('SET', KEYS[1], ARGV[1], 'PX', wanted) end
return 1
"""

# KEYS any, which says whom to ask. Answers seconds and microseconds; nothing to who may not know.
_TIME = """
local told = redis.pcall('TIME')
if told.err then return {} end
return told
"""

LEASE = Script(_LEASE)
TIME = Script(_TIME)
VERSION = Script(_VERSION)
KEEP_VERSION = Script(_KEEP_VERSION)
RENEW = Script(_RENEW)
STORE = Script(_STORE)
RELEASE = Script(_RELEASE)
