"""What takes over where the default cannot, and what every odd hour becomes: nothing is silent."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from forecast_series import at, before, grid, history

from sust_dagster.agents.planner.forecast import NO_TIME_SHIFT, forecast

NAN = float("nan")


def one(values, moment, **columns) -> tuple[str, str, pa.Table]:
    """Method, quality and rows of one region's forecast."""
    made = forecast(history({"r": values}, **columns), moment)
    assert made.missing.num_rows == 0, made.missing.to_pylist()
    (method,), (quality,) = (pc.unique(made.table[c]).to_pylist() for c in ("method", "quality"))
    return method, quality, made.table


def reasons(table: pa.Table, moment, **options) -> dict[str, str]:
    missing = forecast(table, moment, **options).missing
    return dict(zip(missing["region"].to_pylist(), missing["reason"].to_pylist(), strict=True))


def width(table: pa.Table) -> float:
    return float(np.mean(table["intensity_p95"].to_numpy() - table["intensity_p05"].to_numpy()))


def point(table: pa.Table) -> np.ndarray:
    return table["intensity_kgco2_kwh"].to_numpy()


@pytest.mark.parametrize(
    ("days", "method", "quality"),
    [
        (2, "hour-of-day mean", "declared_bounds;short_history"),
        (15, "hour-of-day mean", "declared_bounds;short_history"),
        (40, "hour-of-day mean", "short_history"),
        (100, "ridge+conformal", "ok"),
    ],
)
def test_the_method_follows_from_the_days_of_history(days, method, quality):
    assert one(grid(days, 1)[: days * 24 + 3], at(days, 0))[:2] == (method, quality)


def test_the_mean_is_the_mean_of_the_same_hours():
    values = grid(30, 1)
    _, _, table = one(values, at(30, 0))
    expected = values[2 * 24 :].reshape(28, 24).mean(0)
    assert point(table) == pytest.approx(np.tile(expected, 2), abs=1e-8)


def test_declared_bounds_are_those_declared():
    _, quality, table = one(grid(3, 1), at(3, 0))
    assert "declared_bounds" in quality
    assert table["intensity_p05"].to_numpy() == pytest.approx(point(table) * 0.5, rel=0.01)
    assert table["intensity_p95"].to_numpy() == pytest.approx(point(table) * 2.0, rel=0.01)


@pytest.mark.parametrize("model", ["yesterday", "persistence"])
def test_a_peer_with_too_little_history_falls_back_as_well(model):
    made = forecast(history({"r": grid(15, 1)}), at(14), model=model)
    assert pc.unique(made.table["method"]).to_pylist() == ["hour-of-day mean"]
    later = forecast(history({"r": grid(60, 1)}), at(58), model=model)
    assert pc.unique(later.table["method"]).to_pylist() == [f"{model}+conformal"]


def test_a_few_hours_late_is_said_and_still_forecast():
    method, quality, late = one(grid(120, 1)[: 110 * 24], at(110, 5))
    assert (method, quality) == ("ridge+conformal", "stale")
    assert width(late) > width(one(grid(120, 1), at(110, 5))[2])


def test_last_known_good_is_the_mean_as_of_then():
    values = grid(160, 1)
    for age in (2, 6, 13):
        method, quality, table = one(values[: (150 - age) * 24], at(150))
        assert (method, quality) == ("last known good", "stale")
        expected = values[(150 - age - 28) * 24 : (150 - age) * 24].reshape(28, 24).mean(0)
        assert point(table) == pytest.approx(np.tile(np.roll(expected, -3), 2), abs=1e-8)


def test_last_known_good_is_wider_than_fresh_and_wider_with_age():
    """Over twelve grids: one alone may have been quieter before."""
    values = {f"r{i}": grid(160, i) for i in range(12)}
    widths = [
        width(forecast(before(history(values), at(150 - age)), at(150), model=model).table)
        for age, model in ((0, "ridge"), (0, "hour-of-day mean"), (2, "ridge"), (7, "ridge"), (13, "ridge"))
    ]
    assert widths == sorted(widths)
    assert widths[2] > 1.3 * widths[0]


def test_no_forecast_has_a_named_reason():
    table = history({"short": grid(120, 1)[:20], "odd": np.full(2880, -1.0), "late": grid(160, 1), "old": grid(90, 1)})
    late = pc.and_(pc.equal(table["region"], "late"), pc.less(table["ts"], pa.scalar(at(150), table["ts"].type)))
    table = table.filter(pc.invert(late))
    assert reasons(table, at(1), regions=["nobody"]) == {
        "odd": "no_usable_hours",
        "late": "no_usable_hours",
        "nobody": "no_history",
        "short": "too_little_history",
    }
    assert reasons(table, at(150))["old"] == "too_old_history"
    assert reasons(table, at(150, 20))["late"] == "too_little_history"


