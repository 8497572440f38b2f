"""Commands over a real log: the first in partition order wins, everywhere."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from infra import commands as module
from infra.admin_desk import Desk
from infra.audit import FIRST, Auditor, chain_of, hash_of
from infra.broker import Broker
from infra.commands import Commands
from infra.entities import route_fields
from infra.seeding import read_now
from infra.tables import RouteTable, RouteTargetTable
from schemas.access import hash_of as secret_hash
from schemas.codec import decode_as
from schemas.errors import BrokerUnavailable, Conflict, Unavailable
from schemas.event import Event
from schemas.events.changes import KeyChanged, RouteChanged
from schemas.events.operations import AUDIT, AuditRecorded
from schemas.identity import uuid7
from schemas.log import Log, Position
from schemas.table_view import TableView
from tests.infra.administered import Control, control

TARGETS = [{"target": "openai/gpt-4o-mini"}]


@pytest.fixture
async def desk(fresh_broker: Broker) -> AsyncIterator[Control]:
    async with control(fresh_broker.bootstrap) as running:
        yield running


@pytest.mark.req("SEC-03", "BEY-17")
async def test_of_two_racing_writers_exactly_one_wins(
    fresh_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A winner must hear that it won: on a busy machine a view may lag by more than two seconds.
    monkeypatch.setattr(module, "APPLIED_WITHIN_S", 30.0)
    name = f"race-{uuid7()}"
    async with control(fresh_broker.bootstrap) as one, control(fresh_broker.bootstrap) as two:
        made = await one.put(f"/admin/routes/{name}", {"targets": TARGETS})
        assert (made.status, made.body["version"]) == (201, 1)
        async with asyncio.timeout(10):
            while two.administration.commands.view(RouteChanged).get(f"route:{name}") is None:
                await asyncio.sleep(0.01)
        for version in range(1, 6):
            place = f"/admin/routes/{name}?expected_version={version}"
            answers = await asyncio.gather(
                one.put(place, {"targets": TARGETS, "strategy": "weighted", "attempts": 1}),
                two.put(place, {"targets": TARGETS, "strategy": "failover", "attempts": 2}),
            )
            assert sorted(answer.status for answer in answers) == [200, 409]
            won = next(answer.body for answer in answers if answer.status == 200)
            lost = next(answer.body for answer in answers if answer.status == 409)
            assert lost["error"]["code"] == "version_conflict"
            seen = [await side.get(f"/admin/routes/{name}") for side in (one, two)]
            assert seen == [won, won]
        view = TableView(RouteChanged)
        await read_now(one.log, [view])
        assert view.entries[f"route:{name}"].strategy == won["strategy"]
        assert view.refused >= 1


@pytest.mark.req("SEC-03")
async def test_a_key_from_its_making_to_its_end(desk: Control) -> None:
    made = await desk.call(
        "POST",
        "/api/v1/admin/keys",
        {"name": "search", "models": ["openai/*"], "team": "search", "expiresIn": "P30D"},
    )
    assert made.status == 201
    secret, key = made.body["secret"], made.body["key"]
    assert len(secret) > 40
    assert (key["status"], key["scopes"], key["version"]) == ("active", ["inference"], 1)
    place = f"/api/v1/admin/keys/{key['id']}"
    assert await desk.get(place) == key

    changed = await desk.call("PATCH", place, {"tags": {"stage": "live"}, "costCenter": "c1"})
    assert (changed.body["tags"], changed.body["cost_center"]) == ({"stage": "live"}, "c1")
    assert (changed.body["models"], changed.body["team"]) == (["openai/*"], "search")

    rotated = await desk.call("POST", f"{place}/rotate", {"overlap": "PT1H"})
    assert rotated.body["secret"] not in {None, secret}
    assert rotated.body["key"]["previous_expires_at"] is not None
    event = desk.administration.commands.view(KeyChanged).entries[key["id"]]
    assert event.previous_secret_hash == secret_hash(secret)
    assert event.secret_hash == secret_hash(rotated.body["secret"])

    stale = await desk.call("POST", f"{place}/revoke?expected_version=1")
    assert stale.status == 409
    revoked = await desk.call("DELETE", place)
    assert (revoked.status, revoked.body["status"]) == (200, "revoked")
    again = await desk.call("POST", f"{place}/rotate")
    assert (again.status, again.body["error"]["code"]) == (409, "version_conflict")
    listed = await desk.get("/admin/keys?status=revoked&name=search&limit=1000")
    assert key["id"] in {row["id"] for row in listed["items"]}


@pytest.mark.req("SEC-03")
async def test_a_key_made_over_http_opens_what_its_scope_says(desk: Control) -> None:
    made = await desk.call("POST", "/admin/keys", {"name": "boss", "scopes": ["admin"]})
    weak = await desk.call("POST", "/admin/keys", {"name": "app"})

    async def status(secret: str) -> int:
        return (await desk.call("GET", "/admin/keys", secret=secret)).status

    async with asyncio.timeout(5):
        while await status(made.body["secret"]) != 200:
            await asyncio.sleep(0.02)
        while await status(weak.body["secret"]) != 403:
            await asyncio.sleep(0.02)
        await desk.call("DELETE", f"/admin/keys/{made.body['key']['id']}")
        while await status(made.body["secret"]) != 401:
            await asyncio.sleep(0.02)


@pytest.mark.req("BEY-11", "SEC-05")
async def test_every_act_is_a_link_of_the_audit_chain(fresh_broker: Broker) -> None:
    name = f"audited-{uuid7()}"
    for _ in range(2):  # the second control goes on where the first one ended
        async with control(fresh_broker.bootstrap) as desk:
            await desk.put(f"/admin/routes/{name}", {"targets": TARGETS})
            await desk.call("DELETE", f"/admin/routes/{name}")
            chain = chain_of(await audited(desk))
    acts = [(it.actor, it.action) for it in chain if it.subject == f"route:{name}"]
    assert acts == [("operator", "route.create"), ("operator", "route.delete")] * 2
    assert chain[0].previous_hash == FIRST
    for before, after in itertools.pairwise(chain):
        assert (after.sequence, after.previous_hash) == (before.sequence + 1, before.hash)
    assert all(it.hash == hash_of(it) for it in chain)


@pytest.mark.req("BEY-11", "SEC-05")
async def test_two_controls_that_write_at_once_make_one_chain(fresh_broker: Broker) -> None:
    named: set[str] = set()
    async with control(fresh_broker.bootstrap) as one, control(fresh_broker.bootstrap) as two:
        for number in range(10):
            names = {f"{who}-at-once-{number}-{turn}" for who in "ab" for turn in range(12)}
            await asyncio.gather(
                *(
                    (one if name < "b" else two).put(f"/admin/routes/{name}", {"targets": TARGETS})
                    for name in sorted(names, key=lambda it: it[::-1])
                )
            )
            named |= names
            written = await audited(one)
            chain = chain_of(written)
            if len(written) > len(chain):
                break
        else:
            pytest.fail("they never met")
    assert [it.sequence for it in chain] == list(range(len(chain)))
    for before, after in itertools.pairwise(chain):
        assert after.previous_hash == before.hash
    subjects = [it.subject for it in chain if "-at-once-" in it.subject]
    assert sorted(subjects) == sorted(f"route:{name}" for name in named)


async def audited(desk: Control) -> list[AuditRecorded]:
    chain: list[AuditRecorded] = []
    async with desk.log.reader([AUDIT]) as reader:
        while batch := await reader.batch(1000, 1.0):
            events = [decode_as(record.value, AuditRecorded) for record in batch if record.value]
            chain += [event for event in events if event is not None]
    return chain


class Deaf(Log):
    """A log that takes events and shows none."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def publish(self, event: Event, **_: Any) -> Position:
        if self.error is not None:
            raise self.error
        return Position("weir.routing.changes.v1", 0, 17)


