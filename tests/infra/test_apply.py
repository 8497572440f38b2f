"""Configuration as code: apply, again, without, export, roll back."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from infra.broker import Broker
from infra.configuration import Document, expanded, parse
from schemas.errors import ValidationFailed
from schemas.events.changes import (
    BudgetChanged,
    KeyChanged,
    PriceChanged,
    ProviderChanged,
    RouteChanged,
    TargetChanged,
    TenantChanged,
)
from schemas.identity import uuid7
from tests.infra.administered import Answer, Control, control

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(fresh_broker: Broker) -> AsyncIterator[Control]:
    async with control(fresh_broker.bootstrap) as running:
        yield running


def file(mark: str, **more: Any) -> dict[str, Any]:
    return {
        "name": f"app-{mark}",
        "providers": {mark: {"base_url": "http://x/v1", "models": ["small", "large"]}},
        "routes": {mark: {"targets": [{"target": f"{mark}/small"}], "strategy": "failover"}},
        "tenants": {f"team:{mark}": {"models": [mark]}},
        "budgets": {mark: {"scope": "team", "scope_id": mark, "daily_limit_usd": 5}},
        "limits": {mark: {"scope": "team", "scope_id": mark, "requests_per_minute": 10}},
        "prices": {f"{mark}/small": {"input_usd_per_million": 1, "output_usd_per_million": 2}},
        "guardrails": {mark: {"kind": "words", "words": ["x"]}},
        "keys": {mark: {"team": mark}},
        **more,
    }


async def apply(desk: Control, document: Any, **order: Any) -> Answer:
    body = {"document": document, **order}
    answer = await desk.call("POST", "/api/v1/admin/config/apply", body)
    assert answer.status == 200, answer.body
    return answer


def actions(answer: Answer) -> dict[str, str]:
    return {f"{it['kind']} {it['id']}": it["action"] for it in answer.body["changes"]}


def entries(desk: Control, kind: Any) -> Any:
    return desk.administration.commands.view(kind).entries


@pytest.mark.req("BEY-17")
async def test_a_file_is_applied_once_and_manages_what_it_names(desk: Control) -> None:
    mark = uuid7()
    dry = await apply(desk, file(mark), dry_run=True)
    wanted = {
        f"provider {mark}",
        f"target {mark}/small",
        f"target {mark}/large",
        f"guardrail {mark}",
        f"route {mark}",
        f"tenant team:{mark}",
        f"budget {mark}",
        f"limit {mark}",
        f"price {mark}/small",
        f"key {mark}",
    }
    assert actions(dry) == dict.fromkeys(wanted, "create")
    assert f"provider:{mark}" not in entries(desk, ProviderChanged)

    done = await apply(desk, file(mark))
    assert actions(done) == actions(dry)
    assert len(done.body["secrets"][mark]) > 40
    assert entries(desk, RouteChanged)[f"route:{mark}"].actor == f"apply:app-{mark}"
    assert entries(desk, BudgetChanged)[mark].daily_limit_nano_usd == 5_000_000_000

    again = await apply(desk, file(mark))
    assert (again.body["changes"], again.body["secrets"]) == ([], {})

    # Somebody else's route stays when it is in no file; a name that the file drops goes.
    await desk.put(f"/admin/routes/other-{mark}", {"targets": [{"target": f"{mark}/large"}]})
    less = file(
        mark, budgets={}, keys={}, routes={mark: {"targets": [{"target": f"{mark}/large"}]}}
    )
    changed = await apply(desk, less)
    assert actions(changed) == {
        f"route {mark}": "change",
        f"budget {mark}": "remove",
        f"key {mark}": "revoke",
    }
    told = next(it for it in changed.body["changes"] if it["kind"] == "route")
    assert told["fields"]["strategy"] == ["failover", None]
    assert mark not in entries(desk, BudgetChanged)
    assert f"route:other-{mark}" in entries(desk, RouteChanged)
    [key] = [it for it in entries(desk, KeyChanged).values() if it.name == mark]
    assert key.revoked


@pytest.mark.req("BEY-17")
async def test_a_change_set_is_taken_back_step_by_step(desk: Control) -> None:
    mark = uuid7()
    first = await apply(desk, file(mark))
    changed = file(mark, budgets={}, routes={mark: {"targets": [{"target": f"{mark}/large"}]}})
    changed["providers"][mark]["base_url"] = "http://y/v1"
    second = await apply(desk, changed)

    dry = await desk.call("POST", "/admin/config/rollback", {"dry_run": True})
    assert dry.body["name"] == f"app-{mark}"
    back = await desk.call("POST", "/admin/config/rollback", {})
    assert back.status == 200
    assert {it["action"] for it in back.body["changes"]} == {"restore"}
    assert entries(desk, ProviderChanged)[f"provider:{mark}"].base_url == "http://x/v1"
    assert entries(desk, RouteChanged)[f"route:{mark}"].strategy == "failover"
    assert entries(desk, BudgetChanged)[mark].daily_limit_nano_usd == 5_000_000_000
    assert (await apply(desk, file(mark), dry_run=True)).body["changes"] == []

    further = await desk.call("POST", "/admin/config/rollback", {})
    assert {it["action"] for it in further.body["changes"]} == {"remove"}
    assert f"route:{mark}" not in entries(desk, RouteChanged)
    assert f"target:{mark}/small" not in entries(desk, TargetChanged)
    assert f"tenant:team:{mark}" not in entries(desk, TenantChanged)

    listed = await desk.get("/admin/config/change-sets")
    sets = [it for it in listed["items"] if it["name"] == f"app-{mark}"]
    ids = [second.body["change_set_id"], first.body["change_set_id"]]
    assert [it["reverts"] for it in sets] == [*reversed(ids), None, None]
    assert [it["id"] for it in sets[2:]] == ids


@pytest.mark.req("BEY-17")
async def test_what_others_changed_since_is_not_overwritten_in_silence(desk: Control) -> None:
    mark = uuid7()
    done = await apply(desk, file(mark))
    await desk.call("PATCH", f"/admin/routes/{mark}", {"attempts": 7})
    order = {"change_set_id": done.body["change_set_id"]}
    refused = await desk.call("POST", "/admin/config/rollback", order)
    assert (refused.status, refused.body["error"]["code"]) == (409, "version_conflict")
    assert f"route:{mark}" in refused.body["error"]["message"]
    forced = await desk.call("POST", "/admin/config/rollback", {**order, "force": True})
    assert forced.status == 200
    assert f"route:{mark}" not in entries(desk, RouteChanged)


@pytest.mark.req("BEY-17", "CFG-03")
async def test_what_is_exported_changes_nothing_when_it_is_applied(desk: Control) -> None:
    mark = uuid7()
    await apply(desk, file(mark))
    dated = f"{mark}/claude@20250929"
    await desk.put(f"/admin/targets/{dated}", {})
    exported = await desk.get("/admin/config")
    assert mark in exported["keys"]
    assert dated in exported["targets"]
    again = await apply(desk, exported, name=f"export-{mark}", dry_run=True)
    assert again.body["changes"] == []


async def test_a_file_is_refused_as_a_whole_with_all_its_faults(desk: Control) -> None:
    mark = uuid7()
    bad = file(mark, routes={"r": {"targets": []}}, limits={"l": {"scope": "team"}}, extra={})
    answer = await desk.call("POST", "/admin/config/apply", {"document": bad})
    assert answer.status == 422
    details = " ".join(answer.body["error"]["details"])
    assert all(said in details for said in ("routes.r.targets", "limits.l", "extra"))
    unknown = file(mark, routes={mark: {"targets": [{"target": "a/b"}], "strategy": "best"}})
    answer = await desk.call("POST", "/admin/config/apply", {"document": unknown})
    assert (answer.status, "'best'" in answer.body["error"]["message"]) == (422, True)
    assert f"provider:{mark}" not in entries(desk, ProviderChanged)


async def test_names_that_nothing_stands_behind_are_told(desk: Control) -> None:
    mark = uuid7()
    routes = {mark: {"targets": [{"target": "nowhere/x"}], "guardrails": ["none"]}}
    told = await apply(desk, file(mark, routes=routes), dry_run=True)
    assert told.body["warnings"] == [
        f"route {mark}: there is no provider for nowhere/x",
        f"route {mark}: there is no guardrail none",
    ]


async def test_a_providers_models_are_targets_with_what_is_known_of_them() -> None:
    document = Document.model_validate({"providers": {"openai": {"models": ["gpt-4o", "own"]}}})
    targets = expanded(document).targets
    assert targets["openai/gpt-4o"].context_length == 128_000
    assert targets["openai/own"].context_length is None


@pytest.mark.req("PROV-08")
async def test_a_price_without_a_time_holds_from_the_first_time_it_is_applied(
    desk: Control,
) -> None:
    mark = uuid7()
    await apply(desk, file(mark))
    dearer = {"input_usd_per_million": 3, "output_usd_per_million": 2}
    done = await apply(desk, file(mark, prices={f"{mark}/small": dearer}))
    assert actions(done)[f"price {mark}/small"] == "create"
    held = [it for it in entries(desk, PriceChanged).values() if it.provider == mark]
    assert sorted(it.input_price for it in held) == [1_000_000_000, 3_000_000_000]


@pytest.mark.req("BEY-17")
async def test_what_is_read_at_the_start_alone_is_told_as_such() -> None:
    with pytest.raises(ValidationFailed, match="parts, workers: read when Weir starts"):
        parse({"workers": 2, "parts": {}, "budgets": {}})
