"""Answers made from the prompt: the same prompt gets the same answer, another prompt another one.

Text is a slice of a fixed *river* of words at an offset drawn from the prompt's hash, behind a case
number from the same hash. So it costs no drawing per token, varies with every prompt, and each
piece is exactly one token of the sandbox's tokenizer.
"""

import hashlib
import random
from typing import Any, Literal

import msgspec

from infra.sandbox.tokens import pieces

_WORDS = [
    "water",
    "river",
    "stone",
    "light",
    "field",
    "harbour",
    "window",
    "garden",
    "letter",
    "market",
    "bridge",
    "morning",
    "winter",
    "summer",
    "forest",
    "mountain",
    "valley",
    "island",
    "engine",
    "signal",
    "number",
    "answer",
    "question",
    "reason",
    "method",
    "measure",
    "balance",
    "pressure",
    "current",
    "channel",
    "surface",
    "distance",
    "quiet",
    "narrow",
    "steady",
    "bright",
    "heavy",
    "simple",
    "careful",
    "early",
    "common",
    "useful",
    "gentle",
    "patient",
    "honest",
    "carries",
    "holds",
    "follows",
    "reaches",
    "turns",
    "keeps",
    "gives",
    "shows",
    "meets",
    "leaves",
    "rises",
    "falls",
    "settles",
    "begins",
    "returns",
    "gathers",
    "measures",
    "before",
    "after",
    "under",
    "above",
    "across",
    "along",
    "because",
    "while",
    "where",
    "when",
    "until",
    "often",
    "always",
    "rarely",
    "almost",
    "together",
    "apart",
    "and",
    "then",
    "but",
    "so",
    "the",
    "a",
    "this",
    "that",
    "each",
    "some",
    "every",
    "another",
    "same",
    "other",
    "first",
    "second",
    "last",
    "next",
    "small",
    "large",
    "old",
    "new",
    "open",
]
# What a careless encoder breaks on: each is one token as well.
_RARE = (" café", " naïve", " Straße", " 東京", " —", " 🌊", ' "', " \\", " <", " &")
_RIVER_PIECES = 1 << 14


def _river() -> tuple[str, ...]:
    rng = random.Random(20_260_101)
    flow: list[str] = []
    while len(flow) < _RIVER_PIECES:
        words = [" " + rng.choice(_WORDS) for _ in range(rng.randint(5, 14))]
        words[0] = " " + words[0][1:].capitalize()
        if rng.random() < 0.25:
            words[rng.randrange(1, len(words))] = rng.choice(_RARE)
        flow += [*words, "."]
        if rng.random() < 0.1:
            flow.append("\n\n")
    return tuple(flow)


_RIVER = _river() * 2  # twice, so that a slice from any offset needs no wrap
_LONGEST = len(_RIVER) // 2

SCHEMA_DEPTH_MAX = 8


class Tool(msgspec.Struct, frozen=True):
    """A tool on offer: its name and the JSON schema of its arguments."""

    name: str
    schema: dict[str, Any]


class Ask(msgspec.Struct):
    """What one call wants, whichever dialect it was asked in."""

    prompt: str
    limit: int
    """Most tokens to produce, reasoning included."""
    length_min: int = 16
    length_max: int = 160
    stops: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    call_tools: Literal["none", "one", "any"] = "none"
    preamble: bool = False
    """Say a sentence before the tool call."""
    schema: dict[str, Any] | None = None
    """Answer with JSON by this schema."""
    reasoning_max: int = 0
    """Most tokens to spend on reasoning; 0 means a model that does not reason."""
    filtered: bool = False
    variant: int = 0
    """Number of the choice where several are asked for."""


class Block(msgspec.Struct):
    """A part of an answer: its pieces are its tokens."""

    kind: Literal["text", "tool", "thinking"]
    pieces: list[str]
    name: str = ""
    id: str = ""


class Answer(msgspec.Struct):
    """Blocks in order, and why the answer ended."""

    blocks: list[Block]
    finish: Literal["stop", "length", "tool", "filter", "stop_sequence"]
    stop_sequence: str | None = None

    @property
    def tokens(self) -> int:
        """Output tokens of all blocks."""
        return sum(len(block.pieces) for block in self.blocks)

    @property
    def thinking_tokens(self) -> int:
        """Output tokens spent on reasoning."""
        return sum(len(block.pieces) for block in self.blocks if block.kind == "thinking")


