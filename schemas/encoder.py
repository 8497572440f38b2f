"""Avro bodies by generated code: one function per event class, byte for byte what fastavro writes.

The generated function of a class is one `bytes.join` over its fields in schema order, so encoding
costs a few table lookups instead of a walk over the schema. Neighbouring fields that hold words (who
asked for what of which target, at which prices) repeat from event to event: one lookup gives the bytes of all of
them. Source of the format: Avro specification, "Binary encoding".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import groupby
from typing import Any

from schemas.avro import Schema

Encoder = Callable[[Any], bytes]

_CACHED_TEXTS = 4_096
_CACHED_CHARACTERS = 64
_CACHED_TIMES = 256
_SHORT = 1 << 14
_WORD_IDS = frozenset({"deployment_id", "key_id", "outbox_id"})
"""Ids of which there are few; all others never repeat, and a table of them would only fill up."""
_UUID_CHARACTERS = 36

LONG_MAX = 2**63 - 1
"""The largest number that a record can hold (Avro `long`)."""


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


LENGTHS = tuple(zigzag(number) for number in range(_SHORT >> 1))
"""Encoded non-negative longs below 8,192."""

_SOME = tuple(b"\x02" + length for length in LENGTHS)
"""The same as the second branch of a union with null."""
_TAILS = tuple(
    LENGTHS[number >> 1] if not number & 1 else zigzag(-(number + 1) // 2)
    for number in range(_SHORT)
)
_LEADS = tuple(bytes((number & 0x7F | 0x80, number >> 7 | 0x80)) for number in range(_SHORT))


def long(number: int) -> bytes:
    """As `zigzag`, by tables of 14 bits."""
    rest = (number << 1) ^ (number >> 63)
    if rest < _SHORT:
        return _TAILS[rest]
    if rest < 1 << 28:
        return _LEADS[rest & 0x3FFF] + _TAILS[rest >> 14]
    if rest < 1 << 42:
        return _LEADS[rest & 0x3FFF] + _LEADS[rest >> 14 & 0x3FFF] + _TAILS[rest >> 28]
    if rest < 1 << 56:
        return (
            _LEADS[rest & 0x3FFF]
            + _LEADS[rest >> 14 & 0x3FFF]
            + _LEADS[rest >> 28 & 0x3FFF]
            + _TAILS[rest >> 42]
        )
    return zigzag(number)


def text(value: str) -> bytes:
    """Return a string with its length."""
    data = value.encode()
    size = len(data)
    return (LENGTHS[size] if size < _SHORT >> 1 else long(size)) + data


class _Times(dict[int, bytes]):
    """The last encoded times: the records of a call repeat them."""

    def __missing__(self, number: int) -> bytes:
        if len(self) >= _CACHED_TIMES:
            self.clear()
        encoded = self[number] = long(number)
        return encoded


_TIMES = _Times()


def blob(value: bytes) -> bytes:
    """Return bytes with their length."""
    size = len(value)
    return (LENGTHS[size] if size < _SHORT >> 1 else long(size)) + value


class _Texts(dict[str | None, bytes]):
    """Encoded strings of fields with few values (models, teams, outcomes); bounded."""

    def __missing__(self, value: str) -> bytes:
        encoded = text(value)
        if len(value) <= _CACHED_CHARACTERS and len(self) < _CACHED_TEXTS:
            self[value] = encoded
        return encoded


class _OptionalTexts(dict[str | None, bytes]):
    """As `_Texts`, for the union with null."""

    def __missing__(self, value: str) -> bytes:
        encoded = b"\x02" + text(value)
        if len(value) <= _CACHED_CHARACTERS and len(self) < _CACHED_TEXTS:
            self[value] = encoded
        return encoded


class _Words(dict[tuple[str | int | None, ...], bytes]):
    """Encoded runs of such fields, by their values; `optional` says which are unions with null."""

    def __init__(self, optional: tuple[bool, ...]) -> None:
        super().__init__()
        self._optional = optional

    def __missing__(self, words: tuple[str | int | None, ...]) -> bytes:
        encoded = b"".join(
            _optional(word) if optional else text(str(word or ""))
            for word, optional in zip(words, self._optional, strict=True)
        )
        if len(encoded) <= _CACHED_CHARACTERS * len(words):
            if len(self) >= _CACHED_TEXTS:
                self.clear()  # what is in use comes back at once
            self[words] = encoded
        return encoded


def _optional(word: str | int | None) -> bytes:
    if word is None:
        return b"\x00"
    return b"\x02" + (long(word) if isinstance(word, int) else text(word))


def _array(items: list[Any], encode: Encoder) -> bytes:
    if len(items) == 1:
        return b"\x02" + encode(items[0]) + b"\x00"
    return b"".join((long(len(items)), *map(encode, items), b"\x00"))


def _map(items: dict[str, Any], encode: Encoder) -> bytes:
    pairs = [text(key) + encode(value) for key, value in items.items()]
    return b"".join((long(len(items)), *pairs, b"\x00"))


def _scope() -> dict[str, Any]:
    return {
        "long": long,
        "times": _TIMES,
        "text": text,
        "blob": blob,
        "array": _array,
        "map_": _map,
        "double": struct.Struct("<d").pack,
        "few": LENGTHS,
        "some": _SOME,
        "uuid": LENGTHS[_UUID_CHARACTERS],
        "texts": _Texts(),
        "optional": _OptionalTexts({None: b"\x00"}),
        "YES": b"\x01",
        "NO": b"\x00",
    }


def encoder_of(schema: Schema, prefix: bytes = b"") -> Encoder:
    """Return a function from an object with the schema's fields to `prefix` and its Avro body."""
    scope = _scope()
    lines: list[str] = []
    name = _function(schema, prefix, lines, scope)
    # The text is made from our own schemas alone; field names are identifiers by construction.
    exec("\n".join(lines), scope)  # noqa: S102
    encoder: Encoder = scope[name]
    return encoder


