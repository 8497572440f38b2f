"""Model calls in the OpenAPI document, read off the dialects themselves.

Which members a body must have is asked of the dialect (`open` refuses the example without them), and
how its errors look is what it writes. A new dialect is described with its paths and errors without a
line here; an example of its body makes the description fuller.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.dialects.base import BaseDialect
from gateway.dialects.neutral import ClientDialect, Json
from gateway.dialects.registry import dialects
from gateway.generate import GENERATE, Generate
from schemas.errors import Overloaded, RateLimited, ValidationFailed, WeirError

MODEL = "openai/gpt-4.1-nano"
_TALK = [{"role": "user", "content": "Where is the water?"}]
_CONTENTS = [{"role": "user", "parts": [{"text": "Where is the water?"}]}]
_EMBEDDER, _DRAWER, _RANKER = (
    "openai/text-embedding-3-small",
    "openai/gpt-image-1",
    "cohere/rerank-v3.5",
)
_PICTURE: Json = {"image": b"", "model": _DRAWER, "prompt": "a blue sea", "n": 1}
_SOUND: Json = {"file": b"", "model": "openai/whisper-1", "response_format": "json"}

EXAMPLES: dict[tuple[str, str], Json] = {
    ("openai", "chat"): {
        "model": MODEL,
        "messages": _TALK,
        "max_tokens": 32,
        "temperature": 0.5,
        "stream": False,
    },
    ("openai_completions", "chat"): {"model": MODEL, "prompt": "Once", "max_tokens": 32},
    ("openai_responses", "chat"): {
        "model": MODEL,
        "input": "Where is the water?",
        "max_output_tokens": 32,
        "stream": False,
    },
    ("openai_responses", "count_tokens"): {"model": MODEL, "input": "Where is the water?"},
    ("openai", "embeddings"): {"model": _EMBEDDER, "input": ["water"]},
    ("openai", "images"): {"model": _DRAWER, "prompt": "a blue sea", "n": 1},
    ("openai", "image_edits"): _PICTURE,
    ("openai", "image_variations"): {k: v for k, v in _PICTURE.items() if k != "prompt"},
    ("openai", "speech"): {
        "model": "openai/tts-1",
        "input": "Good morning",
        "voice": "alloy",
    },
    ("openai", "transcription"): _SOUND,
    ("openai", "translation"): _SOUND,
    ("openai", "moderation"): {
        "model": "openai/omni-moderation-latest",
        "input": "Good morning",
    },
    ("openai", "rerank"): {"model": _RANKER, "query": "water", "documents": ["sea", "sand"]},
    ("anthropic", "chat"): {
        "model": MODEL,
        "max_tokens": 32,
        "messages": _TALK,
        "system": "Be brief.",
        "stream": False,
    },
    ("anthropic", "count_tokens"): {"model": MODEL, "messages": _TALK},
    ("bedrock", "chat"): {
        "messages": [{"role": "user", "content": [{"text": "Where is the water?"}]}],
        "inferenceConfig": {"maxTokens": 32},
    },
    ("cohere", "chat"): {"model": MODEL, "messages": _TALK, "max_tokens": 32, "stream": False},
    ("cohere", "embeddings"): {
        "model": _EMBEDDER,
        "texts": ["water"],
        "input_type": "search_query",
        "embedding_types": ["float"],
    },
    ("cohere", "rerank"): {"model": _RANKER, "query": "water", "documents": ["sea", "sand"]},
    ("gemini", "chat"): {"contents": _CONTENTS, "generationConfig": {"maxOutputTokens": 32}},
    ("gemini", "count_tokens"): {"contents": _CONTENTS},
    ("gemini", "embeddings"): {
        "requests": [{"model": f"models/{_EMBEDDER}", "content": {"parts": [{"text": "water"}]}}]
    },
    ("gemini_content", "embeddings"): {"content": {"parts": [{"text": "water"}]}},
}
"""A body for each surface of each dialect; a file is written as bytes."""

ANSWERS: dict[tuple[str, str], tuple[str, ...]] = {
    ("openai", "chat"): ("choices",),
    ("openai_completions", "chat"): ("choices",),
    ("openai_responses", "chat"): ("output",),
    ("openai", "embeddings"): ("data",),
    ("openai", "images"): ("data",),
    ("openai", "moderation"): ("results",),
    ("openai", "rerank"): ("results",),
    ("anthropic", "chat"): ("content", "role", "type"),
    ("anthropic", "count_tokens"): ("input_tokens",),
    ("openai_responses", "count_tokens"): ("input_tokens",),
    ("bedrock", "chat"): ("output",),
    ("cohere", "chat"): ("message",),
    ("cohere", "embeddings"): ("embeddings",),
    ("cohere", "rerank"): ("results",),
    ("gemini", "count_tokens"): ("totalTokens",),
    ("gemini", "embeddings"): ("embeddings",),
    ("gemini_content", "embeddings"): ("embedding",),
    ("weir", "chat"): ("text", "metrics", "metadata", "timestamp"),
}
"""The members without which an answer's clients could not read it."""

_SAMPLES: tuple[WeirError, ...] = (
    ValidationFailed("1 field is wrong", details=["prompt: must be given"]),
    RateLimited("too many requests", retry_after_seconds=1.5),
    Overloaded("the worker has too much to do", retry_after_seconds=2.0),
)
_NEEDED = frozenset({"error", "message", "type"})
_NAMES = {bool: "boolean", int: "number", float: "number", str: "string", type(None): "null"}


