"""The Lua that runs inside the servers, one atomic step each.

The rules the scripts keep together:

* A claim is a token made before sending. Whoever repeats an acquire with the same token gets the
  same answer, so a lost reply or a retry can neither orphan a lock nor grant it twice.
* A lock is only ever created by ACQUIRE. EXTEND never brings back what expired.
* The fence grows with every grant. It is the larger of the stored fence + 1 and the server's clock
  in microseconds, so that it grows on even when the stored one is gone (expired, or lost with the
  server's memory) and no counter has to live for ever.
* A server that lost its memory does not know which locks it granted. It refuses until the longest
  of them has expired: the delayed restart of https://redis.io/docs/latest/develop/clients/patterns/
  distributed-locks/. It notices by itself, from a marker that is gone (restart without persistence,
  FLUSHALL) or that names another replication id (restart with persistence, promotion of a replica).
"""

from app.core.redis import Script

# Milliseconds for which this server still has to refuse; starts that time when it finds no memory.
_QUARANTINE = """
local function quarantine(marker, now, duration_ms)
  if duration_ms == 0 then return 0 end
  local id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') or 'unknown'
  local known = redis.call('HMGET', marker, 'id', 'since')
  local since = tonumber(known[2])
  -- A clock that was set back must not make the time longer.
  if known[1] ~= id or not since or since > now then
    since = now
    redis.call('HSET', marker, 'id', id, 'since', string.format('%.0f', now))
  end
  return math.max(0, math.ceil((since - now) / 1000 + duration_ms))
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""

# KEYS marker. ARGV quarantine (ms).
_SURVEY = f"{_QUARANTINE}return quarantine(KEYS[1], now, tonumber(ARGV[1]))"

# KEYS lock, fence, marker. ARGV token, ttl (ms), quarantine (ms), ttl of the fence (ms).
# Answers {1, fence}, {0, ms until the lock expires} or {-1, ms until the quarantine ends}.
_ACQUIRE = f"""{_QUARANTINE}
local wait = quarantine(KEYS[3], now, tonumber(ARGV[3]))
if wait > 0 then return {{-1, wait}} end
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return {{0, redis.call('PTTL', KEYS[1])}} end
local fence = tonumber(redis.call('GET', KEYS[2]) or 0)
if not holder or fence == 0 then
  fence = math.max(fence + 1, now)
  redis.call('SET', KEYS[2], string.format('%.0f', fence), 'PX', ARGV[4])
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {{1, fence}}
"""

# KEYS lock. ARGV token, ttl (ms).
_EXTEND = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

# KEYS lock. ARGV token, channel. Answers -1 when it was not ours, else how many were told. The
# message says how many hear it, so that they need not all come at once.
_RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
redis.call('DEL', KEYS[1])
local listeners = redis.call('PUBSUB', 'NUMSUB', ARGV[2])[2]
return redis.call('PUBLISH', ARGV[2], listeners .. ' ' .. ARGV[1])
"""

# KEYS lock, fence. ARGV token, fence, ttl of the fence (ms).
_RAISE_FENCE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if tonumber(redis.call('GET', KEYS[2]) or 0) < tonumber(ARGV[2]) then
  redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
end
return 1
"""

SURVEY = Script(_SURVEY)
ACQUIRE = Script(_ACQUIRE)
EXTEND = Script(_EXTEND)
RELEASE = Script(_RELEASE)
RAISE_FENCE = Script(_RAISE_FENCE)
