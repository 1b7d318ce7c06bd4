"""No forecast looks ahead: cutting the history off at the issue changes not one bit."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from forecast_series import START, THREE_YEARS, at, before, grid, history, real
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.agents.planner.forecast import HISTORY_DAYS, MODELS, Forecast, forecast, forecasts
from sust_dagster.agents.planner.forecast.models import Sight


def holed(values: np.ndarray, seed: int) -> np.ndarray:
    """With a tenth of the hours unknown, and a two-day outage."""
    random = np.random.default_rng(seed)
    out = np.where(random.random(len(values)) < 0.1, np.nan, values)
    out[90 * 24 : 92 * 24] = np.nan
    return out


HISTORY = history({"plain": grid(130, 1), "holed": holed(grid(130, 2), 3), "dark": grid(130, 4, level=0.0005)})


def looks_ahead(table: pa.Table, issues: list[datetime], model="ridge", **options) -> list[datetime]:
    """Issues whose forecast is another one when the history ends with them.

    Forecasts are made together with one at the history's end, as a backtest does: alone they read no hour past their
    issue, so that no model could look ahead.
    """
    end = table["ts"][-1].as_py()
    together = forecasts(table, [*issues, end], model=model, **options)
    cut = [forecast(before(table, moment), moment, model=model, **options) for moment in issues]
    return [moment for moment, a, b in zip(issues, together, cut, strict=False) if not same(a, b)]


def same(a: Forecast, b: Forecast) -> bool:
    return a.table.equals(b.table) and a.missing.equals(b.missing)


def peeking(sight: Sight, origins: np.ndarray, steps: int) -> np.ndarray:
    """Knows tomorrow."""
    hours = origins[:, None] + np.arange(steps)
    return sight.input[np.minimum(hours, len(sight.input) - 1)]


def knowing_the_level(sight: Sight, origins: np.ndarray, steps: int) -> np.ndarray:
    """Knows no hour of tomorrow, only the mean of a history that goes on after the issue."""
    return np.full((len(origins), steps), np.nanmean(sight.observed))


@pytest.mark.parametrize("model", MODELS)
def test_no_model_looks_ahead(model):
    assert looks_ahead(HISTORY, [at(d) for d in (1, 9, 60, 90, 91, 92, 100, 101, 110, 127)], model) == []


@given(st.integers(20 * 24, 129 * 24), st.integers(0, 3))
@settings(max_examples=10, deadline=None)
def test_the_default_looks_ahead_at_no_hour_and_no_lag(hour, lag):
    assert looks_ahead(HISTORY, [START + timedelta(hours=hour)], lag_hours=lag) == []


@pytest.mark.parametrize("model", [peeking, knowing_the_level])
def test_a_model_that_looks_ahead_is_caught(model):
    """Negative control of the tests above."""
    issues = [at(d) for d in (100, 110, 120)]
    assert looks_ahead(HISTORY, issues, model) == issues


def test_real_zones_do_not_look_ahead(shared_data):
    table = real(shared_data / THREE_YEARS)
    table = table.filter(pc.is_in(table["region"], pa.array(["CA-ON", "DE"])))
    issues = [datetime.fromisoformat(t) for t in ("2023-10-29T03Z", "2023-12-29T03Z")]
    assert looks_ahead(table, issues) == []


def test_bytes_depend_on_nothing_older_than_the_stated_days():
    table = history({"r": grid(HISTORY_DAYS + 40, 5)})
    moment = at(HISTORY_DAYS + 35)
    cut = table.filter(pa.array(np.arange(table.num_rows) >= (35 * 24 + 3)))
    assert same(forecast(table, moment), forecast(cut, moment))


def test_bytes_do_depend_on_the_year_before():
    """Negative control of the test above."""
    table = history({"r": grid(400, 5)})
    assert not same(forecast(table, at(395)), forecast(table.slice(200 * 24), at(395)))


def test_a_region_does_not_depend_on_others_nor_on_the_order_of_rows():
    shuffled = HISTORY.take(pa.array(np.random.default_rng(1).permutation(HISTORY.num_rows)))
    whole = forecast(HISTORY, at(120))
    assert same(whole, forecast(shuffled, at(120)))
    for region in ("plain", "holed"):
        alone = forecast(HISTORY.filter(pa.array(np.array(HISTORY["region"].to_pylist()) == region)), at(120))
        rows = np.array(whole.table["region"].to_pylist()) == region
        assert alone.table.equals(whole.table.filter(pa.array(rows)))
