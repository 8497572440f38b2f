"""Whether an answer is what the OpenAPI document says; knows the document and nothing of the product.

A status is declared, its content type too, the headers are there, the body has the declared form. An
answer from 500 on is wrong even where it is declared, but for what `TOLD_TO_FAIL` says.
"""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import msgspec

from bench.fuzz_cases import METHODS, Request

REQUEST_ID, CODE = "x-weir-request-id", "x-weir-error-code"
FAILING = "failing/gpt-4.1-nano"
"""The target whose vendor, in the sandbox, has been told to fail every call."""
TOLD_TO_FAIL = frozenset({502, 503, 504})
"""What a case may hear that names `FAILING`: the truth about its target. Nothing else from 500 on."""
CHANGED = "planted"
"""The route that cases may change as they like; the provider of this name has no server."""
EMPTIED, MISMADE = b"has no target whose provider is enabled", "configuration_error"
"""What is true of it when they left it no target, or named what does not exist."""
_INTERNAL = b"internal_error"
_KEPT = 400


class Answer(msgspec.Struct):
    """What came back: header names in lower case, the body without its framing."""

    status: int
    headers: dict[str, str]
    body: bytes


class Judge:
    """Compares answers with the document."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._components = document.get("components", {})
        self._operations: dict[str, dict[str, Any]] = {
            f"{method.upper()} {path}": place[method]
            for path, place in document["paths"].items()
            for method in METHODS
            if method in place
        }
        self._validators: dict[tuple[str, str, str], Any] = {}

    def is_excused(self, request: Request, answer: Answer) -> bool:
        """Return whether this server error is declared, and true of what the case asked for."""
        declared = self._operations[request.operation]["responses"]
        if str(answer.status) not in declared or _INTERNAL in answer.body:
            return False
        if request.model == CHANGED:
            told = EMPTIED in answer.body or answer.headers.get(CODE) == MISMADE
            return answer.status == 503 and told
        dead = request.target.startswith(f"/passthrough/{CHANGED}/")
        return (dead or request.model == FAILING) and answer.status in TOLD_TO_FAIL

    def problem(self, request: Request, answer: Answer) -> str | None:
        """Return what is wrong with an answer, None when nothing is."""
        status = str(answer.status)
        if answer.status >= 500 and not self.is_excused(request, answer):
            return f"server error {status} {code_of(answer.body)}"
        if _INTERNAL in answer.body and "event-stream" in answer.headers.get("content-type", ""):
            return f"a stream ends in an internal error ({status})"
        responses = self._operations[request.operation]["responses"]
        declared = responses.get(status) or responses.get("default")
        if declared is None:
            return f"undeclared status {status} {code_of(answer.body)}"
        headers = declared.get("headers", {}).items()
        needed = [name for name, header in headers if header.get("required")]
        missing = [name for name in needed if name.lower() not in answer.headers]
        if missing:
            return f"no header {', '.join(missing)} ({status})"
        return self._wrong_body(request, answer, status, declared.get("content", {}))

    def _wrong_body(
        self, request: Request, answer: Answer, status: str, content: dict[str, Any]
    ) -> str | None:
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not content:
            return f"an undeclared body ({status}, {kind})" if answer.body else None
        named = next((it for it in content if _matches(it, kind)), None)
        if named is None:
            return f"undeclared content type {kind or 'none'} ({status})"
        if "json" not in kind or "schema" not in content[named]:
            return None
        try:
            body = json.loads(answer.body)
        except ValueError:
            return f"the body is no JSON ({status})"
        place = (request.operation, status, named)
        if place not in self._validators:
            whole = {"components": self._components, **content[named]["schema"]}
            self._validators[place] = jsonschema_rs.Draft202012Validator(whole)
        for error in self._validators[place].iter_errors(body):
            where = "/".join(str(part) for part in error.instance_path if isinstance(part, str))
            return f"schema ({status}) at {where or '/'}: {error.message[-160:]}"
        return None


def _matches(declared: str, kind: str) -> bool:
    family, _, rest = declared.partition("/")
    if declared == "*/*":
        return True
    return kind == declared.lower() or (rest == "*" and kind.startswith(f"{family}/"))


def code_of(body: bytes) -> str:
    """Return the code of an error, in whichever dialect it came."""
    try:
        told = json.loads(body)
    except ValueError:
        return body[:40].decode("latin-1")
    error = told.get("error", told) if isinstance(told, dict) else {}
    if not isinstance(error, dict):
        return str(error)[:40]
    return str(error.get("code") or error.get("type") or error.get("message"))[:60]


def shown(data: bytes) -> str:
    """Return bytes for the ledger, shortened."""
    return data[:_KEPT].decode("utf-8", "replace")
