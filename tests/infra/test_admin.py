"""The administration over HTTP, kind by kind."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from infra.admin_entities import PATHS
from infra.broker import Broker
from infra.entities import KINDS
from schemas.events.changes import BudgetChanged, LimitChanged, PriceChanged, ProviderChanged
from schemas.identity import uuid7
from tests.infra.administered import Control, control

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(broker: Broker) -> AsyncIterator[Control]:
    async with control(broker.bootstrap) as running:
        yield running


BODIES: dict[str, dict[str, Any]] = {
    "providers": {"base_url": "http://10.0.0.5/v1", "key_env": ["A_KEY", "B_KEY"]},
    "targets": {"context_length": 8192, "task_quality": {"code": 0.7}},
    "guardrails": {"kind": "words", "words": ["secret"]},
    "routes": {"targets": [{"target": "a/b", "taskTypes": ["code"]}], "max_cost_usd": "0.01"},
    "tenants": {"models": ["openai/*"], "parent": "organization:acme"},
    "limits": {"scope": "team", "requests_per_minute": 60},
    "prices": {
        "input_usd_per_million": "0.15",
        "output_usd_per_million": 0.6,
        "tiers": [{"aboveInputTokens": 200_000, "input_usd_per_million": "0.3"}],
    },
    "alert_channels": {"kind": "webhook", "urlEnv": "HOOK_URL", "secret_env": "HOOK_KEY"},
    "alert_rules": {"scope": "team", "threshold": 5, "window": "day", "channels": ["on-call"]},
}


def name_of(plural: str) -> str:
    unique = uuid7()
    return {
        "targets": f"a/{unique}",
        "tenants": f"team:{unique}",
        "prices": f"a/{unique}",
    }.get(plural, unique)


@pytest.mark.req("GEN-06", "GEN-03", "COST-04")
@pytest.mark.parametrize("plural", BODIES)
async def test_an_entity_is_made_read_changed_and_removed(desk: Control, plural: str) -> None:
    name, body = name_of(plural), BODIES[plural]
    path = PATHS.get(plural, f"/{plural}")
    made = await desk.call("POST", f"/admin{path}", {"id": name, **body})
    assert made.status == 201, made.body
    place = f"/api/v1/admin{path}/{made.body['id']}"
    assert await desk.get(place) == made.body
    assert made.headers["etag"] == '"1"'
    twice = await desk.call("POST", f"/admin{path}", {"id": made.body["id"], **body})
    if plural != "prices":  # another price holds from another time on
        assert twice.status == 409
    field = "price_version" if plural == "prices" else "enabled"
    changed = await desk.call("PATCH", place, {field: "v9" if plural == "prices" else False})
    assert changed.body == {
        **made.body,
        field: changed.body[field],
        "version": 2,
        "updated_at": changed.body["updated_at"],
    }
    listed = await desk.get(f"/admin{path}?limit=1000")
    assert changed.body in listed["items"]
    gone = await desk.call("DELETE", f"{place}?expected_version=2")
    assert (gone.status, gone.body["deleted"]) == (200, True)
    assert (await desk.call("GET", place)).status == 404
    assert (await desk.call("DELETE", place)).body["error"]["code"] == "not_found"


@pytest.mark.req("GEN-06")
async def test_what_a_route_names_and_nobody_has_is_told_until_somebody_has_it(
    desk: Control,
) -> None:
    name = uuid7()
    route = {"id": name, "targets": [{"target": f"{name}/m"}], "guardrails": [name]}
    made = await desk.call("POST", "/admin/routes", route)
    unguarded = f"route {name}: there is no guardrail {name}"
    assert made.body["warnings"] == [f"route {name}: there is no provider for {name}/m", unguarded]
    await desk.put(f"/admin/providers/{name}", {"base_url": "http://10.0.0.5/v1"})
    assert (await desk.get(f"/admin/routes/{name}"))["warnings"] == [unguarded]


@pytest.mark.req("COST-04")
@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("alerts/channels", {"kind": "webhook"}, "one of url, url_env and url_file"),
        ("alerts/channels", {"kind": "chat", "url": "ftp://x/y"}, "http"),
        ("alerts/channels", {"kind": "webhook", "url_env": ""}, "at least 1 character"),
        ("alerts/channels", {"kind": "email", "host": "mail.x.org"}, "sender and recipients"),
        ("alerts/channels", {"kind": "log", "secret_env": "KEY"}, "secret_env"),
        ("cost/alerts", {"scope_id": "search", "threshold": 1}, "global"),
        ("cost/alerts", {"threshold": -1}, "greater than or equal to 0"),
        ("cost/alerts", {"threshold": 1, "metric": "happiness"}, "cost_usd"),
    ],
)
async def test_what_no_alert_can_be_made_of_is_refused(
    desk: Control, path: str, body: dict[str, Any], told: str
) -> None:
    answer = await desk.call("POST", f"/admin/{path}", {"id": uuid7(), **body})
    assert answer.status == 422
    assert told in str(answer.body["error"]["details"])


@pytest.mark.req("COST-03", "GEN-02")
async def test_budgets_are_written_in_exact_decimals(desk: Control) -> None:
    body = {"scope": "team", "scopeId": "search", "dailyLimitUsd": "0.000000001"}
    made = await desk.call("POST", "/admin/cost/budgets", body)
    assert made.status == 201
    assert (made.body["daily_limit_usd"], made.body["on_exceeded"]) == ("0.000000001", "reroute")
    budget = desk.administration.commands.view(BudgetChanged).entries[made.body["id"]]
    assert (budget.daily_limit_nano_usd, budget.scope_id) == (1, "search")
    place = f"/api/v1/admin/cost/budgets/{made.body['id']}"
    raised = await desk.put(place, {"scope": "team", "monthly_limit_usd": 50.0})
    assert (raised.status, raised.body["version"]) == (200, 2)
    assert raised.body["daily_limit_usd"] is None
    tiny = await desk.put(place, {"daily_limit_usd": "0.0000000001"})
    assert (tiny.status, tiny.body["error"]["code"]) == (422, "validation_failed")
    assert (await desk.call("DELETE", place)).status == 200


@pytest.mark.req("GEN-06")
@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("routes/r", {"targets": []}, "body.targets"),
        ("routes/r", {"targets": [{"target": "a/b"}], "strateggy": "x"}, "body.strateggy"),
        ("routes/r", {"targets": [{"target": "gpt-4o"}]}, "body.targets.0.target"),
        ("routes/r", {"targets": [{"target": "a/b", "weight": 0}]}, "a weight of 1 or more"),
        ("limits/l", {"scope": "team"}, "requests_per_minute"),
        ("cost/budgets/b", {}, "daily_limit_usd"),
        ("providers/own", {"dialect": "openai"}, "base_url"),
    ],
)
async def test_what_is_wrong_is_named(desk: Control, path: str, body: Any, said: str) -> None:
    answer = await desk.put(f"/admin/{path}", body)
    assert answer.status == 422
    assert said in " ".join(answer.body["error"]["details"])


@pytest.mark.req("GEN-06")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/admin/routes/deep"),
        ("PATCH", "/admin/limits/deep"),
        ("POST", "/admin/guardrails"),
        ("POST", "/admin/config/apply"),
        ("POST", "/admin/keys"),
    ],
)
async def test_no_depth_breaks_a_command(desk: Control, method: str, path: str) -> None:
    for depth in (600, 970, 5_000):
        body = b'{"id":"deep","document":%b1%b}' % (b'{"a":' * depth, b"}" * depth)
        answer = await desk.call(method, path, body)
        assert 400 <= answer.status < 500, (depth, answer.body)


@pytest.mark.req("GEN-06")
async def test_what_is_not_there_is_named_with_its_kind(desk: Control) -> None:
    gone = await desk.call("DELETE", "/admin/routes/nope")
    assert (gone.status, gone.body["error"]["message"]) == (404, "there is no route nope")


async def test_a_known_vendor_needs_no_address(desk: Control) -> None:
    made = await desk.put("/admin/providers/groq", {"requestsPerMinute": 30})
    event = desk.administration.commands.view(ProviderChanged).entries["provider:groq"]
    assert (event.base_url, event.secret) == (made.body["base_url"], "env:GROQ_API_KEY")
    assert event.requests_per_minute == 30
    await desk.call("DELETE", "/admin/providers/groq")


async def test_a_price_holds_from_now_on_unless_it_says_since_when(desk: Control) -> None:
    name = f"p/{uuid7()}"
    for version in ("a", "b"):
        body = {"input_usd_per_million": 1, "output_usd_per_million": 2, "price_version": version}
        await desk.put(f"/admin/prices/{name}", body)
    prices = desk.administration.commands.view(PriceChanged).entries.values()
    held = [it for it in prices if f"{it.provider}/{it.model}" == name]
    assert [it.price_version for it in sorted(held, key=lambda it: it.valid_from_us)] == ["a", "b"]
    place = f"/admin/prices/{name}"
    assert (await desk.call("GET", place)).body["price_version"] == "b"
    assert (await desk.call("PATCH", place, {"price_version": "c"})).body["price_version"] == "c"
    assert (await desk.call("DELETE", place)).status in {200, 202}
    assert (await desk.call("GET", place)).body["price_version"] == "a"  # that was in force before


@pytest.mark.req("PROV-08")
async def test_a_tier_says_only_what_differs(desk: Control) -> None:
    name = f"p/{uuid7()}"
    tiers = [
        {"above_input_tokens": 200_000, "input_usd_per_million": 4},
        {"above_input_tokens": 400_000, "output_usd_per_million": 9, "unit_usd": {"call": "0.5"}},
    ]
    rates = {"input_usd_per_million": 2, "cached_input_usd_per_million": 1}
    body = {**rates, "output_usd_per_million": 8, "unit_usd": {"call": "0.1"}, "tiers": tiers}
    made = await desk.put(f"/admin/prices/{name}", body)
    event = desk.administration.commands.view(PriceChanged).entries[made.body["id"]]
    usd = 10**9
    assert [it.above_input_tokens for it in event.tiers] == [200_000, 400_000]
    told = [
        (it.input_price, it.cached_input_price, it.output_price, it.unit_prices)
        for it in (event, *event.tiers)
    ]
    calls = usd * 100_000
    assert told == [
        (2 * usd, usd, 8 * usd, {"call": calls}),
        (4 * usd, usd, 8 * usd, {"call": calls}),
        (2 * usd, usd, 9 * usd, {"call": 5 * calls}),
    ]
    place = f"/admin/prices/{made.body['id']}"
    patched = await desk.call("PATCH", place, {"tiers": made.body["tiers"]})
    assert patched.body["tiers"] == made.body["tiers"], "what is told can be given back"
    body["tiers"] = tiers[::-1]
    refused = await desk.call("PUT", f"/admin/prices/p/{uuid7()}", body)
    assert refused.status == 422
    assert "ascending" in str(refused.body)


async def test_a_price_is_found_under_the_id_that_its_making_told(desk: Control) -> None:
    body = {"input_usd_per_million": 1, "output_usd_per_million": 2}
    # What follows an @ in the name is the model's own date, as Google's cloud writes it.
    name = f"p/{uuid7()}@20250929"
    made = (await desk.call("POST", "/admin/prices", {"id": name, **body})).body
    assert made["id"].startswith(f"{name}@")
    prices = desk.administration.commands.view(PriceChanged)
    assert prices.entries[made["id"]].model == name.partition("/")[2]
    for entity_id in (made["id"], name):
        place = f"/admin/prices/{entity_id}"
        assert (await desk.call("GET", place)).body["id"] == made["id"]
        changed = await desk.call("PATCH", place, {"price_version": "x"})
        assert (changed.status, changed.body["id"]) == (200, made["id"])
        refused = await desk.call("PATCH", place, {"valid_from": "2026-01-01T00:00:00Z"})
        assert refused.status == 422
        assert "another price" in refused.body["error"]["details"][0]
    replaced = await desk.put(f"/admin/prices/{made['id']}", body)
    assert (replaced.status, replaced.body["id"]) == (200, made["id"])
    assert (await desk.call("DELETE", f"/admin/prices/{made['id']}")).status in {200, 202}
    assert (await desk.call("GET", f"/admin/prices/{name}")).status == 404


async def test_an_empty_id_names_nothing(desk: Control) -> None:
    for plural in ("providers", "routes", "limits"):
        answer = await desk.call("PUT", f"/admin/{plural}/%20", BODIES[plural])
        assert answer.status == 422
        assert "needs an id" in answer.body["error"]["message"]
        answer = await desk.call("POST", f"/admin/{plural}", BODIES[plural] | {"id": "a\x00b"})
        assert answer.status == 422  # no path could name it, to remove it


async def test_ids_of_limits_are_made(desk: Control) -> None:
    made = await desk.call("POST", "/admin/limits", {"scope": "ip", "requests_per_minute": 120})
    limit = desk.administration.commands.view(LimitChanged).entries[f"limit:{made.body['id']}"]
    assert limit.requests_per_minute == 120
    await desk.call("DELETE", f"/admin/limits/{made.body['id']}")


@pytest.mark.req("GEN-06", "BEY-12")
async def test_openapi_describes_every_command(desk: Control) -> None:
    told = (await desk.call("GET", "/openapi.json")).body
    assert told["openapi"].startswith("3.1")
    paths = told["paths"]
    for kind in KINDS:
        path = "/api/v1/admin" + PATHS.get(kind.plural, f"/{kind.plural}")
        assert {"post"} <= set(paths[path])
        assert {"put", "patch", "delete"} <= set(paths[f"{path}/{{entity_id}}"])
        form = told["components"]["schemas"][kind.model.__name__]
        for field in form["properties"].values():
            assert field.get("description"), (kind.name, field)
    assert {"get", "post"} <= set(paths["/api/v1/admin/keys"])
    assert not any(path.startswith("/admin") for path in paths)


@pytest.mark.req("GEN-03")
@pytest.mark.parametrize("life", ["P9999999D", -1])
async def test_a_key_cannot_outlive_the_calendar(desk: Control, life: str | int) -> None:
    made = await desk.call("POST", "/admin/keys", {"name": "long", "expires_in": life})
    assert made.status == 422
    assert "expires_in" in str(made.body["error"]["details"])
