"""A seeded stream of requests as applications send them. Pure: one seed, one stream, for ever.

Prompts follow a log-normal length (most are a few lines, some are pages), answers are short or long,
some requests offer tools, some are streams, some will get feedback. Each prompt names its own request,
so that no two answers are alike.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, Literal

import msgspec

Dialect = Literal["openai", "anthropic"]

_WORDS = (  # noqa: SIM905 - words read better as prose
    "water river dam gate flow level meter pressure sluice channel basin spill report order invoice "
    "customer ticket parcel refund contract clause summary table column average median forecast "
    "translate explain compare rewrite classify extract answer question please shortly kindly the a of "
    "to and for with from that this about between during before after without within"
).split()
_TASKS = ("summary", "classification", "extraction", "chat", "code")
_APPS = ("shop", "support", "analytics", "internal")
_ANSWER_TOKENS = (16, 48, 96, 160, 256)
WORDS_MEDIAN = 60
WORDS_SIGMA = 1.1
WORDS_MAX = 4_000


class Share(msgspec.Struct, frozen=True):
    """A model as its client names it, the dialect it is asked in, and its weight."""

    dialect: Dialect
    model: str
    weight: float = 1.0


class Shape(msgspec.Struct, frozen=True):
    """What the stream looks like; shares lie between 0 and 1."""

    models: tuple[Share, ...] = (
        Share("openai", "gpt-4.1-nano", 3.0),
        Share("openai", "gpt-4o-mini", 2.0),
        Share("anthropic", "claude-haiku-4-5", 3.0),
    )
    streams: float = 0.5
    tools: float = 0.1
    feedback: float = 0.05
    usage: float = 0.5
    """Share of OpenAI's streams that ask for their usage."""
    users: int = 50
    words_median: int = WORDS_MEDIAN
    words_max: int = WORDS_MAX
    answer_tokens: tuple[int, ...] = _ANSWER_TOKENS


class Feedback(msgspec.Struct, frozen=True):
    """What the user will say of the answer once it is there."""

    feedback_type: str
    satisfaction_score: float
    corrected_response: str | None = None


class Request(msgspec.Struct, frozen=True):
    """One request, its body ready to send."""

    client_id: str
    number: int
    dialect: Dialect
    path: str
    model: str
    stream: bool
    body: bytes
    user: str
    tags: dict[str, str]
    task_type: str
    prompt: str
    tools: bool = False
    feedback: Feedback | None = None


def workload(seed: int, shape: Shape | None = None) -> Iterator[Request]:
    """Yield requests without end; the same seed and shape give the same requests."""
    shape = shape or Shape()
    rng = random.Random(f"workload {seed}")
    weights = [share.weight for share in shape.models]
    for number in count():
        share = rng.choices(shape.models, weights)[0]
        yield _request(seed, number, share, shape, rng)


def arrivals(seed: int, rate_per_s: float, duration_s: float) -> Iterator[float]:
    """Yield the times, in seconds after the start, at which an open-loop source sends (Poisson)."""
    rng = random.Random(f"arrivals {seed}")
    at_s = 0.0
    while True:
        at_s += rng.expovariate(rate_per_s)
        if at_s >= duration_s:
            return
        yield at_s


def _request(seed: int, number: int, share: Share, shape: Shape, rng: random.Random) -> Request:
    client_id = f"{seed}-{number}"
    stream = rng.random() < shape.streams
    tools = rng.random() < shape.tools
    user = f"user-{rng.randrange(shape.users)}"
    task = rng.choice(_TASKS)
    tags = {"app": rng.choice(_APPS), "client_id": client_id}
    turns = _turns(client_id, shape, rng)
    limit = rng.choice(shape.answer_tokens)
    usage = rng.random() < shape.usage
    feedback = _feedback(rng) if rng.random() < shape.feedback else None
    if share.dialect == "openai":
        path, body = "/v1/chat/completions", _openai(share.model, turns, limit, user, tools)
        if stream:
            body["stream"] = True
            if usage:
                body["stream_options"] = {"include_usage": True}
    else:
        path, body = "/v1/messages", _anthropic(share.model, turns, limit, user, tools)
        if stream:
            body["stream"] = True
    return Request(
        client_id=client_id,
        number=number,
        dialect=share.dialect,
        path=path,
        model=share.model,
        stream=stream,
        body=json.dumps(body, ensure_ascii=False).encode(),
        user=user,
        tags=tags,
        task_type=task,
        prompt=turns[-1],
        tools=tools,
        feedback=feedback,
    )


def _turns(client_id: str, shape: Shape, rng: random.Random) -> list[str]:
    """An odd number of turns, the last one by the user and about this request alone."""
    drawn = math.exp(rng.gauss(math.log(shape.words_median), WORDS_SIGMA))
    words = max(3, min(shape.words_max, int(drawn)))
    history = 2 * rng.choices((0, 1, 3), (6, 3, 1))[0]
    share = words // (history + 1)
    turns = [_text(rng, max(3, share)) for _ in range(history + 1)]
    turns[-1] = f"Request {client_id}: {turns[-1]}"
    return turns


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(_WORDS, k=words))


def _roles(turns: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"role": "assistant" if index % 2 else "user", "content": text}
        for index, text in enumerate(turns)
    ]


_SCHEMA = {
    "type": "object",
    "properties": {
        "gate": {"type": "string", "enum": ["north", "south", "weir"]},
        "opening_percent": {"type": "integer", "minimum": 0, "maximum": 100},
        "reason": {"type": "string"},
    },
    "required": ["gate", "opening_percent"],
}


def _openai(model: str, turns: Sequence[str], limit: int, user: str, tools: bool) -> dict[str, Any]:
    system = {"role": "system", "content": "You are brief and exact."}
    body: dict[str, Any] = {
        "model": model,
        "messages": [system, *_roles(turns)],
        "max_tokens": limit,
        "user": user,
    }
    if tools:
        function = {"name": "set_gate", "description": "Move a gate", "parameters": _SCHEMA}
        body["tools"] = [{"type": "function", "function": function}]
    return body


def _anthropic(
    model: str, turns: Sequence[str], limit: int, user: str, tools: bool
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "system": "You are brief and exact.",
        "messages": _roles(turns),
        "max_tokens": limit,
        "metadata": {"user_id": user},
    }
    if tools:
        offer = {"name": "set_gate", "description": "Move a gate", "input_schema": _SCHEMA}
        body["tools"] = [offer]
    return body


def _feedback(rng: random.Random) -> Feedback:
    match rng.randrange(3):
        case 0:
            return Feedback("thumbs_up", round(rng.uniform(0.2, 1.0), 2))
        case 1:
            return Feedback("thumbs_down", round(rng.uniform(-1.0, -0.2), 2))
    return Feedback("manual_correction", round(rng.uniform(-0.5, 0.5), 2), _text(rng, 12))