def form_of(*values: Any) -> dict[str, Any]:
    """Return the JSON schema that all values have: every member of each is required by it."""
    first = values[0]
    if all(isinstance(value, dict) for value in values):
        shared = [name for name in first if all(name in value for value in values)]
        return {
            "type": "object",
            "properties": {name: form_of(*(value[name] for value in values)) for name in shared},
            "required": shared,
        }
    if all(isinstance(value, list) for value in values):
        items = [item for value in values for item in value]
        return {"type": "array", "items": form_of(*items) if items else {}}
    if any(isinstance(value, dict | list) for value in values):
        return {}
    return {"type": sorted({_NAMES[type(value)] for value in values})}


def error_form(front: ClientDialect) -> dict[str, Any]:
    """Return the schema of a dialect's errors, taken from errors that it writes."""
    written = [
        msgspec.json.decode(front.write_error(error, error.status, "0192f0c1"))
        for error in _SAMPLES
    ]
    form = form_of(*written)
    # What a vendor says in this dialect is passed on as it is, and vendors leave out and add.
    return {**(form if front is GENERATE else _loose(form)), "examples": written[:1]}


def _loose(form: dict[str, Any]) -> dict[str, Any]:
    """Return a form of which only the members stay that clients cannot do without."""
    if "properties" not in form:
        return {"type": ["string", "number", "null"]} if "type" in form else {}
    members = {name: _loose(part) for name, part in form["properties"].items()}
    for name in members.keys() - _NEEDED:
        members[name] = {}
    needed = [name for name in form["required"] if name in _NEEDED]
    return {"type": "object", "properties": members, "required": needed}


def error_name(front: ClientDialect) -> str:
    """Return the name of a dialect's errors among the document's components."""
    return "".join(word.capitalize() for word in front.name.split("_")) + "Error"


def fronts() -> Iterator[tuple[str, ClientDialect, Json]]:
    """Yield every path of every dialect, with what the path itself says of the request."""
    spoken: list[ClientDialect] = [*dialects(), GENERATE]
    for front in spoken:
        for path, said in front.client_paths.items():
            yield path, front, said


def body_of(front: ClientDialect, said: Json, in_path: bool) -> dict[str, Any]:
    """Return the OpenAPI request body of a dialect's path."""
    if front is GENERATE:
        body = own_form()
        return {"required": True, "content": {"application/json": {"schema": body}}}
    example = EXAMPLES.get((front.name, front.surface), {})
    headers = front.default_headers if isinstance(front, BaseDialect) else {}
    kind = headers.get("content-type", "application/json").partition(";")[0]
    form: dict[str, Any] = {
        "type": "object",
        "properties": {name: _member(value) for name, value in example.items()},
        "additionalProperties": True,
    }
    if needed := _needed(front, example, {**said, **({"model": MODEL} if in_path else {})}):
        form["required"] = needed
    media: dict[str, Any] = {"schema": form}
    if example and kind == "application/json":
        media["example"] = example
    return {"required": True, "content": {kind: media}}


def own_form() -> dict[str, Any]:
    """Return the schema of POST /generate, from the structure that reads it."""
    form: dict[str, Any] = msgspec.json.schema(Generate)["$defs"]["Generate"]
    return form


def answer_of(front: ClientDialect, said: Json) -> dict[str, Any]:
    """Return the OpenAPI response of a call that succeeded."""
    form: dict[str, Any] = {"type": "object"}
    if needed := ANSWERS.get((front.name, front.surface)):
        form["required"] = list(needed)
    content: dict[str, Any] = {"application/json": {"schema": form}}
    stream = front.stream_type.decode().partition(";")[0]
    if front.surface == "speech":
        content = {"audio/*": {}, "application/octet-stream": {}, "text/event-stream": {}}
    elif front.surface in {"transcription", "translation"}:
        content |= {"text/plain": {}, stream: {}}
    elif said.get("stream") or front.surface in {"chat", "images", "image_edits"}:
        content[stream] = {}
    return {"description": "the model's answer, whole or as a stream", "content": content}


def _member(value: Any) -> dict[str, Any]:
    """Return a member's schema from its example: its type, and in lists and objects no more."""
    if isinstance(value, bytes):
        return {"type": "string", "contentMediaType": "application/octet-stream"}
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, list):
        return {"type": "array", "items": _member(value[0])}
    if isinstance(value, dict):
        inner = {name: _member(part) for name, part in value.items()}
        return {"type": "object", "properties": inner}
    if isinstance(value, int):
        return {"type": "integer", "minimum": 1}
    return {"type": "number" if isinstance(value, float) else "string"}


def _needed(front: ClientDialect, example: Json, said: Json) -> list[str]:
    """Return the members of the example without which the dialect refuses it."""
    whole = {**example, **said}

    def refused(body: Json) -> bool:
        fields = {
            name: msgspec.Raw(msgspec.json.encode(value))
            for name, value in body.items()
            if not isinstance(value, bytes)
        }
        try:
            front.open(fields)
        except WeirError:
            return True
        return False

    if not example or refused(whole):
        return []
    return [
        name
        for name in example
        if refused({other: value for other, value in whole.items() if other != name})
    ]
