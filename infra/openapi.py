"""The OpenAPI 3.1 document of the whole surface: control's routers and every path of the gateway.

FastAPI tells control's part. The gateway's is told here: model calls by their dialects
(`infra.openapi_calls`), the rest by the tables below. Whatever fails, the body has one of the forms
named `…Error`.
"""

from __future__ import annotations

import re
from typing import Any

from gateway import feedback, generate_batch, models_api, routing_api
from gateway.dialects.anthropic_messages import ANTHROPIC
from gateway.dialects.gemini_chat import GEMINI
from gateway.dialects.neutral import ClientDialect
from gateway.dialects.openai_chat import OPENAI
from gateway.generate import GENERATE
from infra.openapi_calls import (
    answer_of,
    body_of,
    error_form,
    error_name,
    fronts,
    own_form,
)

Document = dict[str, Any]
REQUEST_ID = {
    "required": True,
    "description": "names the call in the log and in `GET /api/v1/calls/{request_id}`",
    "schema": {"type": "string"},
}
RETRY_AFTER = {"description": "seconds to wait", "schema": {"type": "string"}}
UNHEARD = frozenset({400, 408, 413, 431, 503})
"""Before it is known who calls: what is no HTTP, or comes too slowly, is too large or too much."""
OF_CALLERS = frozenset({401, 403, 429})
"""Who may not, or not so often."""
OF_CALLS = frozenset({402, 404, 409, 422, 502, 504})
"""A budget that is spent, a model that nobody has, a key of idempotency, a provider that refuses or fails."""
OPEN = frozenset({"/", "/health", "/ready"})
"""Paths for which nobody needs a key."""
_METHODS = ("get", "put", "post", "patch", "delete")
_LIST: Document = {"type": "object", "required": ["data", "object"]}
_OWN_LIST: Document = {"type": "object", "required": ["items", "total", "limit", "offset"]}
_OBJECT: Document = {"type": "object"}


