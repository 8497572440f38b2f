import asyncio
import hashlib
from pathlib import Path

import msgspec
import pytest

from gateway.state import GatewayState
from infra.kafka import KafkaLog
from schemas import codec
from schemas.clock import now_us
from schemas.errors import AuthenticationFailed, UnknownSchema
from schemas.event import Event
from schemas.events.changes import (
    Change,
    DeploymentChanged,
    KeyChanged,
    PriceChanged,
    ProviderChanged,
    RouteChanged,
    TargetChanged,
)
from schemas.events.operations import Heartbeat
from schemas.events.tables import HealthBucket, HealthRow
from schemas.identity import uuid7
from schemas.log import Record
from schemas.publish import sample

SECRET = "weir-secret"


def hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def key(**changes: object) -> KeyChanged:
    fields = {
        "key_id": "k1",
        "secret_hash": hashed(SECRET),
        "expires_at_us": None,
        "revoked": False,
        "deleted": False,
    }
    return msgspec.structs.replace(sample(KeyChanged), **(fields | changes))


def feed(state: GatewayState, *events: Event) -> None:
    for event in events:
        for view in state.views:
            if view.event_type is type(event):
                if isinstance(event, Change):
                    current = view.get(event.key)
                    version = current.entity_version + 1 if current else 1
                    event = msgspec.structs.replace(event, entity_version=version)
                value = codec.encode(event)
                view.apply(Record(event.topic.name, 0, 0, 0, event.key.encode(), value, []))


@pytest.mark.req("SEC-03")
def test_authenticates_by_hash() -> None:
    state = GatewayState()
    feed(state, key())
    assert state.authenticate(SECRET).key.key_id == "k1"
    for secret in ("", "weir-secre", hashed(SECRET), "\udcff"):
        with pytest.raises(AuthenticationFailed) as refused:
            state.authenticate(secret)
        assert not secret or secret not in refused.value.message


@pytest.mark.req("SEC-03")
@pytest.mark.parametrize(
    "change", [{"revoked": True}, {"deleted": True}, {"expires_at_us": 1}, {"secret_hash": "00"}]
)
def test_a_key_that_is_no_longer_good_is_refused_at_once(change: dict[str, object]) -> None:
    state = GatewayState()
    feed(state, key())
    assert state.authenticate(SECRET)
    feed(state, key(**change))
    with pytest.raises(AuthenticationFailed):
        state.authenticate(SECRET)


def target(**changes: object) -> TargetChanged:
    fields = {"provider": "openai", "model": "gpt", "enabled": True, "deleted": False}
    return msgspec.structs.replace(sample(TargetChanged), **(fields | changes))


def deployment(**changes: object) -> DeploymentChanged:
    fields = {"provider": "local", "model": "mine", "state": "promoted", "deleted": False}
    return msgspec.structs.replace(sample(DeploymentChanged), **(fields | changes))


def test_targets_are_listed_models_and_deployed_versions() -> None:
    state = GatewayState()
    feed(state, target(), target(model="off", enabled=False), deployment())
    assert set(state.targets) == {"openai/gpt", "local/mine"}
    assert state.targets["local/mine"].deployment_id == deployment().deployment_id
    feed(state, target(deleted=True), deployment(state="rolled_back"))
    assert state.targets == {}


def test_routes_and_providers_by_name() -> None:
    state = GatewayState()
    route = msgspec.structs.replace(
        sample(RouteChanged), name="fast", deleted=False, entity_version=1
    )
    provider = msgspec.structs.replace(
        sample(ProviderChanged), name="openai", deleted=False, entity_version=1
    )
    feed(state, route, provider)
    assert state.routes == {"fast": route}
    assert state.providers == {"openai": provider}
    feed(state, msgspec.structs.replace(route, enabled=False))
    assert state.routes == {}


