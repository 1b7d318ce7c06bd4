"""Emissions of the jobs: the stated model, the hidden truth, and the baseline beside the design's formula."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from sust_dagster.simulator.baseline import baseline_summary
from sust_dagster.simulator.cloud import FakeCloud
from sust_dagster.simulator.workloads import JOB_TYPES

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def by_hand(world: FakeCloud, job: pd.Series, intensity: pd.DataFrame) -> float:
    """simple/v1, second by second of clock hours, in plain Python."""
    kw = job["vcpus"] * 0.005 + job["gpus"] * 0.3
    kg, t = 0.0, job["started_at"]
    while t < job["ended_at"]:
        until = min(t.floor("h") + timedelta(hours=1), job["ended_at"])
        g = intensity.loc[(t.floor("h"), job["region"]), "intensity_g_per_kwh"]
        kg += kw * (until - t) / timedelta(hours=1) * 1.1 * g / 1000
        t = until
    return kg


def test_emissions_are_the_model_hour_by_hour(placed_cloud: FakeCloud) -> None:
    world = placed_cloud
    jobs = world.jobs(at(48), at(60)).to_pandas()
    emissions = world.true_emissions(at(48), at(60)).to_pandas().set_index("job_id")
    signal = world.grid_signal(at(48), at(200)).to_pandas().set_index(["ts", "region"])
    truth = world.true_intensity(at(48), at(200)).to_pandas().set_index(["ts", "region"])
    for _, job in jobs.iloc[::7].iterrows():
        row = emissions.loc[job["job_id"]]
        assert row["stated_kg"] == pytest.approx(by_hand(world, job, signal), rel=1e-9)
        errors = world.errors.power() * world.errors.pue(job["region"])
        assert row["true_kg"] == pytest.approx(by_hand(world, job, truth) * errors, rel=1e-9)
        assert row["true_kwh"] == pytest.approx(row["stated_kwh"] * errors, rel=1e-9)


def test_true_saving_of_a_move_is_the_difference_of_the_twins(cloud: FakeCloud) -> None:
    jobs = cloud.jobs(at(24), at(48)).to_pandas()
    movable = jobs[(jobs["workload_id"] == "etl-orders")]
    answer = cloud.submit([{"job_id": j, "region": "eu-north-1"} for j in movable["job_id"]])
    assert answer.refused.num_rows == 0
    before = cloud.true_emissions(at(24), at(48)).to_pandas().set_index("job_id")
    after = answer.cloud.true_emissions(at(24), at(48)).to_pandas().set_index("job_id")
    saving = before["true_kg"] - after["true_kg"]
    assert (saving[movable["job_id"]] > 0.5 * before["true_kg"][movable["job_id"]]).all()
    assert (saving.drop(movable["job_id"]) == 0).all()


def test_baseline_of_the_default_seed_is_within_5_percent_of_the_formula(cloud: FakeCloud) -> None:
    summary = baseline_summary(cloud, START, at(720)).to_pandas().set_index("job_type")
    assert set(summary.index) == {*JOB_TYPES, "all"}
    assert summary["ratio"].between(0.95, 1.05).all()
    assert summary["ratio_nominal"].between(0.95, 1.05).all()
    assert summary.loc["all", "jobs_nominal"] == 990 * 30
    assert summary.loc["all", "kg"] == pytest.approx(summary["kg"].drop("all").sum())


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 5])
def test_baseline_of_other_seeds_is_as_close_as_sampling_lets_it(seed: int) -> None:
    # Four months, so the rarest type (training, 1,200 jobs) has a standard error of 0.9 %: realised counts must be
    # within 5 %. Nominal counts scatter as Poisson sums do; 3.3 standard errors are allowed, and 3 % for the hours
    # of the day and the calendar.
    summary = baseline_summary(FakeCloud(seed), START, at(24 * 120)).to_pandas().set_index("job_type")
    assert summary["ratio"].between(0.95, 1.05).all()
    for name, kind in JOB_TYPES.items():
        scatter = 0.0 if kind.cv == 0 else np.sqrt((1 + kind.cv**2) / summary.loc[name, "jobs_nominal"])
        # Homes differ in intensity, which adds up to a fifth to the scatter of the sum.
        assert summary.loc[name, "ratio_nominal"] == pytest.approx(1.0, abs=0.03 + 3.3 * 1.2 * scatter)
    assert summary.loc["all", "cost_usd"] / 4 == pytest.approx(18_000, rel=0.10)


def test_golden_values_of_the_design() -> None:
    # 4 vCPU x 0.2 h at 0.350 kg/kWh, and 8 vCPU + 1 GPU x 6 h, through the figures the simulator uses.
    from sust_dagster.simulator.emissions import PUE, stated_kw
    from sust_dagster.simulator.instances import INSTANCE_INDEX

    kw = stated_kw()
    assert kw[INSTANCE_INDEX["c5.xlarge"]] * 0.2 * PUE * 0.350 == pytest.approx(0.00154)
    assert kw[INSTANCE_INDEX["p3.2xlarge"]] * 6 * PUE * 0.350 == pytest.approx(0.7854)
