"""What vendors of OpenAI's chat dialect do differently, by the words of `ProviderChanged.quirks`.

This is the one place that knows. A word changes a request on its way out, whichever dialect it came
in; answers need no words, since their reader knows every vendor's names (`openai_wire`). Which vendor
has which words, and on which page it says so, stands in the rows of infra/vendors.py.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Callable, Iterable
from functools import partial

import msgspec

from gateway.dialects.neutral import ClientDialect, Json
from schemas.errors import InvalidRequest

Change = Callable[[Json], list[str]]
"""Changes a request in place and returns the names of what it took away."""

DROP = "drop:"
"""``drop:NAME`` takes a parameter away that the vendor answers with an error."""
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_DIGITS = string.digits + string.ascii_letters
_THOUGHTS = ("reasoning_content", "reasoning", "reasoning_details")
_encode = msgspec.json.encode


def apply(words: Iterable[str], body: bytes) -> tuple[bytes, list[str]]:
    """Return a request as a vendor with these quirks takes it, and the names of what is left out.

    Unknown words do nothing: whoever accepts them for a provider refuses those (`unknown`). Raises
    InvalidRequest for messages that are none.
    """
    request: Json = msgspec.json.decode(body)
    messages = request.get("messages")
    if not isinstance(messages, list) or not all(isinstance(item, dict) for item in messages):
        raise InvalidRequest("'messages' must be a list of objects")
    lost = [name for word in words for name in _change(word)(request)]
    return _encode(request), lost


def concern(dialect: ClientDialect) -> bool:
    """Whether a dialect's requests are those that the words change."""
    return dialect.name == "openai" and dialect.surface == "chat"


def unknown(words: Iterable[str]) -> list[str]:
    """Return the words that mean nothing."""
    return [word for word in words if word not in WORDS and not word.startswith(DROP)]


def _change(word: str) -> Change:
    if word.startswith(DROP):
        return partial(_drop, word.removeprefix(DROP))
    return WORDS.get(word, _nothing)


def _nothing(request: Json) -> list[str]:
    del request
    return []


def _drop(name: str, request: Json) -> list[str]:
    return [name] if request.pop(name, None) is not None else []


def _rename(old: str, new: str, request: Json) -> list[str]:
    if old in request:
        value = request.pop(old)
        request.setdefault(new, value)
    return []


def _no_stream_options(request: Json) -> list[str]:
    """The usage comes unasked, with the last chunk."""
    request.pop("stream_options", None)
    return []


def _system_role(request: Json) -> list[str]:
    for message in request["messages"]:
        if message.get("role") == "developer":
            message["role"] = "system"
    return []


def _no_names(request: Json) -> list[str]:
    named = [message.pop("name", None) for message in request["messages"]]
    return ["messages.name"] if any(named) else []


def _no_thoughts(request: Json) -> list[str]:
    """Thoughts of earlier turns are not taken back."""
    for message in request["messages"]:
        for name in _THOUGHTS:
            message.pop(name, None)
    return []


def _reasoning_field(request: Json) -> list[str]:
    for message in request["messages"]:
        if "reasoning_content" in message:
            thoughts = message.pop("reasoning_content")
            message.setdefault("reasoning", thoughts)
        message.pop("reasoning_details", None)
    return []


def _short_tool_ids(request: Json) -> list[str]:
    """Ids of tool calls have nine letters or digits; what another vendor called longer is hashed."""
    for message in request["messages"]:
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                call["id"] = _short(str(call.get("id")))
        if message.get("tool_call_id") is not None:
            message["tool_call_id"] = _short(str(message["tool_call_id"]))
    return []


def _short(call_id: str) -> str:
    if _SHORT_ID.fullmatch(call_id):
        return call_id
    number = int.from_bytes(hashlib.sha256(call_id.encode()).digest()[:8], "big")
    digits = []
    for _ in range(9):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(digits)


def _json_object(request: Json) -> list[str]:
    """A schema is asked for in words: the vendor only promises some JSON object."""
    match request.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            pass
        case _:
            return []
    request["response_format"] = {"type": "json_object"}
    told = f"Answer with one JSON object that follows this JSON schema: {_encode(schema).decode()}"
    request["messages"].insert(0, {"role": "system", "content": told})
    return ["response_format.json_schema"]


def _alternate_turns(request: Json) -> list[str]:
    """Neighbours of one role become one message."""
    merged: list[Json] = []
    for message in request["messages"]:
        last = merged[-1] if merged else {}
        if last.get("role") == message.get("role") != "tool":
            last["content"] = _joined(last.get("content"), message.get("content"))
        else:
            merged.append(message)
    request["messages"] = merged
    return []


def _joined(first: object, second: object) -> object:
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    return [*_as_parts(first), *_as_parts(second)]


def _as_parts(content: object) -> list[object]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


WORDS: dict[str, Change] = {
    "max_tokens": partial(_rename, "max_completion_tokens", "max_tokens"),
    "max_completion_tokens": partial(_rename, "max_tokens", "max_completion_tokens"),
    "random_seed": partial(_rename, "seed", "random_seed"),
    "no_stream_options": _no_stream_options,
    "system_role": _system_role,
    "no_names": _no_names,
    "no_thoughts": _no_thoughts,
    "reasoning_field": _reasoning_field,
    "short_tool_ids": _short_tool_ids,
    "json_object": _json_object,
    "alternate_turns": _alternate_turns,
}
