"""JSON schemas of answers and tools: what vendors ask of one that a model must follow.

Sources: platform.openai.com/docs/guides/structured-outputs, "Supported schemas";
platform.claude.com/docs/en/build-with-claude/structured-outputs, "JSON Schema limitations";
docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

from gateway.dialects.neutral import Json

_NAMED = ("properties", "$defs", "definitions")
_HELD = ("items", "prefixItems", "anyOf", "allOf", "oneOf")


def is_closed(schema: Json) -> bool:
    """Whether each object has exactly the members that it names: OpenAI follows no other strictly."""
    return all(
        it.get("additionalProperties") is False
        and set(it.get("properties") or ()) == set(it.get("required") or ())
        for it in _objects(schema)
    )


def closed(schema: Json) -> Json:
    """Return a schema whose objects have no members but those that they name: Anthropic and Bedrock
    take no other.
    """
    written = copy.deepcopy(schema)
    for it in _objects(written):
        it.setdefault("additionalProperties", False)
    return written


def _objects(schema: object) -> Iterator[Json]:
    """Yield all that a schema says of objects."""
    if isinstance(schema, list):
        for entry in schema:
            yield from _objects(entry)
    if not isinstance(schema, dict):
        return
    if "properties" in schema or schema.get("type") == "object":
        yield schema
    for name in _NAMED:
        if isinstance(inner := schema.get(name), dict):
            yield from _objects(list(inner.values()))
    for name in _HELD:
        yield from _objects(schema.get(name))
