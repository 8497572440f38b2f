"""How each model of each base path behaves: its latency and its faults, changeable while it serves.

A *lane* is one model under one base path (`/a/v1/…` and `/b/v1/…` are different lanes), so that two
equal targets can behave differently. All draws are hashes of (seed, lane, call number): the same
order of calls meets the same faults.
"""

import hashlib
import math
import time
from statistics import NormalDist
from typing import Literal

import msgspec

from infra.sandbox.models import Model

_NORMAL = NormalDist()

FaultKind = Literal[
    "rate_limited",  # 429, with Retry-After when `retry_after_s` is set
    "server_error",  # 500
    "unavailable",  # 503
    "overloaded",  # 529 from Anthropic, 503 from OpenAI
    "reset",  # connection reset before any header
    "silence",  # the request is taken and never answered
    "slow_first_token",  # headers at once, the first token `delay_ms` later
    "stall",  # `delay_ms` of nothing in the middle of the answer
    "cut",  # the connection ends in the middle of the answer
    "malformed_frame",  # a frame that is no JSON (whole answers: a body that is no JSON)
    "missing_end_marker",  # an orderly end without `[DONE]` or `message_stop`
    "error_event",  # an error frame in the middle, then an orderly end
    "context_too_long",  # 400 as for a prompt beyond the context window
    "content_filtered",  # the answer ends early, by the filter or as a refusal
]


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to fail. `rate` is the share of calls, `count` the most calls it hits (None: no limit)."""

    kind: FaultKind
    rate: float = 1.0
    count: int | None = None
    skip: int = 0
    """Calls of the lane that pass before this fault may hit."""
    retry_after_s: float | None = None
    delay_ms: float = 30_000.0
    after_tokens: int | None = None
    """Where in the answer a stall, cut, bad frame or error event comes; None means half way."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate <= 1.0:
            raise ValueError("rate must lie between 0 and 1")
        if (self.count is not None and self.count < 0) or self.skip < 0 or self.delay_ms < 0:
            raise ValueError("count, skip and delay_ms must not be negative")


