"""The generated decoders read what fastavro reads, and refuse what no schema promises."""

import io

import msgspec
import pytest
from fastavro import schemaless_reader, schemaless_writer
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import HEADER_BYTES, decode, encode, writer_of
from schemas.decoder import decoder_of
from schemas.errors import CorruptRecord
from schemas.event import Event
from schemas.events import event_types
from schemas.publish import sample

EVENTS = [pytest.param(event, id=event.type) for event in event_types()]


def by_fastavro(value: bytes, event_type: type[Event]) -> Event:
    body = io.BytesIO(value[HEADER_BYTES:])
    fields = schemaless_reader(body, writer_of(event_type).parsed, None)
    assert not body.read()
    return msgspec.convert(fields, event_type, builtin_types=(bytes,))


@pytest.mark.req("EVT-01")
@pytest.mark.parametrize("event_type", EVENTS)
def test_it_reads_what_fastavro_reads(event_type: type[Event]) -> None:
    event = sample(event_type)
    value = encode(event)
    assert decode(value) == event == by_fastavro(value, event_type)


@pytest.mark.req("EVT-01")
@settings(max_examples=60)
@given(data=st.data())
def test_any_event_comes_back(data: st.DataObject) -> None:
    event_type = data.draw(st.sampled_from(event_types()))
    event = data.draw(_events(event_type))
    assert decode(encode(event)) == event


def _events(event_type: type[Event]) -> st.SearchStrategy[Event]:
    info = msgspec.inspect.type_info(event_type)
    assert isinstance(info, msgspec.inspect.StructType)
    return _struct(info)


def _struct(info: msgspec.inspect.StructType) -> st.SearchStrategy[Event]:
    return st.builds(info.cls, **{field.name: _values(field.type) for field in info.fields})


def _values(info: msgspec.inspect.Type) -> st.SearchStrategy[object]:
    match info:
        case msgspec.inspect.StrType():
            return st.text(max_size=80)
        case msgspec.inspect.IntType():
            return st.one_of(
                st.integers(-(1 << 63), (1 << 63) - 1), st.sampled_from([0, -1, 63, 64, -64, -65])
            )
        case msgspec.inspect.FloatType():
            return st.floats(allow_nan=False)
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.BytesType():
            return st.binary(max_size=200)
        case msgspec.inspect.ListType():
            return st.lists(_values(info.item_type), max_size=4)
        case msgspec.inspect.DictType():
            return st.dictionaries(st.text(max_size=9), _values(info.value_type), max_size=4)
        case msgspec.inspect.UnionType():
            inner = next(t for t in info.types if not isinstance(t, msgspec.inspect.NoneType))
            return st.one_of(st.none(), _values(inner))
        case msgspec.inspect.StructType():
            return _struct(info)
    raise TypeError(str(info))


@pytest.mark.req("EVT-01")
@pytest.mark.parametrize("event_type", EVENTS)
def test_a_record_that_was_cut_or_continued_is_corrupt(event_type: type[Event]) -> None:
    value = encode(sample(event_type))
    for end in range(HEADER_BYTES, len(value)):
        with pytest.raises(CorruptRecord):
            decode(value[:end])
    with pytest.raises(CorruptRecord):
        decode(value + b"\x00")


@settings(max_examples=300)
@given(
    event_type=st.sampled_from(event_types()),
    at=st.integers(0, 10_000),
    byte=st.integers(0, 255),
)
def test_a_spoiled_byte_gives_an_event_or_a_clear_error(
    event_type: type[Event], at: int, byte: int
) -> None:
    value = bytearray(encode(sample(event_type)))
    value[HEADER_BYTES + at % (len(value) - HEADER_BYTES)] = byte
    try:
        event = decode(bytes(value))
    except CorruptRecord:
        return
    assert isinstance(event, event_type)


def test_blocks_of_known_size_are_read() -> None:
    class Row(msgspec.Struct):
        names: list[str]
        counts: dict[str, int]

    schema = {
        "type": "record",
        "name": "Row",
        "fields": [
            {"name": "names", "type": {"type": "array", "items": "string"}},
            {"name": "counts", "type": {"type": "map", "values": "long"}},
        ],
    }
    out = io.BytesIO()
    schemaless_writer(out, schema, {"names": ["a", "b"], "counts": {"c": -3}})
    assert decoder_of(Row)(out.getvalue(), 0) == (Row(["a", "b"], {"c": -3}), len(out.getvalue()))
    # The same array as a block of −2 items and a size, as other writers may send it.
    sized = b"\x03\x08\x02a\x02b\x00" + b"\x00"
    assert decoder_of(Row)(sized, 0) == (Row(["a", "b"], {}), len(sized))
