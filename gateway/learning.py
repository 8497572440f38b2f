"""What adaptive routing believes of a target, from the live tables of rewards (BEY-15).

The reward of a call lies within 0–1: nothing when it fails, else the weighted mean of what
`gateway.utility` weighs as well: how its answers are liked, that it succeeded, ``1 - norm`` of its
latency and ``1 - norm`` of its cost. Of the reward's mean each target has a belief, a normal
distribution of mean and deviation, by the textbook's conjugate priors:

- success: Beta. A new target is thought as good as the others, with the weight of two calls;
- latency: normal over the logarithm, so that it is the typical call that counts, of the time
  against what an answer of that length usually takes. A new target is thought as fast as the
  others, give or take a factor of two;
- liking: Beta around the known quality of the target, with the weight of ten opinions. Where nobody
  gives any, there is nothing to find out, and the quality counts as known;
- cost follows from prices and lengths and is taken as known.

What is known of all tasks together stands in for a task with the weight of a few calls.

A belief forgets in two ways: a block of calls weighs half after ten minutes; and where the newer
blocks differ from the older ones beyond chance, the older ones are dropped (after Bifet and Gavaldà,
"Learning from time-changing data with adaptive windowing", 2007). Troubles pass: where the newer
blocks are the worse ones, they weigh half sooner, so that doubt returns and with it a call now and
then, by which a recovery shows. Once a circuit has closed, blocks of the trouble that had opened it
are dropped at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import mul
from typing import NamedTuple

import msgspec

from gateway.strategies.base import Standing, Weights
from gateway.utility import QUALITY_UNKNOWN, goodness, rank
from schemas.clock import now_us
from schemas.events.rewards import LikingRow, RewardRow
from schemas.rewards import (
    BLOCK_SECONDS,
    BLOCKS_KEPT,
    LIKING_KEPT,
    LIKING_SECONDS,
    LOG_UNITS,
    entity_of,
)

HALF_LIFE_S = 600.0
FAILING_HALF_LIFE_S = 60.0
"""Of what shows a change for the worse in success: a call that tries too early is lost time for sure."""
SLOW_HALF_LIFE_S = 15.0
"""Of what shows that a target became slow: a call that tries too early is answered all the same.

Of what knowing every target's speed beforehand would gain in p50 and p95 over routing blindly,
15 s reach 91 and 90%, 60 s 89 and 88%: a target that was slow is back that much sooner.
"""
CHANGED = 4.0
"""Newer and older calls differ beyond chance by so many standard errors.

Tuned on drawn calls, apart from any claim's worlds: 0.3% fail, 2% take four times as long, 1.5, 5 or 20
calls a block. In 75 minutes without any change, 6 to 10% of such targets are thought to have
changed at 4, 22 to 32% at 3.5, at most 3% at 4.5. Of targets that take five times as long, all are
found within a minute at 5 calls a block, at 4 as at 3; of those failing half of their calls 78%.
"""
COMPARED_MIN = 5
"""Least calls on either side of a comparison."""
BORROWED_CALLS = 20.0
"""What other tasks say weighs like so many calls of this one, at most."""
PRIOR_CALLS = 2.0
SUCCESS_UNKNOWN = 0.95
LOG_SPREAD = 0.7
"""How far targets lie apart: a factor of two."""
LOG_NOISE = 0.5
"""Deviation of single calls' logarithms where there are too few to tell."""
LOG_NOISE_MIN = 0.1
OPINIONS = 10.0
LIKED_UNITS = 1_000
DOUBT_MIN = 1e-4
ARMS_MAX = 10_000
"""Beliefs kept; beyond that all are made anew."""
REFRESHED_US = 500_000
"""Rows are read at most this often: they change with every batch of the stream processor, while a
belief takes seconds to move."""
_SECOND_US = 1_000_000