def compose(ask: Ask) -> Answer:
    """Make the answer: reasoning first, then tool calls, JSON or text, all within the limit."""
    digest = hashlib.blake2b(ask.prompt.encode("utf-8", "surrogatepass"), digest_size=16)
    if ask.variant:
        digest.update(b"|%d" % ask.variant)
    draw = int.from_bytes(digest.digest(), "little")
    room = ask.limit
    blocks: list[Block] = []
    if ask.reasoning_max:
        wanted = min(ask.reasoning_max, 24 + (draw >> 8) % 168)
        blocks.append(Block("thinking", _flow(draw >> 64, min(wanted, room))))
        room -= len(blocks[0].pieces)
    if ask.call_tools != "none":
        return _call_tools(ask, draw, room, blocks)
    if ask.schema is not None:
        body = pieces(_json(example(ask.schema, random.Random(draw))))
        blocks.append(Block("text", body[:room]))
        return Answer(blocks, "length" if len(body) > room else "stop")
    wanted = ask.length_min + (draw >> 16) % (ask.length_max - ask.length_min + 1)
    if ask.filtered:
        wanted = max(1, wanted // 2)
    body = (_opening(draw) + _flow(draw >> 32, max(0, wanted - 8)))[: min(wanted, room)]
    answer = Answer([*blocks, Block("text", body)], "length" if wanted > room else "stop")
    if ask.stops:
        _stop(answer, ask.stops)
    if ask.filtered:
        answer.finish = "filter"
    return answer


def _opening(draw: int) -> list[str]:
    """Eight tokens with a number of nine digits: what makes an answer its prompt's own."""
    number = f"{(draw >> 96) % 10**9:09d}"
    return ["Case", " ", number[:3], "-", number[3:6], "-", number[6:], ":"]


def _flow(draw: int, length: int) -> list[str]:
    offset = draw % _LONGEST
    if length <= _LONGEST:
        return list(_RIVER[offset : offset + length])
    rounds = length // _LONGEST + 2
    return list((_RIVER * rounds)[offset : offset + length])


def _stop(answer: Answer, stops: tuple[str, ...]) -> None:
    """Cut the text before the first stop sequence in it."""
    block = answer.blocks[-1]
    text = "".join(block.pieces)
    found = [(at, stop) for stop in stops if stop and (at := text.find(stop)) >= 0]
    if not found:
        return
    at, stop = min(found)
    block.pieces = pieces(text[:at])
    answer.finish = "stop_sequence"
    answer.stop_sequence = stop


def _call_tools(ask: Ask, draw: int, room: int, blocks: list[Block]) -> Answer:
    first = draw % len(ask.tools)
    chosen = [ask.tools[first]]
    if ask.call_tools == "any" and len(ask.tools) > 1 and draw >> 7 & 3 == 0:
        chosen.append(ask.tools[(first + 1) % len(ask.tools)])
    if ask.preamble and room > 12:
        blocks.append(Block("text", [*_opening(draw), *_flow(draw >> 32, 4)]))
        room -= 12
    for number, tool in enumerate(chosen):
        body = pieces(_json(example(tool.schema, random.Random(draw + number))))
        name_id = f"{(draw >> 24) + number & 0xFFFFFFFFFFFFFFFFFFFF:020x}"
        if room <= 0:
            return Answer(blocks, "length")
        blocks.append(Block("tool", body[:room], tool.name, name_id))
        room -= len(body)
    return Answer(blocks, "length" if room < 0 else "tool")


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def example(schema: dict[str, Any], rng: random.Random) -> Any:
    """A value that a JSON schema accepts (the part of the language that vendors accept for tools)."""
    return _example(schema, schema, rng, 0)


def _example(schema: dict[str, Any], root: dict[str, Any], rng: random.Random, depth: int) -> Any:
    if depth > 2 * SCHEMA_DEPTH_MAX:
        return None  # a schema that requires itself has no finite value
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target: Any = root
        for step in reference.removeprefix("#").strip("/").split("/"):
            target = target.get(step, {}) if step else target
        schema = target
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return rng.choice(schema["enum"])
    for union in ("anyOf", "oneOf"):
        if schema.get(union):
            return _example(rng.choice(schema[union]), root, rng, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = rng.choice(kind)
    return _example_of(kind, schema, root, rng, depth)


def _example_of(
    kind: str, schema: dict[str, Any], root: dict[str, Any], rng: random.Random, depth: int
) -> Any:
    if kind == "object":
        names = schema.get("properties", {})
        if depth >= SCHEMA_DEPTH_MAX:
            names = {
                name: part for name, part in names.items() if name in schema.get("required", ())
            }
        return {name: _example(part, root, rng, depth + 1) for name, part in names.items()}
    if kind == "array":
        least = schema.get("minItems", 0 if depth >= SCHEMA_DEPTH_MAX else 1)
        size = min(
            max(least, rng.randint(1, 3) if depth < SCHEMA_DEPTH_MAX else 0),
            schema.get("maxItems", 3),
        )
        return [_example(schema.get("items", {}), root, rng, depth + 1) for _ in range(size)]
    low = schema.get("minimum", 0)
    high = max(low, schema.get("maximum", low + 1_000))
    if kind == "integer":
        return rng.randint(int(low), int(high))
    if kind == "number":
        return round(min(high, low + rng.random() * (high - low)), 2)
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "null":
        return None
    text = " ".join(rng.choices(_WORDS, k=rng.randint(1, 4)))
    return text.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength", 1_000)]
