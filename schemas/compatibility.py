"""May a new version of a schema replace an old one? The gate that CI runs on every event.

The rules are those of Avro's schema resolution, narrowed to what `schemas.avro` generates:
fields may be added with a default and removed when they had one; types stay, but for a field
that becomes nullable. Both directions are checked, so that versions N and N+1 run together.
"""

from __future__ import annotations

from typing import Any

from schemas.avro import Schema


def incompatibilities(old: Schema, new: Schema) -> list[str]:
    """Return why records of one version cannot be read by the other; empty means they can."""
    return [f"new cannot read old: {fault}" for fault in _faults(old, new, {}, {})] + [
        f"old cannot read new: {fault}" for fault in _faults(new, old, {}, {})
    ]


def _faults(writer: Any, reader: Any, written: dict[str, Any], read: dict[str, Any]) -> list[str]:
    writer, reader = _resolve(writer, written), _resolve(reader, read)
    if isinstance(reader, list):
        branches = writer if isinstance(writer, list) else [writer]
        return [
            f"no branch takes {_name(branch)}"
            for branch in branches
            if all(_faults(branch, choice, dict(written), dict(read)) for choice in reader)
        ]
    if isinstance(writer, list):
        return [fault for branch in writer for fault in _faults(branch, reader, written, read)]
    if _name(writer) != _name(reader):
        return [f"{_name(writer)} became {_name(reader)}"]
    match _name(writer):
        case "record":
            return _record_faults(writer, reader, written, read)
        case "array":
            return _faults(writer["items"], reader["items"], written, read)
        case "map":
            return _faults(writer["values"], reader["values"], written, read)
    return []


def _record_faults(
    writer: Schema, reader: Schema, written: dict[str, Any], read: dict[str, Any]
) -> list[str]:
    fields = {field["name"]: field for field in writer["fields"]}
    faults: list[str] = []
    for field in reader["fields"]:
        other = fields.get(field["name"])
        if other is None:
            if "default" not in field:
                faults.append(f"field {field['name']} is missing and has no default")
        else:
            inner = _faults(other["type"], field["type"], written, read)
            faults += [f"{field['name']}: {fault}" for fault in inner]
    return faults


def _resolve(schema: Any, known: dict[str, Any]) -> Any:
    if isinstance(schema, dict) and schema.get("type") == "record":
        known[schema["name"]] = schema
    elif isinstance(schema, str) and schema in known:
        return known[schema]
    return schema


def _name(schema: Any) -> str:
    if isinstance(schema, list):
        return "union"
    return str(schema["type"]) if isinstance(schema, dict) else str(schema)