class Past(msgspec.Struct, frozen=True):
    """Discounted sums over a target's calls: of all, of the good ones, and of those' logarithms of
    slowness (natural) and its squares; the cost (nano-USD) of those with a price.
    """

    calls: float = 0.0
    good: float = 0.0
    logs: float = 0.0
    squares: float = 0.0
    priced: float = 0.0
    cost_nano_usd: float = 0.0

    def plus(self, other: Past, weight: float = 1.0) -> Past:
        """Return the sum, with the other one's weighed."""
        return Past(
            self.calls + weight * other.calls,
            self.good + weight * other.good,
            self.logs + weight * other.logs,
            self.squares + weight * other.squares,
            self.priced + weight * other.priced,
            self.cost_nano_usd + weight * other.cost_nano_usd,
        )


class Arm(msgspec.Struct, frozen=True):
    """What the tables say of a target at a task; `opinions` and `liked` (their sum) are of people."""

    past: Past = Past()
    opinions: float = 0.0
    liked: float = 0.0


class Lessons:
    """Reads arms off the rows of the live tables, by entity; belongs to the event loop's thread."""

    def __init__(
        self,
        rewards: Callable[[str], Sequence[RewardRow]],
        liking: Callable[[str], Sequence[LikingRow]],
        clock_us: Callable[[], int] = now_us,
    ) -> None:
        self._rewards = rewards
        self._liking = liking
        self._clock_us = clock_us
        self._arms: dict[tuple[str, int], tuple[int, Arm]] = {}
        self._pasts: dict[tuple[str, int], tuple[object, Past]] = {}

    def arm(self, task_type: str | None, target: str, closed_us: int = 0) -> Arm:
        """Return what is known; `closed_us` is when the target's circuit closed, 0 if it never opened."""
        entity, of_all = entity_of(task_type, target), entity_of(None, target)
        now_us = self._clock_us()
        kept = self._arms.get((entity, closed_us))
        if kept is not None and kept[0] <= now_us < kept[0] + REFRESHED_US:
            return kept[1]
        past = self._past(entity, now_us, closed_us)
        if entity != of_all:
            others = self._past(of_all, now_us, closed_us)
            if others.calls:
                past = past.plus(others, min(1.0, BORROWED_CALLS / others.calls))
        arm = Arm(past, *self._opinions(entity, now_us))
        if len(self._arms) >= ARMS_MAX:
            self._arms.clear()
            self._pasts.clear()
        self._arms[entity, closed_us] = (now_us, arm)
        return arm

    def _past(self, entity: str, now_us: int, closed_us: int) -> Past:
        rows, now_s = self._rewards(entity), now_us // _SECOND_US
        seen = (tuple(row.offset for row in rows), now_s // BLOCK_SECONDS)
        kept = self._pasts.get((entity, closed_us))
        if kept is not None and kept[0] == seen:
            return kept[1]
        blocks, half_life_s = since_change(mended(together(rows, now_s), closed_us))
        past = discounted(blocks, now_s, half_life_s)
        self._pasts[entity, closed_us] = (seen, past)
        return past

    def _opinions(self, entity: str, now_us: int) -> tuple[float, float]:
        oldest_s = now_us // _SECOND_US - LIKING_KEPT * LIKING_SECONDS
        held = [
            block
            for row in self._liking(entity)
            for block in row.blocks
            if block.start_s >= oldest_s
        ]
        return sum(block.count for block in held), sum(b.liked for b in held) / LIKED_UNITS


# --- blocks -----------------------------------------------------------------------------------


class Block(NamedTuple):
    """A block of all source partitions: `RewardBlock` with logarithms as they are."""

    start_s: int
    calls: float
    good: float
    logs: float
    squares: float
    priced: float
    cost_nano_usd: float


def together(rows: Sequence[RewardRow], now_s: int) -> list[Block]:
    """Return the sums of all partials by block, the newest first."""
    sums: dict[int, list[int]] = {}
    for row in rows:
        for item in row.blocks:
            held = sums.get(item.start_s)
            if held is None:
                sums[item.start_s] = list(msgspec.structs.astuple(item)[1:])
                continue
            held[0] += item.calls
            held[1] += item.good
            held[2] += item.log_slowness
            held[3] += item.log_slowness_squared
            held[4] += item.priced
            held[5] += item.cost_nano_usd
    oldest_s = now_s - BLOCKS_KEPT * BLOCK_SECONDS
    return [
        Block(start_s, calls, good, logs / LOG_UNITS, squares / LOG_UNITS**2, priced, cost)
        for start_s, (calls, good, logs, squares, priced, cost) in sorted(
            sums.items(), reverse=True
        )
        if start_s >= oldest_s
    ]


def mended(blocks: list[Block], closed_us: int) -> list[Block]:
    """Leave out the trouble before a circuit closed: blocks in which most calls failed."""
    if not closed_us:
        return blocks
    closed_s = closed_us // _SECOND_US
    return [block for block in blocks if block.start_s > closed_s or 2 * block.good > block.calls]


def since_change(blocks: list[Block]) -> tuple[list[Block], float]:
    """Return the newest blocks that are alike, those since the last change, the newest first.

    And in how many seconds their weight halves after such a change.
    """
    half_life_s = HALF_LIFE_S
    while len(blocks) > 1:
        size, at, fading_s = _change(blocks)
        if size < CHANGED:
            break
        blocks, half_life_s = blocks[:at], fading_s
    return blocks, half_life_s


def _change(blocks: Sequence[Block]) -> tuple[float, int, float]:
    """Return by how many standard errors newer blocks differ from older ones, where, and the half-life.

    There where they differ most. The half-life is that of the newer ones, by what is worse in them.
    """
    newer = [list(accumulate(column)) for column in list(zip(*blocks, strict=True))[1:4]]
    calls, good, logs = (sums[-1] for sums in newer)
    squares = sum(block.squares for block in blocks)
    best, at, half_life_s = 0.0, 0, HALF_LIFE_S
    for number, (n, g, lg) in enumerate(zip(*newer, strict=True), 1):
        older, older_good = calls - n, good - g
        if n < COMPARED_MIN:
            continue
        if older < COMPARED_MIN:
            break
        failing = _worse(n - g, n, older - older_good, older) if good < calls else 0.0
        slower = 0.0
        if g >= COMPARED_MIN and older_good >= COMPARED_MIN:
            scatter = squares - lg * lg / g - (logs - lg) ** 2 / older_good
            noise = max(LOG_NOISE_MIN**2, scatter / (good - 2.0))
            error = math.sqrt(noise * (1.0 / g + 1.0 / older_good))
            slower = (lg / g - (logs - lg) / older_good) / error
        for loss, fading_s in ((failing, FAILING_HALF_LIFE_S), (slower, SLOW_HALF_LIFE_S)):
            if abs(loss) > best:
                best, at, half_life_s = abs(loss), number, fading_s if loss > 0 else HALF_LIFE_S
    return best, at, half_life_s


def _worse(failed: float, calls: float, older_failed: float, older_calls: float) -> float:
    """Return by how many standard errors the share of failures is higher than the older one.

    The signed root of the likelihood ratio, by Wilks's theorem as good as normal. The difference by
    its standard error is not where failures are rare: one among five calls would be five of them.
    """
    rate = (failed + older_failed) / (calls + older_calls)
    ratio = sum(
        count * math.log(count / (total * share))
        for bad, total in ((failed, calls), (older_failed, older_calls))
        for count, share in ((bad, rate), (total - bad, 1.0 - rate))
        if count
    )
    root = math.sqrt(max(0.0, 2.0 * ratio))
    return root if failed * older_calls > older_failed * calls else -root


def discounted(blocks: Sequence[Block], now_s: int, half_life_s: float = HALF_LIFE_S) -> Past:
    """Return the sums of blocks, each weighed by its age."""
    middle_s = now_s - BLOCK_SECONDS / 2
    if not blocks:
        return Past()
    starts, *columns = zip(*blocks, strict=True)
    weights = [0.5 ** (max(0.0, middle_s - start_s) / half_life_s) for start_s in starts]
    return Past(*(sum(map(mul, weights, column)) for column in columns))


# --- beliefs ----------------------------------------------------------------------------------


def liked(standing: Standing, arm: Arm) -> float | None:
    """Return the quality for a task after what people said; None where nothing is known."""
    if standing.quality is None and arm.opinions < OPINIONS:
        return None
    prior = QUALITY_UNKNOWN if standing.quality is None else standing.quality
    return (prior * OPINIONS + arm.liked) / (OPINIONS + arm.opinions)


def believed(
    standings: Sequence[Standing], arms: Sequence[Arm], weights: Weights
) -> list[Standing]:
    """Return the standings with the belief of their reward: `utility` its mean, `doubt` its deviation.

    `quality` is what it is after feedback (`liked`).
    """
    total = weights.quality + weights.success + weights.latency + weights.cost
    rates = _rates(arms)
    logs = _logs(arms)
    fastest = min(mean for mean, _ in logs)
    savings = goodness(
        [_cost(item, arm) for item, arm in zip(standings, arms, strict=True)], -math.inf
    )
    known = [item.quality for item in standings if item.quality is not None]
    usual = sum(known) / len(known) if known else QUALITY_UNKNOWN
    ranks = [rank(item) for item in standings]
    first = max(ranks)
    judged = any(arm.opinions for arm in arms)
    found = []
    for item, arm, (rate, rate_var), (log, log_var), saving, step in zip(
        standings, arms, rates, logs, savings, ranks, strict=True
    ):
        quality = usual if item.quality is None else item.quality
        quality_var = quality * (1.0 - quality) / (OPINIONS + arm.opinions + 1.0) * judged
        speed = 1.0 / (1.0 + math.exp(min(50.0, log - fastest)))
        speed_var = (speed * (1.0 - speed)) ** 2 * log_var
        value = (
            weights.quality * quality
            + weights.success
            + weights.latency * speed
            + weights.cost * saving
        ) / total
        spread = (weights.quality**2 * quality_var + weights.latency**2 * speed_var) / total**2
        scale = 2.0 ** (step - first)
        found.append(
            msgspec.structs.replace(
                item,
                utility=rate * value * scale,
                doubt=max(DOUBT_MIN, math.sqrt(value**2 * rate_var + rate**2 * spread)) * scale,
                seen=arm.past.calls,
            )
        )
    return found


def _rates(arms: Sequence[Arm]) -> list[tuple[float, float]]:
    """Return mean and variance of the belief in each arm's share of good calls."""
    calls = sum(min(arm.past.calls, OPINIONS) for arm in arms)
    good = sum(
        arm.past.good * min(1.0, OPINIONS / arm.past.calls) for arm in arms if arm.past.calls
    )
    prior = (good + SUCCESS_UNKNOWN * PRIOR_CALLS) / (calls + PRIOR_CALLS)
    found = []
    for arm in arms:
        weight = arm.past.calls + PRIOR_CALLS
        rate = (arm.past.good + prior * PRIOR_CALLS) / weight
        found.append((rate, rate * (1.0 - rate) / (weight + 1.0)))
    return found


def _logs(arms: Sequence[Arm]) -> list[tuple[float, float]]:
    """Return mean and variance of the belief in each arm's typical logarithm of slowness."""
    known = [arm.past for arm in arms if arm.past.good >= 1.0]
    if not known:
        return [(0.0, LOG_SPREAD**2)] * len(arms)
    usual = sum(past.logs / past.good for past in known) / len(known)
    count = sum(past.good for past in known)
    scatter = sum(max(0.0, past.squares - past.logs**2 / past.good) for past in known)
    noise = max(LOG_NOISE_MIN**2, (scatter + OPINIONS * LOG_NOISE**2) / (count + OPINIONS))
    found = []
    for arm in arms:
        precision = 1.0 / LOG_SPREAD**2 + arm.past.good / noise
        mean = (usual / LOG_SPREAD**2 + arm.past.logs / noise) / precision
        found.append((mean, 1.0 / precision))
    return found


def _cost(standing: Standing, arm: Arm) -> float | None:
    """Return the cost to expect: that of the price and, by its weight, what calls really cost."""
    past = arm.past
    if standing.cost_nano_usd is None:
        return past.cost_nano_usd / past.priced if past.priced >= 1.0 else None
    return (standing.cost_nano_usd + past.cost_nano_usd) / (1.0 + past.priced)
