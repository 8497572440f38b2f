"""Money, ids, histograms, positions, privacy: the small words that everything rests on."""

from __future__ import annotations

import os
import random
import uuid
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import histogram, money
from schemas.codec import encode
from schemas.errors import ConfigurationError, ContentErased, WeirError
from schemas.events.changes import KeyChanged, RouteChanged
from schemas.events.operations import DataKeyCreated
from schemas.events.tables import HealthBucket, HealthRow
from schemas.identity import uuid7, uuid7_ms
from schemas.log import Cursor, Deduplicator, Record
from schemas.partition import murmur2, partition_of
from schemas.privacy import MasterKey, Opener, Sealer
from schemas.publish import sample
from schemas.routing import health_of
from schemas.table_view import TableView


def record(offset: int, outbox: str | None = None, sequence: int | None = None) -> Record:
    headers = []
    if outbox is not None:
        headers = [("weir-outbox", outbox.encode()), ("weir-seq", str(sequence).encode())]
    return Record("t", 0, offset, 0, b"k", b"v", headers)


def test_uuid7_is_one_and_sorts_by_time() -> None:
    early, late = uuid7(1_000), uuid7(2_000)
    assert uuid.UUID(early).version == 7
    assert uuid.UUID(early).variant == uuid.RFC_4122
    assert early < late
    assert uuid7_ms(late) == 2_000
    assert len({uuid7() for _ in range(1_000)}) == 1_000
    with pytest.raises(ValueError, match="not a UUIDv7"):
        uuid7_ms(str(uuid.UUID(int=0)))


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        # org.apache.kafka.common.utils.UtilsTest.testMurmur2
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
@pytest.mark.req("EVT-02")
def test_partitions_are_those_of_kafkas_default_partitioner(key: bytes, hashed: int) -> None:
    assert murmur2(key) == hashed & 0xFFFFFFFF
    assert partition_of(key, 4) == (hashed & 0x7FFFFFFF) % 4


@given(st.integers(0, 10**15))
def test_money_survives_its_text(amount: int) -> None:
    assert money.from_usd(money.to_usd(amount)) == amount


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**12))))
def test_a_cost_is_the_exact_sum_rounded_once(parts: list[tuple[int, int]]) -> None:
    exact = sum((Decimal(t) * p for t, p in parts), Decimal(0)) / 1_000_000
    assert money.token_cost_nano_usd(parts) == int(exact.to_integral_value("ROUND_HALF_EVEN"))


def test_money_beyond_nano_is_refused() -> None:
    with pytest.raises(ValueError, match="nine decimals"):
        money.from_usd("0.0000000001")


@given(st.integers(0, 86_400_000_000))
def test_a_bucket_is_within_one_percent(value: int) -> None:
    near = histogram.value_of(histogram.bucket_of(value))
    assert abs(near - value) <= max(1, value * 0.0101)


def test_quantiles_do_not_depend_on_order_or_cuts() -> None:
    values = [random.Random(7).randrange(1, 10**7) for _ in range(2_000)]
    parts: list[dict[str, int]] = []
    for start in range(0, len(values), 77):
        part: dict[str, int] = {}
        for value in values[start : start + 77]:
            bucket = str(histogram.bucket_of(value))
            part[bucket] = part.get(bucket, 0) + 1
        parts.append(part)
    merged = histogram.merge(parts)
    assert merged == histogram.merge(reversed(parts))
    exact = sorted(values)[int(0.95 * (len(values) - 1))]
    estimate = histogram.quantile(merged, 0.95)
    assert estimate is not None
    assert abs(estimate - exact) <= exact * 0.011
    assert histogram.quantile({}, 0.5) is None


@pytest.mark.req("EVT-02")
@given(st.integers(0, 2**32))
def test_resends_are_dropped_and_nothing_else(seed: int) -> None:
    draw = random.Random(seed)
    produced = [(outbox, n) for outbox in ("a", "b") for n in range(30)]
    stream: list[tuple[str, int]] = []
    heads = {"a": 0, "b": 0}
    while any(head < 30 for head in heads.values()):
        outbox = draw.choice([name for name, head in heads.items() if head < 30])
        if draw.random() < 0.2:
            heads[outbox] = draw.randrange(heads[outbox] + 1)  # starts again, never skips
        stream.append((outbox, heads[outbox]))
        heads[outbox] += 1
    reader = Deduplicator(Cursor())
    fresh = reader.fresh(record(i, outbox, n) for i, (outbox, n) in enumerate(stream))
    assert sorted((r.header("weir-outbox"), int(r.header("weir-seq") or b"")) for r in fresh) == [
        (outbox.encode(), n) for outbox, n in sorted(produced)
    ]
    assert reader.dropped == len(stream) - len(produced)


@pytest.mark.req("EVT-02")
def test_a_cursor_survives_its_bytes_and_a_second_reading_adds_nothing() -> None:
    reader = Deduplicator(Cursor(cluster_id="c", topic_ids={"t": "x"}))
    records = [record(i, "a", i) for i in range(5)]
    assert len(reader.fresh(records)) == 5
    again = Deduplicator(Cursor.load(reader.cursor.dump()))
    assert again.cursor == reader.cursor
    assert again.fresh(records) == []
    assert len(again.fresh([record(5, "a", 5), record(6)])) == 2


