"""The scores, on cases one can check by hand."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from forecast_series import START, at, grid, history
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sust_dagster.agents.planner.forecast import (
    BACKTEST,
    MODELS,
    ForecastError,
    backtest,
    backtest_grid,
    forecasts,
)
from sust_dagster.agents.planner.forecast.score import gains, scores

NAN = float("nan")
ACTUAL = np.array([[0.4, 0.2, 0.3], [0.1, 0.5, 0.6]])


def flat(value: np.ndarray) -> np.ndarray:
    return np.stack([value * f for f in (0.8, 0.9, 1.0, 1.1, 1.2)])


def test_captured_share_by_hand():
    """Means 0.3 and 0.4, best 0.2 and 0.1: the oracle gains 0.1 + 0.3. We pick 0.3 and 0.1: 0.0 + 0.3 of it."""
    point = np.array([[0.5, 0.4, 0.3], [0.1, 0.2, 0.3]])
    found = scores(ACTUAL, point, flat(point))
    assert found.captured_percent == pytest.approx(75.0)
    assert found.oracle_gain == pytest.approx(0.2)


def test_the_oracle_captures_all_and_a_flat_forecast_starts_at_once():
    assert scores(ACTUAL, ACTUAL, flat(ACTUAL)).captured_percent == pytest.approx(100.0)
    level = np.full_like(ACTUAL, 0.3)
    assert scores(ACTUAL, level, flat(level)).captured_percent == pytest.approx(100 * (-0.1 + 0.3) / 0.4)


def test_error_bias_coverage_and_width_by_hand():
    point = np.array([[0.44, 0.2, 0.3], [0.1, 0.45, 0.6]])
    found = scores(ACTUAL, point, flat(point))
    assert found.mape_percent == pytest.approx(100 * (0.1 + 0.1) / 6)
    assert found.mae == pytest.approx(0.09 / 6)
    assert found.bias == pytest.approx(-0.01 / 6)
    assert found.coverage80_percent == pytest.approx(100 * 5 / 6), "0.5 is above 1.1 x 0.45; 0.4 is above 0.9 x 0.44"
    assert found.coverage90_percent == pytest.approx(100.0)
    assert found.width80_percent == pytest.approx(100 * 0.2 * point.mean() / ACTUAL.mean())


def test_hours_nobody_knows_are_not_scored():
    actual = ACTUAL.copy()
    actual[0, 0] = NAN
    found = scores(actual, ACTUAL, flat(ACTUAL))
    assert (found.issues, found.hours) == (2, 5)
    assert found.captured_percent == pytest.approx(100.0) and found.oracle_gain == pytest.approx(0.3)
    empty = scores(np.full((2, 3), NAN), ACTUAL, flat(ACTUAL))
    assert empty.issues == 0 and np.isnan([empty.mape_percent, empty.captured_percent, empty.width80_percent]).all()


def test_a_grid_at_zero_has_no_percentage_error_but_an_error():
    found = scores(np.array([[0.0, 0.2]]), np.array([[0.1, 0.2]]), flat(np.array([[0.1, 0.2]])))
    assert found.mape_percent == 0.0 and found.mae == pytest.approx(0.05)


def test_a_constant_grid_has_nothing_to_capture():
    level = np.full((3, 24), 0.4)
    assert np.isnan(scores(level, level, flat(level)).captured_percent)


@given(
    hnp.arrays(float, (5, 6), elements=st.floats(0, 2)),
    hnp.arrays(float, (5, 6), elements=st.floats(0, 2)),
)
def test_no_forecast_beats_the_oracle(actual, point):
    gain, best = gains(actual, point)
    assert (gain <= best + 1e-12).all() and (best >= -1e-12).all()


HISTORY = history({"r": grid(130, 1), "s": grid(130, 2)})


def test_a_backtest_scores_the_forecasts_that_were_issued():
    issues = [at(d) for d in range(110, 120)]
    row = backtest(HISTORY, issues, ["ridge"]).to_pylist()[0]
    assert (row["region"], row["model"], row["band"], row["period"]) == ("r", "ridge", "h1-24", "all")
    values = grid(130, 1)
    point = np.stack(
        [
            m.table.filter(pc.equal(m.table["region"], "r"))["intensity_kgco2_kwh"].to_numpy()
            for m in forecasts(HISTORY, issues)
        ]
    )[:, :24]
    actual = np.stack([values[d * 24 + 3 : d * 24 + 27] for d in range(110, 120)])
    assert row["mape_percent"] == pytest.approx(100 * np.mean(np.abs(point / actual - 1)))
    assert row["bias_kgco2_kwh"] == pytest.approx(np.mean(point - actual))


def test_every_region_model_and_band_has_a_row_and_months_add_up():
    table = backtest_grid(HISTORY, days=45, by_month=True)
    assert table.schema.equals(BACKTEST)
    rows = table.to_pylist()
    wanted = {(r, m, b) for r in ("r", "s") for m in MODELS for b in ("h1-24", "h25-48")}
    assert {(r["region"], r["model"], r["band"]) for r in rows} == wanted
    for key in wanted:
        own = [r for r in rows if (r["region"], r["model"], r["band"]) == key]
        whole = next(r for r in own if r["period"] == "all")
        months = [r for r in own if r["period"] != "all"]
        assert whole["issues"] == 45 == sum(r["issues"] for r in months)
        mean = sum(r["mae_kgco2_kwh"] * r["hours"] for r in months) / whole["hours"]
        assert whole["mae_kgco2_kwh"] == pytest.approx(mean)


def test_a_backtest_ends_where_two_days_are_known():
    rows = backtest_grid(HISTORY, hour=22, days=3, models=["yesterday"]).to_pylist()
    assert {r["issues"] for r in rows} == {3} and {r["hours"] for r in rows} == {72}


def test_issues_answered_by_another_method_are_counted():
    rows = backtest(HISTORY, [at(d) for d in (3, 20, 110)], ["ridge", "hour-of-day mean"]).to_pylist()
    assert {(r["model"], r["issues_fallback"]) for r in rows} == {("ridge", 2), ("hour-of-day mean", 0)}


def test_a_series_that_earns_nothing_by_waiting_is_named():
    table = history(
        {"flat": np.full(130 * 24, 0.5), "r": grid(130, 1)}, estimated=pa.array([False] * 3120 + [True] * 3120)
    )
    rows = backtest_grid(table, days=5, models=["ridge"]).to_pylist()
    assert {(r["region"], r["quality"]) for r in rows} == {("flat", "constant"), ("r", "estimated")}
    assert {r["captured_percent"] is None for r in rows if r["region"] == "flat"} == {True}


def test_values_that_stood_in_are_nobodys_actual():
    quality = ["ok"] * 3120
    quality[115 * 24 : 116 * 24] = ["gap_last_known"] * 24
    table = history({"r": grid(130, 1)}, quality=pa.array(quality))
    (first, _) = backtest(table, [at(d) for d in (114, 115, 116, 117)], ["yesterday"]).to_pylist()
    assert first["hours"] == 4 * 24 - 24


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"hour": 24}, "give 0 to 23"),
        ({"days": 0}, "give more hours"),
        ({"models": ["oracle"]}, "no model 'oracle'"),
        ({"history": HISTORY.slice(0, 40)}, "the history holds 40 hours"),
        ({"history": HISTORY.slice(0, 0)}, "the history is empty"),
    ],
)
def test_a_backtest_that_cannot_be_is_refused(arguments, said):
    with pytest.raises(ForecastError, match=said):
        backtest_grid(**({"history": HISTORY} | arguments))


def test_a_backtest_of_no_issue_is_an_empty_table():
    assert backtest(HISTORY, []).equals(BACKTEST.empty_table())
    assert START + timedelta(days=110, hours=3) == at(110)
