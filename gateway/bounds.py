"""The most that a call can cost at a target: what a hard budget has to reserve.

Every token is at least one byte of the request, and a chat template adds less to a message than
its JSON does. Where bytes do not bound the tokens (images, files, references), the target's context
does. The output is bounded by the caller's limit, or by the target's, which is then sent along.
What cannot be bounded, or has no price, is refused: under a hard budget nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.admission import Admitted
from schemas.errors import InvalidRequest
from schemas.events.changes import PriceChanged
from schemas.money import token_cost_nano_usd
from schemas.pricing import INPUT_KINDS, OUTPUT_KINDS, prices_up_to
from schemas.routing import LOCAL, Target

TOOLS_TOKENS = 1_024
"""What a vendor's own instructions for tools add to a prompt: Anthropic states 264 to 804."""
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""Members that limit the output; who names several may mean any of them."""
CHOICES = ("n", "best_of", "candidateCount", "candidate_count")
"""Members that multiply the output."""
NESTED = ("generationConfig", "generation_config", "toolConfig")
"""Members in which those may lie, and tools."""
SERVICE_TIERS = ("service_tier", "serviceTier")
"""Members that ask for a faster or a cheaper service."""
LISTED_TIERS = frozenset({"auto", "default", "standard", "standard_only", "on_demand", "flex"})
"""Those that cost what the lists say, or less."""
SURFACES = {"chat": True, "completions": True, "responses": True, "embeddings": False}
"""The surfaces that are paid by the token, and whether they produce any."""
UNPAID = frozenset({"count_tokens"})
OWN_TOOLS = frozenset({"function", "custom"})
OWN_TOOL_WORDS = frozenset(
    [
        "name",
        "description",
        "input_schema",
        "parameters",
        "parameter_definitions",
        "strict",
        "cache_control",
        "function",
        "functionDeclarations",
        "function_declarations",
        "toolSpec",
        "cachePoint",
    ]
)
"""Tools that the caller runs, by their type, or by all that they hold: they cost tokens of the request
alone."""

_BEYOND_BYTES = re.compile(
    rb'"(?:image_url|input_image|image|input_audio|audio|file|file_id|file_url|file_data|document|'
    rb"video|inline_data|inlineData|file_uri|fileUri|fileData|previous_response_id|conversation|"
    rb'prompt_id|container)"\s*:|"type"\s*:\s*"(?:image|document|file|input_audio|input_file)"'
)
"""Members of a request whose tokens its bytes do not bound. A quote inside of a text is escaped, so
that what people write about is not found."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The most that a call costs at a target, and the most tokens that it produces.

    `max_tokens` is what the provider must be told, None where the caller said it himself.
    """

    amount_nano_usd: int
    output_max: int | None = None
    max_tokens: int | None = None


def bound(admitted: Admitted, target: Target, price: PriceChanged | None) -> Bound:
    """Return the bound. Raises InvalidRequest when there is none."""
    surface = admitted.front.surface
    if target.provider == LOCAL or surface in UNPAID or (price is not None and _is_free(price)):
        return Bound(0)
    if price is None:
        raise _refused(f"{target.id} has no price", "Have the operator price the model.")
    produces = SURFACES.get(surface)
    if produces is None:
        return Bound(_by_units(admitted, price))
    if price.input_price is None or (produces and price.output_price is None):
        raise _refused(f"{target.id} has no price", "Have the operator price the model.")
    told = _Told(admitted)
    told.check_service()
    input_tokens = _input_tokens(told, target, price)
    said = limit = output_tokens = None
    if produces:
        said = told.most(LIMITS, admitted.opening.max_tokens)
        limit = said or target.max_output_tokens
        if limit is None:
            raise _refused("the request names no max_tokens", "Send max_tokens with the request.")
        output_tokens = limit * (told.most(CHOICES) or 1)
    held = prices_up_to(price, input_tokens)
    dearest = max(_of_tokens(one, input_tokens, output_tokens or 0) for one in held)
    return Bound(dearest, output_tokens, None if said else limit)


def _is_free(price: PriceChanged) -> bool:
    cache = price.cached_input_price or price.cache_write_input_price
    paid = cache or any(price.unit_prices.values()) or price.tiers
    return price.input_price == price.output_price == 0 and not paid


def _of_tokens(price: PriceChanged, input_tokens: int, output_tokens: int) -> int:
    inputs = [price.input_price, price.cached_input_price, price.cache_write_input_price]
    return token_cost_nano_usd(
        [
            (input_tokens, _dearest(price, inputs, INPUT_KINDS)),
            (output_tokens, _dearest(price, [price.output_price], OUTPUT_KINDS)),
            (1, price.unit_prices.get("call", 0)),
        ]
    )


def _dearest(price: PriceChanged, rates: Sequence[int | None], kinds: Sequence[str]) -> int:
    return max(rate or 0 for rate in (*rates, *(price.unit_prices.get(kind) for kind in kinds)))


def _by_units(admitted: Admitted, price: PriceChanged) -> int:
    """Return the bound of what is paid by pieces that the request itself counts."""
    units = admitted.opening.units
    rates = {
        name: [
            rate
            for unit, rate in price.unit_prices.items()
            if unit.partition("/")[0] == name.partition("/")[0]
        ]
        for name in units
    }
    if not units or not all(rates.values()) or price.input_price or price.output_price:
        raise _refused(
            f"what a call for {admitted.front.surface} comes to is known only afterwards",
            "Use a key that no hard budget holds for.",
        )
    return token_cost_nano_usd([(count, max(rates[name])) for name, count in units.items()])


def _input_tokens(told: _Told, target: Target, price: PriceChanged) -> int:
    body = told.admitted.body
    tokens = len(body)
    if told.admitted.opening.has_tools:
        told.check_tools()
        tokens += TOOLS_TOKENS
    if _BEYOND_BYTES.search(_unescaped(body)) is None:
        return tokens
    if target.context_length is None or "image" in price.unit_prices:
        raise _refused(
            f"the request holds more than text, and what {target.id} makes of it is not bounded",
            "Send text alone, or have the operator state the model's context_length.",
        )
    return max(tokens, target.context_length)


def _unescaped(body: bytes) -> bytes:
    """Return a body whose members' names are plain: an escaped letter hides none of them."""
    if b"\\u00" not in body:
        return body
    try:
        return msgspec.json.encode(msgspec.json.decode(body))
    except msgspec.DecodeError as error:
        raise InvalidRequest("the body is not valid JSON") from error


