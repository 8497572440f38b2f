"""The generated encoders against fastavro, which shares no code with them."""

import io
from typing import Any

import msgspec
import pytest
from fastavro import schemaless_writer
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import codec
from schemas.encoder import long, zigzag
from schemas.event import Event
from schemas.events import event_types
from schemas.publish import sample

LONGS = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


def values(info: msgspec.inspect.Type) -> st.SearchStrategy[Any]:
    match info:
        case msgspec.inspect.StrType():
            return TEXTS
        case msgspec.inspect.IntType():
            return LONGS
        case msgspec.inspect.FloatType():
            return st.floats()
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.BytesType():
            return st.binary(max_size=300)
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.ListType():
            return st.lists(values(info.item_type), max_size=4)
        case msgspec.inspect.DictType():
            return st.dictionaries(TEXTS, values(info.value_type), max_size=4)
        case msgspec.inspect.UnionType():
            return st.one_of(*map(values, info.types))
        case msgspec.inspect.StructType():
            fields = {field.name: values(field.type) for field in info.fields}
            return st.builds(info.cls, **fields)
    raise TypeError(info)


def events(event_type: type[Event]) -> st.SearchStrategy[Event]:
    return values(msgspec.inspect.type_info(event_type))


def by_fastavro(event: Event) -> bytes:
    writer = codec.writer_of(type(event))
    out = io.BytesIO()
    out.write(writer.prefix)
    fields = msgspec.to_builtins(event, builtin_types=(bytes,))
    schemaless_writer(out, writer.parsed, fields)
    return out.getvalue()


@pytest.mark.req("EVT-01")
@pytest.mark.parametrize("event_type", event_types(), ids=lambda event_type: event_type.type)
def test_bytes_equal_fastavro(event_type: type[Event]) -> None:
    assert codec.encode(sample(event_type)) == by_fastavro(sample(event_type))

    @settings(max_examples=25, database=None)
    @given(events(event_type))
    def check(event: Event) -> None:
        assert codec.encode(event) == by_fastavro(event)

    check()


@given(LONGS)
def test_long_by_tables_is_zigzag(number: int) -> None:
    assert long(number) == zigzag(number)


@pytest.mark.parametrize("bits", range(1, 63))
def test_long_at_every_width(bits: int) -> None:
    for number in ((1 << bits) - 1, 1 << bits, -(1 << bits), -(1 << bits) - 1):
        assert long(number) == zigzag(number)


@pytest.mark.parametrize("number", [1 << 63, -(1 << 63) - 1])
def test_long_refuses_more_than_64_bits(number: int) -> None:
    with pytest.raises(OverflowError):
        long(number)
