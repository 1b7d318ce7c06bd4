"""Intervals: the sorted misses that were known, no others; and they cover what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from forecast_series import at, grid, history
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.agents.planner.forecast import backtest, conformal, forecast
from sust_dagster.agents.planner.forecast.conformal import QUANTILES, issues_until_known, quantiles


def test_how_long_until_a_day_ahead_is_known():
    assert issues_until_known(49, 0).tolist() == [1] * 24 + [2] * 24 + [3]
    assert issues_until_known(25, 1).tolist() == [2] * 24 + [3]
    assert issues_until_known(1, 25).tolist() == [3]


def known_misses(residuals: np.ndarray, row: int, gap: int, step: int) -> list[float]:
    """The newest sixty whose outcome an issue knows, ascending."""
    newest = row - gap
    return sorted(v for v in residuals[max(0, newest - 59) : max(0, newest + 1), step].tolist() if v == v)


def smallest(known: list[float], level: float) -> float:
    """The (n + 1) level-th smallest."""
    place = min(max((len(known) + 1) * level - 1, 0), len(known) - 1)
    low = int(place)
    return known[low] + (known[min(low + 1, len(known) - 1)] - known[low]) * (place - low)


def by_hand(residuals: np.ndarray, row: int, behind: np.ndarray, step: int) -> list[float]:
    """The five quantiles of one issue and step, in plain loops."""
    gap = int(behind[step])
    band = [s for s in range(residuals.shape[1]) if behind[s] == gap]
    levels = list(QUANTILES)
    for issue in range(row - gap - 29, row - gap + 1):
        hours = [s for s in band if issue >= 0 and residuals[issue, s] == residuals[issue, s]]
        hours = [s for s in hours if len(known_misses(residuals, issue, gap, s)) >= 20]
        if hours:
            asked = levels.copy()
            for k, q in enumerate(QUANTILES):
                below = [
                    residuals[issue, s] <= smallest(known_misses(residuals, issue, gap, s), asked[k]) for s in hours
                ]
                levels[k] += 0.05 * (q - sum(below) / len(hours))
    known = known_misses(residuals, row, gap, step)
    return sorted(smallest(known, level) for level in levels) if known else []


@given(st.integers(0, 2**32 - 1), st.integers(1, 110), st.integers(1, 27), st.floats(0, 0.9), st.integers(0, 30))
@settings(max_examples=25, deadline=None)
def test_quantiles_are_those_of_the_newest_known_misses_at_adapted_levels(seed, days, steps, missing, age):
    random = np.random.default_rng(seed)
    residuals = random.normal(size=(days, steps))
    residuals[random.random(residuals.shape) < missing] = np.nan
    behind = issues_until_known(steps, age)
    wanted = np.unique(random.integers(0, days, 2))
    found, count = quantiles(residuals, wanted, behind)
    for i, row in enumerate(wanted.tolist()):
        for step in {0, steps - 1}:
            expected = by_hand(residuals, row, behind, step)
            assert count[i, step] == len(known_misses(residuals, row, int(behind[step]), step))
            if expected:
                assert found[:, i, step] == pytest.approx(expected, abs=1e-12)
            else:
                assert np.isnan(found[:, i, step]).all()


@pytest.mark.parametrize(("low", "high", "nominal"), [(0, 4, 0.9), (1, 3, 0.8)])
def test_exchangeable_misses_are_covered_as_promised(low, high, nominal):
    """Skewed misses too: 4,000 days of 24 hours, the promise within a point."""
    misses = np.random.default_rng(7).exponential(size=(4000, 24)) - 0.3
    rows = np.arange(80, 4000)
    bounds, _ = quantiles(misses, rows, issues_until_known(24, 0))
    covered = (misses[rows] >= bounds[low]) & (misses[rows] <= bounds[high])
    assert covered.mean() == pytest.approx(nominal, abs=0.01)


def test_without_the_correction_for_few_misses_they_would_not_be():
    """Negative control: plain quantiles of sixty misses promise 90 % and keep about 87."""
    misses = np.random.default_rng(7).normal(size=(4000, 24))
    plain = np.stack([np.quantile(misses[i - 60 : i], [0.05, 0.95], axis=0) for i in range(80, 4000)], axis=1)
    covered = (misses[80:] >= plain[0]) & (misses[80:] <= plain[1])
    assert covered.mean() < 0.885


def worst_season(misses: np.ndarray, first: int, season: int) -> float:
    """Largest departure from 80 % over the seasons."""
    rows = np.arange(first, len(misses))
    bounds, _ = quantiles(misses, rows, issues_until_known(24, 0))
    covered = (misses[rows] >= bounds[1]) & (misses[rows] <= bounds[3])
    return float(np.abs(covered.reshape(-1, season, 24).mean((1, 2)) - 0.8).max())


def test_levels_follow_the_seasons(monkeypatch):
    """Misses that are three times as large every other quarter: the promise is kept better in each, and not only on
    average.
    """
    days = 120 + 90 * 12
    scale = np.where(np.arange(days) // 90 % 2, 3.0, 1.0)
    misses = np.random.default_rng(5).normal(size=(days, 24)) * scale[:, None]
    adapted = worst_season(misses, 120, 90)
    monkeypatch.setattr(conformal, "RATE", 0.0)
    assert adapted < 0.85 * worst_season(misses, 120, 90)


def test_bounds_are_asymmetric_where_misses_are():
    """Rare days three times as dirty: the interval reaches further up than down."""
    random = np.random.default_rng(2)
    values = 0.3 * np.exp(np.repeat(np.where(random.random(300) < 0.15, np.log(3.0), 0.0), 24))
    values *= random.uniform(0.97, 1.03, len(values))
    table = forecast(history({"r": values}), at(290), model="hour-of-day mean").table
    point = table["intensity_kgco2_kwh"].to_numpy()
    up, down = table["intensity_p95"].to_numpy() / point, point / table["intensity_p05"].to_numpy()
    assert np.median(up) > 1.5 * np.median(down)


def test_intervals_of_an_invented_grid_cover_what_they_promise():
    table = backtest(history({"r": grid(420, 11)}), [at(d) for d in range(110, 417)], ["ridge"]).to_pylist()
    for row in table:
        assert row["issues"] == 307 and row["issues_fallback"] == 0
        assert row["coverage80_percent"] == pytest.approx(80, abs=4)
        assert row["coverage90_percent"] == pytest.approx(90, abs=4)
