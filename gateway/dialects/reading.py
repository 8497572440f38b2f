"""What the dialects share: narrow decoding of a client's members, and the classes of errors."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from gateway.dialects.neutral import (
    Cacheable,
    Document,
    Effort,
    Embed,
    Fields,
    Image,
    Json,
    Message,
    Part,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from gateway.dialects.openai_wire import SentCall
from schemas.errors import (
    InvalidRequest,
    UpstreamAuthentication,
    UpstreamContentFiltered,
    UpstreamContextTooLong,
    UpstreamError,
    UpstreamForbidden,
    UpstreamModelMissing,
    UpstreamOverloaded,
    UpstreamQuota,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    WeirError,
)

T = TypeVar("T")
C = TypeVar("C", bound=Cacheable)
Shape = Mapping[str, Any]
"""Which members of an object are read: None where all of one is, else the shape of what it holds (of
each entry of a list).
"""
_CONTEXT = re.compile(
    r"context.?(length|window|size)|too many tokens|(prompt|input) is too long|maximum.*tokens",
    re.IGNORECASE,
)
_FILTER = re.compile(r"content.?(filter|policy|management)|safety", re.IGNORECASE)
_NO_MODEL = re.compile(
    r"\bmodel\b.{0,120}\b(does not exist|not exist|not found)\b|\b(no such|unknown|invalid) model\b",
    re.IGNORECASE | re.DOTALL,
)
_ACCESS = re.compile(
    r"\bmodels?\b|\bpermissions?\b|\bnot (allowed|authorized) to\b|\baccess to\b", re.IGNORECASE
)
_KEY = re.compile(
    r"\b(key|token|credentials?|signature)\b.{0,80}"
    r"\b(invalid|incorrect|expired|revoked|leaked|disabled|missing)\b",
    re.IGNORECASE | re.DOTALL,
)
OVERLOADED = frozenset({503, 529})
"""What a provider answers that has too much to do; 529 is Anthropic's own."""
_FILE = re.compile(r"\b(file|container|response|conversation)\b", re.IGNORECASE)
"""What else a request names and a provider may not find: that is the caller's own."""
_DATA_URL = re.compile(r"data:([\w.+/-]+)?((?:;[\w=+.-]+)*?);base64,", re.IGNORECASE)
_ASKS_NOTHING = frozenset({b"null", b"false", b"0", b"0.0", b"[]", b"{}", b'""', b'"auto"'})
_NOTHING: tuple[Any, ...] = (None, False, 0, [], {}, "", "auto")
CACHE_TTL = "5m"
"""How long a vendor keeps a part of a prompt, unless it is told."""
TOO_DEEP = "the request is nested too deeply"
MESSAGE_CHARS_MAX = 2_000
EFFORT_TOKENS: dict[Effort, int] = {
    "none": 0,
    "minimal": 512,
    "low": 1_024,
    "medium": 8_192,
    "high": 24_576,
}
"""Levels of thinking in tokens, as Google's page on OpenAI compatibility gives them."""
Decode = Callable[[msgspec.Raw], Any]
_decoders: Final[dict[type[object], Decode]] = {}
_NULL: Final = msgspec.Raw(b"null")
_read_entries: Final[Decode] = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def readable(error: WeirError | RecursionError) -> WeirError:
    """Return what to tell of a request that could not be read."""
    return error if isinstance(error, WeirError) else InvalidRequest(TOO_DEEP)


def read_object(body: bytes) -> Fields:
    """Return the members of a JSON object, their values unread. Raises InvalidRequest."""
    if not body.isascii():
        try:
            body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"the body is not valid UTF-8 at byte {error.start}") from error
    try:
        return _read_fields(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest("the body is not a JSON object") from error
    except RecursionError as error:
        raise InvalidRequest(TOO_DEEP) from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error


def member(fields: Fields, name: str, kind: type[T]) -> T | None:
    """Return a member of the request, None when absent or null. Raises InvalidRequest."""
    raw = fields.get(name)
    if raw is None or raw == _NULL:
        return None
    value: T = _decoded(name, raw, _decoders.get(kind) or _decoder(kind))
    return value


def _decoded(name: str, raw: msgspec.Raw, decode: Decode) -> Any:
    try:
        return decode(raw)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"'{name}' is wrong: {error}") from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"'{name}' is not valid JSON: {error}") from error
    except RecursionError as error:
        raise InvalidRequest(f"'{name}' is nested too deeply") from error


def _decoder(kind: type[object]) -> Decode:
    # Building a decoder costs far more than the few bytes that it reads.
    decode = _decoders[kind] = msgspec.json.Decoder(kind).decode
    return decode


def required(fields: Fields, name: str, kind: type[T]) -> T:
    """Return a member that must be there. Raises InvalidRequest."""
    value = member(fields, name, kind)
    if value is None:
        raise InvalidRequest(f"'{name}' is missing")
    return value