@pytest.mark.req("PROV-08")
def test_the_price_is_the_one_valid_at_the_time() -> None:
    state = GatewayState()
    prices = [
        msgspec.structs.replace(
            sample(PriceChanged), provider="openai", model="gpt", valid_from_us=at, deleted=False,
            price_version=str(at),
        )
        for at in (300, 100, 200)
    ]  # fmt: skip
    reseller = msgspec.structs.replace(
        sample(ProviderChanged), name="azure", price_provider="openai", deleted=False
    )
    feed(state, *prices, reseller)
    found = {at: state.price("openai", "gpt", at) for at in (99, 100, 199, 250, 10**9)}
    versions = {at: price.price_version if price else None for at, price in found.items()}
    assert versions == {99: None, 100: "100", 199: "100", 250: "200", 10**9: "300"}
    assert state.price("azure", "gpt", 150) == found[100]
    assert state.price("openai", "unknown", 150) is None


def health(partition: int, calls: int, failures: int, age_s: int = 0) -> HealthRow:
    start = now_us() // 1_000_000 // 10 * 10 - age_s
    bucket = HealthBucket(start, calls, failures, {"server": failures}, {"500": calls}, {})
    return msgspec.structs.replace(
        sample(HealthRow), entity="openai/gpt", partition=partition, buckets=[bucket]
    )


def test_health_sums_the_partitions_of_the_last_minute() -> None:
    state = GatewayState()
    assert state.health("openai/gpt").success_rate is None
    feed(state, health(0, 10, 5), health(1, 30, 0), health(2, 99, 99, age_s=120))
    found = state.health("openai/gpt")
    assert (found.calls, found.failures, found.errors) == (40, 5, {"server": 5})
    assert state.health("openai/gpt") is found
    feed(state, health(0, 20, 5))
    assert state.health("openai/gpt").calls == 50


def test_streams_are_alive_for_five_seconds_after_a_beat() -> None:
    state = GatewayState()
    assert not state.streams_alive
    for age_s, alive in ((0, True), (4, True), (6, False)):
        at = now_us() - age_s * 1_000_000
        feed(state, msgspec.structs.replace(sample(Heartbeat), part="streams", occurred_at_us=at))
        assert state.streams_alive is alive


@pytest.mark.req("BEY-19")
async def test_a_restart_without_a_broker_still_authenticates(tmp_path: Path) -> None:
    file = tmp_path / "gateway" / "views.cache"
    state = GatewayState(file)
    feed(state, key(), target(), deployment(), sample(PriceChanged), sample(ProviderChanged))
    state.keys.cursor.positions = {"weir.identity.changes.v1": {0: 7}}
    await state.save()
    again = GatewayState(file)
    assert not again.ready
    assert again.load()
    assert again.ready
    assert again.authenticate(SECRET).key.key_id == "k1"
    assert again.targets == state.targets
    assert again.keys.cursor.next_offset("weir.identity.changes.v1", 0) == 7


async def test_the_cache_is_written_only_after_a_change(tmp_path: Path) -> None:
    file = tmp_path / "views.cache"
    state = GatewayState(file)
    feed(state, key())
    await state.save()
    file.unlink()
    await state.save()
    assert not file.exists()
    feed(state, key(revoked=True))
    await state.save()
    assert file.exists()


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
async def test_a_damaged_cache_is_ignored(tmp_path: Path, damage: bytes | None) -> None:
    file = tmp_path / "views.cache"
    state = GatewayState(file)
    feed(state, key())
    await state.save()
    file.write_bytes(file.read_bytes()[:-1] if damage is None else damage)
    fresh = GatewayState(file)
    assert not fresh.load()
    assert not fresh.ready