@pytest.mark.parametrize(
    ("cells", "flag"),
    [
        ({"intensity_kgco2_kwh": NAN}, "invalid_hours"),
        ({"intensity_kgco2_kwh": float("inf")}, "invalid_hours"),
        ({"intensity_kgco2_kwh": -0.2}, "invalid_hours"),
        ({"intensity_kgco2_kwh": 300.0}, "invalid_hours"),
        ({"intensity_kgco2_kwh": None}, "invalid_hours"),
        ({"quality": "gap_last_known"}, "stand_in_hours"),
        ({"quality": "estimated;grid_fallback"}, "stand_in_hours"),
    ],
)
def test_an_odd_row_is_flagged_and_as_good_as_missing(cells, flag):
    table = history({"r": grid(120, 1)}, quality=pa.array(["ok"] * 2880))
    rows = table.slice(2400, 30).to_pylist()
    odd = pa.Table.from_pylist([row | cells for row in rows], schema=table.schema)
    with_odd = pa.concat_tables([table.slice(0, 2400), odd, table.slice(2430)])
    without = pa.concat_tables([table.slice(0, 2400), table.slice(2430)])
    changed, missing = forecast(with_odd, at(110)).table, forecast(without, at(110)).table
    assert pc.unique(changed["quality"]).to_pylist() == [flag]
    assert pc.unique(missing["quality"]).to_pylist() == ["gap_hours"]
    assert changed.drop_columns("quality").equals(missing.drop_columns("quality"))
    assert pc.unique(forecast(with_odd, at(99)).table["quality"]).to_pylist() == ["ok"], "what is older says nothing"


def test_an_hour_given_twice_counts_once_and_a_contradiction_not_at_all():
    table = history({"r": grid(120, 1)})
    twice = pa.concat_tables([table, table.slice(2400, 10)])
    assert forecast(twice, at(110)).table.equals(forecast(table, at(110)).table)
    other = table.slice(2400, 10).set_column(2, "intensity_kgco2_kwh", pa.array([0.7] * 10))
    for rows in ([table, other], [other, table]):
        made = forecast(pa.concat_tables(rows), at(110)).table
        assert pc.unique(made["quality"]).to_pylist() == ["conflicting_hours"]
        gap = forecast(pa.concat_tables([table.slice(0, 2400), table.slice(2410)]), at(110)).table
        assert made.drop_columns("quality").equals(gap.drop_columns("quality"))


def test_mostly_missing_history_is_trusted_to_no_regression():
    values = grid(120, 1)
    values[85 * 24 : 105 * 24] = NAN
    assert one(values, at(110))[:2] == ("hour-of-day mean", "invalid_hours;sparse_history")


@pytest.mark.parametrize("level", [0.5, 0.0])
def test_a_constant_series_is_told(level):
    method, quality, table = one(np.full(120 * 24, level), at(110))
    assert (method, quality) == ("hour-of-day mean", "constant")
    assert point(table) == pytest.approx(np.full(48, level), abs=1e-8)
    assert width(table) == pytest.approx(0, abs=1e-8)
    assert quality in NO_TIME_SHIFT


def test_an_estimated_series_is_told_and_a_few_estimates_are_not():
    values = grid(120, 1)
    all_of_it = np.ones(len(values), bool)
    method, quality, _ = one(values, at(110), estimated=pa.array(all_of_it))
    assert (method, quality) == ("ridge+conformal", "estimated")
    assert quality in NO_TIME_SHIFT
    some = np.arange(len(values)) % 2 == 0
    assert one(values, at(110), estimated=pa.array(some))[1] == "ok"


def test_values_that_stood_in_count_until_there_are_own_ones():
    """A region that only the annual mean speaks for has a forecast, which says so; its own hours replace them."""
    values = np.concatenate([np.full(60 * 24, 0.5), grid(60, 1)])
    quality = pa.array(["grid_fallback"] * (60 * 24) + ["ok"] * (60 * 24))
    assert one(values, at(50), quality=quality)[:2] == ("hour-of-day mean", "constant;stand_in")
    own = one(values, at(100), quality=quality)
    assert own[:2] == ("hour-of-day mean", "short_history")
    alone = values.copy()
    alone[: 60 * 24] = NAN
    assert own[2].equals(one(alone, at(100))[2])


def test_regressions_do_not_run_away():
    """A line fitted to logarithms, met by hours it never saw, stays within twice the extremes of the last weeks."""
    values = grid(120, 1)
    values[109 * 24 :] *= np.exp(np.linspace(0, -4, 11 * 24))
    seen = values[82 * 24 + 3 : 110 * 24 + 3]
    predicted = point(one(values, at(110))[2])
    assert predicted.min() >= seen.min() / 2.01 and predicted.max() <= seen.max() * 2.01
