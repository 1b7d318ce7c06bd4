"""Grids: range, mean, day/night, weather; the observed signal against the hidden truth."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.simulator.carbon import GeneratedGrid
from sust_dagster.simulator.clock import hour_index
from sust_dagster.simulator.cloud import FakeCloud
from sust_dagster.simulator.noise import smooth_noise
from sust_dagster.simulator.regions import REGIONS
from sust_dagster.simulator.streams import Stream
from sust_dagster.simulator.truth import FactorErrors

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(hours: int) -> datetime:
    return START + timedelta(hours=hours)


@settings(deadline=None, max_examples=25)
@given(first=st.integers(-100_000, 100_000), left=st.integers(0, 80), right=st.integers(0, 80))
def test_any_split_of_a_range_gives_the_same_grid(cloud: FakeCloud, first: int, left: int, right: int) -> None:
    a, b, c = at(first), at(first + left), at(first + left + right)
    for read in (cloud.grid_signal, cloud.true_intensity, cloud.prices, cloud.outages):
        assert read(a, c).equals(pa.concat_tables([read(a, b), read(b, c)]))


@pytest.mark.parametrize("seed", [42, 1, 2])
def test_range_and_long_run_mean_are_the_stated_ones(seed: int) -> None:
    truth = FakeCloud(seed).true_intensity(START, at(8760 * 3)).to_pandas()
    by_region = truth.groupby("region")["intensity_g_per_kwh"].agg(["mean", "min", "max"])
    for region in REGIONS:
        row = by_region.loc[region.region_id]
        assert row["mean"] == pytest.approx(region.grid_mean_g_per_kwh, rel=0.01)
        assert row["min"] >= region.grid_min_g_per_kwh
        assert row["max"] <= region.grid_max_g_per_kwh
        # The range is used, not only kept.
        assert row["max"] - row["min"] > 0.6 * (region.grid_max_g_per_kwh - region.grid_min_g_per_kwh)


def test_solar_grids_are_clean_at_local_midday_and_wind_grids_at_night(cloud: FakeCloud) -> None:
    truth = cloud.true_intensity(START, at(8760)).to_pandas()
    profile = truth.groupby(["region", truth["ts"].dt.hour])["intensity_g_per_kwh"].mean()
    assert profile["ap-south-1"].idxmin() in {6, 7, 8, 9}  # 13:00 in India is 07:30 UTC
    assert profile["us-east-1"].idxmin() in {16, 17, 18, 19, 20}
    assert profile["eu-west-1"].idxmin() in {23, 0, 1, 2, 3, 4}


def test_weather_is_smooth_over_hours_and_forgets_over_days() -> None:
    noise = smooth_noise(Stream.of(1, "w"), np.arange(100_000), 0)
    assert noise.mean() == pytest.approx(0, abs=0.01)
    assert noise.var() == pytest.approx(1, abs=0.05)

    def lag(k: int) -> float:
        return float(np.corrcoef(noise[k:], noise[:-k])[0, 1])

    assert lag(1) > 0.95
    assert lag(6) > 0.5
    assert abs(lag(240)) < 0.1
    # Every hour has the same variance: no breathing between anchors.
    by_phase = noise[: 48 * 2000].reshape(2000, 48).var(axis=0)
    assert by_phase.min() > 0.85 and by_phase.max() < 1.15


def test_noise_of_an_hour_needs_no_other_hour() -> None:
    stream, hours = Stream.of(1, "w"), np.arange(500_000, 500_200)
    whole = smooth_noise(stream, hours, 3)
    assert whole.tolist() == [float(smooth_noise(stream, hours[k : k + 1], 3)[0]) for k in range(hours.size)]


def test_signal_states_its_bounds_and_factors(cloud: FakeCloud) -> None:
    signal = cloud.grid_signal(START, at(720)).to_pandas()
    assert (signal["lower"] < signal["intensity_g_per_kwh"]).all()
    assert (signal["upper"] > signal["intensity_g_per_kwh"]).all()
    assert signal["estimated"].mean() == pytest.approx(0.02, abs=0.01)
    assert (signal["hour_rel_upper"] == np.where(signal["estimated"], 1.20, 1.10)).all()
    # The bound is the two named errors together, each 95 % log-normal.
    spread = np.hypot(np.log(signal["system_rel_upper"]), np.log(signal["hour_rel_upper"]))
    np.testing.assert_allclose(np.log(signal["upper"] / signal["intensity_g_per_kwh"]), spread, atol=1e-4)
    np.testing.assert_allclose(signal["system_rel_lower"] * signal["system_rel_upper"], 1.0)


def test_truth_lies_in_the_bounds_in_95_percent_of_worlds() -> None:
    hour = np.array([hour_index(START)])
    inside, inside_hour_only = [], []
    for seed in range(400):
        grid = GeneratedGrid(seed)
        truth, signal = grid.true_g_per_kwh(hour)[0, 0], grid.observed(hour)
        inside.append(signal.lower[0, 0] <= truth <= signal.upper[0, 0])
        ratio = signal.intensity[0, 0] / truth
        inside_hour_only.append(1 / 1.10 <= ratio <= 1.10)
    # One draw per world; 400 worlds: 0.95 +- 3.3 standard errors.
    assert 0.914 <= np.mean(inside) <= 0.986
    # Control: the hour's bound alone must fail, for most of the error is shared by the region.
    assert np.mean(inside_hour_only) < 0.85


def test_a_region_shares_its_error_over_its_hours(cloud: FakeCloud) -> None:
    hours = np.arange(hour_index(START), hour_index(at(2000)))
    log_error = np.log(cloud.grid.observed(hours).intensity / cloud.grid.true_g_per_kwh(hours))
    errors = FactorErrors(42)
    for k, region in enumerate(REGIONS):
        # The hour's part averages out, the region's stays.
        assert log_error[:, k].mean() == pytest.approx(np.log(errors.grid_system(region.region_id)), abs=0.005)
        assert log_error[:, k].std() == pytest.approx(np.log(1.10) / 1.96, rel=0.15)


def test_named_errors_differ_between_worlds_and_are_listed(cloud: FakeCloud) -> None:
    table = cloud.errors.table().to_pandas().set_index("factor_key")
    assert {"power", "pue/aws", "pue/aws/us-east-1", "grid/eu-west-1"} <= set(table.index)
    assert table.loc["power", "error"] == cloud.errors.power()
    assert cloud.errors.pue("us-east-1") == pytest.approx(
        table.loc["pue/aws", "error"] * table.loc["pue/aws/us-east-1", "error"]
    )
    assert FactorErrors(43).power() != cloud.errors.power()
    draws = np.log([FactorErrors(s).power() for s in range(1000)])
    assert draws.std() == pytest.approx(np.log(1.42) / 1.96, rel=0.08)
    assert draws.mean() == pytest.approx(0, abs=0.02)
