"""Tests that decisions rest on, against exact fractions and scipy."""

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from schemas.statistics import binomial_tail, differs_always, exceeds, rises, upper_share


@given(st.integers(1, 400), st.data(), st.floats(0.001, 0.999))
def test_the_binomial_tail_is_exact(trials: int, data: st.DataObject, share: float) -> None:
    hits = data.draw(st.integers(0, trials))
    expected = float(binom.sf(hits - 1, trials, share))
    assert binomial_tail(hits, trials, share) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_small_cases_by_hand() -> None:
    assert binomial_tail(2, 3, 0.5) == pytest.approx((comb(3, 2) + 1) / 8)
    assert binomial_tail(0, 5, 0.0) == 1.0
    assert binomial_tail(1, 5, 0.0) == 0.0
    with pytest.raises(ValueError, match="no binomial question"):
        binomial_tail(6, 5, 0.5)


def test_few_calls_prove_little() -> None:
    assert not exceeds(2, 20, 0.05, 1e-3)
    assert exceeds(10, 20, 0.05, 1e-3)
    assert not exceeds(0, 0, 0.05, 1e-3)


def test_a_rise_is_one_sided() -> None:
    assert rises((5, 100), (30, 100)) < 1e-4
    assert rises((30, 100), (5, 100)) == 1.0
    assert rises((0, 0), (5, 100)) == 1.0
    assert 0.04 < upper_share(2, 100) < 0.08
    assert upper_share(0, 0) == 1.0


@pytest.mark.req("BEY-15")
def test_looking_after_every_call_finds_no_difference_that_is_not_there() -> None:
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(200):
        hits = np.cumsum(rng.random((2, 1000)) < 0.1, axis=1)
        looks = range(20, 1000, 10)
        wrong += any(
            differs_always((int(hits[0, n]), n + 1), (int(hits[1, n]), n + 1)) < 0.05 for n in looks
        )
    assert wrong <= 200 * 0.05
    assert differs_always((5, 500), (60, 500)) < 1e-6
    assert differs_always((0, 0), (60, 500)) == 1.0