class _Told:
    """What a request says of its own size, wherever its dialect puts it. Raises InvalidRequest."""

    def __init__(self, admitted: Admitted) -> None:
        self.admitted = admitted
        fields = admitted.fields
        self._places: list[Mapping[str, msgspec.Raw]] = [fields]
        for name in NESTED:
            if name in fields:
                inner = self._read(name, fields[name], dict[str, msgspec.Raw])
                self._places.append(inner or {})

    def most(self, names: Sequence[str], known: int | None = None) -> int | None:
        """Return the largest of the members of these names, None for none of them."""
        found = [] if known is None else [known]
        for place in self._places:
            for name in names:
                value = self._read(name, place[name], int) if name in place else None
                if value is not None:
                    found.append(value)
        if found and min(found) < 1:
            raise InvalidRequest(f"{names[0]} must be at least 1")
        return max(found, default=None)

    def check_service(self) -> None:
        """Refuse a service that costs more than any list says."""
        for place in self._places:
            for name in SERVICE_TIERS:
                tier = self._read(name, place[name], Any) if name in place else None
                if isinstance(tier, dict):  # as Bedrock has it
                    tier = tier.get("type")
                if tier is not None and not (isinstance(tier, str) and tier in LISTED_TIERS):
                    raise _refused(
                        f"{name} {str(tier)[:64]!r} has no price",
                        "Leave it out, or use a key that no hard budget holds for.",
                    )

    def check_tools(self) -> None:
        """Refuse tools that the vendor runs: their results are paid, and nobody knows how large."""
        for place in self._places:
            tools = self._read("tools", place["tools"], list[Any]) if "tools" in place else None
            for tool in tools or []:
                if not _is_own(tool):
                    raise _refused(
                        f"the tool {_named(tool)} is run by the vendor, at a price of its own",
                        "Leave the tool out, or use a key that no hard budget holds for.",
                    )

    def _read(self, name: str, raw: msgspec.Raw, kind: Any) -> Any:
        """Return a member, None for null, which clients send for what they leave out."""
        try:
            return msgspec.json.decode(raw, type=kind | None)
        except msgspec.DecodeError as error:
            raise InvalidRequest(f"'{name}' has not the form that it must have") from error


def _is_own(tool: Any) -> bool:
    if not isinstance(tool, dict):
        return False
    kind = tool.get("type")
    if kind is not None:
        return kind in OWN_TOOLS
    # A vendor's own tools are further members of an entry, and new ones appear: only what is known to
    # describe the caller's passes.
    return tool.keys() <= OWN_TOOL_WORDS


def _named(tool: Any) -> str:
    if not isinstance(tool, dict):
        return "of an unknown form"
    return repr(str(tool.get("type") or ", ".join(tool))[:64])


def _refused(why: str, action: str) -> InvalidRequest:
    return InvalidRequest(
        f"under a hard budget the price of a call must be bounded beforehand: {why}", action=action
    )
