"""The judges of the fuzz and of the hostile sockets: what is wrong is found, what is right is not."""

from typing import Any

import pytest

from bench.fuzz_cases import BODY, Request, as_meant, with_hints
from bench.fuzz_judge import CHANGED, CODE, EMPTIED, FAILING, MISMADE, Answer, Judge
from bench.hostile_cases import Case
from bench.hostile_send import judged

DOCUMENT: Any = {
    "paths": {
        "/v1/things": {
            "post": {
                "requestBody": {
                    "content": {
                        "application/json": {"schema": {"$ref": "#/components/schemas/New"}}
                    }
                },
                "responses": {
                    "200": {
                        "headers": {
                            "x-weir-request-id": {"required": True, "schema": {"type": "string"}},
                            "Retry-After": {"schema": {"type": "string"}},
                        },
                        "content": {
                            "application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}
                        },
                    },
                    "503": {"content": {"application/json": {}}},
                },
            }
        }
    },
    "components": {
        "schemas": {
            "New": {"type": "object", "properties": {"model": {"type": "string"}}},
            "Thing": {"type": "object", "required": ["id"]},
        }
    },
}
HEADERS = {"content-type": "application/json; charset=utf-8", "x-weir-request-id": "r"}


def problem(
    status: int,
    headers: dict[str, str],
    body: bytes,
    model: str = "auto",
    target: str = "/v1/things",
) -> str | None:
    request = Request("POST /v1/things", "positive", model, "POST", target, [], b"")
    return Judge(DOCUMENT).problem(request, Answer(status, headers, body))


def test_an_answer_as_it_is_declared_is_right() -> None:
    assert problem(200, HEADERS, b'{"id": 1}') is None


@pytest.mark.parametrize(
    ("status", "headers", "body", "told"),
    [
        (200, HEADERS, b"{}", "schema (200)"),
        (200, HEADERS, b"{", "no JSON"),
        (
            200,
            {"x-weir-request-id": "r", "content-type": "text/html"},
            b"",
            "content type text/html",
        ),
        (200, {"content-type": "application/json"}, b'{"id": 1}', "no header x-weir-request-id"),
        (418, HEADERS, b"{}", "undeclared status 418"),
        (500, HEADERS, b'{"error": {"code": "internal_error"}}', "server error 500 internal_error"),
        (503, HEADERS, b"{}", "server error 503"),
    ],
)
def test_what_is_not_declared_is_wrong(
    status: int, headers: dict[str, str], body: bytes, told: str
) -> None:
    assert told in str(problem(status, headers, body))


def test_a_server_error_is_excused_only_where_it_is_true_and_declared() -> None:
    assert problem(503, HEADERS, b"{}", FAILING) is None
    assert problem(502, HEADERS, b"{}", FAILING) is not None
    assert problem(503, HEADERS, b'{"message": "it %s"}' % EMPTIED, CHANGED) is None
    mismade = {**HEADERS, CODE: MISMADE}
    assert problem(503, mismade, b"{}", CHANGED) is None
    assert problem(503, mismade, b"{}", "auto") is not None
    assert problem(503, HEADERS, b"{}", CHANGED) is not None
    assert problem(503, HEADERS, b'{"code": "internal_error"}', FAILING) is not None
    # Who passes a call through to the provider without a server hears so.
    assert problem(503, HEADERS, b"{}", target=f"/passthrough/{CHANGED}/x") is None
    assert problem(503, HEADERS, b"{}", target="/passthrough/a/x") is not None


def test_hints_replace_what_a_case_cannot_guess_and_nothing_else() -> None:
    told = with_hints(DOCUMENT, {"/v1/": {"model": ["a/b"]}})
    media = told["paths"]["/v1/things"]["post"]["requestBody"]["content"]["application/json"]
    assert media["schema"]["properties"] == {"model": {"enum": ["a/b"]}}
    assert with_hints(DOCUMENT, {"/v2/": {"model": ["a/b"]}}) == DOCUMENT


async def _nothing(*_: Any) -> None:
    """Stand for a misbehaviour."""


@pytest.mark.parametrize(
    ("rule", "statuses", "closed", "contained"),
    [
        ("refused", [400], False, True),
        ("refused", [], True, True),
        ("refused", [], False, False),
        ("refused", [200], True, False),
        ("refused", [400, 200], True, False),
        ("refused", [500], True, False),
        ("served", [200, 200, 400], True, True),
        ("served", [], True, False),
        ("served", [200, 302], True, False),
        ("left", [], False, True),
        ("left", [503], True, False),
    ],
)
def test_how_a_hostile_socket_may_end(
    rule: str, statuses: list[int], closed: bool, contained: bool
) -> None:
    found = judged(Case("x", _nothing, rule), statuses, closed, 1.0, b"")
    assert (found is None) is contained


def test_an_end_that_comes_late_is_none() -> None:
    assert judged(Case("x", _nothing, within_s=5.0), [400], True, 9.0, b"") is not None


def test_a_case_as_it_is_meant_has_nothing_optional_and_a_body_that_fits() -> None:
    path = "/v1/things"
    place = {
        **DOCUMENT["paths"][path]["post"],
        "parameters": [
            {"name": "id", "in": "query", "required": True, "schema": {"type": "string"}},
            {"name": "limit", "in": "query", "schema": {"type": "integer"}},
        ],
    }
    document = {**DOCUMENT, "paths": {path: {"post": place}}}
    words = {"/v1": {"id": ["known"]}, f"post {path}": {BODY: [{"model": "x"}]}}
    meant = as_meant(document, words)["paths"][path]["post"]
    assert [it["schema"] for it in meant["parameters"]] == [{"enum": ["known"]}]
    (media,) = meant["requestBody"]["content"].values()
    assert media["schema"] == {"enum": [{"model": "x"}]}
