"""The Lua scripts that run inside the server, one atomic step each.

The rules that they keep together:

* A session is only ever created by CREATE, under an id that was never used. TOUCH and SAVE never
  bring back what is gone, so no late request revives a session that was logged out.
* SAVE and REPLACE compare the version, so that no request overwrites what it has not seen.
* A session expires when it was not used for the idle time, and at `expires_at` in any case. That is
  fixed at its creation, and encrypted with it.
* REPLACE leaves a note where the session was, which END follows: whoever logs out while another
  request rotates is logged out. Nothing else follows it: the old id is worthless.
* Every session of a user is in the user's index. END_ALL turns the names in it into keys inside the
  server: a client that reads first and deletes later would miss a session that takes another's
  place in between. All of them have the hash tag of the index.
"""

from app.core.redis import Script

# As long as a request may be under way that has read the session before it moved.
_MOVED_MS = 60_000

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# KEYS session. ARGV idle (ms). Answers {blob, version, expires_at}, or nothing.
_TOUCH = f"""{_NOW}
local found = redis.call('HMGET', KEYS[1], 'blob', 'version', 'expires_at')
if not found[1] then return false end
local left = (tonumber(found[3]) or 0) - now
if left <= 0 then
  redis.call('DEL', KEYS[1])
  return false
end
redis.call('PEXPIRE', KEYS[1], math.min(left, tonumber(ARGV[1])))
-- Until then, LIST sees in what is left of the idle time when this was.
if left < tonumber(ARGV[1]) then redis.call('HSET', KEYS[1], 'used', now) end
return found
"""

# KEYS session. ARGV version that was seen, blob, idle (ms).
# Answers 1, 0 (it is at another version) or -1 (it is gone).
_SAVE = f"""{_NOW}
local found = redis.call('HMGET', KEYS[1], 'version', 'expires_at')
if not found[1] then return -1 end
if found[1] ~= ARGV[1] then return 0 end
local left = (tonumber(found[2]) or 0) - now
if left <= 0 then
  redis.call('DEL', KEYS[1])
  return -1
end
redis.call('HSET', KEYS[1], 'blob', ARGV[2], 'version', found[1] + 1)
redis.call('PEXPIRE', KEYS[1], math.min(left, tonumber(ARGV[3])))
return 1
"""

# Puts a session into its user's index. A full index first forgets the sessions that are gone, then
# ends the one that would end first.
_ENLIST = """
local function enlist(index, key, expires_at, most)
  local name = string.match(key, '[^:]+$')
  local beside = string.sub(key, 1, #key - #name)
  redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
  if redis.call('ZCARD', index) >= most then
    for _, other in ipairs(redis.call('ZRANGE', index, 0, -1)) do
      if redis.call('EXISTS', beside .. other) == 0 then redis.call('ZREM', index, other) end
    end
  end
  while redis.call('ZCARD', index) >= most do
    redis.call('UNLINK', beside .. redis.call('ZPOPMIN', index)[1])
  end
  redis.call('ZADD', index, expires_at, name)
  local last = redis.call('ZRANGE', index, -1, -1, 'WITHSCORES')[2]
  redis.call('PEXPIREAT', index, last)
end
local function create(key, blob, expires_at, idle)
  redis.call('HSET', key, 'blob', blob, 'version', '1', 'expires_at', expires_at)
  redis.call('PEXPIRE', key, math.max(1, math.min(tonumber(expires_at) - now, tonumber(idle))))
end
"""

# KEYS session[, index of its user].
# ARGV blob, expires_at (ms since 1970), idle (ms), most sessions of a user.
_CREATE = f"""{_NOW}{_ENLIST}
create(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if KEYS[2] then enlist(KEYS[2], KEYS[1], ARGV[2], tonumber(ARGV[4])) end
return 1
"""

# KEYS new session, old session[, index of their user]. ARGV as CREATE, and the old version that was
# seen. Answers as SAVE.
_REPLACE = f"""{_NOW}{_ENLIST}
local version = redis.call('HGET', KEYS[2], 'version')
if not version then return -1 end
if version ~= ARGV[5] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], 'moved', string.match(KEYS[1], '[^:]+$'))
redis.call('PEXPIRE', KEYS[2], {_MOVED_MS})
create(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if KEYS[3] then
  redis.call('ZREM', KEYS[3], string.match(KEYS[2], '[^:]+$'))
  enlist(KEYS[3], KEYS[1], ARGV[2], tonumber(ARGV[4]))
end
return 1
"""

# KEYS session[, index of its user].
_END = """
local name = string.match(KEYS[1], '[^:]+$')
local beside = string.sub(KEYS[1], 1, #KEYS[1] - #name)
while name do
  local moved = redis.call('HGET', beside .. name, 'moved')
  redis.call('DEL', beside .. name)
  if KEYS[2] then redis.call('ZREM', KEYS[2], name) end
  name = moved
end
return 1
"""

# KEYS index of a user. ARGV what the keys of the sessions begin with, the one that stays or ''.
# Answers how many ended.
_END_ALL = """
local ended = 0
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if name ~= ARGV[2] then
    ended = ended + redis.call('UNLINK', ARGV[1] .. name)
    redis.call('ZREM', KEYS[1], name)
  end
end
return ended
"""

# KEYS index of a user. ARGV what the keys of the sessions begin with, idle (ms).
# Answers {name, blob, version, expires_at, when it was last used (ms)} of each.
_LIST = f"""{_NOW}
local answer = {{}}
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local key = ARGV[1] .. name
  local found = redis.call('HMGET', key, 'blob', 'version', 'expires_at', 'used')
  if found[1] and (tonumber(found[3]) or 0) > now then
    local used = tonumber(found[4]) or now - (tonumber(ARGV[2]) - redis.call('PTTL', key))
    answer[#answer + 1] = {{name, found[1], found[2], found[3], math.min(used, now)}}
  end
end
return answer
"""

# Every command of the scripts above, so that what a server denies, refuses or does not have is
# found before a login needs it. KEYS no session, no index. Leaves nothing behind.
_CHECK = f"""{_NOW}
redis.call('HSET', KEYS[1], 'version', now)
redis.call('HGET', KEYS[1], 'version')
redis.call('HMGET', KEYS[1], 'version', 'expires_at')
redis.call('EXISTS', KEYS[1])
redis.call('PEXPIRE', KEYS[1], 1000)
redis.call('PTTL', KEYS[1])
redis.call('ZADD', KEYS[2], now, 'a', now, 'b', now, 'c')
redis.call('PEXPIREAT', KEYS[2], now + 1000)
redis.call('ZCARD', KEYS[2])
redis.call('ZRANGE', KEYS[2], 0, -1)
redis.call('ZPOPMIN', KEYS[2])
redis.call('ZREM', KEYS[2], 'b')
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.call('DEL', KEYS[1])
redis.call('UNLINK', KEYS[2])
return 1
"""

TOUCH = Script(_TOUCH)
SAVE = Script(_SAVE)
CREATE = Script(_CREATE)
REPLACE = Script(_REPLACE)
END = Script(_END)
END_ALL = Script(_END_ALL)
LIST = Script(_LIST)
CHECK = Script(_CHECK)
