"""The Avro schema of an event class, generated from its type hints."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from fastavro.schema import fingerprint, to_parsing_canonical_form

from schemas.event import Event

Schema = dict[str, Any]

_PRIMITIVES: dict[type[msgspec.inspect.Type], str] = {
    msgspec.inspect.StrType: "string",
    msgspec.inspect.IntType: "long",
    msgspec.inspect.FloatType: "double",
    msgspec.inspect.BoolType: "boolean",
    msgspec.inspect.BytesType: "bytes",
}


@cache
def schema_of(event_type: type[Event]) -> Schema:
    """Return the Avro record schema (JSON form) of an event class.

    str, int, float, bool, bytes, `X | None`, list, dict[str, X] and nested structs are allowed;
    TypeError names any other field. Enumerations are strings: an Avro enum refuses symbols that
    a reader does not know yet.
    """
    info = msgspec.inspect.type_info(event_type)
    if not isinstance(info, msgspec.inspect.StructType):
        raise TypeError(f"{event_type.__name__} is no struct")
    namespace, _, name = event_type.type.rpartition(".")
    schema = _record(info, name.replace("-", "_"), set())
    schema["namespace"] = namespace.replace("-", "_")
    schema["doc"] = (event_type.__doc__ or "").strip().splitlines()[0]
    schema["weir.type"] = event_type.type
    schema["weir.version"] = event_type.version
    return schema


def canonical_form(schema: Schema) -> str:
    """Return Avro's parsing canonical form, which drops docs, defaults and attributes."""
    return str(to_parsing_canonical_form(schema))


def fingerprint_of(schema: Schema) -> bytes:
    """Return the 8-byte CRC-64-AVRO fingerprint, little-endian as in single-object encoding.

    Source: Avro specification, "Single-object encoding" and "Schema fingerprints".
    """
    return bytes.fromhex(fingerprint(canonical_form(schema), "CRC-64-AVRO"))


def _record(info: msgspec.inspect.StructType, name: str, known: set[str]) -> Schema:
    known.add(name)
    return {
        "type": "record",
        "name": name,
        "fields": [_field(field, known) for field in info.fields],
    }


def _field(field: msgspec.inspect.Field, known: set[str]) -> Schema:
    schema: Schema = {"name": field.name, "type": _type(field.type, field.name, known)}
    if field.default is not msgspec.NODEFAULT:
        schema["default"] = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        schema["default"] = field.default_factory()
    return schema


def _type(info: msgspec.inspect.Type, where: str, known: set[str]) -> Any:
    primitive = _PRIMITIVES.get(type(info))
    if primitive is not None:
        return primitive
    match info:
        case msgspec.inspect.ListType():
            return {"type": "array", "items": _type(info.item_type, where, known)}
        case msgspec.inspect.DictType():
            return {"type": "map", "values": _type(info.value_type, where, known)}
        case msgspec.inspect.UnionType() if info.includes_none and len(info.types) == 2:
            inner = next(t for t in info.types if not isinstance(t, msgspec.inspect.NoneType))
            return ["null", _type(inner, where, known)]
        case msgspec.inspect.StructType():
            name = info.cls.__name__
            return name if name in known else _record(info, name, known)
    raise TypeError(f"field {where!r} has a type that events cannot hold: {info}")
