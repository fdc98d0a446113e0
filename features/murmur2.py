"""The partition of a key, as Kafka's Java client and librdkafka ("murmur2_random") choose it.

The hash is Austin Appleby's MurmurHash2, 32 bits, with the seed of `org.apache.kafka.common.utils.Utils.murmur2`; of it, Kafka's
default partitioner takes the lower 31 bits modulo the number of partitions.
"""

_SEED = 0x9747B28C
_MIX = 0x5BD1E995
_32_BITS = 0xFFFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    """Return the number of the partition, from 0 below `partitions`, to which a producer sends records of this key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Return the hash of the bytes, from 0 below 2**32."""
    hashed = _SEED ^ len(data)
    whole = len(data) // 4 * 4
    for begun in range(0, whole, 4):
        word = int.from_bytes(data[begun : begun + 4], "little") * _MIX & _32_BITS
        word = (word ^ word >> 24) * _MIX & _32_BITS
        hashed = hashed * _MIX & _32_BITS ^ word
    if whole < len(data):
        hashed = (hashed ^ int.from_bytes(data[whole:], "little")) * _MIX & _32_BITS
    hashed = (hashed ^ hashed >> 13) * _MIX & _32_BITS
    return hashed ^ hashed >> 15
