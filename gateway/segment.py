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
from pathlib import Path
from typing import NamedTuple

import msgspec

from schemas import codec
from schemas.errors import CorruptRecord
from schemas.event import Event

FRAME_HEADER = struct.Struct("<II")
SUFFIX = ".seg"
CARRY_TOPIC = ""
HEADERS_MAX = 5
"""A record's own headers: id, time, and up to three that say what it belongs to."""


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record on its way to Kafka; `sequence` ascends within the outbox, time is in ms.

    An entry without a topic is a note to the adopter (see `carry`) and is never sent.
    """

    sequence: int
    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    timestamp_ms: int


class Kind(NamedTuple):
    """What the records of one event class share.

    `headers` are those of its type, encoded, from the head of the list that they begin to the name of
    the first own one, the id: by the number of own ones.
    """

    topic: str
    partitions: int
    headers: list[bytes]
    encode: Callable[[Event], bytes]


class Frame(NamedTuple):
    """Entries that were appended together, and the offset in the file just after them."""

    entries: list[Entry]
    end: int


class Line(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An `Entry` as it is written, its headers encoded beforehand; the bytes are the same."""

    sequence: int
    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: msgspec.Raw
    timestamp_ms: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Entry])
pack = _encoder.encode
"""Returns a value as it lies within a frame: a header is a tuple of its name and value."""
_values = msgspec.msgpack.Decoder(list[bytes])
_BODY = re.compile(rb"(?:[\x91-\x9f]|\xdc..)\x97", re.DOTALL)
"""How the body of a frame begins: a list of entries, which have seven fields each."""


def kind_of(event_type: type[Event], source: str) -> Kind:
    """Return what the records of an event class share; `source` names their producer."""
    shared = codec.type_headers(event_type, source)
    packed = b"".join(map(pack, shared))
    heads = [_list_head(len(shared) + own) for own in range(HEADERS_MAX + 1)]
    begins = [head + packed + lead("ce_id") for head in heads]
    topic = event_type.topic
    return Kind(topic.name, topic.partitions, begins, codec.encoder(event_type))


def lead(name: str) -> bytes:
    """Return what begins a header of this name; its value, packed, follows."""
    return b"\x92" + pack(name)


def _list_head(length: int) -> bytes:
    """Return what begins a list. Source: MessagePack specification, "array format family"."""
    return bytes((0x90 | length,)) if length < 16 else b"\xdc" + length.to_bytes(2, "big")


def frame(entries: Sequence[Entry | Line]) -> bytes:
    """Return the bytes of one frame."""
    body = _encoder.encode(entries)
    return FRAME_HEADER.pack(len(body), zlib.crc32(body)) + body


def carry(sequence: int, values: list[bytes]) -> bytes:
    """Return a frame that names requests still open when a segment began.

    `values` are their encoded `RequestAdmitted` events: with it, earlier segments may be deleted
    although the adopter of this outbox must know every request without an outcome.
    """
    return frame([Entry(sequence, CARRY_TOPIC, 0, b"", _encoder.encode(values), [], 0)])


def carried(entry: Entry) -> list[bytes]:
    """Return the events inside a carry. Raises msgspec.DecodeError for anything else."""
    return _values.decode(entry.value)


def frames(data: bytes, start: int = 0) -> Iterator[Frame]:
    """Yield the whole frames from `start` on, and stop at the first that is not whole.

    Raises CorruptRecord when a checksum matches but the body is no list of entries: that is not
    a torn write but another format.
    """
    position, size = start, len(data)
    while position + FRAME_HEADER.size <= size:
        length, checksum = FRAME_HEADER.unpack_from(data, position)
        body_start = position + FRAME_HEADER.size
        end = body_start + length
        # Zeros would otherwise pass as an empty frame, whose checksum is zero too.
        if length == 0 or end > size:
            return
        body = data[body_start:end]
        if zlib.crc32(body) != checksum:
            return
        try:
            entries = _decoder.decode(body)
        except msgspec.DecodeError as error:
            raise CorruptRecord(f"an outbox frame at {position} has another format") from error
        yield Frame(entries, end)
        position = end


def resumption(data: bytes, start: int) -> int | None:
    """Return where the first whole frame after `start` begins, None where there is none: then what is
    left is a torn tail, else damage.
    """
    for body in _BODY.finditer(data, start + FRAME_HEADER.size):
        position = body.start() - FRAME_HEADER.size
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
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
