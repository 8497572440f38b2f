"""The generated encoders against fastavro, which shares no code with them."""

import io
import math
import struct
from typing import Any

import msgspec
import pytest
from fastavro import schemaless_writer
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import codec
from schemas.encoder import double, long, some_long, time, zigzag
from schemas.encoders import ENCODERS
from schemas.event import Event
from schemas.events import event_types
from schemas.events.llm import CostEntry, ResponseCompleted
from schemas.publish import EACH_CALL, WRITTEN, each_call, sample

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
def test_long_is_zigzag(number: int) -> None:
    assert long(number) == zigzag(number)


@pytest.mark.parametrize("bits", range(1, 63))
def test_long_at_every_width(bits: int) -> None:
    for number in ((1 << bits) - 1, 1 << bits, -(1 << bits), -(1 << bits) - 1):
        assert long(number) == zigzag(number)
        assert some_long(number) == b"\x02" + zigzag(number)
        assert time(number) == time(number) == zigzag(number)


@pytest.mark.parametrize("number", [1 << 63, -(1 << 63) - 1])
def test_long_refuses_more_than_64_bits(number: int) -> None:
    with pytest.raises(OverflowError):
        long(number)
    with pytest.raises(OverflowError):
        some_long(number)
    with pytest.raises(OverflowError):
        time(number)
    assert time(1) == zigzag(1)


def of_a_call(event_type: type[Event], **fields: Any) -> Event:
    return msgspec.structs.replace(sample(event_type), **fields)


def test_the_encoders_of_a_call_are_those_that_would_be_written_now() -> None:
    assert WRITTEN.read_text("utf-8") == each_call()
    for event_type in EACH_CALL:
        assert codec.encoder(event_type) is ENCODERS[codec.writer_of(event_type).prefix]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(field, value) for field in ("request_id", "key_id", "surface") for value in (None, 7)],
        *[(field, 7) for field in ("team", "cost_center", "error_code")],
        *[(field, value) for field in ("latency_us", "occurred_at_us") for value in (None, "x")],
        *[("status", "x"), ("attempts", [None]), ("attempts", 7), ("units", {"x": "y"})],
    ],
)
def test_what_is_of_another_type_is_refused(field: str, value: object) -> None:
    with pytest.raises((TypeError, AttributeError)):
        codec.encode(of_a_call(ResponseCompleted, **{field: value}))


@pytest.mark.parametrize("field", ["request_id", "key_id", "surface", "team", "user_id", "route"])
def test_a_lone_surrogate_is_refused(field: str) -> None:
    for _ in range(2):
        with pytest.raises(UnicodeEncodeError):
            codec.encode(of_a_call(CostEntry, **{field: "\ud800"}))


@pytest.mark.parametrize("number", [1 << 63, -(1 << 63) - 1])
def test_more_than_64_bits_are_refused(number: int) -> None:
    for field in ("occurred_at_us", "input_tokens", "input_price", "priced_at_us"):
        with pytest.raises(OverflowError):
            codec.encode(of_a_call(CostEntry, **{field: number}))


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.0, 1, True, math.inf, 5e-324])
def test_doubles(value: float) -> None:
    assert double(value) == struct.pack("<d", value)


def test_words_that_are_not_kept_are_the_same() -> None:
    """Tables of words are emptied when they are full, and hold none that are long."""
    for number in range(10_000):
        name = f"{number}" if number % 2 else f"{number} " * 20
        event = of_a_call(CostEntry, team=name, target=name, entry=name, basis=name)
        if number % 1_000 < 2:
            assert codec.encode(event) == by_fastavro(event)
        assert codec.encode(event) == codec.encode(event)
