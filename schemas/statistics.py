"""Exact and plain tests that decisions rest on: pure functions of counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

MEANS_MIN = 30
"""Values of a side from which on its own variance stands for the true one."""
_NEGLIGIBLE = 1e-18
_EXP_MAX = 700.0


def binomial_tail(hits: int, trials: int, share: float) -> float:
    """Return P(X ≥ `hits`) of `trials` draws that each hit with probability `share`; exact.

    Sums the terms from `hits` on by their ratio; raises ValueError for what is no count or share.
    """
    if not 0 <= hits <= trials or not 0.0 <= share <= 1.0:
        raise ValueError(f"{hits} of {trials} draws at {share} is no binomial question")
    if hits == 0 or share == 1.0:
        return 1.0
    if share == 0.0:
        return 0.0
    if hits <= trials * share:
        return 1.0 - binomial_tail(trials - hits + 1, trials, 1.0 - share)
    term = math.exp(
        math.lgamma(trials + 1)
        - math.lgamma(hits + 1)
        - math.lgamma(trials - hits + 1)
        + hits * math.log(share)
        + (trials - hits) * math.log1p(-share)
    )
    total, odds = 0.0, share / (1.0 - share)
    for count in range(hits, trials + 1):
        total += term
        if term < total * _NEGLIGIBLE:
            break
        term *= (trials - count) / (count + 1) * odds
    return min(1.0, total)


def exceeds(hits: int, trials: int, share: float, alpha: float) -> bool:
    """Whether so many hits are more than a probability of `share` explains, at level `alpha`."""
    return trials > 0 and hits > share * trials and binomial_tail(hits, trials, share) < alpha


def upper_share(hits: int, trials: int, z: float = 1.645) -> float:
    """Return the upper bound of a share by Wilson's score interval (JASA 22, 1927); 1 without draws."""
    if trials == 0:
        return 1.0
    share, weight = hits / trials, z * z / trials
    spread = z * math.sqrt(share * (1.0 - share) / trials + weight / (4.0 * trials))
    return min(1.0, (share + weight / 2.0 + spread) / (1.0 + weight))


def rises(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Return the p-value of "the share has not risen" for (hits, trials) before and after.

    The pooled two-proportion z-test, with Yates' correction; 1 where there is nothing to compare.
    """
    (hits, trials), (hits_after, trials_after) = before, after
    if trials == 0 or trials_after == 0:
        return 1.0
    pooled = (hits + hits_after) / (trials + trials_after)
    spread = math.sqrt(pooled * (1.0 - pooled) * (1.0 / trials + 1.0 / trials_after))
    gap = hits_after / trials_after - hits / trials
    gap -= 0.5 * (1.0 / trials + 1.0 / trials_after)
    if spread == 0.0 or gap <= 0.0:
        return 1.0
    return 0.5 * math.erfc(gap / spread / math.sqrt(2.0))


def differs_always(first: tuple[int, int], second: tuple[int, int], scale: float = 0.1) -> float:
    """Return a p-value of "both shares are the same" that holds however often it is looked at.

    (hits, trials) of each. The mixture sequential probability ratio test with a normal mixture of
    standard deviation `scale` over the difference (Johari, Koomen, Pekelis, Walsh, "Peeking at A/B tests", KDD
    2017): by Ville's inequality the chance that it ever falls below alpha is at most alpha.
    """
    (hits, trials), (others, other_trials) = first, second
    if trials == 0 or other_trials == 0:
        return 1.0
    # One more of each kind: without it a side that never failed would have no variance at all.
    pooled = (hits + others + 1) / (trials + other_trials + 2)
    variance = pooled * (1.0 - pooled) * (1.0 / trials + 1.0 / other_trials)
    return _mixture(hits / trials - others / other_trials, variance, scale)


@dataclass(frozen=True)
class Moments:
    """Of `count` values the sum and the sum of squares."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of_integers(cls, count: int, total: int, squares: int, units: int) -> Moments:
        """Return the moments of values that were summed as integers, so many `units` to 1."""
        return cls(count, total / units, squares / units**2)

    @property
    def mean(self) -> float:
        """The mean, 0 without values."""
        return self.total / self.count if self.count else 0.0

    @property
    def variance(self) -> float:
        """The unbiased variance, 0 below two values."""
        if self.count < 2:
            return 0.0
        return max(0.0, self.squares - self.total**2 / self.count) / (self.count - 1)


def means_differ_always(first: Moments, second: Moments, scale: float = 0.2) -> float:
    """Return a p-value of "both means are the same" that holds however often it is looked at.

    As `differs_always`, with the sides' own variances in the place of the true ones; these need
    `MEANS_MIN` values of each side to be trusted, below it 1 is returned.
    """
    if min(first.count, second.count) < MEANS_MIN:
        return 1.0
    variance = first.variance / first.count + second.variance / second.count
    return _mixture(first.mean - second.mean, max(variance, _NEGLIGIBLE), scale)


def _mixture(gap: float, variance: float, scale: float) -> float:
    """Return the always valid p-value of a gap with a variance, under a normal mixture of `scale`."""
    prior = scale * scale
    evidence = 0.5 * math.log(variance / (variance + prior))
    evidence += prior * gap * gap / (2.0 * variance * (variance + prior))
    return min(1.0, math.exp(-evidence)) if evidence < _EXP_MAX else 0.0
