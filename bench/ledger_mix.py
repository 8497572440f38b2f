"""The mixed requests of the ledger claim, and the installation that they are sent to. Pure: one seed,
one stream of requests.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec

from bench.recount import Price

LATE, RETRO, NEVER = "late", "retro", "never"
TIERED = "tiered"
LONG_TOKENS = 30
"""About half of the prompts have more."""
PRICED_LATER = {
    LATE: Price(Decimal("0.15"), Decimal("0.075"), Decimal("0.60")),
    RETRO: Price(
        Decimal("0.44"),
        Decimal("0.11"),
        Decimal("1.76"),
        above={LONG_TOKENS: Price(Decimal("0.66"), Decimal("0.22"), Decimal("2.20"))},
    ),
}
"""What holds in the end for a provider whose calls were unpriced at first, and for one whose price
changed for calls that had been made already (a tenth more than its list had said, and a tier)."""
TIERED_PRICE = Price(
    Decimal("0.40"),
    Decimal("0.10"),
    Decimal("1.60"),
    above={LONG_TOKENS: Price(Decimal("0.81"), Decimal("0.19"), Decimal("2.43"))},
)
OWN_PRICES = {**PRICED_LATER, TIERED: TIERED_PRICE}
"""Providers whose price in the end is in no vendor's list."""
RETRO_BEFORE = Price(Decimal("0.40"), Decimal("0.10"), Decimal("1.60"))
MODEL_LATER = "gpt-4.1-mini"

CHAT_TARGETS = (
    "a/gpt-4.1-nano",
    "a/gpt-4o-mini",
    "openai/gpt-5-mini",
    "openai/o4-mini",
    "anthropic/claude-haiku-4-5",
    "claude-b/claude-sonnet-4-5",
    "google/gemini-2.5-flash",
    "google/gemini-2.5-flash-lite",
    "nova/amazon.nova-lite-v1:0",
    "co/command-r7b-12-2024",
)
KINDS = {
    "chat": 46,
    "prompt_cache": 3,
    "leaves": 8,
    "fallback": 10,
    "fails": 4,
    "cached": 8,
    "idempotent": 1,
    "embeddings": 6,
    "rerank": 2,
    "image": 1,
    "speech": 1,
    "transcription": 1,
    "moderation": 1,
    "unpriced": 3,
    "priced_later": 3,
    "price_changes": 2,
    "long_input": 3,
}
"""Kinds of calls and their weights."""
FLAKY = [
    {"kind": "server_error", "rate": 0.07},
    {"kind": "unavailable", "rate": 0.07},
    {"kind": "reset", "rate": 0.05},
    {"kind": "cut", "rate": 0.08, "after_tokens": 9},
    {"kind": "malformed_frame", "rate": 0.06, "after_tokens": 7},
    {"kind": "missing_end_marker", "rate": 0.06, "after_tokens": 8},
    {"kind": "error_event", "rate": 0.06, "after_tokens": 6},
]
INSTANT = {
    "first_token_ms": 0,
    "per_token_ms": 0,
    "tokens_per_frame": 6,
    "answer_tokens_min": 8,
    "answer_tokens_max": 60,
}
SLOW = {
    "first_token_ms": 3,
    "per_token_ms": 4,
    "tokens_per_frame": 2,
    "answer_tokens_min": 60,
    "answer_tokens_max": 90,
}
"""For those who leave: an answer that has not come whole before they do."""
CACHED_PROMPTS = 40
LEAVES_AFTER = (1, 9_000)
"""Bytes of a stream after which such a client leaves."""
_WORDS = "water river dam gate level meter basin spill report order invoice parcel refund".split()  # noqa: SIM905
_LONG = [" ".join(random.Random(n).choices(_WORDS, k=1_400)) for n in range(6)]
_WAVE = (
    b"RIFF" + (36 + 3_200).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    + (1).to_bytes(2, "little") + (1).to_bytes(2, "little") + (8_000).to_bytes(4, "little")
    + (16_000).to_bytes(4, "little") + (2).to_bytes(2, "little") + (16).to_bytes(2, "little")
    + b"data" + (3_200).to_bytes(4, "little") + bytes(3_200)
)  # fmt: skip
"""A fifth of a second of silence."""
_BOUNDARY = "bench-ledger-boundary"


class Wish(msgspec.Struct, frozen=True):
    """One request. `leave_after` counts bytes of its stream; `same` names equal requests."""

    number: int
    kind: str
    path: str
    headers: dict[str, str]
    body: bytes
    stream: bool = False
    leave_after: int | None = None
    same: str | None = None


def wishes(seed: int, size: int) -> Iterator[Wish]:
    """Yield so many requests."""
    draw = random.Random(f"ledger {seed}")
    kinds, weights = list(KINDS), list(KINDS.values())
    for number in range(size):
        yield _wish(draw, seed, number, draw.choices(kinds, weights)[0])


