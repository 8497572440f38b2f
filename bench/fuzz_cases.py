"""Cases that schemathesis makes of the OpenAPI document, drawn in bulk, as the bytes of a request.

Hypothesis' engine, which looks for a smallest failing example, costs ten times a draw, and nothing
is made smaller here: its strategies are drawn from directly, with a generator of the claim's own.
Half of the cases are what the document allows, half are spoilt on purpose.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import requests  # noqa: TID251 - what schemathesis writes bodies with; nothing is sent by it
import schemathesis
from hypothesis.control import BuildContext
from hypothesis.errors import StopTest, UnsatisfiedAssumption
from hypothesis.internal.conjecture.data import ConjectureData
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation

MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
METHODS = ("get", "put", "post", "patch", "delete")
IN_A_ROW = 6
"""Cases of an operation and mode before the next one's turn."""
DRAWS_MAX = 20
"""Draws that may yield nothing in a row before an operation is held to have no (further) case."""
BASE = "http://weir.invalid"
"""Stands for the gateway in what schemathesis writes; the claim sends it to its own socket."""


class Request(msgspec.Struct, frozen=True):
    """One case: whose it is, the model that it names, and its bytes without the key."""

    operation: str
    mode: str
    model: str | None
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def wire(self, key: str) -> bytes:
        """Return what is sent."""
        told = [pair for pair in self.headers if pair[0].lower() != "authorization"]
        told += [("Host", "weir.invalid"), ("Authorization", f"Bearer {key}")]
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{k}: {v}" for k, v in told), "", ""]
        return "\r\n".join(lines).encode("latin-1", "replace") + self.body


class Source:
    """An operation in one mode: as many cases of it as are wanted."""

    def __init__(
        self, operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode, seed: str
    ) -> None:
        self.operation = operation
        self.mode = mode
        self.is_fixed = not operation.body and not list(operation.iter_parameters())
        """Whether there is but one request: no body, no parameter."""
        self._strategy: SearchStrategy[Any] = operation.as_strategy(generation_mode=mode)
        self._random = random.Random(f"{seed}|{operation.label}|{mode.value}")

    def draw(self) -> Request | None:
        """Return a case; None when none can be made, as the wrong form of GET /health."""
        for _ in range(DRAWS_MAX):
            data = ConjectureData(random=self._random)
            try:
                with BuildContext(data, is_final=False, wrapped_test=_none):
                    case = data.draw(self._strategy)
            except (UnsatisfiedAssumption, StopTest):
                continue
            return _written(case)
        return None


def _none() -> None:
    """Stand for the test that hypothesis would run."""


def _written(case: Any) -> Request:
    """Return the bytes of a case, as schemathesis itself would send it."""
    kwargs = case.as_transport_kwargs(base_url=BASE)
    prepared = requests.Request(**kwargs).prepare()
    body = prepared.body or b""
    if not isinstance(body, bytes):
        body = body.encode("utf-8", "surrogatepass")
    headers = [
        (_text(name), _text(value))
        for name, value in prepared.headers.items()
        if name.lower() not in {"content-length", "transfer-encoding"}
    ]
    if body or case.method in {"POST", "PUT", "PATCH"}:
        headers.append(("Content-Length", str(len(body))))
    return Request(
        operation=case.operation.label,
        mode=case.meta.generation.mode.value,
        model=_model(case),
        method=case.method,
        target=prepared.path_url,
        headers=headers,
        body=body,
    )


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _model(case: Any) -> str | None:
    """Return the model that a case asks for, in its path or its body."""
    named: Any = (case.path_parameters or {}).get("model")
    if named is None and isinstance(case.body, dict):
        named = case.body.get("model")
    return named if isinstance(named, str) else None


def draw_cases(
    document: dict[str, Any], seed: int, size: int, number: int, processes: int
) -> Iterator[Request]:
    """Yield the cases of process `number` of `processes`: every operation as often as another.

    The operations are shared out among the processes. One whose request is always the same gets one
    turn in each round, since what it tells may have changed; one without further cases drops out.
    """
    schema = schemathesis.openapi.from_dict(document)
    every = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    mine = every[number::processes]
    sources = [Source(operation, mode, str(seed)) for operation in mine for mode in MODES]
    sources = [it for it in sources if not it.is_fixed or it.mode is GenerationMode.POSITIVE]
    order = random.Random(f"{seed}|{number}")
    made = 0
    while sources and made < size:
        order.shuffle(sources)
        for source in list(sources):
            for _ in range(1 if source.is_fixed else IN_A_ROW):
                request = source.draw()
                if request is None:
                    sources.remove(source)
                    break
                yield request
                made += 1
                if made >= size:
                    return


def hinted(document: dict[str, Any], names: dict[str, dict[str, list[str]]]) -> dict[str, Any]:
    """Return the document with real names where a case could hardly guess them.

    `names` has for the beginning of a path the names of parameters, and of members of bodies, with
    values that exist; every other string stays as likely.
    """
    told: dict[str, Any] = json.loads(json.dumps(document))
    for path, place in told["paths"].items():
        known: dict[str, list[str]] = {}
        for prefix in sorted((it for it in names if path.startswith(it)), key=len):
            known |= names[prefix]
        for operation in (place[method] for method in METHODS if method in place):
            for parameter in operation.get("parameters", []):
                if values := known.get(parameter["name"]):
                    parameter["schema"] = _named(values)
            for media in operation.get("requestBody", {}).get("content", {}).values():
                members = media.get("schema", {}).get("properties", {})
                for name in known.keys() & members.keys():
                    members[name] = _named(known[name])
    return told


def _named(values: list[str]) -> dict[str, Any]:
    return {"anyOf": [{"type": "string", "enum": values}, {"type": "string", "minLength": 1}]}
