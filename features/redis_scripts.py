"""The scripts that run inside Redis, each for many rows at once, and the digests by which it knows them."""

import hashlib

# KEYS: rows. ARGV: the key of the generation and what it must hold, the field of the offsets, how long the rows live in ms or 0, how
# many positions follow, each with what it must have reached; then for each row what the field of the offsets must hold, how many fields
# and values follow, and those. A row that builds on nothing is written only where the positions are reached: else it may have been lost.
# Returns 1 for each row that was written, 0 for each refused, and nothing where the generation is another.
WRITE_ROWS = """
local done = {}
if (redis.call('GET', ARGV[1]) or '') ~= ARGV[2] then return done end
local place = 6
local reached = true
for _ = 1, tonumber(ARGV[5]) do
  if tonumber(redis.call('GET', ARGV[place]) or '-1') < tonumber(ARGV[place + 1]) then reached = false end
  place = place + 2
end
for number, key in ipairs(KEYS) do
  local count = tonumber(ARGV[place + 1])
  local held = redis.call('HGET', key, ARGV[3]) or ''
  if held == ARGV[place] and (held ~= '' or reached) then
    redis.call('HSET', key, unpack(ARGV, place + 2, place + 1 + count))
    if ARGV[4] ~= '0' then redis.call('PEXPIRE', key, ARGV[4]) end
    done[number] = 1
  else
    done[number] = 0
  end
  place = place + 2 + count
end
return done
"""
# KEYS: rows. ARGV: a field of each. Returns what these hold.
READ_ROWS = """
local found = {}
for number, key in ipairs(KEYS) do found[number] = redis.call('HGET', key, ARGV[number]) end
return found
"""
# KEYS: the position. ARGV: what it must have reached, or nothing; the new one; the key of the generation and what it must hold.
# Returns what is held afterwards: where it is older than it must be it stays, and where another worker has moved it further, too.
MOVE_POSITION = """
local held = redis.call('GET', KEYS[1]) or ''
if (redis.call('GET', ARGV[3]) or '') ~= ARGV[4] then return held end
if ARGV[1] ~= '' and (held == '' or tonumber(held) < tonumber(ARGV[1])) then return held end
if held ~= '' and tonumber(held) >= tonumber(ARGV[2]) then return held end
redis.call('SET', KEYS[1], ARGV[2])
return ARGV[2]
"""


def digest(script: str) -> str:
    """Return the name under which Redis keeps a script."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


WRITE_ROWS_SHA, READ_ROWS_SHA, MOVE_POSITION_SHA = digest(WRITE_ROWS), digest(READ_ROWS), digest(MOVE_POSITION)
