"""Amazon's event stream encoding: binary messages with headers, guarded by two checksums.

A message is, all integers big-endian: total length (4 bytes), length of the headers (4), CRC-32 of
these eight bytes (4), headers, payload, CRC-32 of everything before it (4). A header is the length
of its name (1), the name, the type of its value (1) and the value.

Source: Amazon Lex V2 developer guide, "Event stream encoding"
(https://docs.aws.amazon.com/lexv2/latest/dg/event-stream-encoding.html); which headers there are:
Smithy, "Amazon Event Stream" (https://smithy.io/2.0/aws/amazon-eventstream.html).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from zlib import crc32

from gateway.dialects.sse import FRAME_BYTES_MAX, Frame
from schemas.errors import UpstreamProtocol

CONTENT_TYPE = b"application/vnd.amazon.eventstream"
OVERHEAD_BYTES = 16
_PRELUDE = struct.Struct(">III")
_UINT32 = struct.Struct(">I")
_UINT16 = struct.Struct(">H")
_STRING = 7
_FIXED_BYTES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Sizes by type: true, false, byte, short, integer, long, timestamp, uuid."""
_COUNTED = frozenset({6, _STRING})
"""Bytes and strings carry their length in two bytes."""


class MessageSplitter:
    """Cuts a stream of bytes into messages. Raises UpstreamProtocol for what cannot be one.

    A frame's `event` is the message's event type; of an exception it is ``exception:TYPE``, of an
    error that the service did not model ``error:CODE``.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the messages that are complete now."""
        buffer = self._rest + chunk if self._rest else chunk
        position, frames = 0, []
        while len(buffer) - position >= _PRELUDE.size:
            total = _total_bytes(buffer, position)
            if len(buffer) - position < total:
                break
            frames.append(_message(buffer[position : position + total]))
            position += total
        self._rest = buffer[position:]
        return frames


def _total_bytes(buffer: bytes, position: int) -> int:
    total, header_bytes, checksum = _PRELUDE.unpack_from(buffer, position)
    if crc32(buffer[position : position + 8]) != checksum:
        raise UpstreamProtocol("the beginning of a stream message does not match its checksum")
    if not OVERHEAD_BYTES + header_bytes <= total <= FRAME_BYTES_MAX:
        raise UpstreamProtocol(f"a stream message claims {total} bytes")
    return int(total)


def _message(raw: bytes) -> Frame:
    _, header_bytes, _ = _PRELUDE.unpack_from(raw)
    (checksum,) = _UINT32.unpack_from(raw, len(raw) - 4)
    if crc32(raw[:-4]) != checksum:
        raise UpstreamProtocol("a stream message does not match its checksum")
    begin = _PRELUDE.size + header_bytes
    headers = _headers(raw[_PRELUDE.size : begin])
    kind = headers.get(":message-type", "event")
    if kind == "event":
        event = headers.get(":event-type", "")
    elif kind == "exception":
        event = f"exception:{headers.get(':exception-type', '')}"
    else:
        event = f"error:{headers.get(':error-code', '')}"
        return Frame(event, headers.get(":error-message", "").encode(), raw)
    return Frame(event, raw[begin:-4], raw)


def _headers(block: bytes) -> dict[str, str]:
    """Return the headers that are strings; others are passed over."""
    headers: dict[str, str] = {}
    position = 0
    try:
        while position < len(block):
            name_end = position + 1 + block[position]
            name = block[position + 1 : name_end].decode("utf-8")
            kind = block[name_end]
            position = name_end + 1
            if kind in _COUNTED:
                (size,) = _UINT16.unpack_from(block, position)
                position += 2
            else:
                size = _FIXED_BYTES[kind]
            if position + size > len(block):
                raise UpstreamProtocol(f"the header {name} of a stream message is cut")
            if kind == _STRING:
                headers[name] = block[position : position + size].decode("utf-8")
            position += size
    except (IndexError, KeyError, struct.error, UnicodeDecodeError) as error:
        raise UpstreamProtocol("the headers of a stream message cannot be read") from error
    return headers


def write_message(payload: bytes, headers: Mapping[str, str]) -> bytes:
    """Return the bytes of one message; all its headers are strings."""
    block = b"".join(
        bytes([len(name)]) + name + bytes([_STRING]) + _UINT16.pack(len(value)) + value
        for name, value in ((key.encode(), text.encode()) for key, text in headers.items())
    )
    lengths = struct.pack(">II", OVERHEAD_BYTES + len(block) + len(payload), len(block))
    message = lengths + _UINT32.pack(crc32(lengths)) + block + payload
    return message + _UINT32.pack(crc32(message))


def write_event(payload: bytes, event: str) -> bytes:
    """Return the message of an event whose payload is JSON."""
    return write_message(payload, _json_headers("event", ":event-type", event))


def write_exception(payload: bytes, exception: str) -> bytes:
    """Return the message of an exception whose payload is JSON."""
    return write_message(payload, _json_headers("exception", ":exception-type", exception))


def _json_headers(kind: str, name: str, value: str) -> dict[str, str]:
    return {name: value, ":content-type": "application/json", ":message-type": kind}
