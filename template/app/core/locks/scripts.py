"""The Lua scripts that run inside the servers, one atomic step each.

Together they keep these rules:

* A claim is a token made before sending. An acquire that is repeated with the same token gets the
  same answer, so a lost reply or a retry can neither orphan a lock nor grant it twice.
* A lock is only ever created by ACQUIRE, by its last command: an error means that there is none.
  EXTEND never brings back what expired.
* The fence grows with every grant. It is the larger of the stored fence + 1 and the server's clock
  in microseconds, so that it grows even if the stored one is gone (expired, or lost in a restart)
  and no counter has to be kept for ever.
* A server that was restarted without its data does not know which locks it granted. It refuses all
  until the longest of them has expired: the delayed restart of https://redis.io/docs/latest/develop/
  clients/patterns/distributed-locks/. A restart marker among the locks tells, see QUARANTINE.
* PUBLISH is optional: where the user may not do it, the lock is released all the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from app.core.redis import Script

# The marker says which server wrote it: by its replication id, which changes with every restart and
# every promotion of a replica. It also changes when a primary gets its first replica, or has had
# none for an hour (`repl-backlog-ttl`), when nothing is forgotten: then it is the same run of the
# server, and without an earlier history (`master_replid2`), as a promoted replica has one. Without
# the right to use INFO only a marker that is gone is noticed.
#
# In a cluster a marker moves along with the slot of its locks, to a server that did not write it.
# To that server it looks like a promotion; the marker keeps who wrote it before, for VOUCH.
_QUARANTINE = """
local function ask(section)
  local info = redis.pcall('INFO', section)
  return type(info) == 'string' and info or ''
end
local function name(replid)
  return (string.match(ask('server'), 'run_id:(%x+)') or '?') .. ':' .. replid
end
-- Milliseconds for which this server has to refuse locks, from when it may have forgotten some.
local function quarantine(marker, now, duration_ms)
  if duration_ms == 0 then return 0 end
  local replication = ask('replication')
  local replid = string.match(replication, 'master_replid:(%x+)')
  local known = redis.call('HMGET', marker, 'id', 'since', 'server')
  local since = tonumber(known[2])
  -- A clock that was set back must not make the time longer.
  local forgotten = not since or since > now
  if forgotten or replid and known[1] ~= replid then
    local server = replid and name(replid) or '?'
    local run, by = string.match(server, '^%x+:'), known[3] or ''
    local goes_on = run and string.sub(by, 1, #run) == run
      and string.match(replication, 'master_replid2:0+%s')
    if forgotten or not goes_on then
      redis.call('HSET', marker, 'before', by, 'before_since', known[2] or '')
      since = now
    end
    redis.call('HSET', marker, 'id', replid or '', 'server', server,
      'since', string.format('%.0f', since))
  end
  return math.max(0, math.ceil((since - now) / 1000 + duration_ms))
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""

# KEYS marker. ARGV quarantine (ms). Returns {ms to refuse, this server, the server that wrote the
# marker before, 1 if this server has run for longer than any lock that it could have forgotten}.
_CHECK_MARKER = f"""{_QUARANTINE}
local wait = quarantine(KEYS[1], now, tonumber(ARGV[1]))
local marker = redis.call('HMGET', KEYS[1], 'server', 'before')
local up = tonumber(string.match(ask('server'), 'uptime_in_seconds:(%d+)')) or 0
local first = string.match(ask('replication'), 'master_replid2:0+%s')
local steady = first and up * 1000 > tonumber(ARGV[1])
return {{wait, marker[1] or '', marker[2] or '', steady and 1 or 0}}
"""

# KEYS marker. ARGV this server. The locks of the marker moved here, and the caller knows that
# neither server has forgotten any: continue as on the server that they came from. Returns 1 if so.
_VOUCH = f"""{_QUARANTINE}
local replid = string.match(ask('replication'), 'master_replid:(%x+)') or '?'
local marker = redis.call('HMGET', KEYS[1], 'server', 'before_since')
if name(replid) ~= ARGV[1] or marker[1] ~= ARGV[1] or not tonumber(marker[2]) then return 0 end
redis.call('HSET', KEYS[1], 'since', marker[2], 'before', '', 'before_since', '')
return 1
"""

# KEYS lock, fence, marker. ARGV token, ttl (ms), quarantine (ms), ttl of the fence (ms).
# Returns {1, fence}, {0, ms until the lock expires} or {-1, ms until the quarantine ends}.
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

# KEYS lock. ARGV token, channel. Returns -1 if the claim did not hold it, else how many processes
# were notified. The message has their number, so that they need not all try at once.
_RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
redis.call('DEL', KEYS[1])
local listeners = redis.pcall('PUBSUB', 'NUMSUB', ARGV[2])[2] or 1
local notified = redis.pcall('PUBLISH', ARGV[2], listeners .. ' ' .. ARGV[1])
return type(notified) == 'number' and notified or 0
"""

# KEYS lock, fence. ARGV token, fence, ttl of the fence (ms).
_RAISE_FENCE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if tonumber(redis.call('GET', KEYS[2]) or 0) < tonumber(ARGV[2]) then
  redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
end
return 1
"""

# KEYS two of its own. ARGV channel. Runs each command of the other scripts. Returns the names of
# those that are refused, each followed by the error. On a replica the whole script fails, after
# which the connection is replaced.
_PROBE = """
local refused, demoted = {}, nil
local function try(command, ...)
  local answer = redis.pcall(command, ...)
  if type(answer) == 'table' and answer.err then
    demoted = string.find(answer.err, 'READONLY') and answer or demoted
    table.insert(refused, command)
    table.insert(refused, answer.err)
  end
end
try('TIME')
try('INFO', 'replication')
try('GET', KEYS[1])
try('SET', KEYS[1], '', 'PX', 1000)
try('PEXPIRE', KEYS[1], 1000)
try('PTTL', KEYS[1])
try('HMGET', KEYS[2], 'since')
try('HSET', KEYS[2], 'since', 0)
try('DEL', KEYS[1], KEYS[2])
try('PUBSUB', 'NUMSUB', ARGV[1])
try('PUBLISH', ARGV[1], '')
return demoted or refused
"""

CHECK_MARKER = Script(_CHECK_MARKER)
VOUCH = Script(_VOUCH)
ACQUIRE = Script(_ACQUIRE)
EXTEND = Script(_EXTEND)
RELEASE = Script(_RELEASE)
RAISE_FENCE = Script(_RAISE_FENCE)
PROBE = Script(_PROBE)


@dataclass(frozen=True, slots=True)
class MarkerState:
    """What a server knows about one restart marker."""

    wait_ms: int
    """Milliseconds for which locks beside the marker are refused."""
    server: str
    """The server, and its replication history."""
    before: str
    """The server that wrote the marker before, if it was another one."""
    steady: bool
    """The server has run for longer than any lock lasts, and was never a replica."""


def moved(states: Mapping[str, MarkerState]) -> dict[str, str]:
    """Return the markers that moved here with their slots, and the servers where they are now.

    Nothing was forgotten if the server that wrote the marker is still the same (it speaks for other
    markers), and the one that has it now has been itself for longer than any lock lasts: according
    to another marker, or because it has run for that long. A server that replaced a failed one is
    in no marker, and one that has lost its last marker to a move cannot be asked any more.
    """
    alive = {state.server for state in states.values()}
    trusted = {state.server for state in states.values() if not state.wait_ms or state.steady}
    return {
        marker: state.server
        for marker, state in states.items()
        if state.wait_ms and state.before in alive and state.server in trusted
    }
