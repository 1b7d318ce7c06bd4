"""Bands and intervals of a share: exact, against scipy's distributions and the figures of the literature."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from sust_dagster.agents.verifier.calibration.bands import (
    ALPHA,
    NOMINAL,
    band,
    ceiling,
    conformal_band,
    conformal_ranks,
    fewest_outcomes,
    wilson,
)


@pytest.mark.parametrize(("n", "lower", "upper"), [(1000, 0.868, 0.930), (5000, 0.886, 0.914), (20000, 0.893, 0.907)])
def test_the_published_bands(n, lower, upper):
    found = band(n)
    assert (round(found.lower, 3), round(found.upper, 3)) == (lower, upper)
    assert found.holds(found.lower) and found.holds(found.upper) and not found.holds(found.upper + 1 / n)


@given(st.integers(1, 3000), st.floats(0.02, 0.98))
def test_a_band_holds_what_it_says_and_no_count_more(n, share):
    found = band(n, share)
    low, high = round(found.lower * n), round(found.upper * n)
    inside = binom.cdf(high, n, share) - binom.cdf(low - 1, n, share)
    assert inside >= 1 - ALPHA - 1e-12
    # One count less at an end, and that tail alone holds more than its half of alpha.
    assert binom.cdf(low, n, share) > ALPHA / 2 - 1e-12
    assert binom.sf(high - 1, n, share) > ALPHA / 2 - 1e-12


@given(st.integers(1, 3000))
def test_a_ceiling_is_passed_as_rarely_as_it_says(n):
    count = round(ceiling(n) * n)
    assert binom.sf(count, n, 0.05) <= ALPHA + 1e-12
    assert count == 0 or binom.sf(count - 1, n, 0.05) > ALPHA - 1e-12


def test_nineteen_outcomes_are_the_fewest_for_both_sides_at_ninety():
    assert fewest_outcomes() == 19
    assert conformal_ranks(18) is None
    assert conformal_ranks(19) == (1, 19)
    assert conformal_ranks(99) == (5, 95)
    assert (fewest_outcomes(0.8), fewest_outcomes(0.95)) == (9, 39)


@given(st.integers(1, 2000), st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99]))
def test_ranks_hold_the_level_and_are_the_tightest_that_do(n, level):
    ranks = conformal_ranks(n, level)
    assert (ranks is None) == (n < fewest_outcomes(level))
    if ranks is None:
        return
    low, high = ranks
    assert 1 <= low < high <= n and low - 1 == n - high
    assert (high - low) / (n + 1) >= level - 1e-9
    # One rank further in on either side leaves more than half of the rest outside it.
    assert (n + 1 - (high - 1)) / (n + 1) > (1 - level) / 2 - 1e-9


@pytest.mark.parametrize(("calibrated", "tested"), [(500, 5000), (1000, 1000), (5000, 5000)])
def test_a_conformal_band_has_the_variance_of_both_samples(calibrated, tested):
    found = conformal_band(calibrated, tested)
    sd = math.sqrt(0.09 / (calibrated + 2) + 0.09 / tested)
    assert (found.upper - found.lower) / 2 == pytest.approx(3.2905 * sd, rel=0.04)
    assert found.holds(NOMINAL)
    # Negative control: without the calibration's own variance it would be narrower than chance.
    assert found.upper - found.lower > 1.3 * (band(tested).upper - band(tested).lower)


def test_too_few_scores_have_no_band():
    with pytest.raises(ValueError, match=r"18 scores give no interval at 0\.9: needs 19"):
        conformal_band(18, 100)


@given(st.integers(1, 500), st.data())
def test_wilson_is_scipys(n, data):
    k = data.draw(st.integers(0, n))
    found = wilson(k / n, n, alpha=0.05)
    expected = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert (found.lower, found.upper) == pytest.approx((expected.low, expected.high), abs=1e-12)
