"""Which partition of a topic a key's records go to: the one that any other client would choose.

Compiled, the sums are of 64 bits, which wrap around; the masks keep what Kafka's 32 would.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

from mypy_extensions import i64


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition that Kafka's default partitioner gives a key (murmur2, Java seed)."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Return Kafka's 32-bit murmur2. Source: org.apache.kafka.common.utils.Utils.murmur2."""
    length: i64 = len(data)
    words = length // 4
    value = 0x9747B28C ^ length
    part: i64
    for part in _words(len(data) // 4)(data):
        part = part * 0x5BD1E995 & 0xFFFFFFFF
        value = (value * 0x5BD1E995 ^ (part ^ part >> 24) * 0x5BD1E995) & 0xFFFFFFFF
    if length % 4:
        rest: i64 = int.from_bytes(data[words * 4 :], "little")
        value = (value ^ rest) * 0x5BD1E995 & 0xFFFFFFFF
    value = (value ^ value >> 13) * 0x5BD1E995 & 0xFFFFFFFF
    return value ^ value >> 15


@lru_cache(64)
def _words(count: int) -> Any:
    """What reads so many words of 32 bits; keys are nearly all of one length."""
    return struct.Struct(f"<{count}I").unpack_from