def _wish(draw: random.Random, seed: int, number: int, kind: str) -> Wish:
    text = f"Request {seed}-{number}: " + " ".join(draw.choices(_WORDS, k=draw.randrange(3, 40)))
    stream = draw.random() < 0.5
    match kind:
        case "chat":
            return _chat(draw, number, kind, draw.choice(CHAT_TARGETS), text, stream)
        case "prompt_cache":
            return _prompt_cache(draw, number, text)
        case "leaves":
            target = draw.choice(("slow/gpt-4.1-nano", "slow-claude/claude-haiku-4-5"))
            wish = _chat(draw, number, kind, target, text, True)
            return msgspec.structs.replace(wish, leave_after=draw.randint(*LEAVES_AFTER))
        case "fallback":
            return _chat(draw, number, kind, draw.choice(("shaky", "held")), text, stream)
        case "fails":
            return _chat(draw, number, kind, "flaky/gpt-4.1-nano", text, stream)
        case "cached":
            which = draw.randrange(CACHED_PROMPTS)
            words = f"What is known of gate {seed}-{which}?"
            wish = _chat(random.Random(which), number, kind, "cached", words, stream)
            return msgspec.structs.replace(wish, same=f"{wish.path}|{which}")
        case "idempotent":
            which = draw.randrange(max(1, number // 200 + 1))
            target = "a/gpt-4.1-nano"
            words = f"Open gate {seed}-{which}."
            wish = _chat(random.Random(which), number, kind, target, words, which % 2 == 0)
            headers = wish.headers | {"idempotency-key": f"{seed}-{which}"}
            return msgspec.structs.replace(wish, headers=headers, same=f"key|{which}")
        case "unpriced":
            return _chat(draw, number, kind, f"{NEVER}/{MODEL_LATER}", text, stream)
        case "priced_later":
            return _chat(draw, number, kind, f"{LATE}/{MODEL_LATER}", text, stream)
        case "long_input":
            return _chat(draw, number, kind, f"{TIERED}/{MODEL_LATER}", text, stream)
        case "price_changes":
            return _chat(draw, number, kind, f"{RETRO}/{MODEL_LATER}", text, stream)
    return _surface(draw, number, kind, text)


def _surface(draw: random.Random, number: int, kind: str, text: str) -> Wish:
    """Calls of other surfaces than chat."""
    match kind:
        case "embeddings":
            model = draw.choice(("openai/text-embedding-3-small", "co/embed-v4.0"))
            return _plain(number, kind, "/v1/embeddings", {"model": model, "input": [text, "x"]})
        case "rerank":
            documents = [f"{word} {number}" for word in _WORDS]
            body = {"model": "co/rerank-v3.5", "query": text, "documents": documents}
            return _plain(number, kind, "/v2/rerank", body)
        case "image":
            body = {"model": "openai/gpt-image-1", "prompt": text, "quality": "low"}
            return _plain(number, kind, "/v1/images/generations", body)
        case "speech":
            body = {"model": "openai/tts-1", "input": text, "voice": "alloy"}
            return _plain(number, kind, "/v1/audio/speech", body)
        case "transcription":
            return _transcription(number, kind)
    body = {"model": "openai/omni-moderation-latest", "input": text}
    return _plain(number, kind, "/v1/moderations", body)


def _plain(number: int, kind: str, path: str, body: dict[str, Any]) -> Wish:
    return Wish(number, kind, path, {"content-type": "application/json"}, json.dumps(body).encode())


def _transcription(number: int, kind: str) -> Wish:
    part = f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="'
    body = (
        f'{part}model"\r\n\r\nopenai/whisper-1\r\n'
        f'{part}file"; filename="{number}.wav"\r\ncontent-type: audio/wav\r\n\r\n'
    ).encode() + _WAVE
    body += f"\r\n--{_BOUNDARY}--\r\n".encode()
    headers = {"content-type": f"multipart/form-data; boundary={_BOUNDARY}"}
    return Wish(number, kind, "/v1/audio/transcriptions", headers, body)


def _chat(draw: random.Random, number: int, kind: str, model: str, text: str, stream: bool) -> Wish:
    """A call in either client's dialect; half of OpenAI's streams ask for their usage."""
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": 120,
        "messages": [{"role": "user", "content": text}],
    }
    if stream:
        body["stream"] = True
    if draw.random() < 0.35:
        return _plain_stream(number, kind, "/v1/messages", body, stream)
    if any(name in model for name in ("gpt-5", "o4-mini")):
        body["max_completion_tokens"] = body.pop("max_tokens")
    if stream and draw.random() < 0.5:
        body["stream_options"] = {"include_usage": True}
    return _plain_stream(number, kind, "/v1/chat/completions", body, stream)


def _prompt_cache(draw: random.Random, number: int, text: str) -> Wish:
    """Prompts with a long beginning that others have too: the vendor reads and writes its cache."""
    beginning = draw.choice(_LONG)
    if draw.random() < 0.5:
        messages = [
            {"role": "system", "content": beginning},
            {"role": "user", "content": text},
        ]
        body: dict[str, Any] = {"model": "a/gpt-4o-mini", "max_tokens": 50, "messages": messages}
        return _plain(number, "prompt_cache", "/v1/chat/completions", body)
    marked = {"type": "text", "text": beginning, "cache_control": {"type": "ephemeral"}}
    body = {
        "model": "anthropic/claude-haiku-4-5",
        "max_tokens": 50,
        "system": [marked],
        "messages": [{"role": "user", "content": text}],
    }
    return _plain(number, "prompt_cache", "/v1/messages", body)


def _plain_stream(number: int, kind: str, path: str, body: dict[str, Any], stream: bool) -> Wish:
    return msgspec.structs.replace(_plain(number, kind, path, body), stream=stream)


def batch_lines(seed: int, count: int) -> bytes:
    """Return the file of a batch."""
    return b"".join(
        json.dumps(
            {
                "custom_id": f"line-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {
                    "model": "a/gpt-4.1-nano",
                    "max_tokens": 40,
                    "messages": [{"role": "user", "content": f"Batch {seed}-{number}?"}],
                },
            }
        ).encode()
        + b"\n"
        for number in range(count)
    )