def entries(fields: Fields, name: str) -> list[msgspec.Raw]:
    """Return a list that must be there, its entries unread. Raises InvalidRequest."""
    raw = fields.get(name)
    if raw is None or raw == _NULL:
        raise InvalidRequest(f"'{name}' is missing")
    found: list[msgspec.Raw] = _decoded(name, raw, _read_entries)
    return found


def unread(fields: Fields, known: frozenset[str]) -> list[str]:
    """Return the members that nobody reads and that ask for something."""
    return [
        name
        for name, value in fields.items()
        if name not in known and bytes(value).strip() not in _ASKS_NOTHING
    ]


def strangers(value: object, shape: Shape, place: str) -> list[str]:
    """Return the places of the members that nobody reads and that ask for something, each once."""
    if isinstance(value, list):
        found = [name for entry in value for name in strangers(entry, shape, place)]
        return list(dict.fromkeys(found))
    if not isinstance(value, dict):
        return []
    names: list[str] = []
    for name, inner in value.items():
        if name not in shape:
            names += [f"{place}.{name}"] if inner not in _NOTHING else []
        elif (inside := shape[name]) is not None:
            names += strangers(inner, inside, f"{place}.{name}")
    return names


def kept(part: C, wire: Json) -> C:
    """Return a part with its wire's mark that the prompt up to here is to be kept."""
    control = wire.get("cache_control")
    if not isinstance(control, dict):
        return part
    return msgspec.structs.replace(part, cache_ttl=str(control.get("ttl") or CACHE_TTL))


def keeps(tools: Iterable[Tool], messages: Iterable[Message]) -> bool:
    """Whether any part of a prompt is to be kept."""
    parts = [part for message in messages for part in message.parts]
    return any(isinstance(it, Cacheable) and it.cache_ttl for it in (*tools, *parts))


def shown(parts: list[Part], where: str) -> list[Text | Image | Document]:
    """Return what a tool gave back. Raises InvalidRequest for what none can give."""
    known = [part for part in parts if isinstance(part, Text | Image | Document)]
    if len(known) < len(parts):
        raise InvalidRequest(
            f"{where} holds something that is neither text, image nor file",
            action="Give results of tools as texts, images or files.",
        )
    return known


def asks(fields: Fields, name: str) -> bool:
    """Whether a member is there and asks for something."""
    return name in fields and bytes(fields[name]).strip() not in _ASKS_NOTHING


def further(fields: Fields, known: frozenset[str]) -> Json:
    """Return the members that ask for something and are not among the known, decoded.

    Raises InvalidRequest for one that is no JSON.
    """
    anything: Any = Any
    return {name: member(fields, name, anything) for name in unread(fields, known)}


