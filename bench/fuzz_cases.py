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
from urllib.parse import unquote

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
IN_A_ROW = 4
"""Cases of a source before the next one's turn."""
DRAWS_MAX = 20
"""Draws that may yield nothing in a row before an operation is held to have no (further) case."""
_NOT_SENT = frozenset({"content-length", "transfer-encoding", "x-schemathesis-testcaseid"})
"""What the claim says itself, and the number of a case, which would make each look like no other."""
BODY = ""
"""The name under which whole bodies are known."""
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
    """An operation in one mode, with or without hints: as many cases of it as are wanted."""

    def __init__(
        self,
        operation: APIOperation[Any, Any, Any, Any],
        mode: GenerationMode,
        seed: str,
        in_a_row: int = IN_A_ROW,
    ) -> None:
        self.operation = operation
        self.mode = mode
        self.is_fixed = not operation.body and not list(operation.iter_parameters())
        """Whether there is but one request: no body, no parameter."""
        self.in_a_row = 1 if self.is_fixed else in_a_row
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
        if name.lower() not in _NOT_SENT
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
    return unquote(named) if isinstance(named, str) else None


def draw_cases(
    document: dict[str, Any],
    hinted: dict[str, Any],
    fitting: dict[str, Any],
    seed: int,
    size: int,
    number: int,
    processes: int,
) -> Iterator[Request]:
    """Yield the cases of process `number` of `processes`: every operation as often as another.

    The operations are shared out among the processes. Those with hints are drawn from both documents,
    and one case of a round is as they are meant (`fitting`), right as it stands.
    One whose request is always the same gets one turn in each round, since what it tells may have
    changed; one without further cases drops out.
    """
    sources = []
    told, meant = _operations(hinted), _operations(fitting)
    for label, operation in list(_operations(document).items())[number::processes]:
        wide = [operation] + [told[label]] * _differ(told[label], operation)
        sources += [Source(it, mode, str(seed)) for it in wide for mode in MODES]
        if _differ(meant[label], operation):
            sources.append(Source(meant[label], GenerationMode.POSITIVE, f"{seed}|fitting", 1))
    sources = [it for it in sources if not it.is_fixed or it.mode is GenerationMode.POSITIVE]
    order = random.Random(f"{seed}|{number}")
    made = 0
    while sources and made < size:
        order.shuffle(sources)
        for source in list(sources):
            for _ in range(source.in_a_row):
                request = source.draw()
                if request is None:
                    sources.remove(source)
                    break
                yield request
                made += 1
                if made >= size:
                    return


def _operations(document: dict[str, Any]) -> dict[str, APIOperation[Any, Any, Any, Any]]:
    schema = schemathesis.openapi.from_dict(document)
    found = (result.ok() for result in schema.get_all_operations() if isinstance(result, Ok))
    return {operation.label: operation for operation in found}


def _differ(one: APIOperation[Any, Any, Any, Any], other: APIOperation[Any, Any, Any, Any]) -> bool:
    return bool(one.definition.raw != other.definition.raw)


def with_hints(document: dict[str, Any], names: dict[str, dict[str, list[Any]]]) -> dict[str, Any]:
    """Return the document with the values that a case could hardly guess, as the only ones.

    `names` has for the beginning of a path the values of parameters and of members of bodies.
    """
    told: dict[str, Any] = json.loads(json.dumps(document))
    forms = told.get("components", {}).get("schemas", {})
    for operation, known in _known(told, names):
        for parameter in operation.get("parameters", []):
            if values := known.get(parameter["name"]):
                parameter["schema"] = {"enum": values}
        for media in operation.get("requestBody", {}).get("content", {}).values():
            media["schema"] = _told(media.get("schema", {}), forms, known)
    return told


def as_meant(document: dict[str, Any], names: dict[str, dict[str, list[Any]]]) -> dict[str, Any]:
    """Return the document with requests alone that fit: known names, whole bodies, nothing optional.

    Bodies are those that `names` has under `BODY`, or the document's own examples.
    """
    meant: dict[str, Any] = json.loads(json.dumps(document))
    forms = meant.get("components", {}).get("schemas", {})
    for operation, known in _known(meant, names):
        operation["parameters"] = [
            {**it, "schema": _meant(it["name"], known) or it["schema"]}
            for it in operation.get("parameters", [])
            if it.get("required")
        ]
        for media in operation.get("requestBody", {}).get("content", {}).values():
            if bodies := known.get(BODY):
                media["schema"] = {"enum": bodies}
            elif "example" in media:
                media["schema"] = {"enum": [_named(media["example"], known)]}
            else:
                media["schema"] = _told(media.get("schema", {}), forms, known)
    return meant


def _meant(name: str, known: dict[str, list[Any]]) -> dict[str, Any]:
    """Return the schema of a parameter's known values; of models the first, which can do what is asked."""
    values = known.get(name, [])
    return {"enum": values[:1] if name == "model" else values} if values else {}


def _named(body: dict[str, Any], known: dict[str, list[Any]]) -> dict[str, Any]:
    """Return a body that names the first of the models that are there."""
    return {**body, "model": known["model"][0]} if {"model"} <= body.keys() & known.keys() else body


def _known(
    document: dict[str, Any], names: dict[str, dict[str, list[Any]]]
) -> Iterator[tuple[dict[str, Any], dict[str, list[Any]]]]:
    """Yield each operation with the values that are known for its path."""
    for path, place in document["paths"].items():
        known: dict[str, list[Any]] = {}
        for prefix in sorted((it for it in names if path.startswith(it)), key=len):
            known |= names[prefix]
        for method in METHODS:
            if method in place:
                yield place[method], {**known, **names.get(f"{method} {path}", {})}


def _told(
    schema: dict[str, Any], forms: dict[str, Any], known: dict[str, list[Any]]
) -> dict[str, Any]:
    """Return a body's schema with the known values of its members."""
    whole = forms[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    members = whole.get("properties", {})
    hints = {name: {"enum": known[name]} for name in known.keys() & members.keys()}
    if not hints:
        return schema
    return {**whole, "properties": {**members, **hints}, "additionalProperties": False}