def _function(schema: Schema, prefix: bytes, lines: list[str], scope: dict[str, Any]) -> str:
    name = f"encode_{schema['name'].replace('-', '_')}"
    scope.setdefault("records", {})[schema["name"]] = name
    parts = [repr(prefix)] if prefix else []
    for is_words, fields in groupby(schema["fields"], _holds_word):
        run = list(fields)
        if is_words and len(run) > 1:
            parts.append(_words(name, len(parts), run, scope))
        else:
            parts += [
                _expression(field["type"], f"e.{field['name']}", lines, scope) for field in run
            ]
    lines.append(f"def {name}(e):")
    lines.append(f"    return b''.join(({', '.join(parts)},))")
    return name


def _holds_word(field: Schema) -> bool:
    name = field["name"]
    if field["type"] == ["null", "long"]:
        return str(name).endswith("_price")  # of which a model has few
    is_text = field["type"] in ("string", ["null", "string"])
    return is_text and (name in _WORD_IDS or not name.endswith("_id"))


def _words(function: str, place: int, fields: list[Schema], scope: dict[str, Any]) -> str:
    table = f"words_{function}_{place}"
    scope[table] = _Words(tuple(isinstance(field["type"], list) for field in fields))
    values = ", ".join(f"e.{field['name']}" for field in fields)
    return f"{table}[{values}]"


def _expression(kind: Any, value: str, lines: list[str], scope: dict[str, Any]) -> str:
    """Return Python source that encodes the object in the expression `value`."""
    if isinstance(kind, list):
        if kind[1] == "string" and not value.endswith("_id"):
            return f"optional[{value}]"
        if kind[1] == "long":
            if value.endswith("_at_us"):
                return f"(b'\\x00' if (v := {value}) is None else b'\\x02' + times[v])"
            small = "some[v] if 0 <= v < 8192 else b'\\x02' + long(v)"
            return f"(b'\\x00' if (v := {value}) is None else {small})"
        inner = _expression(kind[1], "v", lines, scope)
        return f"(b'\\x00' if (v := {value}) is None else b'\\x02' + {inner})"
    if isinstance(kind, str) and kind in scope.get("records", {}):
        return f"{scope['records'][kind]}({value})"
    if isinstance(kind, dict):
        return _nested(kind, value, lines, scope)
    if kind == "string":
        if value.endswith("_id"):
            is_uuid = f"len(d := {value}.encode()) == {_UUID_CHARACTERS}"
            return f"(uuid + d if {is_uuid} else text({value}))"
        return f"text({value})" if value == "v" else f"texts[{value}]"
    if kind == "boolean":
        return f"(YES if {value} else NO)"
    if kind == "long":
        if value.endswith("_at_us"):
            return f"times[{value}]"
        return f"(few[v] if 0 <= (v := {value}) < 8192 else long(v))"
    return {"double": "double", "bytes": "blob"}[kind] + f"({value})"


def _nested(kind: Schema, value: str, lines: list[str], scope: dict[str, Any]) -> str:
    if kind["type"] == "record":
        return f"{_function(kind, b'', lines, scope)}({value})"
    items = kind["items"] if kind["type"] == "array" else kind["values"]
    body = _expression(items, "x", lines, scope)
    helper = f"item_{len(lines)}"
    lines.append(f"{helper} = lambda x: {body}")
    encode = "array" if kind["type"] == "array" else "map_"
    return f"({encode}(v, {helper}) if (v := {value}) else b'\\x00')"
