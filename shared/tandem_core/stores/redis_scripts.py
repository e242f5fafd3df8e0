"""What the Redis store does on the server: each script is one step that nobody sees half of.

Keys, all below one prefix: events, a stream with every event under the id "<sequence>-0"; sequence and arrival_ms,
counters; chosen:<user> and shown:<user>, sorted sets of the newest events by time; by:<user>, a list of the sequence
numbers of the user's events, but for those that the stream has let go of; attributes:<user>, a JSON object;
insert:<insert_id>, set for as long as doubles are recognised; suppressed, a sorted set of user hashes by the time of
forgetting; suppression-key.
Scripts name keys that are not in KEYS: they are for one primary with replicas, not for Redis Cluster.
"""

from __future__ import annotations

# ARGV: prefix, now_ms, newest events, newest impressions, length of the log, life of insert_ids in ms, then per event:
# insert_id, user_id, user hash, time ("" for arrival), "1" for an impression, payload, context ("" for none): that is
# for training alone and stands in the log, not in what requests read.
# Members of the sorted sets begin with the sequence in 16 digits: those of equal time then stand in order of arrival.
ADD = """
local p, outcomes = ARGV[1], {}
local arrival = math.max(tonumber(ARGV[2]), tonumber(redis.call('GET', p .. 'arrival_ms') or '0'))
redis.call('SET', p .. 'arrival_ms', string.format('%.0f', arrival))
local oldest = redis.call('XRANGE', p .. 'events', '-', '+', 'COUNT', 1)[1]
local first = oldest and tonumber(string.match(oldest[1], '^%d+')) or 0
for i = 7, #ARGV, 7 do
  local insert_id, user, hash, time = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local shown, payload, context = ARGV[i + 4] == '1', ARGV[i + 5], ARGV[i + 6]
  local forgotten = time ~= '' and redis.call('ZSCORE', p .. 'suppressed', hash)
  if time == '' then time = string.format('%.0f', arrival) end
  if forgotten and tonumber(time) <= tonumber(forgotten) then
    outcomes[#outcomes + 1] = 3
  elseif insert_id ~= '' and not redis.call('SET', p .. 'insert:' .. insert_id, '1', 'NX', 'PX', ARGV[6]) then
    outcomes[#outcomes + 1] = 2
  else
    local sequence = string.format('%.0f', redis.call('INCR', p .. 'sequence'))
    local fields = {'user', user, 'time', time, 'payload', payload, 'insert_id', insert_id}
    if context ~= '' then fields[9], fields[10] = 'context', context end
    redis.call('XADD', p .. 'events', 'MAXLEN', '~', ARGV[5], sequence .. '-0', unpack(fields))
    local by = p .. 'by:' .. user
    redis.call('RPUSH', by, sequence)
    while tonumber(redis.call('LINDEX', by, 0)) < first do redis.call('LPOP', by) end
    local key = p .. (shown and 'shown:' or 'chosen:') .. user
    redis.call('ZADD', key, time, string.rep('0', 16 - #sequence) .. sequence .. payload)
    redis.call('ZREMRANGEBYRANK', key, 0, -1 - tonumber(shown and ARGV[4] or ARGV[3]))
    outcomes[#outcomes + 1] = 1
  end
end
return outcomes
"""

# ARGV: prefix, user_id, user hash, now_ms. Returns chosen, shown, attributes, time: what was deleted, and when.
FORGET = """
local p, user = ARGV[1], ARGV[2]
local arrival = math.max(tonumber(ARGV[4]), tonumber(redis.call('GET', p .. 'arrival_ms') or '0'))
local time = string.format('%.0f', arrival)
redis.call('SET', p .. 'arrival_ms', time)
redis.call('ZADD', p .. 'suppressed', time, ARGV[3])
local shown, chosen = 0, 0
for _, sequence in ipairs(redis.call('LRANGE', p .. 'by:' .. user, 0, -1)) do
  for _, entry in ipairs(redis.call('XRANGE', p .. 'events', sequence .. '-0', sequence .. '-0')) do
    if entry[2][8] ~= '' then redis.call('DEL', p .. 'insert:' .. entry[2][8]) end
    if cjson.decode(entry[2][6])[2] == 'impression' then shown = shown + 1 else chosen = chosen + 1 end
    redis.call('XDEL', p .. 'events', sequence .. '-0')
  end
end
local attributes = redis.call('DEL', p .. 'attributes:' .. user)
redis.call('DEL', p .. 'by:' .. user, p .. 'chosen:' .. user, p .. 'shown:' .. user)
return {chosen, shown, attributes, time}
"""
