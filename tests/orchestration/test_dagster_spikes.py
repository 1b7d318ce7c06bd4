"""Cost spikes as runs mark them: against the hours stored before, the same for any cut of the hours into runs."""

from __future__ import annotations

import itertools
import json
from datetime import datetime
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from dagster_worlds import HOUR, START, billed, lake_of, materializations, run

from sust_dagster.orchestration.build import build_defs
from sust_dagster.settings import Project
from sust_dagster.world.books import Books

HOURS = 16
EARLY, LATE = 2, 13
WHOLE = (START, START + HOURS * HOUR)


def cost_of(service: str, hour: int, spikes: tuple[int, ...]) -> float:
    usual = 1.0 + 0.01 * ((hour * 7) % 5)
    return 50 * usual if service == "search" and hour in spikes else usual


def bill(spikes: tuple[int, ...]) -> pa.Table:
    """Two services, four lines an hour each; one of them costs fifty times as much in the given hours."""
    rows = [
        {
            "BilledCost": cost_of(service, hour, spikes) / 4,
            "BillingCurrency": "USD",
            "ChargeCategory": "Usage",
            "ChargePeriodStart": START + hour * HOUR,
            "ChargePeriodEnd": START + (hour + 1) * HOUR,
            "ConsumedQuantity": 1.0,
            "ConsumedUnit": "Hours",
            "ProviderName": "AWS",
            "RegionId": "us-east-1",
            "ResourceId": f"i-{service}-{line}",
            "ServiceName": "Amazon Elastic Compute Cloud",
            "SkuPriceDetails": json.dumps({"InstanceType": "t.4", "CoreCount": 4}),
            "Tags": json.dumps({"team": "shop", "service": service}),
        }
        for hour in range(HOURS)
        for service in ("search", "shop")
        for line in range(4)
    ]
    return pa.Table.from_pylist(rows)


def made(root: Path, spikes: tuple[int, ...]) -> tuple[Project, dg.Definitions]:
    project = billed(root, bill(spikes), hours=HOURS)
    defs = build_defs(project, with_marts=False)
    run(project, "factors", defs=defs)
    return project, defs


def marked(project: Project) -> set[tuple[str, datetime]]:
    """Service and hour of the rows marked as a spike; all rows of an hour are, or none."""
    ledger = lake_of(project).read("activity_ledger")
    spikes = ledger.filter(pc.equal(ledger.column("anomaly"), "cost_spike"))
    found = set(zip(*(spikes.column(c).to_pylist() for c in ("service_name", "started_at")), strict=True))
    assert spikes.num_rows == 4 * len(found)
    return found


@pytest.fixture(scope="module")
def in_one_go(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, dg.ExecuteInProcessResult]:
    project, defs = made(tmp_path_factory.mktemp("one") / "project", (EARLY, LATE))
    return project, run(project, window=WHOLE, defs=defs)


def test_a_spike_is_marked_and_shown(in_one_go: tuple[Project, dg.ExecuteInProcessResult]) -> None:
    """The early one has too few hours before it to be judged by."""
    project, result = in_one_go
    assert marked(project) == {("search", START + LATE * HOUR)}
    assert materializations(result, "activity_ledger")[f"2026-01-01-{HOURS - 1:02}:00"]["anomalies"] == 4


def test_a_bill_without_a_spike_marks_nothing(tmp_path: Path) -> None:
    project, defs = made(tmp_path / "calm", ())
    run(project, window=WHOLE, defs=defs)
    assert marked(project) == set()


@pytest.mark.parametrize(
    "edges",
    [
        pytest.param((0, 13, HOURS), id="halves"),
        pytest.param((0, 6, 13, 14, HOURS), id="pieces"),
        pytest.param(tuple(range(HOURS + 1)), id="hours", marks=pytest.mark.slow),
    ],
)
def test_any_cut_of_the_hours_marks_the_same(
    in_one_go: tuple[Project, dg.ExecuteInProcessResult], tmp_path: Path, edges: tuple[int, ...]
) -> None:
    project, defs = made(tmp_path / "project", (EARLY, LATE))
    for first, last in itertools.pairwise(edges):
        run(project, window=(START + first * HOUR, START + last * HOUR), defs=defs)
    assert marked(project) == {("search", START + LATE * HOUR)}
    assert lake_of(project).slots("activity_ledger") == lake_of(in_one_go[0]).slots("activity_ledger")


def test_hours_run_again_are_marked_as_they_were(in_one_go: tuple[Project, dg.ExecuteInProcessResult]) -> None:
    project, _ = in_one_go
    lake = lake_of(project)
    version = lake.version("activity_ledger")
    for window in (WHOLE, (START + LATE * HOUR, START + (LATE + 1) * HOUR)):
        run(project, window=window)
        assert lake.version("activity_ledger") == version
    with Books(project.books_address) as books:
        log = books.read("access_log", {"agent": "ingestor", "table_name": "activity_ledger", "verb": "read"})
    assert log.num_rows >= 3, "the history is read through the ingestor's handle"


def test_out_of_order_an_hour_is_judged_by_what_is_stored_then(tmp_path: Path) -> None:
    project, defs = made(tmp_path / "late", (LATE,))
    spike = (START + LATE * HOUR, START + (LATE + 1) * HOUR)
    run(project, window=spike, defs=defs)
    assert marked(project) == set(), "nothing was stored before it"
    run(project, window=(START, spike[0]), defs=defs)
    assert marked(project) == set(), "stored rows are not touched by other hours' runs"
    run(project, window=spike, defs=defs)
    assert marked(project) == {("search", spike[0])}
    assert [r.slot for _, r, _ in lake_of(project).restatements("activity_ledger")] == [f"2026-01-01T{LATE}"]