@pytest.mark.req("BEY-19")
async def test_what_an_older_version_could_not_read_is_read_by_the_newer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "views.cache"
    older = GatewayState(file)
    feed(older, target())
    newer = codec.encode(key())
    known = codec.writers()
    with monkeypatch.context() as patch:
        fewer = {prefix: writer for prefix, writer in known.items() if newer[:10] != prefix}
        patch.setattr(codec, "writers", lambda: fewer)
        with pytest.raises(UnknownSchema):
            older.keys.apply(Record(KeyChanged.topic.name, 0, 7, 0, b"k1", newer, []))
        older.keys.cursor.positions = {KeyChanged.topic.name: {0: 8}}
        await older.save()
        same = GatewayState(file)
        assert same.load()
        assert same.keys.cursor.next_offset(KeyChanged.topic.name, 0) == 8
        await same.save()
    upgraded = GatewayState(file)
    assert upgraded.load()
    assert upgraded.keys.cursor.next_offset(KeyChanged.topic.name, 0) == 0
    assert upgraded.targets == older.targets


def test_without_a_cache_there_is_nothing_to_load(tmp_path: Path) -> None:
    assert not GatewayState(tmp_path / "none").load()
    assert not GatewayState().load()


@pytest.mark.req("SEC-03")
async def test_a_revoked_key_is_refused_while_the_state_follows(log: KafkaLog) -> None:
    secret, state, stop = uuid7(), GatewayState(), asyncio.Event()
    made = key(key_id=uuid7(), secret_hash=hashed(secret), entity_version=1)
    task = asyncio.create_task(state.follow(log, stop))
    await log.publish(made)

    async def let_in(wanted: bool) -> None:
        async with asyncio.timeout(10):
            while True:
                try:
                    state.authenticate(secret)
                    found = True
                except AuthenticationFailed:
                    found = False
                if found is wanted:
                    return
                await asyncio.sleep(0.01)

    await let_in(True)
    change = {"revoked": True, "event_id": uuid7(), "entity_version": 2}
    await log.publish(msgspec.structs.replace(made, **change))
    await let_in(False)
    stop.set()
    await task


async def following(state: GatewayState, log: KafkaLog) -> None:
    stop = asyncio.Event()
    task = asyncio.create_task(state.follow(log, stop, save_every_s=0.1))
    await asyncio.wait_for(state.keys.caught_up.wait(), 20)
    stop.set()
    await task


@pytest.mark.req("BEY-19")
async def test_follows_the_log_and_goes_on_from_its_cache(tmp_path: Path, log: KafkaLog) -> None:
    secret, file = uuid7(), tmp_path / "views.cache"
    known = key(key_id=uuid7(), secret_hash=hashed(secret), entity_version=1)
    await log.publish(known)
    await following(GatewayState(file), log)
    await log.publish(
        msgspec.structs.replace(known, revoked=True, event_id=uuid7(), entity_version=2)
    )
    state = GatewayState(file)
    assert state.load()
    assert state.authenticate(secret)
    await following(state, log)
    with pytest.raises(AuthenticationFailed, match="revoked"):
        state.authenticate(secret)


async def test_a_cache_of_another_cluster_is_dropped(tmp_path: Path, log: KafkaLog) -> None:
    file = tmp_path / "views.cache"
    foreign = GatewayState(file)
    feed(foreign, key(key_id="foreign"))
    for view in foreign.views:
        view.cursor.cluster_id = "another-cluster"
        view.cursor.positions = {view.topic.name: {0: 3}}
    await foreign.save()
    state = GatewayState(file)
    assert state.load()
    await following(state, log)
    assert "foreign" not in state.keys.entries


@pytest.mark.req("FB-01")
def test_names_that_mean_something_are_known() -> None:
    state = GatewayState()
    there = {"enabled": True, "deleted": False}
    target = msgspec.structs.replace(sample(TargetChanged), provider="a", model="m", **there)
    route = msgspec.structs.replace(sample(RouteChanged), name="r", **there)
    called = msgspec.structs.replace(sample(HealthRow), entity="a/unlisted", partition=0)
    feed(state, target, route, called)
    assert all(state.knows(name) for name in ("r", "m", "a/m", "a/unlisted"))
    assert not state.knows("a/invented")
