"""A call's life: admitted, answered, paid for, and its content (as ciphertext)."""

from __future__ import annotations

import msgspec

from schemas.event import DAYS, Event, Topic

REQUESTS = Topic("weir.llm.requests.v1")
RESPONSES = Topic("weir.llm.responses.v1")
COSTS = Topic("weir.llm.costs.v1")
CONTENT = Topic("weir.llm.content.v1", retention_ms=90 * DAYS)


class Candidate(msgspec.Struct, frozen=True):
    """One target that routing looked at; `reason` says why it was left out, or how it scored."""

    target: str
    score: float
    eligible: bool
    reason: str


class Attempt(msgspec.Struct, frozen=True):
    """One upstream call.

    `outcome` is success, failed or cancelled; `error_class` one of the bounded words of
    `schemas.errors`; `first_token_us` counts from the start of the attempt.
    """

    target: str
    outcome: str
    error_class: str | None
    status: int | None
    latency_us: int
    first_token_us: int | None


class CallEvent(Event, frozen=True, kw_only=True):
    """What every event of one call repeats, so that a fold needs no join."""

    request_id: str
    key_id: str
    team: str | None = None
    project: str | None = None
    user_id: str | None = None
    cost_center: str | None = None
    route: str
    task_type: str | None = None
    target: str | None = None
    provider: str | None = None
    model: str | None = None
    deployment_id: str | None = None
    organization: str | None = None
    surface: str = "chat"
    """What kind of call: chat, embeddings, images, speech, transcription, moderation, rerank…"""

    @property
    def key(self) -> str:
        return self.request_id


class RequestAdmitted(CallEvent, frozen=True, kw_only=True):
    """A request passed admission and routing chose its first target.

    `propensity` is the probability with which the strategy made this choice; estimates built on
    recorded traffic need it. `reserved_nano_usd` is the upper bound of the cost, None when it
    cannot be bounded or priced. `budgets` are the budget periods that hold the reservation.
    """

    topic = REQUESTS
    type = "weir.llm.request.admitted"
    version = 2

    session_id: str | None = None
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    dialect: str
    endpoint: str
    model_requested: str
    strategy: str
    stream: bool
    propensity: float
    candidates: list[Candidate]
    input_tokens_estimate: int | None = None
    max_output_tokens: int | None = None
    reserved_nano_usd: int | None = None
    durability: str = "written"
    worker: str
    outbox_id: str
    decision_us: int
    reason: str | None = None
    task_confidence: float | None = None
    complexity: str | None = None
    budgets: list[str] = msgspec.field(default_factory=list)
    traceparent: str | None = None
    """The caller's trace context, as W3C writes it."""


class ResponseCompleted(CallEvent, frozen=True, kw_only=True):
    """A request ended.

    `outcome` is success, failed, cancelled (the client left) or abandoned (the worker died).
    `usage_basis` says where the tokens come from: reported by the provider, counted by a
    tokenizer, estimated, or none. Token counts are null when unknown, never 0.
    `input_tokens` includes the cached ones and those written to the vendor's cache. `cache` is
    hit when our own cache answered. `guardrails` says what each that acted did. `units` counts
    what is not counted in tokens. `trials` are the canaries' trials that the call was drawn into,
    each with its side (`schemas.events.canaries`).
    """

    topic = RESPONSES
    type = "weir.llm.response.completed"
    version = 3

    outcome: str
    status: int | None
    error_code: str | None = None
    attempts: list[Attempt]
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    usage_basis: str
    finish_reason: str | None = None
    stream: bool
    latency_us: int
    first_token_us: int | None = None
    cost_nano_usd: int | None = None
    cache_write_input_tokens: int | None = None
    cache: str | None = None
    guardrails: dict[str, str] = msgspec.field(default_factory=dict)
    units: dict[str, int] = msgspec.field(default_factory=dict)
    trials: dict[str, str] = msgspec.field(default_factory=dict)


class CostEntry(CallEvent, frozen=True, kw_only=True):
    """One line of the ledger; the cost of a call is the sum of its lines.

    `entry` is admitted, settled, wasted, corrected, unpriced or abandoned; wasted is what an attempt
    produced that nobody was shown, because it broke and another answered. Prices are nano-USD per
    million tokens, `cost_nano_usd` is null when unpriced. `price_list` is the provider whose list was
    used, `priced_at_us` when the request came in: the price of that time counts. A correction carries
    the difference to the line that `corrects` names by its event id, under that line's time, and no
    tokens; `first_price` says that its line had no price until then. `cache_saved_nano_usd` is what a
    hit of our own cache would have cost.
    """

    topic = COSTS
    type = "weir.llm.cost.entered"
    version = 3

    entry: str
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    input_price: int | None = None
    cached_input_price: int | None = None
    output_price: int | None = None
    cost_nano_usd: int | None = None
    price_version: str | None = None
    basis: str
    cache_write_input_tokens: int | None = None
    cache_write_input_price: int | None = None
    units: dict[str, int] = msgspec.field(default_factory=dict)
    cache_saved_nano_usd: int | None = None
    budgets: list[str] = msgspec.field(default_factory=list)
    price_list: str | None = None
    priced_at_us: int | None = None
    corrects: str | None = None
    first_price: bool = False


class ContentCaptured(Event, frozen=True, kw_only=True):
    """Prompt and completion of a call, sealed; `mode` is full or masked.

    The plaintext is the JSON of {"request": …, "response": …} in the client's dialect.
    """

    topic = CONTENT
    type = "weir.llm.content.captured"

    request_id: str
    mode: str
    data_key_id: str
    nonce: bytes
    ciphertext: bytes

    @property
    def key(self) -> str:
        return self.request_id
