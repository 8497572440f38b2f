"""The bytes of an outbox on disk: append-only segments of checksummed frames.

A frame is ``length (4 bytes LE) · CRC-32 of the body (4 bytes LE) · body``; the body is a
msgpack array of entries that were appended together and stand or fall together, so that a write
torn by a crash never leaves an answer without its cost. Zeros after the last frame are room
allocated ahead. The first frame of a segment may be a `Carry`.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from gateway.entry import Entry
from schemas import codec
from schemas.errors import CorruptRecord
from schemas.event import Event
from schemas.partition import partition_of

FRAME_HEADER: Final = struct.Struct("<II")
FRAME_BYTES: Final = 8
SUFFIX: Final = ".seg"
CARRY_TOPIC = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """What the records of one event class share; `topic` and `origin` as they lie within a frame."""

    topic: bytes
    partitions: int
    origin: bytes
    encode: Callable[[Event], bytes]


class Frame(NamedTuple):
    """Entries that were appended together, and the offset in the file just after them."""

    entries: list[Entry]
    end: int


_decoder: Final = msgspec.msgpack.Decoder(list[Entry])
_crc32: Final = zlib.crc32
_unpack: Final[Callable[[bytes, int], tuple[int, int]]] = FRAME_HEADER.unpack_from
_decode: Final = _decoder.decode
_pack: Final = msgspec.msgpack.Encoder().encode
_values: Final = msgspec.msgpack.Decoder(list[bytes])
_BODY: Final = re.compile(rb"(?:[\x91-\x9f]|\xdc..)[\x97\x98]", re.DOTALL)
"""How the body of a frame begins: a list of entries, which have eight fields each, or had seven."""

# MessagePack by hand: its writer would have to be given objects that are made for it alone.
# Source: MessagePack specification.
NUMBER: Final = b"\xcf"
"""What begins a number of 8 bytes."""
ENTRY: Final = b"\x98" + NUMBER
"""How an entry begins: a list of eight fields, of which the first is such a number."""
_SHORT: Final = tuple(bytes((0xC4, size)) for size in range(256))
_LISTS: Final = tuple(bytes((0x90 | length,)) for length in range(16))


def kind_of(event_type: type[Event], source: str) -> Kind:
    """Return what the records of an event class share; `source` names their producer."""
    origin = codec.origin_of(event_type, source)
    topic = event_type.topic
    return Kind(_pack(topic.name), topic.partitions, _pack(origin), codec.encoder(event_type))


def size_of(data: bytes) -> bytes:
    """Return what stands before bytes within a frame."""
    size = len(data)
    if size < 256:
        return _SHORT[size]
    if size < 1 << 16:
        return b"\xc5" + size.to_bytes(2, "big")
    return b"\xc6" + size.to_bytes(4, "big")


def place(key: str, partitions: int) -> bytes:
    """Return a record's partition and key as they lie within a frame."""
    data = key.encode()
    partition: bytes = _pack(0 if partitions == 1 else partition_of(data, partitions))
    return b"%b%b%b" % (partition, size_of(data), data)


def list_of(length: int) -> bytes:
    """Return what begins a list."""
    return _LISTS[length] if length < 16 else b"\xdc" + length.to_bytes(2, "big")


def _lead(name: str) -> bytes:
    """Return what begins a header of this name; its value, packed, follows."""
    return b"\x92" + _pack(name)


_ID: Final = _lead("ce_id")
_TIME: Final = _lead("ce_time")
_CORRELATION: Final = _lead(codec.LINKS[0])
_CAUSATION: Final = _lead(codec.LINKS[1])
_TRACEPARENT: Final = _lead(codec.LINKS[2])
_OWN: Final = [list_of(2 + links) + _ID for links in range(len(codec.LINKS) + 1)]
"""How a record's own headers begin, id and time among them, by the number of the others."""


def links(
    correlation_id: str | None, causation_id: str | None, traceparent: str | None
) -> tuple[bytes, bytes]:
    """Return how a record's own headers begin, and those that say what it belongs to."""
    found = list[bytes]()
    if correlation_id:
        found.append(_header(_CORRELATION, correlation_id))
    if causation_id:
        found.append(_header(_CAUSATION, causation_id))
    if traceparent:
        found.append(_header(_TRACEPARENT, traceparent))
    return _OWN[len(found)], b"".join(found)


