"""The most that a call can cost at a target: what a hard budget has to reserve.

Every token is at least one byte of the request, and a chat template adds less to a message than
its JSON does. Where bytes do not bound the tokens (images, files, references), the target's context
does. The output is bounded by the caller's limit, or by the target's, which is then sent along.
What cannot be bounded, or has no price, is refused: under a hard budget nothing is guessed.
"""

from __future__ import annotations

import re

import msgspec

from gateway.admission import Admitted
from schemas.errors import InvalidRequest
from schemas.events.changes import PriceChanged
from schemas.money import token_cost_nano_usd
from schemas.routing import Target

TOOLS_TOKENS = 1_024
"""What a vendor's own instructions for tools add to a prompt: Anthropic states 264 to 804."""
CHOICES = ("n", "best_of", "candidate_count")
"""Members that multiply the output."""
SURFACES = {
    "chat": True,
    "completions": True,
    "responses": True,
    "embeddings": False,
    "rerank": False,
}
"""The surfaces that are paid by the token, and whether they produce any."""
FREE = frozenset({"count_tokens"})
"""The surfaces that no vendor charges for."""
LOCAL = "local"
"""The provider of our own models, which cost nothing."""
OWN_TOOLS = frozenset({"function", "custom", ""})
"""Kinds of tools that the caller runs: they cost tokens of the request alone."""

_BEYOND_BYTES = re.compile(
    rb'"(?:image_url|input_image|image|input_audio|audio|file|file_id|file_url|file_data|document|'
    rb"video|inline_data|inlineData|file_uri|fileUri|fileData|previous_response_id|conversation|"
    rb'prompt_id|container)"\s*:|"type"\s*:\s*"(?:image|document|file|input_audio|input_file)"'
)
"""Members of a request whose tokens its bytes do not bound. A quote inside of a text is escaped, so
that what people write about is not found."""


class Bound(msgspec.Struct, frozen=True):
    """The most that a call costs at a target, and the most tokens that it produces.

    `max_tokens` is what the provider must be told, None where the caller said it himself.
    """

    amount_nano_usd: int
    output_max: int | None = None
    max_tokens: int | None = None


def bound(admitted: Admitted, target: Target, price: PriceChanged | None) -> Bound:
    """Return the bound. Raises InvalidRequest when there is none."""
    if (
        admitted.front.surface in FREE
        or target.provider == LOCAL
        or (price is not None and _is_free(price))
    ):
        return Bound(0)
    produces = SURFACES.get(admitted.front.surface)
    if price is None or price.input_price is None or price.output_price is None:
        raise _refused(f"{target.id} has no price", "Have the operator price the model.")
    if produces is None:
        raise _refused(
            f"a call for {admitted.front.surface} is not paid by tokens",
            "Use a key that no hard budget holds for.",
        )
    input_tokens = _input_tokens(admitted, target)
    rates = [price.input_price, price.cached_input_price or 0, price.cache_write_input_price or 0]
    output_tokens = 0
    max_tokens = admitted.opening.max_tokens
    if produces:
        max_tokens = max_tokens or target.max_output_tokens
        if max_tokens is None:
            raise _refused("the request names no max_tokens", "Send max_tokens with the request.")
        output_tokens = max_tokens * _choices(admitted)
    amount = token_cost_nano_usd([(input_tokens, max(rates)), (output_tokens, price.output_price)])
    said = admitted.opening.max_tokens is not None
    return Bound(amount, output_tokens if produces else None, None if said else max_tokens)


def _is_free(price: PriceChanged) -> bool:
    return price.input_price == price.output_price == 0 and not any(price.unit_prices.values())


def _input_tokens(admitted: Admitted, target: Target) -> int:
    tokens = len(admitted.body)
    if admitted.opening.has_tools:
        _check_tools(admitted)
        tokens += TOOLS_TOKENS
    if _BEYOND_BYTES.search(admitted.body) is None:
        return tokens
    if target.context_length is None:
        raise _refused(
            f"the request holds more than text, and the context of {target.id} is not known",
            "Send text alone, or have the operator state the model's context_length.",
        )
    return max(tokens, target.context_length)


def _check_tools(admitted: Admitted) -> None:
    """Refuse tools that the vendor runs: their results are paid, and nobody knows how large."""
    raw = admitted.fields.get("tools")
    if raw is None:
        return
    try:
        tools = msgspec.json.decode(raw, type=list[_Tool])
    except msgspec.DecodeError as error:
        raise InvalidRequest("tools is not a list of tools") from error
    for tool in tools:
        if (tool.type or "") not in OWN_TOOLS:
            raise _refused(
                f"the tool {tool.type!r} is run by the vendor, at a price of its own",
                "Leave the tool out, or use a key that no hard budget holds for.",
            )


class _Tool(msgspec.Struct):
    type: str | None = None


def _choices(admitted: Admitted) -> int:
    most = 1
    for name in CHOICES:
        raw = admitted.fields.get(name)
        if raw is None:
            continue
        try:
            count = msgspec.json.decode(raw, type=int | None)
        except msgspec.DecodeError as error:
            raise InvalidRequest(f"{name} is not a whole number") from error
        most = max(most, count or 1)
    return most


def _refused(why: str, action: str) -> InvalidRequest:
    return InvalidRequest(
        f"under a hard budget the price of a call must be bounded beforehand: {why}", action=action
    )
