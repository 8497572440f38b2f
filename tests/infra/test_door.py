import contextlib
import hashlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession
from fastapi import APIRouter
from pydantic import BaseModel
from uvicorn import Config

from infra.broker import free_port
from infra.control import _Server, build
from infra.docs_page import PATHS, docs_router
from infra.door import Keys
from infra.telemetry import JsonFormatter
from schemas.clock import now_us
from schemas.codec import encode
from schemas.errors import RateLimited, WeirError
from schemas.events.changes import IDENTITY, KeyChanged
from schemas.identity import uuid7
from schemas.key_view import KeyView
from schemas.log import Record
from schemas.table_view import TableView

OPERATOR = "the-operators-token"


class Body(BaseModel):
    count: int


router = APIRouter()


@router.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@router.post("/count")
async def count(body: Body) -> dict[str, int]:
    return {"count": body.count}


@router.post("/sql")
async def sql() -> dict[str, int]:
    return {"rows": 0}


@router.get("/busy")
async def busy() -> None:
    raise RateLimited("too many", retry_after_seconds=2.5)


@router.get("/broken")
async def broken() -> None:
    raise ValueError("a secret detail")


def add_key(view: TableView[KeyChanged], secret: str, **fields: Any) -> None:
    key_id = uuid7()
    event = KeyChanged(
        event_id=uuid7(),
        occurred_at_us=now_us(),
        entity_version=1,
        actor="test",
        key_id=key_id,
        name="k",
        secret_hash=hashlib.sha256(secret.encode()).hexdigest(),
        **({"scopes": ["admin"]} | fields),
    )
    view.apply(Record(IDENTITY.name, 0, 0, 0, key_id.encode(), encode(event), []))


@pytest.fixture
async def url() -> AsyncIterator[str]:
    view = KeyView()
    keys = Keys(view, OPERATOR)
    view.caught_up.set()
    add_key(view, "admin")
    add_key(view, "analyst", scopes=["sql"])
    add_key(view, "revoked", revoked=True)
    add_key(view, "expired", expires_at_us=1)
    import asyncio

    port = free_port()
    server = _Server(
        Config(build(keys, [router, docs_router()]), "127.0.0.1", port, log_config=None)
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await serving


async def call(url: str, path: str, secret: str | None = "admin", **options: Any) -> Any:
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    headers |= options.pop("headers", {})
    async with ClientSession() as client:
        method = "POST" if "data" in options or path == "/sql" else "GET"
        async with client.request(method, url + path, headers=headers, **options) as response:
            return response.status, dict(response.headers), json.loads(await response.read())


@pytest.mark.req("GW-16", "GEN-06")
@pytest.mark.parametrize(
    ("path", "secret", "status", "code"),
    [
        ("/busy", None, 401, "authentication_failed"),
        ("/busy", "unknown", 401, "authentication_failed"),
        ("/busy", "revoked", 401, "authentication_failed"),
        ("/busy", "expired", 401, "authentication_failed"),
        ("/busy", "analyst", 403, "permission_denied"),
        ("/busy", "admin", 429, "rate_limited"),
        ("/nowhere", "admin", 404, "not_found"),
        ("/busy%0A", "admin", 400, "invalid_request"),
        ("/broken", "admin", 500, "internal_error"),
    ],
)
async def test_every_error_has_one_shape(
    url: str, path: str, secret: str | None, status: int, code: str
) -> None:
    got, headers, body = await call(url, path, secret)
    error = body["error"]
    assert (got, error["code"]) == (status, code)
    assert set(error) >= {"message", "type", "details", "retryable", "retry_after_seconds"}
    assert error["request_id"] == headers["x-weir-request-id"]
    assert "secret detail" not in json.dumps(body)
    if status == 429:
        assert (error["retry_after_seconds"], headers["Retry-After"]) == (2.5, "3")


@pytest.mark.req("GEN-06")
async def test_a_body_of_the_wrong_form_names_every_field(url: str) -> None:
    options = {"data": b'{"count": "many"}', "headers": {"Content-Type": "application/json"}}
    status, _, body = await call(url, "/count", **options)
    assert (status, body["error"]["code"]) == (422, "validation_failed")
    assert "body.count" in body["error"]["details"][0]


@pytest.mark.req("GEN-06")
async def test_a_form_in_place_of_json_is_told_apart(url: str) -> None:
    options = {"data": b'{"count": 1}', "headers": {"Content-Type": "text/plain"}}
    status, _, body = await call(url, "/count", **options)
    assert (status, body["error"]["details"]) == (
        422,
        ["the header Content-Type says text/plain: send application/json"],
    )


@pytest.mark.req("GEN-06")
@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/chat/completions", "ends with /v1"),
        ("/v1/v1/messages", "ends before /v1"),
        ("/nowhere", "there is no GET /nowhere"),
    ],
)
async def test_a_wrong_base_url_is_recognised(url: str, path: str, hint: str) -> None:
    _, _, body = await call(url, path)
    assert body["error"]["message"].endswith(hint)


