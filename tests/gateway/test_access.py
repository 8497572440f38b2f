"""Keys and tenants at the edge: who may ask for what, and what is written on each call."""

import json
from typing import Any

import anthropic
import openai
import pytest

from schemas import codec
from schemas.access import Access
from schemas.clock import now_us
from schemas.errors import AuthenticationFailed, PermissionDenied
from schemas.events.changes import KeyChanged, RouteTarget, TenantChanged
from schemas.key_view import KeyEntries, KeyView
from schemas.log import Record
from schemas.table_view import TableView
from tests.gateway.worker import META, Worker, key, route

WRONG = "weir-not-a-key"


def tenant(place: str, **fields: Any) -> TenantChanged:
    kind, _, name = place.partition(":")
    return TenantChanged(**META, kind=kind, tenant_id=name, name=name, **fields)


def access(*events: KeyChanged | TenantChanged) -> Access:
    keys, tenants = KeyView(), TableView(TenantChanged)
    for event in events:
        view: TableView[Any] = keys if isinstance(event, KeyChanged) else tenants
        view.entries[event.key] = event
        view.generation += 1
    return Access(keys, tenants)


def ask(worker: Worker, secret: str, model: str, path: str = "/v1/chat/completions") -> Any:
    body = {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    status, answer_headers, raw = worker.request("POST", path, body, headers)
    return status, answer_headers, json.loads(raw)


@pytest.fixture(scope="module")
def scoped(worker: Worker) -> Worker:
    """The session's worker with keys and tenants of this module's own."""
    only = ["openai/gpt-4o-mini", "anthropic/*", "cheap"]
    worker.change(
        tenant("organization:acme"),
        tenant("team:search", parent="organization:acme", models=["openai/*", "auto"]),
        tenant("team:closed", enabled=False),
        tenant("team:inside", parent="team:closed"),
        route("cheap", RouteTarget("openai/gpt-4o-mini")),
        route("dear", RouteTarget("openai/gpt-4o")),
        key("weir-only", name="only", models=only),
        key("weir-team", name="of the team", team="search", tags={"stage": "live"}),
        key("weir-both", name="both", team="search", models=["openai/gpt-4o", "anthropic/*"]),
        key("weir-closed", name="closed", team="inside"),
    )
    return worker


@pytest.mark.req("SEC-03", "GW-16")
def test_a_name_that_a_key_may_not_use_is_403_in_the_clients_own_dialect(scoped: Worker) -> None:
    with pytest.raises(openai.PermissionDeniedError) as refused:
        scoped.openai(api_key="weir-only").chat.completions.create(
            model="openai/gpt-4o", messages=[{"role": "user", "content": "Hi"}]
        )
    assert refused.value.code == "permission_denied"
    assert "openai/gpt-4o-mini, anthropic/*, cheap" in refused.value.message
    with pytest.raises(anthropic.PermissionDeniedError, match="may not use the model 'dear'"):
        scoped.anthropic(api_key="weir-only").messages.create(
            model="dear", max_tokens=8, messages=[{"role": "user", "content": "Hi"}]
        )


@pytest.mark.req("SEC-03")
@pytest.mark.parametrize(
    ("secret", "model", "target"),
    [
        ("weir-only", "openai/gpt-4o-mini", "openai/gpt-4o-mini"),
        ("weir-only", "gpt-4o-mini", "openai/gpt-4o-mini"),
        ("weir-only", "cheap", "openai/gpt-4o-mini"),
        ("weir-only", "dear", None),
        ("weir-only", "gpt-4o", None),
        ("weir-team", "claude-sonnet-4-5", None),
        ("weir-team", "openai/gpt-4o", "openai/gpt-4o"),
        ("weir-both", "openai/gpt-4o", "openai/gpt-4o"),
        ("weir-both", "openai/gpt-4o-mini", None),
        ("weir-both", "anthropic/claude-sonnet-4-5", None),
    ],
)
def test_key_and_tenant_narrow_what_may_be_asked_for(
    scoped: Worker, secret: str, model: str, target: str | None
) -> None:
    status, headers, _ = ask(scoped, secret, model)
    assert (status, headers.get("x-weir-model")) == ((200, target) if target else (403, None))


@pytest.mark.req("SEC-03")
def test_auto_chooses_among_what_the_key_may_use(scoped: Worker) -> None:
    seen = {ask(scoped, "weir-only", "auto")[1]["x-weir-model"] for _ in range(12)}
    assert seen <= {"openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5"}
    assert ask(scoped, "weir-both", "auto")[1]["x-weir-model"] == "openai/gpt-4o"


@pytest.mark.req("SEC-03", "GW-05")
def test_the_list_of_models_holds_what_the_key_may_use(scoped: Worker) -> None:
    def listed(secret: str) -> set[str]:
        return {model.id for model in scoped.openai(api_key=secret).models.list()}

    assert {"dear", "openai/gpt-4o"} <= listed("weir-test-key")
    assert listed("weir-only") == {
        "auto",
        "cheap",
        "openai/gpt-4o-mini",
        "anthropic/claude-sonnet-4-5",
    }
    assert listed("weir-both") == {"auto", "openai/gpt-4o"}
    with pytest.raises(openai.NotFoundError):
        scoped.openai(api_key="weir-only").models.retrieve("openai/gpt-4o")
    headers = {"authorization": "Bearer weir-only"}
    own = json.loads(scoped.request("GET", "/api/v1/models", headers=headers)[2])
    assert {row["id"] for row in own["items"]} == listed("weir-only") - {"auto", "cheap"}


@pytest.mark.req("SEC-03")
def test_the_keys_of_a_disabled_tenant_are_refused(scoped: Worker) -> None:
    status, _, body = ask(scoped, "weir-closed", "auto")
    assert (status, body["error"]["code"]) == (403, "permission_denied")
    assert "the team 'closed' is disabled" in body["error"]["message"]


@pytest.mark.req("COST-01", "SEC-03")
def test_a_call_is_attributed_by_its_key_and_what_stands_above_it(scoped: Worker) -> None:
    _, headers, _ = ask(scoped, "weir-team", "openai/gpt-4o-mini")
    admitted, completed, cost = scoped.call(headers["x-weir-request-id"])
    for event in (admitted, completed, cost):
        assert (event.team, event.organization) == ("search", "acme")
    assert admitted.tags == {"stage": "live"}


@pytest.mark.req("SEC-03")
def test_refused_callers_are_counted(scoped: Worker) -> None:
    before = scoped.state.refusals.counts["authentication_failed"]
    for secret in (WRONG, "x" * 5_000):
        status, _, body = ask(scoped, secret, "auto")
        assert (status, body["error"]["code"]) == (401, "authentication_failed")
        assert secret not in body["error"]["message"]
    assert scoped.state.refusals.counts["authentication_failed"] == before + 2


@pytest.mark.req("SEC-03")
def test_after_a_rotation_both_secrets_work_until_the_overlap_ends() -> None:
    hour_us = 3_600_000_000
    old = key("old").secret_hash
    during = key("new", previous_secret_hash=old, previous_expires_at_us=now_us() + hour_us)
    after = key("new", previous_secret_hash=old, previous_expires_at_us=now_us() - 1)
    for secret in ("old", "new"):
        assert access(during).grant(secret).key == during
    assert access(after).grant("new")
    with pytest.raises(AuthenticationFailed, match="replaced"):
        access(after).grant("old")


def test_tenants_above_each_other_end() -> None:
    found = access(
        key("k", team="a"),
        tenant("team:a", parent="team:b"),
        tenant("team:b", parent="team:a", models=["x*", "a?c"]),
    ).grant("k")
    assert [found.allows(name) for name in ("xyz", "abc", "abbc", "x[1]", "y")] == [
        True,
        True,
        False,
        True,
        False,
    ]


def test_a_tenant_that_is_enabled_again_lets_its_keys_in() -> None:
    closed = access(key("k", project="p"), tenant("project:p", enabled=False))
    with pytest.raises(PermissionDenied, match="project 'p'"):
        closed.grant("k")
    closed._tenants.entries["tenant:project:p"] = tenant("project:p")
    closed._tenants.generation += 1
    assert closed.grant("k")


def test_keys_are_held_as_records_and_found_by_their_secrets() -> None:
    entries = KeyEntries()
    first, rotated = key("a"), key("b", key_id="two", previous_secret_hash=key("a0").secret_hash)
    entries[first.key_id], entries["two"] = first, rotated
    assert dict(entries) == {first.key_id: first, "two": rotated}
    assert entries.id_of(key("a0").secret_hash) == "two"
    later = key("a", key_id="three")  # a secret belongs to the key that said it last
    entries["three"] = later
    del entries[first.key_id]
    assert entries.id_of(later.secret_hash) == "three"
    entries["two"] = key("c", key_id="two")
    assert [entries.id_of(key(secret).secret_hash) for secret in ("a0", "b", "c")] == [
        None,
        None,
        "two",
    ]
    entries.clear()
    assert not entries
    assert entries.id_of(later.secret_hash) is None


def test_a_view_of_keys_keeps_each_record_as_it_came() -> None:
    view, event = KeyView(), key("a")
    value = codec.encode(event)
    view.apply(Record(view.topic.name, 0, 0, 0, event.key.encode(), value, []))
    assert view.records()[event.key] is value
    assert view.entries_of(view.records()).records[event.key] is value
    assert view.get(event.key) == event
