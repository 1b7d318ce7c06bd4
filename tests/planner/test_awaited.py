"""What others wait for is not put off and not made slower, whatever that would save."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from plans import DAY
from test_planner_daily import HOME, around, forecast, groups, only, planned

from sust_dagster.agents.planner.awaited import awaited, not_put_off
from sust_dagster.agents.planner.options import OptionRules
from sust_dagster.agents.planner.upcoming import WORKLOADS
from sust_dagster.world.schemas import UPCOMING_JOBS

NIGHT = {"category": "sustainable", "allowed_regions": HOME, "workload_id": "extract"}


def falling() -> pa.Table:
    """One region whose hours get cleaner and cleaner: every job that may wait waits."""
    made = forecast({HOME: 0.4})
    names = [n for n in made.column_names if n.startswith("intensity_")]
    down = pa.array([1.0 - 0.01 * h for h in range(made.num_rows)])
    for name in names:
        column = pc.multiply(made.column(name), down)
        made = made.set_column(made.column_names.index(name), made.schema.field(name), column)
    return made


def test_who_waits_for_whom() -> None:
    register = pa.Table.from_pylist(
        [
            {"workload_id": "report", "depends_on": "extract, ledger,extract"},
            {"workload_id": "audit", "depends_on": "ledger,, audit"},
            {"workload_id": "extract"},
        ],
        WORKLOADS,
    )
    assert awaited(register) == {"extract": ("report",), "ledger": ("audit", "report")}
    assert awaited(WORKLOADS.empty_table()) == {}


def test_what_others_wait_for_is_not_put_off() -> None:
    jobs = groups(NIGHT)
    assert only(planned(jobs, falling()))["action_type"] == "time_shift", "the control: nobody waits"
    held = planned(jobs, falling(), world=around(awaited=frozenset({"extract"})))
    assert held.recommended.recommendations.num_rows == 0


def test_what_waits_may_be_put_off() -> None:
    report = {**NIGHT, "workload_id": "report", "depends_on": "extract@9", "requested_start": DAY + timedelta(hours=12)}
    jobs = groups({**NIGHT, "job_id": "extract@9"}, report)
    row = only(planned(jobs, falling(), world=around(awaited=frozenset({"extract"}))))
    assert (row["workload_id"], row["action_type"]) == ("report", "time_shift")


def test_what_others_wait_for_may_move() -> None:
    jobs = groups({"category": "sustainable", "workload_id": "extract"})
    made = planned(jobs, world=around(awaited=frozenset({"extract"})))
    assert only(made)["action_type"] == "region_shift"
    assert set(made.recommended.placements.column("start").to_pylist()) == {DAY + timedelta(hours=9)}


@pytest.mark.parametrize(
    ("given", "action"),
    [
        ({"utilisation_p95": 0.2, "instance_type": "c5.xlarge"}, "right_size"),
        ({"spot_tolerant": True}, "spot_convert"),
    ],
)
def test_what_others_wait_for_gets_nothing_that_may_slow_it(given: dict[str, Any], action: str) -> None:
    spot = pa.table({"region": [HOME], "price_share": [0.3], "interruption_per_hour": [0.01]})
    jobs = groups({**NIGHT, **given})
    world = around(spot=spot)
    changes = {"options": OptionRules(halvable=frozenset({"c5.xlarge"}))}
    free = planned(jobs, world=world, **changes).recommended.recommendations.column("action_type").to_pylist()
    if not free:  # min-carbon gains nothing from spot: it is chosen where money counts
        from sust_dagster.agents.planner.problem import Objective

        changes["objective"] = Objective.effective_cost(75.0)
        free = planned(jobs, world=world, **changes).recommended.recommendations.column("action_type").to_pylist()
    assert free == [action], "the control: nobody waits"
    held = planned(jobs, world=around(spot=spot, awaited=frozenset({"extract"})), **changes)
    assert held.recommended.recommendations.num_rows == 0


def test_a_stated_delay_of_others_stays() -> None:
    table = groups({"workload_id": "extract", "max_delay_hours": 6.0}, {"workload_id": "other", "max_delay_hours": 6.0})
    held = not_put_off(table, {"extract"})
    assert dict(zip(*(held.column(c).to_pylist() for c in ("workload_id", "max_delay_hours")), strict=True)) == {
        "extract": 0.0,
        "other": 6.0,
    }
    assert held.schema.equals(UPCOMING_JOBS.arrow)
    assert not_put_off(table, ()).equals(table)
