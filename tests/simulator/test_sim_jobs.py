"""Jobs: how many, when, how long, by whom; any range alone gives what the whole gives."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.simulator.arrivals import rhythm_profile
from sust_dagster.simulator.cloud import FakeCloud
from sust_dagster.simulator.organisation import DEVELOPERS, TEAMS, TIER_CATEGORY
from sust_dagster.simulator.workloads import JOB_TYPES

START = datetime(2026, 1, 1, tzinfo=UTC)
RANGES = st.tuples(st.integers(-200, 900), st.integers(0, 60), st.integers(0, 60))


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


@settings(deadline=None, max_examples=25)
@given(cuts=RANGES)
def test_any_split_of_a_range_gives_the_same_jobs(
    cloud: FakeCloud, placed_cloud: FakeCloud, cuts: tuple[int, int, int]
) -> None:
    a, b, c = at(cuts[0]), at(cuts[0] + cuts[1]), at(cuts[0] + cuts[1] + cuts[2])
    for world in (cloud, placed_cloud):
        for read in (world.jobs, world.slices, world.true_emissions):
            assert read(a, c).equals(pa.concat_tables([read(a, b), read(b, c)]))


def test_a_month_of_the_default_seed_has_the_design_size(cloud: FakeCloud) -> None:
    jobs = cloud.jobs(START, at(720)).to_pandas()
    assert 28_000 <= len(jobs) <= 32_000
    assert jobs["cost_usd"].sum() == pytest.approx(18_000, rel=0.10)
    assert jobs["job_id"].is_unique
    assert jobs["egress_usd"].sum() == 0
    assert set(jobs["status"]) == {"succeeded"}
    assert (jobs["region"] == jobs["home_region"]).all()


def test_counts_and_run_times_over_a_year_follow_the_design_table(cloud: FakeCloud) -> None:
    jobs = cloud.jobs(START, at(8760)).to_pandas()
    for name, kind in JOB_TYPES.items():
        of_type = jobs[jobs["job_type"] == name]
        nominal = kind.jobs_per_day * 365
        assert len(of_type) == pytest.approx(nominal, abs=4 * np.sqrt(nominal) + 0.01 * nominal)
        assert of_type["duration_hours"].mean() == pytest.approx(
            kind.mean_hours, abs=4 * kind.mean_hours * kind.cv / np.sqrt(len(of_type)) + 1e-9
        )
        assert of_type["duration_hours"].std() == pytest.approx(kind.mean_hours * kind.cv, rel=0.1, abs=1e-9)
        assert of_type["duration_hours"].between(1 / 60, 36).all()
        assert (of_type["vcpus"] == kind.instance.vcpus).all()


def test_category_follows_the_tier_and_the_ci_mix_is_60_30_10(cloud: FakeCloud) -> None:
    jobs = cloud.jobs(START, at(8760)).to_pandas()
    assert (jobs["service_tier"].map(TIER_CATEGORY) == jobs["workload_category"]).all()
    ci = jobs[jobs["job_type"] == "ci_cd"]["workload_category"].value_counts(normalize=True)
    assert ci["balanced"] == pytest.approx(0.60, abs=0.01)
    assert ci["urgent"] == pytest.approx(0.30, abs=0.01)
    assert ci["sustainable"] == pytest.approx(0.10, abs=0.01)
    batch = jobs[jobs["job_type"] == "batch_analytics"]["workload_category"].value_counts(normalize=True)
    assert batch["balanced"] == pytest.approx(0.20, abs=0.02)
    for kind in ("model_training", "dev_test"):
        assert set(jobs[jobs["job_type"] == kind]["workload_category"]) == {"sustainable"}


def test_builds_peak_in_local_work_hours_and_are_quieter_on_weekends(cloud: FakeCloud) -> None:
    jobs = cloud.jobs(START, at(24 * 28)).to_pandas()
    builds = jobs[(jobs["service_tier"] == "ci") & (jobs["home_region"] == "us-east-1")]
    local = builds["requested_at"] - np.timedelta64(5, "h")
    weekday = local.dt.dayofweek < 5
    assert local[weekday].dt.hour.between(9, 17).mean() > 0.7
    assert 0.25 < (len(local[~weekday]) / 2) / (len(local[weekday]) / 5) < 0.45


@pytest.mark.parametrize("rhythm", ["work", "morning", "night", "steady", "always"])
@pytest.mark.parametrize("offset", [-8.0, 0.0, 5.5])
def test_every_rhythm_keeps_the_daily_mean_over_a_week(rhythm: str, offset: float) -> None:
    profile = rhythm_profile(rhythm, offset)
    assert profile.shape == (168,)
    assert profile.mean() == pytest.approx(1.0)
    assert profile.min() >= 0


def test_arrivals_scatter_as_poisson(cloud: FakeCloud) -> None:
    jobs = cloud.jobs(START, at(24 * 7 * 30)).to_pandas()
    for workload_id in ("train-ranking", "ci-checkout-build"):
        times = jobs[jobs["workload_id"] == workload_id]["requested_at"]
        hour = ((times - START) // timedelta(hours=1)).astype(int)
        counts = np.bincount(hour, minlength=24 * 7 * 30).reshape(30, 168)
        # Index of dispersion within each hour of the week, pooled: 1 for Poisson.
        ratio = counts.var(axis=0, ddof=1).sum() / counts.mean(axis=0).sum()
        assert ratio == pytest.approx(1.0, abs=0.1)


def test_production_is_one_whole_day_per_service(cloud: FakeCloud) -> None:
    jobs = cloud.jobs(START, at(48)).to_pandas()
    production = jobs[jobs["job_type"] == "production"]
    assert len(production) == 60
    assert (production["duration_hours"] == 24).all()
    assert (production["requested_at"] == production["requested_at"].dt.floor("D")).all()


def test_the_first_hour_is_already_in_steady_state(cloud: FakeCloud) -> None:
    first = cloud.slices(START, at(1)).to_pandas()
    started_before = ~first["job_id"].str.contains("-2026010100-")
    assert started_before.sum() > 20
    by_hour = cloud.slices(START, at(24 * 28)).to_pandas().groupby("hour")["vcpu_hours"].sum()
    same_hour = by_hour[(by_hour.index.hour == 0) & (by_hour.index.dayofweek == 3)]
    assert same_hour.iloc[0] == pytest.approx(same_hour.mean(), rel=0.35)


def test_slices_add_up_to_the_jobs(placed_cloud: FakeCloud) -> None:
    jobs = placed_cloud.jobs(at(48), at(72)).to_pandas().set_index("job_id")
    slices = placed_cloud.slices(at(48), at(72 + 100)).to_pandas()
    per_job = slices.groupby("job_id")[["usage_hours", "cost_usd"]].sum().loc[jobs.index]
    np.testing.assert_allclose(per_job["usage_hours"], jobs["duration_hours"], rtol=1e-12)
    np.testing.assert_allclose(per_job["cost_usd"], jobs["cost_usd"], rtol=1e-9)
    assert slices["usage_hours"].between(0, 1, inclusive="right").all()


def test_catalogue_has_the_organisation(cloud: FakeCloud) -> None:
    table = cloud.workloads().to_pandas()
    assert len(table) == 60
    assert table["workload_id"].is_unique
    assert len(DEVELOPERS) == 100 and len(TEAMS) == 8
    assert set(table["owner"]) <= set(DEVELOPERS)
    daily = table.groupby("job_type")["jobs_per_day"].sum()
    assert daily.to_dict() == {name: kind.jobs_per_day for name, kind in JOB_TYPES.items()}
    assert (table["allowed_regions"].notna()).sum() == 5
    # Whoever may not leave lives where it may be.
    bound = table[table["allowed_regions"].notna()]
    assert all(h in a.split(",") for h, a in zip(bound["home_region"], bound["allowed_regions"], strict=True))
    assert "needed_share" not in table.columns


def test_another_seed_is_another_world(cloud: FakeCloud) -> None:
    other = FakeCloud(43)
    a, b = cloud.jobs(START, at(24)), other.jobs(START, at(24))
    assert not a.equals(b)
    assert not cloud.workloads().equals(other.workloads())
    assert FakeCloud(42).jobs(START, at(24)).equals(a)


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (datetime(2026, 1, 1), datetime(2026, 1, 2, tzinfo=UTC), "no time zone"),  # noqa: DTZ001
        (at(0.5), at(2), "whole UTC hour"),
        (at(2), at(1), "before start"),
    ],
)
def test_ranges_that_are_not_whole_utc_hours_are_refused(
    cloud: FakeCloud, start: datetime, end: datetime, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        cloud.jobs(start, end)


def test_other_time_zones_mean_the_same_instants(cloud: FakeCloud) -> None:
    zone = ZoneInfo("America/New_York")
    assert cloud.jobs(START.astimezone(zone), at(5).astimezone(zone)).equals(cloud.jobs(START, at(5)))