def text_tags(values: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the members of a metadata object that can be tags."""
    return {key: str(value) for key, value in (values or {}).items() if _is_tag(value)}


def _is_tag(value: object) -> bool:
    return isinstance(value, str | int | float | bool)


def parse_arguments(arguments: str) -> Json:
    """Return a tool call's arguments; a model's broken JSON is kept as text under ``_raw``."""
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"_raw": arguments}


def read_calls(wires: object, where: str) -> list[Part]:
    """Read an assistant's `tool_calls`, whose form OpenAI and Cohere share. Raises InvalidRequest."""
    if wires is None:
        return []
    try:
        calls = msgspec.convert(wires, list[SentCall])
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{where}.tool_calls is no list of function calls: {error}") from error
    return [ToolCall(c.id, c.function.name, c.function.arguments or "{}") for c in calls]


def read_result(wire: Json, where: str, read: Callable[[Any, str], Part]) -> ToolResult:
    """Read a tool's message, which OpenAI and Cohere have alike; `read` knows a part by its place.

    Raises InvalidRequest.
    """
    call_id = wire.get("tool_call_id")
    if not isinstance(call_id, str):
        raise InvalidRequest(f"{where}.tool_call_id is missing")
    parts = contents(wire.get("content"), f"{where}.content", read)
    return ToolResult(call_id, shown(parts, f"{where}.content"))


def read_effort(name: str) -> Effort:
    """Return a level of thinking; vendors add levels above "high" from time to time."""
    return name if name in EFFORT_TOKENS else "high"


def untold(member: str, dialect: str) -> UpstreamRejected:
    """Return the end of a call whose answer holds what cannot be told in another dialect."""
    return UpstreamRejected(
        f"the answer holds '{member}', which can only be told as it came",
        action=f"Call this target in its own dialect ('{dialect}') and without guardrails on its "
        "stream, or name a model that answers in text.",
    )


def lowered(effort: object, member: str) -> list[str]:
    """Return `member` where the level that it asks for is one that `read_effort` lowers."""
    return [member] if isinstance(effort, str) and effort not in EFFORT_TOKENS else []


def effort_of(reasoning: Reasoning) -> Effort:
    """Return the level of thinking that is asked for."""
    if reasoning.effort is not None or reasoning.budget_tokens is None:
        return reasoning.effort or "medium"
    budget = reasoning.budget_tokens
    if budget < 0:  # as much as the model likes
        return "medium"
    return next((effort for effort, tokens in EFFORT_TOKENS.items() if budget <= tokens), "high")


def budget_of(reasoning: Reasoning) -> int:
    """Return the tokens of thinking that are asked for."""
    if reasoning.budget_tokens is not None and reasoning.budget_tokens >= 0:
        return reasoning.budget_tokens
    return EFFORT_TOKENS[effort_of(reasoning)]


def split_data_url(url: str) -> tuple[str, str] | None:
    """Return (media type, base64) of a data URL, None for any other URL."""
    match = _DATA_URL.match(url)
    return (match[1] or "application/octet-stream", url[match.end() :]) if match else None


def unpacked(text: str) -> list[float]:
    """Return the floats that a vector in base64 holds, 4 bytes each, the lowest first.

    Raises binascii.Error or struct.error for what is none.
    """
    packed = base64.b64decode(text, validate=True)
    return list(struct.unpack(f"<{len(packed) // 4}f", packed))


def retry_after_s(headers: Mapping[bytes, bytes]) -> float | None:
    """Return the wait that a provider asks for, in seconds (a date is left out)."""
    for name, scale in ((b"retry-after-ms", 1000.0), (b"retry-after", 1.0)):
        value = headers.get(name)
        if value is not None:
            try:
                return max(0.0, float(value) / scale)
            except ValueError:
                continue
    return None


def advice_of(error: WeirError) -> Json:
    """Return what an error tells beyond its vendor's form: further members, which the vendors'
    clients ignore and people read.
    """
    told: Json = {"action": error.advice}
    return {**told, "details": error.details} if error.details else told


def classify(
    status: int, kind: str, message: str, headers: Mapping[bytes, bytes] | None = None
) -> UpstreamError:
    """Return the error for a provider's status and its own words for it."""
    message = message[:MESSAGE_CHARS_MAX] or f"the provider answered {status}"
    wait_s = retry_after_s(headers or {})
    if status == 403 and (kind == "permission_error" or _is_forbidden(message)):
        return UpstreamForbidden(f"the provider refuses this to the gateway's account: {message}")
    if status in {401, 403}:
        return UpstreamAuthentication(f"the provider refused the gateway's key: {message}")
    if status == 402 or kind in {"insufficient_quota", "billing_error"}:
        return UpstreamQuota(message)
    if status == 429:
        return UpstreamRateLimited(message, retry_after_seconds=wait_s)
    if status in {408, 504}:
        return UpstreamTimeout(message)
    if status in OVERLOADED:
        return UpstreamOverloaded(message, retry_after_seconds=wait_s)
    if status >= 500:
        return UpstreamError(message, retry_after_seconds=wait_s)
    if kind == "context_length_exceeded" or _CONTEXT.search(message):
        return UpstreamContextTooLong(message)
    if kind in {"content_filter", "content_policy_violation"} or _FILTER.search(message):
        return UpstreamContentFiltered(message)
    if _is_model_missing(status, kind, message):
        return UpstreamModelMissing(message)
    return UpstreamRejected(message)


def _is_forbidden(message: str) -> bool:
    """Whether a 403 is about what was asked for, and not about the key that asked."""
    return _ACCESS.search(message) is not None and _KEY.search(message) is None


def _is_model_missing(status: int, kind: str, message: str) -> bool:
    """Whether a refusal is about the model; a path that is not there is the operator's fault too."""
    if status == 404:
        return not _FILE.search(message)
    return kind == "model_not_found" or _NO_MODEL.search(message) is not None


def contents(content: object, where: str, read: Callable[[Any, str], Part]) -> list[Part]:
    """Return the parts of a message: a text, or a list whose entries `read` knows by their place.

    Raises InvalidRequest.
    """
    if isinstance(content, str):
        return [Text(content)]
    if not isinstance(content, list):
        raise InvalidRequest(f"{where} must be a text or a list of parts")
    return [read(part, f"{where}[{index}]") for index, part in enumerate(content)]


def texts_of(embed: Embed) -> list[str]:
    """Return the inputs as texts. Raises InvalidRequest for tokens, which few vendors take."""
    texts = [entry for entry in embed.inputs if isinstance(entry, str)]
    if len(texts) < len(embed.inputs):
        raise InvalidRequest(
            "this target's provider takes texts, not tokens",
            action="Send the texts themselves, or name a target of another vendor.",
        )
    return texts