class Behaviour(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Latency, length of answers, limits and faults of one lane. None: the model's own figure."""

    first_token_ms: float | None = None
    per_token_ms: float | None = None
    jitter: float = 0.1
    """Largest relative change of a call's latency, up or down."""
    sigma: float = 0.0
    """With more than 0 latency is log-normal around its median, with this spread; no jitter then."""
    luck: int = 0
    """Another number gives other draws: for who changes a behaviour often, since counters begin anew."""
    answer_tokens_min: int = 16
    answer_tokens_max: int = 160
    tokens_per_frame: int = 1
    requests_per_minute: int = 10_000_000
    tokens_per_minute: int = 100_000_000_000
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.answer_tokens_min <= self.answer_tokens_max:
            raise ValueError("answer_tokens_min must be positive and at most answer_tokens_max")
        if self.tokens_per_frame < 1 or self.requests_per_minute < 1 or self.tokens_per_minute < 1:
            raise ValueError("tokens_per_frame and the limits per minute must be positive")
        if not 0.0 <= self.jitter < 1.0:
            raise ValueError("jitter must lie between 0 and 1")
        if not 0.0 <= self.sigma <= 3.0:
            raise ValueError("sigma must lie between 0 and 3")


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the behaviour file: which lane behaves how. Model `*` means every model of the base."""

    behaviour: Behaviour
    base: str = ""
    model: str = "*"


class BehaviourFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file given at start (TOML or JSON): rules, and models beyond the built-in ones."""

    rules: tuple[Rule, ...] = ()
    models: tuple[Model, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """What one call will meet: its latencies in seconds and its fault."""

    first_token_s: float
    per_token_s: float
    fault: Fault | None


class Bucket:
    """A vendor's limit per minute: refills all the time, never above the limit."""

    __slots__ = ("_at_s", "limit", "remaining")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.remaining = float(limit)
        self._at_s = time.monotonic()

    def take(self, amount: int) -> bool:
        """Take an amount when it is there."""
        now_s = time.monotonic()
        self.remaining = min(self.limit, self.remaining + (now_s - self._at_s) * self.limit / 60.0)
        self._at_s = now_s
        if self.remaining < amount:
            return False
        self.remaining -= amount
        return True

    def wait_s(self, amount: int = 0) -> float:
        """Seconds until `amount` is there; with 0, until the limit is full again."""
        missing = (amount or self.limit) - self.remaining
        return max(0.0, missing * 60.0 / self.limit)


class Lane:
    """One model under one base path, with its counters."""

    def __init__(self, base: str, model: Model, behaviour: Behaviour, seed: int) -> None:
        self.behaviour = behaviour
        self.requests = Bucket(behaviour.requests_per_minute)
        self.tokens = Bucket(behaviour.tokens_per_minute)
        self._hits = [0] * len(behaviour.faults)
        self._calls = 0
        luck = f"{behaviour.luck}|" if behaviour.luck else ""
        self._salt = f"{seed}|{base}|{model.name}|{luck}".encode()
        first_ms = behaviour.first_token_ms
        per_ms = behaviour.per_token_ms
        self._first_s = (model.first_token_ms if first_ms is None else first_ms) / 1_000
        self._per_s = (model.per_token_ms if per_ms is None else per_ms) / 1_000

    def plan(self) -> Plan:
        """Draw the next call's latency and fault."""
        call = self._calls
        self._calls += 1
        fault = self._fault(call) if self.behaviour.faults else None
        if not self._first_s and not self._per_s:
            return Plan(0.0, 0.0, fault)
        factor = self._factor(self._draw(call, -1))
        return Plan(self._first_s * factor, self._per_s * factor, fault)

    def _factor(self, draw: float) -> float:
        """Return a call's latency relative to the usual one, by a number drawn from 0 to 1."""
        if self.behaviour.sigma > 0.0:
            return math.exp(self.behaviour.sigma * _NORMAL.inv_cdf(min(max(draw, 1e-9), 1 - 1e-9)))
        return 1.0 + self.behaviour.jitter * (2.0 * draw - 1.0)

    def _fault(self, call: int) -> Fault | None:
        for index, fault in enumerate(self.behaviour.faults):
            if call < fault.skip or (fault.count is not None and self._hits[index] >= fault.count):
                continue
            if fault.rate >= 1.0 or self._draw(call, index) < fault.rate:
                self._hits[index] += 1
                return fault
        return None

    def _draw(self, call: int, index: int) -> float:
        digest = hashlib.blake2b(b"%b%d|%d" % (self._salt, call, index), digest_size=8).digest()
        return int.from_bytes(digest, "little") / 2**64


class Behaviours:
    """All lanes. A rule for a model beats a rule for `*`; without either the model's data count."""

    def __init__(self, seed: int, rules: tuple[Rule, ...] = ()) -> None:
        self._seed = seed
        self._rules = {(rule.base, rule.model): rule.behaviour for rule in rules}
        self._lanes: dict[tuple[str, str], Lane] = {}

    def lane(self, base: str, model: Model) -> Lane:
        """The lane of a model under a base path, made at its first call."""
        lane = self._lanes.get((base, model.name))
        if lane is None:
            behaviour = self._rules.get((base, model.name)) or self._rules.get((base, "*"))
            lane = Lane(base, model, behaviour or Behaviour(), self._seed)
            self._lanes[base, model.name] = lane
        return lane

    def put(self, base: str, model: str, behaviour: Behaviour | None) -> None:
        """Set (or with None remove) a rule; the counters of the lanes it touches begin anew."""
        if behaviour is None:
            self._rules.pop((base, model), None)
        else:
            self._rules[base, model] = behaviour
        for lane_base, name in list(self._lanes):
            if lane_base == base and model in ("*", name):
                del self._lanes[lane_base, name]

    def rules(self) -> list[Rule]:
        """The rules in force."""
        return [Rule(behaviour, base, model) for (base, model), behaviour in self._rules.items()]
