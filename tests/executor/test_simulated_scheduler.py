"""The fake cloud as a target: placed once, found again, undone, and billed in the touched hours only."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from executor_cases import DAY, NOW, WORKLOAD, config, group, payload

from sust_dagster.connectors.schedulers.groups import GroupsRefused
from sust_dagster.connectors.schedulers.placement_file import (
    FILE_SCHEMA,
    in_force,
    locked,
    placements_path,
    read_rows,
    replace_rows,
)
from sust_dagster.connectors.schedulers.simulated import SimulatedScheduler
from sust_dagster.connectors.sources import fake_cloud, open_billing, untouched_cloud
from sust_dagster.connectors.targets import Order, TargetRefused
from sust_dagster.settings import Project, simulated_project

HOUR = timedelta(hours=1)


def order(intent: str = "i-1", *, workload: str = WORKLOAD, action: str = "region_shift", **changes: Any) -> Order:
    fields = payload(action_type=action)
    return Order(
        intent_id=intent,
        recommendation_id=f"rec-of-{intent}",
        plan_hash="0" * 64,
        workload_id=workload,
        team_id="checkout",
        service_tier="ci",
        action_type=action,
        planned_for=DAY,
        current=fields["current_config"],
        proposed=config(action, **changes),
    )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return simulated_project(tmp_path, days=30, seed=42)


@pytest.fixture
def make(project: Project) -> Callable[..., SimulatedScheduler]:
    """Schedulers over one project; each is new, as after a restart."""

    def made(now: datetime = NOW) -> SimulatedScheduler:
        return SimulatedScheduler(placements_path(project.root), untouched_cloud(project), lambda: now)

    return made


def held(project: Project) -> list[dict[str, Any]]:
    return in_force(read_rows(placements_path(project.root))).table.to_pylist()


def test_the_preview_is_the_request_and_changes_nothing(make: Callable[..., Any], project: Project) -> None:
    shown = make().preview(order())
    assert shown.change == {
        "placements": [
            {
                "workload_id": WORKLOAD,
                "requested_hour": f"2026-01-07T0{h}:00:00Z",
                "region": "us-west-2",
                "delay_hours": 0.0,
                "spot": False,
                "vcpus_scale": 1.0,
                "groups": [group(h)["job_id"]],
            }
            for h in (5, 6)
        ]
    }
    assert "ci-checkout-build asked for at 2026-01-07T05:00:00Z: not placed -> us-west-2, 0 h later" in shown.text
    assert not placements_path(project.root).exists()


def test_a_change_is_made_once_found_and_undone(make: Callable[..., Any], project: Project) -> None:
    shown = make().preview(order())
    assert make().find(order(), shown) is None
    done = make().apply(order(), shown)
    content = placements_path(project.root).read_bytes()
    assert make().apply(order(), shown) == done, "again, by another process: the same answer"
    assert placements_path(project.root).read_bytes() == content
    assert make().find(order(), shown) == done
    assert make().read_back(order(), shown, done) == ()
    assert len(held(project)) == 2
    make().rollback(order(), shown)
    make().rollback(order(), shown)
    assert held(project) == []
    assert make().find(order(), shown) is None
    assert make().read_back(order(), shown, done) != ()


def test_what_was_placed_before_counts_again_after_an_undo(make: Callable[..., Any], project: Project) -> None:
    first, second = order("i-1"), order("i-2", groups=[group(5, "eu-north-1", 2)])
    make().apply(first, make().preview(first))
    before = held(project)
    shown = make().preview(second)
    make().apply(second, shown)
    assert {r["region"] for r in held(project)} == {"eu-north-1", "us-west-2"}
    with pytest.raises(TargetRefused, match="changed_since: 1 groups were placed anew"):
        make().rollback(first, make().preview(first))
    make().rollback(second, shown)
    assert held(project) == before


def test_a_change_in_between_is_not_overwritten(make: Callable[..., Any], project: Project) -> None:
    mine, theirs = order("i-1"), order("i-2", groups=[group(5, "eu-north-1")])
    shown = make().preview(mine)
    make().apply(theirs, make().preview(theirs))
    before = held(project)
    with pytest.raises(TargetRefused, match="changed_since"):
        make().apply(mine, shown)
    assert held(project) == before, "not even the group that was free"


def test_all_groups_or_none(make: Callable[..., Any], project: Project) -> None:
    half = order(groups=[group(5), group(1)])
    with pytest.raises(GroupsRefused) as refusal:
        make().preview(half)
    assert refusal.value.refused == {group(1)["job_id"]: "already_started"}
    shown = make(NOW - timedelta(hours=3)).preview(half)
    with pytest.raises(GroupsRefused):
        make().apply(half, shown)
    assert held(project) == []


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (order(workload="no-such"), "unknown_job"),
        (order(groups=[group(5, "mars-1")]), "unknown_region"),
        (order(groups=[group(5, delay=25)]), "delay_out_of_range"),
        (order(vcpus_scale="0.3"), "no_such_size"),
        (order(groups=[group(5), group(5, "eu-north-1") | {"job_id": "from-elsewhere"}]), "ambiguous_group"),
        (order(groups=[]), "nothing_to_place"),
    ],
)
def test_what_the_cloud_refuses_has_its_reason(make: Callable[..., Any], wanted: Order, reason: str) -> None:
    with pytest.raises(TargetRefused) as refusal:
        make().preview(wanted)
    assert refusal.value.reason == reason


def test_groups_that_ask_for_the_same_are_one_row(make: Callable[..., Any]) -> None:
    twice = order(groups=[group(5), group(5) | {"job_id": "from-elsewhere"}])
    (row,) = make().preview(twice).change["placements"]
    assert row["groups"] == [group(5)["job_id"], "from-elsewhere"]


def test_what_has_begun_to_run_cannot_be_undone(make: Callable[..., Any], project: Project) -> None:
    shown = make().preview(order())
    make().apply(order(), shown)
    later = make(DAY + 5 * HOUR + timedelta(minutes=10))
    for _ in range(2):
        with pytest.raises(TargetRefused, match="already_started: 1 of"):
            later.rollback(order(), shown)
        assert [r["requested_hour"] for r in held(project)] == [DAY + 5 * HOUR], "what has not begun is undone"


def test_a_service_is_placed_at_its_next_midnight(make: Callable[..., Any], project: Project) -> None:
    """A plan's day of a service begins at its first hour; the cloud asks for the service's day at midnight."""
    wanted = order(workload="svc-cart", action="right_size", groups=[group(4, "us-east-1")], vcpus_scale="0.5")
    make().apply(wanted, make().preview(wanted))
    day = (DAY + timedelta(days=1), DAY + timedelta(days=2))
    sizes = [c.jobs(*day) for c in (untouched_cloud(project), fake_cloud(project))]
    ours = [j.filter(pc.equal(j["workload_id"], "svc-cart"))["vcpus"].to_pylist() for j in sizes]
    assert ours == [[4.0], [2.0]]


def test_the_bill_changes_in_the_touched_hours_only(make: Callable[..., Any], project: Project) -> None:
    source = open_billing(project)

    def bill(hour: int) -> Any:
        (batch,) = source.read(DAY + hour * HOUR, DAY + (hour + 1) * HOUR)
        return batch.normal

    def regions(cloud: Any, hour: int) -> set[str]:
        jobs = cloud.jobs(DAY + hour * HOUR, DAY + (hour + 1) * HOUR)
        return set(jobs.filter(pc.equal(jobs["workload_id"], WORKLOAD))["region"].to_pylist())

    span = (DAY, DAY + 24 * HOUR)
    wanted = order(groups=[group(15), group(16)])
    twin = untouched_cloud(project).focus_rows(*span)
    touched, untouched = bill(16), bill(9)
    shown = make().preview(wanted)
    make().apply(wanted, shown)
    assert regions(fake_cloud(project), 15) == regions(fake_cloud(project), 16) == {"us-west-2"}
    assert regions(fake_cloud(project), 17) == {"us-east-1"}
    assert regions(untouched_cloud(project), 15) == {"us-east-1"}
    assert bill(16) != touched, "the open source reads the changed cloud"
    assert bill(9) == untouched
    assert untouched_cloud(project).focus_rows(*span) == twin
    ours = fake_cloud(project).focus_rows(*span)
    changed = [h for h in range(24) if _hour(ours, h) != _hour(twin, h)]
    assert changed[0] == 15
    assert changed[-1] <= 18, "until the last of the moved runs has ended"
    make().rollback(wanted, shown)
    assert fake_cloud(project).focus_rows(*span) == twin


def _hour(bill: Any, hour: int) -> list[Any]:
    return bill.filter(pc.equal(bill["ChargePeriodStart"], DAY + hour * HOUR)).to_pylist()


# -- the file -------------------------------------------------------------------------------------------------


def _write_forever(path: Path) -> None:
    rows = read_rows(path)
    while True:
        for count in (1, rows.num_rows):
            with locked(path):
                replace_rows(path, rows.slice(0, count))


def test_killed_while_writing_the_file_is_the_old_one_or_the_new_one(
    make: Callable[..., Any], project: Project
) -> None:
    many = order(groups=[group(h % 20 + 4, delay=0) | {"job_id": f"g{h}"} for h in range(20)])
    make().apply(many, make().preview(many))
    path = placements_path(project.root)
    whole = read_rows(path)
    seen: set[int] = set()
    for turn in range(12):
        replace_rows(path, whole)
        writer = multiprocessing.get_context("fork").Process(target=_write_forever, args=(path,))
        writer.start()
        time.sleep(0.01 + 0.007 * turn)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        rows = read_rows(path)
        assert rows == whole.slice(0, rows.num_rows)
        assert rows.num_rows in (1, whole.num_rows)
        seen.add(rows.num_rows)
        with locked(path):
            pass  # the lock of the dead is free
    assert whole.num_rows in seen


def _apply(path: Path, project: Project, name: str, hour: int, go: Any) -> None:
    scheduler = SimulatedScheduler(path, untouched_cloud(project), lambda: NOW)
    wanted = order(name, groups=[group(hour)])
    shown = scheduler.preview(wanted)
    go.wait()
    for _ in range(3):
        scheduler.apply(wanted, shown)


def test_several_processes_at_once_lose_nothing(project: Project) -> None:
    path = placements_path(project.root)
    untouched_cloud(project)
    context = multiprocessing.get_context("fork")
    go = context.Event()
    hours = range(5, 11)
    workers = [context.Process(target=_apply, args=(path, project, f"i-{h // 2}", h // 2 * 2 + 1, go)) for h in hours]
    for worker in workers:
        worker.start()
    time.sleep(0.3)
    go.set()
    for worker in workers:
        worker.join(30)
    assert [w.exitcode for w in workers] == [0] * 6
    rows = read_rows(path)
    assert rows.schema == FILE_SCHEMA
    assert sorted(rows["intent_id"].to_pylist()) == ["i-2", "i-3", "i-4", "i-5"]
    assert sorted(rows["position"].to_pylist()) == [0, 1, 2, 3]