@pytest.mark.req("GW-09")
async def test_an_oversize_body_is_refused_before_it_is_read(url: str) -> None:
    status, _, body = await call(url, "/count", data=b"x" * (1024 * 1024 + 1))
    assert (status, body["error"]["code"]) == (413, "payload_too_large")


async def test_scopes_and_the_local_operator(url: str) -> None:
    assert (await call(url, "/sql", "analyst"))[0] == 200
    assert (await call(url, "/sql", OPERATOR))[0] == 200
    assert (await call(url, "/sql", None, headers={"x-api-key": "admin"}))[0] == 200
    assert (await call(url, "/health", None))[0] == 200


async def test_the_callers_request_id_is_kept(url: str) -> None:
    _, headers, _ = await call(url, "/health", headers={"x-weir-request-id": "r-1"})
    assert headers["x-weir-request-id"] == "r-1"


@pytest.mark.req("OPS-02")
def test_log_lines_carry_known_fields_and_no_others() -> None:
    record = logging.getLogger("x").makeRecord("x", 20, "f", 1, "did %s", ("it",), None)
    record.request_id = "r"
    record.prompt = "do not log me"
    line = json.loads(JsonFormatter("control").format(record))
    assert (line["message"], line["request_id"], line["part"]) == ("did it", "r", "control")
    assert "do not log me" not in json.dumps(line)


@pytest.mark.req("GEN-06", "SEC-04")
async def test_the_api_as_a_page_needs_nothing_from_elsewhere(url: str) -> None:
    async with ClientSession() as client:
        for path in PATHS:
            async with client.get(url + path) as answer:
                body, headers = await answer.text(), answer.headers
            assert answer.status == 200, path
            assert "script-src 'self'" in headers["content-security-policy"]
            if path == "/docs":
                assert "://" not in body
                assert all(name in body for name in PATHS[1:])
        async with client.get(url + "/health") as answer:
            assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        async with client.get(url + "/openapi.json") as answer:
            told = await answer.json()
    assert told["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


@pytest.mark.req("GW-17")
def test_an_application_has_the_areas_that_it_was_made_of() -> None:
    keys, area = Keys(KeyView(), "token"), APIRouter()

    @area.get("/area")
    def told() -> str:
        return "area"

    with_it, without = build(keys, [area]).openapi(), build(keys, []).openapi()
    assert with_it["paths"].keys() - without["paths"].keys() == {"/area"}


@pytest.mark.req("OPS-01")
def test_callers_without_a_good_key_are_counted_and_those_who_lack_a_scope_are_not() -> None:
    view = KeyView()
    keys = Keys(view, OPERATOR)
    view.caught_up.set()
    add_key(view, "analyst", scopes=["sql"])
    for authorization in (b"Bearer guess", b"", b"Bearer analyst", f"Bearer {OPERATOR}".encode()):
        with contextlib.suppress(WeirError):
            keys.admit({b"authorization": authorization}, "/api/v1/admin/keys")
    assert keys.refused == 2