def _header(lead: bytes, value: str) -> bytes:
    data = value.encode()
    return b"%b%b%b" % (lead, size_of(data), data)


def ends_of(time_us: int, linked: bytes) -> bytes:
    """Return what follows a record's id: the other headers of its own, and its time."""
    stamp = codec.timestamp(time_us)
    number = (time_us // 1000).to_bytes(8, "big")
    return b"%b%b%b%b%b%b" % (_TIME, size_of(stamp), stamp, linked, NUMBER, number)


def framed(body: bytes) -> bytes:
    """Return the bytes of the frame with this body."""
    return FRAME_HEADER.pack(len(body), _crc32(body)) + body


def frame(entries: Sequence[Entry]) -> bytes:
    """Return the bytes of one frame."""
    return framed(_pack(entries))


def carry(sequence: int, values: list[bytes]) -> bytes:
    """Return a frame that names requests still open when a segment began.

    `values` are their encoded `RequestAdmitted` events: with it, earlier segments may be deleted
    although the adopter of this outbox must know every request without an outcome.
    """
    return frame([Entry(sequence, CARRY_TOPIC, 0, b"", _pack(values), [], 0)])


def carried(entry: Entry) -> list[bytes]:
    """Return the events inside a carry. Raises msgspec.DecodeError for anything else."""
    return _values.decode(entry.value)


def frames(data: bytes, start: int = 0) -> Iterator[Frame]:
    """Yield the whole frames from `start` on, and stop at the first that is not whole.

    Raises CorruptRecord when a checksum matches but the body is no list of entries: that is not
    a torn write but another format.
    """
    position = start
    while body := _body_at(data, position):
        entries = _entries_in(body, position)
        position += FRAME_BYTES + len(body)
        yield Frame(entries, position)


def whole_entries(data: bytes) -> tuple[list[Entry], int]:
    """Return the entries of the whole frames that bytes begin with, and where these end.

    Raises CorruptRecord as `frames` does.
    """
    found, position = list[Entry](), 0
    while body := _body_at(data, position):
        found += _entries_in(body, position)
        position += FRAME_BYTES + len(body)
    return found, position


def _body_at(data: bytes, position: int) -> bytes:
    """Return the body of the whole frame at a position, nothing where none is."""
    start = position + FRAME_BYTES
    if start > len(data):
        return b""
    length, checksum = _unpack(data, position)
    # Zeros would otherwise pass as an empty frame, whose checksum is zero too.
    if length == 0 or start + length > len(data):
        return b""
    body = data[start : start + length]
    return body if _crc32(body) == checksum else b""


def _entries_in(body: bytes, position: int) -> list[Entry]:
    try:
        return _decode(body)
    except msgspec.DecodeError as error:
        raise CorruptRecord(f"an outbox frame at {position} has another format") from error


def resumption(data: bytes, start: int) -> int | None:
    """Return where the first whole frame after `start` begins, None where there is none: then what is
    left is a torn tail, else damage.
    """
    for body in _BODY.finditer(data, start + FRAME_BYTES):
        position = body.start() - FRAME_BYTES
        if next(frames(data, position), None) is not None:
            return position
    return None


def segment_path(folder: Path, first_sequence: int) -> Path:
    """Return where the segment that begins with this sequence lies; names sort by it."""
    return folder / f"{first_sequence:020d}{SUFFIX}"


def segment_paths(folder: Path) -> list[Path]:
    """Return the segments of an outbox, oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def first_sequence_of(path: Path) -> int:
    """Return the first sequence of a segment, from its name."""
    return int(path.stem)


def write_all(descriptor: int, data: bytes, offset: int) -> None:
    """Write every byte at an offset. Raises OSError; some bytes may then have been written."""
    written = os.pwrite(descriptor, data, offset)
    while written < len(data):
        written += os.pwrite(descriptor, memoryview(data)[written:], offset + written)
