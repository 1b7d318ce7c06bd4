"""Runs that read what others made: the untouched world keeps every promise, and what breaks one is counted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from sust_dagster.simulator.cloud import FakeCloud
from sust_dagster.simulator.dependencies import Dependencies, dependencies
from sust_dagster.simulator.organisation import DEPENDS_ON
from sust_dagster.simulator.placements import Placements
from sust_dagster.simulator.twins import broken, static_table

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
MONTH = START + 30 * DAY
AWAITED = sorted({a for needs in DEPENDS_ON.values() for a in needs})


def placed(cloud: FakeCloud, workload: str, days: int = 30, **given: object) -> FakeCloud:
    """The cloud with every group of a workload placed the same way, from three days before on."""
    hours = [START + timedelta(hours=h) for h in range(-72, 24 * days)]
    asked = pa.array(hours, pa.timestamp("us", "UTC"))
    rows = {"workload_id": pa.repeat(workload, len(hours)), "requested_hour": asked}
    changed = {name: pa.repeat(value, len(hours)) for name, value in given.items()}
    return cloud.with_placements(cloud.placements.with_rows(pa.table({**rows, **changed})))


def by_hand(cloud: FakeCloud, start: datetime, end: datetime) -> Dependencies:
    """The meaning, run by run: every result that would have been there must be there."""
    begin = start - 5 * DAY
    ran = cloud.jobs(begin, end).to_pandas()
    alone = cloud.with_placements(Placements()).jobs(begin, end).to_pandas()
    assert (ran["job_id"] == alone["job_id"]).all()
    waiting = early = 0
    for b in ran[(ran["requested_at"] >= pd.Timestamp(start)) & ran["workload_id"].isin(DEPENDS_ON)].itertuples():
        needs = ran["workload_id"].isin(DEPENDS_ON[b.workload_id]) & (alone["ended_at"] <= b.requested_at)
        waiting += bool(needs.any())
        early += bool((ran.loc[needs, "ended_at"] > b.started_at).any())
    return Dependencies(waiting, early)


def test_the_untouched_world_never_starts_a_run_before_what_it_reads(cloud: FakeCloud) -> None:
    found = dependencies(cloud, START, MONTH)
    jobs = cloud.jobs(START, MONTH).column("workload_id").to_pylist()
    assert found.too_early == broken(cloud, START, MONTH).start_before_dependency == 0
    assert found.waiting == sum(w in DEPENDS_ON for w in jobs) > 500, "no run is without a result to read"
    assert broken(cloud, START, MONTH).total == 0


@pytest.mark.parametrize("seed", [0, 7])
def test_nor_does_that_of_another_seed(seed: int) -> None:
    found = dependencies(FakeCloud(seed), START, START + 10 * DAY)
    assert found.waiting > 100 and found.too_early == 0


def test_what_is_counted_is_the_meaning_run_by_run(placed_cloud: FakeCloud) -> None:
    end = START + 6 * DAY
    moved = placed(placed(placed_cloud, "etl-ledger", 6, delay_hours=3.0), "train-fraud", 6, delay_hours=2.0)
    found = dependencies(moved, START, end)
    assert found == by_hand(moved, START, end)
    assert 0 < found.too_early < found.waiting


def test_what_is_put_off_beyond_its_reader_is_counted_as_broken(cloud: FakeCloud) -> None:
    """The control: ETL twelve hours later, the reports when they were asked for."""
    late = placed(cloud, "etl-orders", delay_hours=12.0)
    counted = broken(late, START, MONTH)
    assert counted.start_before_dependency > 100
    assert counted.total == counted.start_before_dependency, "nothing else was promised otherwise"
    both = placed(placed(late, "reports-finance", delay_hours=12.0), "reports-operations", delay_hours=12.0)
    assert broken(both, START, MONTH).start_before_dependency == 0, "together nobody is overtaken"


def test_a_longer_run_breaks_it_too_and_another_region_does_not(cloud: FakeCloud) -> None:
    end = START + 10 * DAY
    small = [w.workload_id for w in cloud.catalogue if w.workload_id in AWAITED and w.needed_share > 0.6]
    assert small, "one of them needs more than half of its vCPUs"
    for workload in AWAITED:
        assert dependencies(placed(cloud, workload, 10, region="eu-north-1"), START, end).too_early == 0
        slower = dependencies(placed(cloud, workload, 10, vcpus_scale=0.5), START, end)
        assert (slower.too_early > 0) == (workload in small)


def test_the_reader_may_always_be_put_off(cloud: FakeCloud) -> None:
    moved = cloud
    for reader in DEPENDS_ON:
        moved = placed(moved, reader, 10, delay_hours=4.0, region="eu-north-1", spot=True)
    assert dependencies(moved, START, START + 10 * DAY).too_early == 0
    assert dependencies(static_table(cloud, START, START + 10 * DAY), START, START + 10 * DAY).too_early == 0


def test_dependencies_name_workloads_there_are_and_go_round_no_circle(cloud: FakeCloud) -> None:
    names = {w.workload_id for w in cloud.catalogue}
    assert {*DEPENDS_ON, *AWAITED} <= names
    assert not set(DEPENDS_ON) & set(AWAITED)
    told = cloud.workloads().to_pandas().set_index("workload_id")["depends_on"]
    assert told["reports-finance"] == "etl-ledger,etl-orders"
    assert told.notna().sum() == len(DEPENDS_ON)


def test_dependencies_change_no_job(cloud: FakeCloud) -> None:
    """Golden figures of the 30-day world from before there were any dependencies."""
    jobs = cloud.jobs(START, MONTH)
    assert jobs.num_rows == GOLDEN_JOBS
    assert np.sum(jobs.column("cost_usd").to_numpy()) == pytest.approx(GOLDEN_USD, rel=1e-12)
    assert np.sum(jobs.column("duration_hours").to_numpy()) == pytest.approx(GOLDEN_HOURS, rel=1e-12)
    true_kg = cloud.true_emissions(START, MONTH).column("true_kg").to_numpy()
    assert np.sum(true_kg) == pytest.approx(GOLDEN_KG, rel=1e-12)


GOLDEN_JOBS, GOLDEN_USD = 30_219, 18_911.207129055558
GOLDEN_HOURS, GOLDEN_KG = 55_224.48583333333, 785.5341044159168
