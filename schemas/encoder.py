"""Avro bodies, byte for byte what fastavro writes: the single values, which generated code puts together.

`schemas.encoder_source` writes that code, one function per record. Neighbouring fields that hold words
(who asked for what of which target, at which prices) repeat from event to event: one lookup gives the
bytes of all of them. Source of the format: Avro specification, "Binary encoding".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from mypy_extensions import i64

Encoder = Callable[[Any], bytes]
Word = str | int | None
"""A word of a record, or a price, of which there are few as well."""

LONG_MAX = 2**63 - 1
"""The largest number that a record can hold (Avro `long`)."""
_KNOWN_MAX: Final = 4_096
"""How many texts, or runs of words, are kept encoded."""
_KNOWN_CHARACTERS: Final = 64
_SMALL: Final = 1_024
"""Numbers below come from a table, which is small enough to stay in a processor's cache."""

NULL: Final = b"\x00"
END: Final = b"\x00"
"""What ends a list or a map, and is all of an empty one."""
NO: Final = b"\x00"
YES: Final = b"\x01"
SOME: Final = b"\x02"
"""What begins the second branch of a union with null."""


def zigzag(number: int) -> bytes:
    """Return a long in Avro's zig-zag variable-length form. Raises OverflowError beyond 64 bits."""
    if not -(1 << 63) <= number < 1 << 63:
        raise OverflowError(f"{number} does not fit an Avro long")
    rest = (number << 1) ^ (number >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


_LONGS: Final = tuple(zigzag(number) for number in range(_SMALL))
_SOME_LONGS: Final = tuple(SOME + number for number in _LONGS)
_MORE: Final = tuple(bytes((number | 0x80,)) for number in range(128))
"""Groups of 7 bits that others follow."""
_LAST: Final = tuple(bytes((number,)) for number in range(128))


def long(number: int) -> bytes:
    """As `zigzag`, faster."""
    if 0 <= number < _SMALL:
        return _LONGS[number]
    if not -(1 << 60) <= number < 1 << 60:
        return zigzag(number)
    return _groups(number << 1 ^ number >> 63)


def _groups(rest: i64) -> bytes:
    if rest < 1 << 7:
        return _LAST[rest]
    if rest < 1 << 14:
        return _MORE[rest & 0x7F] + _LAST[rest >> 7]
    second = _MORE[rest >> 7 & 0x7F]
    if rest < 1 << 21:
        return b"%b%b%b" % (_MORE[rest & 0x7F], second, _LAST[rest >> 14])
    return b"%b%b%b%b" % (_MORE[rest & 0x7F], second, _MORE[rest >> 14 & 0x7F], _groups(rest >> 21))


def some_long(number: int) -> bytes:
    """Return a long that might have been null."""
    return _SOME_LONGS[number] if 0 <= number < _SMALL else SOME + long(number)


class _Time:
    """The time that was encoded last, and its bytes: the records of a call repeat theirs."""

    def __init__(self) -> None:
        self.last: tuple[int, bytes] = (0, zigzag(0))
        """Read and set as one, so that threads never see half of it."""


_time: Final = _Time()


def time(time_us: int) -> bytes:
    """As `long`, for times."""
    known_us, encoded = _time.last
    if known_us != time_us:
        encoded = long(time_us)
        _time.last = (time_us, encoded)
    return encoded


def utf8(value: str) -> bytes:
    """Return a string without its length. Raises UnicodeEncodeError for a lone surrogate."""
    return value.encode()


def blob(value: bytes) -> bytes:
    """Return bytes without their length."""
    return value


def size_of(data: bytes) -> bytes:
    """Return the length that stands before bytes."""
    size = len(data)
    return _LONGS[size] if size < _SMALL else long(size)


def text(value: str) -> bytes:
    """Return a string with its length."""
    data = value.encode()
    return size_of(data) + data


def some_text(value: str) -> bytes:
    """Return a string that might have been null."""
    return SOME + text(value)


_words: Final[dict[str, bytes]] = {}
_some_words: Final[dict[str, bytes]] = {}


def word(value: str) -> bytes:
    """As `text`, for fields with few values (models, teams, outcomes)."""
    known = _words.get(value)
    if known is not None:
        return known
    return _kept(_words, value, text(value))


def some_word(value: str) -> bytes:
    """Return a word that might have been null."""
    known = _some_words.get(value)
    if known is not None:
        return known
    return _kept(_some_words, value, SOME + text(value))


def _kept(known: dict[str, bytes], value: str, encoded: bytes) -> bytes:
    if len(value) <= _KNOWN_CHARACTERS:
        if len(known) >= _KNOWN_MAX:
            known.clear()  # what is in use comes back at once
        known[value] = encoded
    return encoded


class Words:
    """Encoded runs of such fields, by their values.

    `kinds` has a letter for each: ``w`` a word, ``o`` a word or null, ``p`` a price or null.
    """

    def __init__(self, kinds: str) -> None:
        self._kinds: Final = kinds
        self._known: Final[dict[tuple[Word, ...], bytes]] = {}

    def of(self, words: tuple[Word, ...]) -> bytes:
        """Return the bytes of a run. Raises TypeError for a value of another kind."""
        known = self._known.get(words)
        if known is not None:
            return known
        encoded = b"".join(
            [_encoded(kind, it) for kind, it in zip(self._kinds, words, strict=True)]
        )
        if len(encoded) <= _KNOWN_CHARACTERS * len(words):
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known[words] = encoded
        return encoded


def _encoded(kind: str, value: Word) -> bytes:
    if value is None and kind != "w":
        return NULL
    if isinstance(value, int) and kind == "p":
        return some_long(value)
    if not isinstance(value, str) or kind == "p":
        raise TypeError(f"an event has {value!r} where something else belongs")
    return some_text(value) if kind == "o" else text(value)


_pack_double: Final = struct.Struct("<d").pack
_ONE: Final = _pack_double(1.0)


def double(value: float) -> bytes:
    """Return a double."""
    # Most calls have one candidate, which is certain. Of numbers that are equal only zeros differ.
    return _ONE if value == 1.0 else _pack_double(value)


def items(encoded: list[bytes]) -> bytes:
    """Return a list, or a map, from its items, each of a map after its key."""
    return b"".join([long(len(encoded)), *encoded, END]) if encoded else END