async def command(log: Log, *, read: bool = True) -> Any:
    commands = Commands(log, (RouteChanged,))
    if read:
        commands.views[0].caught_up.set()
    table = RouteTable(targets=[RouteTargetTable(target="a/b")])
    return await commands.put(RouteChanged, "route:r", route_fields("r", table), actor="t")


@pytest.mark.req("SEC-03")
async def test_what_is_not_read_back_in_time_is_told_with_its_position(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "APPLIED_WITHIN_S", 0.02)
    accepted = await command(Deaf())
    assert (accepted.in_force, accepted.position.offset) == (False, 17)


class Unwritten(Auditor):
    """Writes nothing."""

    def __init__(self) -> None:
        pass

    async def record(
        self, actor: str, action: str, subject: str, detail: Mapping[str, str] | None = None
    ) -> None:
        """Forget it."""


@pytest.mark.req("SEC-03")
async def test_who_made_a_key_that_is_not_in_force_yet_knows_its_id_and_its_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "APPLIED_WITHIN_S", 0.02)
    accepted = await command(Deaf())
    desk = Desk(Commands(Deaf(), (RouteChanged,)), Unwritten())  # type: ignore[arg-type]
    answer = await desk.done("route.change", accepted, {"name": "r", "secret": "shown once"})
    assert answer.status_code == 202
    told = json.loads(bytes(answer.body))
    assert (told["entity"], told["secret"]) == ("route:r", "shown once")


@pytest.mark.req("BEY-19")
async def test_without_a_broker_a_command_is_refused() -> None:
    with pytest.raises(BrokerUnavailable):
        await command(Deaf(BrokerUnavailable("away")))
    with pytest.raises(Unavailable, match="has not read"):
        await command(Deaf(), read=False)


async def test_a_version_that_is_not_there_is_refused_before_anything_is_written() -> None:
    commands = Commands(Deaf(AssertionError("published")), (RouteChanged,))  # type: ignore[arg-type]
    commands.views[0].caught_up.set()
    with pytest.raises(Conflict, match="does not exist"):
        await commands.put(RouteChanged, "route:r", {}, actor="t", expected_version=3)
