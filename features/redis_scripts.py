"""The scripts that run inside Redis, each for many rows at once, and the digests by which it knows them."""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgpack

# KEYS: rows. ARGV: the key of the generation and what it must hold, the field of the offsets, how long the rows live in ms or 0; packed,
# the names of the fields; packed, for each row what the field of the offsets must hold, and the values; then positions, each with what
# it must have reached. A row that builds on nothing is written only where they are reached: else it may have been lost. An argument
# for each field would cost Redis a quarter more, and the worker a third.
# Returns 1 for each row that was written, 0 for each refused, and nothing where the generation is another.
WRITE_ROWS = """
local done = {}
if (redis.call('GET', ARGV[1]) or '') ~= ARGV[2] then return done end
local reached = true
for place = 7, #ARGV, 2 do
  if tonumber(redis.call('GET', ARGV[place]) or '-1') < tonumber(ARGV[place + 1]) then reached = false end
end
local fields = {}
for number, name in ipairs(cmsgpack.unpack(ARGV[5])) do
  fields[2 * number - 1] = name
  fields[2 * number] = ''
end
local rows = cmsgpack.unpack(ARGV[6])
for number, key in ipairs(KEYS) do
  local row = rows[number]
  local held = redis.call('HGET', key, ARGV[3]) or ''
  if held == row[1] and (held ~= '' or reached) then
    for place = 2, #row do fields[2 * place - 2] = row[place] end
    redis.call('HSET', key, unpack(fields))
    if ARGV[4] ~= '0' then redis.call('PEXPIRE', key, ARGV[4]) end
    done[number] = 1
  else
    done[number] = 0
  end
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


def pack(values: Sequence[Any]) -> bytes:
    """Return values as the scripts read them: MessagePack in its older form, which has one kind of text for bytes."""
    packed: bytes = msgpack.packb(values, use_bin_type=False)
    return packed


def digest(script: str) -> str:
    """Return the name under which Redis keeps a script."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


WRITE_ROWS_SHA, READ_ROWS_SHA, MOVE_POSITION_SHA = digest(WRITE_ROWS), digest(READ_ROWS), digest(MOVE_POSITION)
