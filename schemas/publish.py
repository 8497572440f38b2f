"""Write the published schemas, golden bytes, and each call's encoders: ``python -m schemas.publish``.

A released file is never rewritten: a changed event needs a new `version`, and the command says
so. The golden bytes are a real record of that version; every later build must still read them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from schemas.avro import canonical_form, schema_of
from schemas.codec import encode, writer_of
from schemas.encoder_source import source_of
from schemas.event import Event
from schemas.events import event_types
from schemas.events.llm import ContentCaptured, CostEntry, RequestAdmitted, ResponseCompleted

EACH_CALL: tuple[type[Event], ...] = (
    RequestAdmitted,
    ResponseCompleted,
    CostEntry,
    ContentCaptured,
)
"""What each call records: their encoders are written ahead, to be compiled."""
WRITTEN = Path(__file__).with_name("encoders.py")
PUBLISHED = Path(__file__).parent / "published"


def publish() -> list[str]:
    """Write what is not published yet; return complaints about events changed in place."""
    complaints = []
    for event_type in event_types():
        stem = PUBLISHED / f"{event_type.type}.v{event_type.version}"
        schema_file = stem.with_name(stem.name + ".avsc")
        schema = schema_of(event_type)
        if schema_file.exists():
            published = json.loads(schema_file.read_text("utf-8"))
            if canonical_form(published) != canonical_form(schema):
                complaints.append(f"{event_type.type} changed: raise its version and run again")
            continue
        schema_file.write_text(json.dumps(schema, indent=2) + "\n", "utf-8")
        golden = encode(sample(event_type)).hex()
        stem.with_name(stem.name + ".golden").write_text(golden + "\n", "utf-8")
    return complaints


def each_call() -> str:
    """Return the module of the encoders of what each call records."""
    writers = map(writer_of, EACH_CALL)
    return source_of((writer.schema, writer.prefix) for writer in writers)


def sample(event_type: type[Event]) -> Event:
    """Return an event with a fixed, telling value in every field."""
    info = msgspec.inspect.type_info(event_type)
    assert isinstance(info, msgspec.inspect.StructType)
    fields = {field.name: _value(field.type, field.name) for field in info.fields}
    return msgspec.convert(fields, event_type, builtin_types=(bytes,))


def _value(info: msgspec.inspect.Type, name: str) -> Any:
    match info:
        case msgspec.inspect.StrType():
            return f"{name} ✓"
        case msgspec.inspect.IntType():
            return len(name) * 1_000_003
        case msgspec.inspect.FloatType():
            return len(name) / 8
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.BytesType():
            return name.encode()
        case msgspec.inspect.ListType():
            return [_value(info.item_type, name)]
        case msgspec.inspect.DictType():
            return {name: _value(info.value_type, name)}
        case msgspec.inspect.UnionType():
            return next(
                _value(inner, name)
                for inner in info.types
                if not isinstance(inner, msgspec.inspect.NoneType)
            )
        case msgspec.inspect.StructType():
            return {field.name: _value(field.type, field.name) for field in info.fields}
    raise TypeError(f"no sample for {info}")


if __name__ == "__main__":
    for complaint in publish():
        print(complaint, file=sys.stderr)
        sys.exit(1)
    WRITTEN.write_text(each_call(), "utf-8")