# --- the installation ------------------------------------------------------------------------


def config(sandbox_url: str, key_variable: str) -> str:
    """Return the providers, routes and budgets that the mix asks for, as a `weir.toml`."""
    rows = [
        ("google", "gemini", f"{sandbox_url}/v1beta", "google", []),
        ("nova", "bedrock", f"{sandbox_url}/nova", "aws", []),
        ("co", "cohere", f"{sandbox_url}/co", "cohere", []),
        ("claude-b", "anthropic", f"{sandbox_url}/claude-b", "anthropic", []),
        ("slow", "openai", f"{sandbox_url}/slow/v1", "openai", []),
        ("slow-claude", "anthropic", f"{sandbox_url}/slow-claude", "anthropic", []),
        ("flaky", "openai", f"{sandbox_url}/flaky/v1", "openai", []),
        (NEVER, "openai", f"{sandbox_url}/{NEVER}/v1", None, []),
        (LATE, "openai", f"{sandbox_url}/{LATE}/v1", None, []),
        (RETRO, "openai", f"{sandbox_url}/{RETRO}/v1", None, []),
        (TIERED, "openai", f"{sandbox_url}/{TIERED}/v1", None, []),
    ]
    tables = [
        f'\n[providers.{name}]\ndialect = "{dialect}"\nbase_url = "{url}"\n'
        f'key_env = "{key_variable}"\nmodels = {models}\n'
        + (f'price_provider = "{prices}"\n' if prices else "")
        for name, dialect, url, prices, models in rows
    ]
    for name, price in ((RETRO, RETRO_BEFORE), (TIERED, TIERED_PRICE)):
        tables.append(f'\n[prices."{name}/{MODEL_LATER}"]\nvalid_from = 2026-01-01T00:00:00Z\n')
        tables.append(_rates(price))
        for tokens, tier in price.above.items():
            tables.append(f'\n[[prices."{name}/{MODEL_LATER}".tiers]]\n')
            tables.append(f"above_input_tokens = {tokens}\n{_rates(tier)}")
    for name, buffered in (("shaky", "false"), ("held", "true")):
        tables.append(
            f'\n[routes.{name}]\nstrategy = "failover"\nattempts = 3\nbuffered = {buffered}\n'
            'targets = [{ target = "flaky/gpt-4.1-nano", priority = 1 }, '
            '{ target = "b/gpt-4.1-nano" }]\n'
        )
    tables.append(
        '\n[routes.cached]\ntargets = [{ target = "a/gpt-4o-mini" }]\ncache_ttl_s = 3600\n'
        "\n[circuits]\nfailures = 16\ncalls_min = 16\nerror_share = 1.0\n"
    )
    tables += [
        f'\n[budgets.hard-{name}]\nscope = "provider"\nscope_id = "{name}"\n'
        'total_limit_usd = "100000"\non_exceeded = "block"\n'
        for name in ("a", "anthropic")
    ]
    return "".join(tables)


def _rates(price: Price) -> str:
    return (
        f'input_usd_per_million = "{price.input}"\n'
        f'cached_input_usd_per_million = "{price.cached_input}"\n'
        f'output_usd_per_million = "{price.output}"\n'
    )


def behaviours() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield how every base of the sandbox behaves: (base, model, behaviour)."""
    for base in ("", "a", "b", "claude-b", "nova", "co", NEVER, LATE, RETRO, TIERED):
        yield base, "*", INSTANT
    yield "slow", "*", SLOW
    yield "slow-claude", "*", SLOW
    yield "flaky", "*", {**INSTANT, "faults": FLAKY}