def complete(document: Document) -> Document:
    """Return FastAPI's document with the gateway's paths, and with the errors that there are."""
    components = document.setdefault("components", {})
    forms = components.setdefault("schemas", {})
    for name, path in document["paths"].items():
        for method in _METHODS:
            if method in path:
                _with_errors(path[method], GENERATE, _control_errors(name, method, path[method]))
    for name in ("HTTPValidationError", "ValidationError"):
        forms.pop(name, None)
    described = [*_calls(), *_own(), *_vendors(), *_models(), *_batches()]
    for path, method, operation, front in described:
        place = document["paths"].setdefault(path, {})
        errors = _gateway_errors(path, operation)
        place.setdefault(method, _with_errors(_placed(path, operation), front, errors))
    spoken = {error_name(front): front for _, _, _, front in described} | {"WeirError": GENERATE}
    forms |= {name: error_form(front) for name, front in sorted(spoken.items())}
    for name, place in document["paths"].items():
        for method in _METHODS:
            if method in place:
                place[method]["operationId"] = _id_of(method, name)
    components["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "an API key"},
        "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    document["security"] = [{"key": []}, {"x-api-key": []}]
    return document


_Described = tuple[str, str, Document, ClientDialect]


def _calls() -> list[_Described]:
    """Model calls, and whatever else has a dialect."""
    found = []
    for path, front, said in fronts():
        operation = {
            "tags": ["model calls"],
            "summary": f"{front.surface.replace('_', ' ').capitalize()}, "
            f"as clients of `{front.name}` call it",
            "requestBody": body_of(front, said, "{model}" in path),
            "responses": {"200": answer_of(front, said)},
        }
        found.append((path, "post", operation, front))
    return found


def _own() -> list[_Described]:
    """The gateway's own endpoints beside `/generate`."""
    batch = {"type": "object", "required": ["results", "succeeded", "failed"]}
    prompts = {
        "type": "object",
        "required": ["prompts"],
        "properties": {
            "prompts": {
                "type": "array",
                "minItems": 1,
                "maxItems": generate_batch.ITEMS_MAX,
                "items": {"type": ["string", "object"]},
            }
        },
    }
    said = {
        "type": "object",
        "required": ["feedback_type", "original_prompt", "model_response"],
        "properties": {
            "feedback_type": {"type": "string", "enum": list(feedback.FEEDBACK_TYPES)},
            "original_prompt": {"type": "string", "minLength": 1},
            "model_response": {"type": "string", "minLength": 1},
            "corrected_response": {"type": ["string", "null"]},
            "satisfaction_score": {"type": "number", "minimum": -1, "maximum": 1},
            "request_id": {"type": "string"},
        },
    }
    taken = {"type": "object", "required": ["id", "is_valid", "errors"]}
    rows: list[tuple[str, str, str, Document | None, int, Document]] = [
        *(
            (path, "post", "Up to a hundred prompts, each a call of its own", prompts, 200, batch)
            for path in sorted(generate_batch.PATHS)
        ),
        *(
            (path, "post", "A routing decision without a call", own_form(), 200, _OBJECT)
            for path in sorted(routing_api.PREVIEW_PATHS)
        ),
        *(
            (path, "post", "Feedback on an answer", said, 201, taken)
            for path in sorted(feedback.PATHS)
        ),
        *(
            (path, "get", "Strategies, routes, and how targets fare", None, 200, _OBJECT)
            for path in sorted(routing_api.STATUS_PATHS)
        ),
        ("/status/worker", "get", "What the worker that answers knows", None, 200, _OBJECT),
    ]
    return [
        (path, method, _operation("gateway", summary, body, status, form), GENERATE)
        for path, method, summary, body, status, form in rows
    ]


def _vendors() -> list[_Described]:
    """What goes to a provider as it is: any status and form that the provider likes."""
    operation = _operation("passthrough", "Passed through to a provider as it is", None)
    whatever = {"description": "the provider's own answer", "content": {"*/*": {}}}
    found: list[_Described] = []
    for method in _METHODS:
        passed = {**operation, "responses": {"200": whatever, "default": whatever}}
        if method in {"post", "put", "patch"}:
            passed["requestBody"] = {"content": {"application/json": {"schema": _OBJECT}}}
        found.append(("/passthrough/{provider}/{path}", method, passed, GENERATE))
    return found


def _models() -> list[_Described]:
    """Lists of models in each vendor's form."""
    found: list[_Described] = []
    for path, front, form in (
        ("/v1/models", OPENAI, {"type": "object", "required": ["data"]}),
        ("/v1beta/models", GEMINI, {"type": "object", "required": ["models"]}),
        ("/models", GENERATE, _OWN_LIST),
        ("/api/v1/models", GENERATE, _OWN_LIST),
    ):
        every = _operation("models", "The models that the key may call", None, 200, form)
        if front is GENERATE:
            every["parameters"] = _filters()
        one = _operation("models", "One model", None, 200, _OBJECT)
        found += [(path, "get", every, front), (f"{path}/{{model}}", "get", one, front)]
    return found


def _filters() -> list[Document]:
    bound = {"type": "integer", "minimum": 1, "maximum": models_api.LIST_MAX, "default": 100}
    numbers: Document = {"limit": bound, "offset": {"type": "integer", "minimum": 0, "default": 0}}
    names = ("type", "provider", "capability", "status")
    words: Document = {name: {"type": "string"} for name in names}
    return [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in {**numbers, **words}.items()
    ]


def _batches() -> list[_Described]:
    """Files and batches as the clients of OpenAI and Anthropic know them."""
    files, batches, messages = "/v1/files", "/v1/batches", "/v1/messages/batches"
    wish = {
        "type": "object",
        "required": ["endpoint", "completion_window", "input_file_id"],
        "properties": {
            "endpoint": {"type": "string"},
            "completion_window": {"type": "string", "const": "24h"},
            "input_file_id": {"type": "string"},
        },
    }
    asks = {
        "type": "object",
        "required": ["requests"],
        "properties": {"requests": {"type": "array", "items": {"type": "object"}}},
    }
    upload = {
        "type": "object",
        "required": ["purpose", "file"],
        "properties": {
            "purpose": {"type": "string"},
            "file": {"type": "string", "contentMediaType": "application/octet-stream"},
        },
    }
    rows: list[tuple[str, str, str, Document | None, ClientDialect]] = [
        (files, "get", "Files", None, OPENAI),
        (f"{files}/{{file_id}}", "get", "One file", None, OPENAI),
        (f"{files}/{{file_id}}", "delete", "Remove a file", None, OPENAI),
        (batches, "get", "Batches", None, OPENAI),
        (batches, "post", "Begin a batch", wish, OPENAI),
        (f"{batches}/{{batch_id}}", "get", "One batch", None, OPENAI),
        (f"{batches}/{{batch_id}}/cancel", "post", "Cancel a batch", None, OPENAI),
        (messages, "get", "Batches of messages", None, ANTHROPIC),
        (messages, "post", "Begin a batch of messages", asks, ANTHROPIC),
        (f"{messages}/{{batch_id}}", "get", "One batch of messages", None, ANTHROPIC),
        (f"{messages}/{{batch_id}}", "delete", "Remove a batch", None, ANTHROPIC),
        (f"{messages}/{{batch_id}}/cancel", "post", "Cancel a batch", None, ANTHROPIC),
    ]
    found = [
        (path, method, _operation("files and batches", summary, body, 200, _OBJECT), front)
        for path, method, summary, body, front in rows
    ]
    sent = _operation("files and batches", "Upload a file", upload, 200, _OBJECT)
    sent["requestBody"]["content"] = {"multipart/form-data": {"schema": upload}}
    read: Document = {"description": "the file's bytes", "content": {"*/*": {}}}
    content = {**_operation("files and batches", "A file's content", None), "responses": {}}
    content["responses"]["200"] = read
    lines: Document = {"description": "one line of JSON each", "content": {"*/*": {}}}
    results = {**_operation("files and batches", "Results", None), "responses": {"200": lines}}
    return [
        *found,
        (files, "post", sent, OPENAI),
        (f"{files}/{{file_id}}/content", "get", content, OPENAI),
        (f"{messages}/{{batch_id}}/results", "get", results, ANTHROPIC),
    ]


def _operation(
    tag: str, summary: str, body: Document | None, status: int = 200, form: Document | None = None
) -> Document:
    answer = {
        "description": "done",
        "content": {"application/json": {"schema": form or _OBJECT}},
    }
    operation: Document = {"tags": [tag], "summary": summary, "responses": {str(status): answer}}
    if body is not None:
        content = {"application/json": {"schema": body}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _placed(path: str, operation: Document) -> Document:
    """Return the operation with the parameters that its path names."""
    names = re.findall(r"{(\w+)}", path)
    placed = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
        }
        for name in names
    ]
    parameters = [*placed, *operation.get("parameters", [])]
    return {**operation, "parameters": parameters} if parameters else operation


