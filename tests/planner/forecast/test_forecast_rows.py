"""What a forecast's rows hold, whatever the history."""

from __future__ import annotations

from datetime import UTC, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from forecast_series import START, at, grid, history
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.agents.planner.forecast import ForecastError, forecast, forecasts
from sust_dagster.world.schemas import GRID_FORECAST

QUANTILES = [f"intensity_p{q}" for q in ("05", "10", "50", "90", "95")]
HISTORY = history({"b": grid(120, 1), "a": grid(120, 2)})


def test_rows_are_the_declared_columns_by_region_and_hour():
    made = forecast(HISTORY, at(110))
    assert made.table.schema.equals(GRID_FORECAST.arrow)
    assert made.table["region"].to_pylist() == ["a"] * 48 + ["b"] * 48
    assert made.table["ts"].to_pylist()[:48] == [at(110) + timedelta(hours=h) for h in range(48)]
    assert set(made.table["issued_at"].to_pylist()) == {at(110)}
    assert set(made.table["method"].to_pylist()) == {"ridge+conformal"}
    assert set(made.table["quality"].to_pylist()) == {"ok"}
    assert made.missing.num_rows == 0


def test_the_same_input_gives_the_same_bytes():
    def written() -> bytes:
        sink = pa.BufferOutputStream()
        table = forecast(HISTORY, at(110)).table
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return sink.getvalue().to_pybytes()

    assert written() == written()


wild = st.lists(
    st.sampled_from([np.nan, np.inf, -np.inf, -0.1, 0.0, 1e-9, 0.01, 0.3, 0.9, 2.9, 99.0]), min_size=1, max_size=60
)


@given(wild, st.integers(0, 23), st.integers(1, 100), st.integers(0, 2000))
@settings(max_examples=30, deadline=None)
def test_bounds_are_ordered_and_hold_the_point_whatever_the_history(cells, hour, horizon, seed):
    values = grid(100, seed)
    values[np.random.default_rng(seed).integers(0, len(values), len(cells))] = cells
    table = forecast(history({"r": values}), at(98, hour), horizon).table
    assert table.num_rows == horizon
    point = table["intensity_kgco2_kwh"].to_numpy()
    bounds = np.stack([table[name].to_numpy() for name in QUANTILES])
    assert np.isfinite(point).all() and np.isfinite(bounds).all() and (bounds >= 0).all()
    assert (np.diff(bounds, axis=0) >= 0).all()
    assert (bounds[:2] <= point).all() and (point <= bounds[3:]).all()


def test_any_hour_of_the_day_can_be_an_issue():
    for hour in range(0, 24, 3):
        made = forecast(HISTORY, at(105, hour), 24)
        assert made.table["ts"].to_pylist()[0] == at(105, hour)
        assert set(made.table["method"].to_pylist()) == {"ridge+conformal"}


def test_the_best_hour_of_a_plain_grid_is_found():
    """Noon is cleanest by construction; ridge finds it and its error is below every peer's."""
    values = grid(200, 3, noise=0.1)
    errors = {}
    for name in ("ridge", "hour-of-day mean", "yesterday", "persistence"):
        table = forecasts(history({"r": values}), [at(d) for d in range(150, 190)], 24, model=name)
        point = np.stack([m.table["intensity_kgco2_kwh"].to_numpy() for m in table])
        actual = np.stack([values[d * 24 + 3 : d * 24 + 27] for d in range(150, 190)])
        errors[name] = np.abs(point / actual - 1).mean()
        if name == "ridge":
            assert (np.abs((point.argmin(1) + 3) % 24 - 13) <= 3).all()
    assert errors["ridge"] == min(errors.values())


def test_a_publication_delay_hides_the_newest_hours():
    changed = grid(120, 1)
    changed[110 * 24 + 1 : 110 * 24 + 3] *= 3
    plain, other = history({"r": grid(120, 1)}), history({"r": changed})
    assert forecast(plain, at(110), lag_hours=2).table.equals(forecast(other, at(110), lag_hours=2).table)
    assert not forecast(plain, at(110), lag_hours=1).table.equals(forecast(other, at(110), lag_hours=1).table)
    assert set(forecast(plain, at(110), lag_hours=2).table["quality"].to_pylist()) == {"ok"}


def test_several_issues_come_back_in_the_order_asked_for():
    moments = [at(112), at(110, 15), at(112)]
    made = forecasts(HISTORY, moments)
    assert [m.issued_at for m in made] == moments
    assert made[0].table.equals(made[2].table)
    assert made[1].table.equals(forecast(HISTORY, at(110, 15)).table)
    assert forecasts(HISTORY, []) == []


def test_the_vintage_is_that_of_the_newest_known_hour():
    versions = np.repeat(["v1", "v2"], [100 * 24, 20 * 24]).tolist()
    table = history({"r": grid(120, 1)}, source_version=pa.array(versions))
    assert set(forecast(table, at(99)).table["source_version"].to_pylist()) == {"v1"}
    assert set(forecast(table, at(101)).table["source_version"].to_pylist()) == {"v2"}
    assert set(forecast(HISTORY, at(99)).table["source_version"].to_pylist()) == {None}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop_columns("ts"), "column ts: the history has no such column"),
        (lambda t: t.set_column(0, "ts", t["ts"].cast(pa.timestamp("us"))), "column ts: is timestamp"),
        (
            lambda t: t.set_column(1, "region", pa.array([None] + ["a"] * (t.num_rows - 1))),
            "row 0, column region: is empty",
        ),
        (lambda t: t.append_column("signal", pa.array(["average"] + ["marginal"] * (t.num_rows - 1))), "column signal"),
        (lambda t: t.append_column("method", pa.array(["direct"] + ["lifecycle"] * (t.num_rows - 1))), "column method"),
        (
            lambda t: t.set_column(0, "ts", pa.array(t["ts"].cast(pa.int64()).to_numpy() + 1).cast(t["ts"].type)),
            "row 0, column ts: .* is no whole hour",
        ),
    ],
)
def test_a_history_that_cannot_be_read_is_refused_by_column_and_row(change, said):
    with pytest.raises(ForecastError, match=said):
        forecast(change(HISTORY), at(110))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"issued_at": at(110).replace(tzinfo=None)}, "no time zone"),
        ({"issued_at": at(110) + timedelta(minutes=20)}, "no whole hour"),
        ({"horizon_hours": 0}, "give 1 to 144"),
        ({"horizon_hours": 145}, "give 1 to 144"),
        ({"lag_hours": -1}, "give 0 to 24"),
        ({"model": "oracle"}, "models: ridge, hour-of-day mean, yesterday, persistence"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, said):
    with pytest.raises(ForecastError, match=said):
        forecast(**({"history": HISTORY, "issued_at": at(110)} | arguments))


def test_an_issue_in_another_zone_is_the_same_moment():
    east = timezone(timedelta(hours=2))
    assert forecast(HISTORY, at(110).astimezone(east)).table.equals(forecast(HISTORY, at(110)).table)
    assert START.tzinfo is UTC
