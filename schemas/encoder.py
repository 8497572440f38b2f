"""Avro bodies by generated code: one function per event class, byte for byte what fastavro writes.

The generated function of a class is one `bytes.join` over its fields in schema order, so encoding
costs a few table lookups instead of a walk over the schema. Source of the format: Avro
specification, "Binary encoding".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from schemas.avro import Schema

Encoder = Callable[[Any], bytes]

_CACHED_TEXTS = 4_096
_CACHED_CHARACTERS = 64
_SHORT = 1 << 14


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
    if 1 << 42 <= rest < 1 << 56:
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


def blob(value: bytes) -> bytes:
    """Return bytes with their length."""
    return long(len(value)) + value


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


def _array(items: list[Any], encode: Encoder) -> bytes:
    if not items:
        return b"\x00"
    return b"".join((long(len(items)), *map(encode, items), b"\x00"))


def _map(items: dict[str, Any], encode: Encoder) -> bytes:
    if not items:
        return b"\x00"
    pairs = [text(key) + encode(value) for key, value in items.items()]
    return b"".join((long(len(items)), *pairs, b"\x00"))


def _scope() -> dict[str, Any]:
    return {
        "long": long,
        "text": text,
        "blob": blob,
        "array": _array,
        "map_": _map,
        "double": struct.Struct("<d").pack,
        "lengths": LENGTHS,
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
    parts += [
        _expression(field["type"], f"e.{field['name']}", lines, scope) for field in schema["fields"]
    ]
    lines.append(f"def {name}(e):")
    lines.append(f"    return b''.join(({', '.join(parts)},))")
    return name


def _expression(kind: Any, value: str, lines: list[str], scope: dict[str, Any]) -> str:
    """Return Python source that encodes the object in the expression `value`."""
    if isinstance(kind, list):
        if kind[1] == "string" and not value.endswith("_id"):
            return f"optional[{value}]"
        inner = _expression(kind[1], "v", lines, scope)
        return f"(b'\\x00' if (v := {value}) is None else b'\\x02' + {inner})"
    if isinstance(kind, str) and kind in scope.get("records", {}):
        return f"{scope['records'][kind]}({value})"
    if isinstance(kind, dict):
        return _nested(kind, value, lines, scope)
    if kind == "string":
        # Ids never repeat: a table of them would only fill up.
        return f"text({value})" if value.endswith("_id") or value == "v" else f"texts[{value}]"
    if kind == "boolean":
        return f"(YES if {value} else NO)"
    return {"long": "long", "double": "double", "bytes": "blob"}[kind] + f"({value})"


def _nested(kind: Schema, value: str, lines: list[str], scope: dict[str, Any]) -> str:
    if kind["type"] == "record":
        return f"{_function(kind, b'', lines, scope)}({value})"
    items = kind["items"] if kind["type"] == "array" else kind["values"]
    body = _expression(items, "x", lines, scope)
    helper = f"item_{len(lines)}"
    lines.append(f"{helper} = lambda x: {body}")
    return f"{'array' if kind['type'] == 'array' else 'map_'}({value}, {helper})"