def test_a_broken_sequence_stops_nobody() -> None:
    bad = Record("t", 0, 0, 0, b"k", b"v", [("weir-outbox", b"a"), ("weir-seq", b"x")])
    reader = Deduplicator(Cursor())
    assert reader.admit(bad)
    assert reader.cursor.next_offset("t", 0) == 1
    assert reader.cursor.watermarks == {}


def test_a_view_holds_the_last_event_per_key() -> None:
    view = TableView(KeyChanged)
    seen: list[tuple[str, bool]] = []
    view.listen(lambda key, event: seen.append((key, event is None)))
    event = sample(KeyChanged)
    assert isinstance(event, KeyChanged)

    def put(value: bytes | None) -> None:
        view.apply(Record(view.topic.name, 0, 0, 0, b"k", value, []))

    live = encode(KeyChanged(**{**_fields(event), "deleted": False, "entity_version": 1}))
    put(live)
    assert view.get("k") is not None
    put(encode(sample(RouteChanged)))  # another type on the topic is none of its business
    assert view.generation == 1
    put(encode(KeyChanged(**{**_fields(event), "deleted": True, "entity_version": 2})))
    assert view.get("k") is None
    put(live)
    put(None)
    assert view.get("k") is None
    assert seen == [("k", False), ("k", True), ("k", False), ("k", True)]


@pytest.mark.req("EVT-02", "SEC-03")
def test_of_two_changes_of_one_version_the_first_is_in_force() -> None:
    view = TableView(RouteChanged)

    def put(version: int, strategy: str, deleted: bool = False) -> str | None:
        change = RouteChanged(
            event_id="e",
            occurred_at_us=1,
            entity_version=version,
            actor="a",
            deleted=deleted,
            name="r",
            targets=[],
            strategy=strategy,
        )
        view.apply(Record(view.topic.name, 0, 0, 0, change.key.encode(), encode(change), []))
        current = view.get("route:r")
        return current.strategy if current else None

    assert put(2, "of a route that does not exist") is None
    assert put(1, "first") == "first"
    assert put(1, "late") == "first"
    assert put(2, "second") == "second"
    assert put(2, "late", deleted=True) == "second"
    assert put(3, "", deleted=True) is None
    assert put(4, "of the deleted one") is None
    assert put(1, "anew") == "anew"
    assert (view.generation, view.refused) == (4, 4)


def _fields(event: KeyChanged) -> dict[str, object]:
    return {name: getattr(event, name) for name in event.__struct_fields__}


@pytest.mark.req("BEY-10")
def test_content_is_readable_only_while_its_key_exists() -> None:
    master = MasterKey(os.urandom(32))
    keys: dict[str, DataKeyCreated] = {}
    sealer = Sealer(master, lambda event: keys.__setitem__(event.data_key_id, event))
    sealed = sealer.seal("anna", b"my secret", "request-1")
    assert b"secret" not in sealed.ciphertext
    assert sealer.seal("anna", b"x", "r").data_key_id == sealed.data_key_id
    assert sealer.seal("bert", b"x", "r").data_key_id != sealed.data_key_id
    opener = Opener(master, keys.get)
    assert opener.open(sealed, "request-1") == b"my secret"
    with pytest.raises(ContentErased, match="does not match"):
        opener.open(sealed, "request-2")
    with pytest.raises(ConfigurationError, match="another master key"):
        Opener(MasterKey(os.urandom(32)), keys.get).open(sealed, "request-1")
    keys.clear()
    with pytest.raises(ContentErased, match="no longer exists"):
        opener.open(sealed, "request-1")


@pytest.mark.parametrize("key", [b"", b"short", b"k" * 33])
def test_a_wrong_master_key_is_refused(key: bytes) -> None:
    with pytest.raises(ConfigurationError, match="master key"):
        MasterKey(key)


@pytest.mark.req("GW-15")
def test_every_error_says_what_to_do() -> None:
    def tree(error: type[WeirError]) -> list[type[WeirError]]:
        return [error, *(leaf for child in error.__subclasses__() for leaf in tree(child))]

    classes = tree(WeirError)
    assert len({error.code for error in classes}) == len(classes), "codes are stable and distinct"
    for error in classes:
        assert 400 <= error.status < 600
        assert error("what happened").advice.endswith(".")


def test_health_is_the_sum_of_its_partials_in_the_window() -> None:
    def row(partition: int, *buckets: HealthBucket) -> HealthRow:
        return HealthRow(
            event_id="e",
            occurred_at_us=0,
            entity="openai/m",
            partition=partition,
            offset=1,
            buckets=list(buckets),
        )

    old = HealthBucket(10, 100, 100, {"server": 100}, {"5": 100}, {})
    one = HealthBucket(60, 4, 1, {"timeout": 1}, {"700": 4}, {"500": 4})
    two = HealthBucket(70, 6, 2, {"timeout": 1, "server": 1}, {"700": 6}, {})
    health = health_of("openai/m", [row(0, old, one), row(1, two)], since_s=60)
    assert (health.calls, health.failures) == (10, 3)
    assert health.errors == {"timeout": 2, "server": 1}
    assert health.success_rate == pytest.approx(0.7)
    assert health.latency_p95_us == pytest.approx(histogram.value_of(700))
    assert health_of("openai/m", [], 0).success_rate is None