def _control_errors(path: str, method: str, operation: Document) -> frozenset[int]:
    """Return the errors of an endpoint of control, beside those that it declares itself."""
    found = UNHEARD | {429}
    if path not in OPEN:
        found |= OF_CALLERS
    if "requestBody" in operation or operation.get("parameters"):
        found |= {422}
    if "{" in path:
        found |= {404} if method == "get" else {404, 409}
    return found


def _gateway_errors(path: str, operation: Document) -> frozenset[int]:
    """Return the errors of an endpoint of the gateway."""
    match operation["tags"]:
        case ["model calls"]:
            own = OF_CALLS
        case ["files and batches"]:
            # A file that is of use to a vendor alone goes to it, and comes from there.
            own = OF_CALLS if path.startswith("/v1/files") else frozenset({404, 409})
        case ["models"]:
            own = frozenset({404} if "{" in path else ())
        case _:
            own = frozenset({404, 422} if "requestBody" in operation else ())
    return UNHEARD | OF_CALLERS | own


def _with_errors(operation: Document, front: ClientDialect, errors: frozenset[int]) -> Document:
    """Add what may go wrong, in the dialect's form; give every answer its headers."""
    answers = operation["responses"]
    form = {"$ref": f"#/components/schemas/{error_name(front)}"}
    answers.pop("422", None)
    for status in sorted(errors) if "default" not in answers else ():
        content = {"application/json": {"schema": form}}
        answers.setdefault(str(status), {"description": "see the error's code", "content": content})
    for status, answer in answers.items():
        answer.setdefault("headers", {})["x-weir-request-id"] = REQUEST_ID
        if status in {"429", "503"}:
            answer["headers"]["Retry-After"] = {**RETRY_AFTER, "required": status == "503"}
    return operation


def _id_of(method: str, path: str) -> str:
    return re.sub(r"\W+", "_", f"{method}_{path}").strip("_").lower()
