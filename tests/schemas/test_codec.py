"""An event survives its bytes, today's and every published version's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec, events
from schemas.avro import fingerprint_of, schema_of
from schemas.compatibility import incompatibilities
from schemas.errors import CorruptRecord, UnknownSchema
from schemas.event import Event
from schemas.events.operations import AlertChanged
from schemas.publish import PUBLISHED, sample

ALL = events.event_types()
GOLDEN = sorted(PUBLISHED.glob("*.golden"))


@pytest.mark.req("EVT-01")
@pytest.mark.parametrize("event_type", ALL, ids=lambda event: event.type)
def test_an_event_survives_its_bytes(event_type: type[Event]) -> None:
    event = sample(event_type)
    assert codec.decode(codec.encode(event)) == event


def test_the_fingerprint_is_that_of_the_specification() -> None:
    # Avro's own vector (share/test/data/schema-tests.txt): "int" is 0x7275d51a3f395c8f, and
    # single-object encoding writes it little-endian.
    assert fingerprint_of("int") == bytes.fromhex("8f5c393f1ad57572")  # type: ignore[arg-type]


@pytest.mark.req("BEY-04", "BEY-12")
@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.stem)
def test_golden_bytes_of_every_published_version_are_read(golden: Path) -> None:
    value = bytes.fromhex(golden.read_text("utf-8").strip())
    schema = json.loads(golden.with_suffix(".avsc").read_text("utf-8"))
    event = codec.decode(value)
    assert event.type == schema["weir.type"]
    if event.version == schema["weir.version"]:
        assert event == sample(type(event))


@pytest.mark.req("BEY-12")
def test_every_event_is_published_as_it_stands() -> None:
    published = {
        (schema["weir.type"], schema["weir.version"]): schema
        for schema in codec.published_schemas()
    }
    for event_type in ALL:
        schema = published.get((event_type.type, event_type.version))
        assert schema is not None, f"{event_type.type}: run `python -m schemas.publish`"
        assert fingerprint_of(schema) == fingerprint_of(schema_of(event_type)), event_type.type


@pytest.mark.req("BEY-12")
def test_published_versions_read_each_other() -> None:
    for schema in codec.published_schemas():
        for event_type in ALL:
            if event_type.type == schema["weir.type"]:
                assert incompatibilities(schema, schema_of(event_type)) == []


@pytest.mark.req("BEY-12")
def test_the_gate_names_what_breaks() -> None:
    old = schema_of(AlertChanged)
    lost_default = {**old, "fields": [*old["fields"], {"name": "owner", "type": "string"}]}
    retyped = {
        **old,
        "fields": [
            {**field, "type": "long"} if field["name"] == "message" else field
            for field in old["fields"]
        ],
    }
    added = {
        **old,
        "fields": [*old["fields"], {"name": "owner", "type": ["null", "string"], "default": None}],
    }
    assert incompatibilities(old, added) == []
    assert any("owner is missing" in fault for fault in incompatibilities(old, lost_default))
    assert any("message: string became long" in fault for fault in incompatibilities(old, retyped))


@pytest.mark.req("GEN-05")
@given(st.data())
def test_damaged_bytes_are_an_error_never_an_event(data: st.DataObject) -> None:
    value = codec.encode(sample(AlertChanged))
    cut = data.draw(st.integers(0, len(value) - 1))
    with pytest.raises((CorruptRecord, UnknownSchema)):
        codec.decode(value[:cut])
    with pytest.raises(CorruptRecord, match="left over"):
        codec.decode(value + b"\0")


@pytest.mark.req("GEN-05")
def test_a_foreign_schema_is_named() -> None:
    with pytest.raises(UnknownSchema, match="C3 01"):
        codec.decode(b"{}")
    with pytest.raises(UnknownSchema, match="ffffffffffffffff"):
        codec.decode(b"\xc3\x01" + b"\xff" * 8 + b"rest")


@pytest.mark.req("BEY-12")
def test_headers_are_cloudevents() -> None:
    event = sample(AlertChanged)
    pairs = dict(codec.headers(event, "/control/1", correlation_id="r", causation_id="c"))
    assert pairs["content-type"] == b"application/avro"
    assert pairs["ce_specversion"] == b"1.0"
    assert pairs["ce_id"] == event.event_id.encode()
    assert pairs["ce_type"] == event.type.encode()
    assert pairs["ce_source"] == b"/control/1"
    assert pairs["ce_correlationid"] == b"r"
    assert pairs["ce_causationid"] == b"c"
    assert pairs["ce_time"] == b"1970-01-01T00:00:14.000042Z"


def test_topics_hold_every_domain_of_the_log() -> None:
    names = {topic.name for topic in events.topics()}
    assert {
        "weir.llm.requests.v1",
        "weir.llm.responses.v1",
        "weir.llm.costs.v1",
        "weir.llm.content.v1",
        "weir.llm.feedback.v1",
        "weir.alerts.v1",
        "weir.anomalies.v1",
        "weir.optimizer.v1",
        "weir.privacy.keys.v1",
        "weir.audit.v1",
        "weir.dead-letters.v1",
    } <= names
