"""Workloads that others wait for: they start when asked for and take as long as they take.

Belongs here: who waits for whom, from the register of workloads, and what follows for a day's plan. Does not belong
here: the order of single jobs that a plan knows (``candidates``, ``core``).

People approve a change workload by workload, and a run's length is known when it has ended. So no plan can promise that
B, put off together with A, still comes after it: A's change may be approved and B's rejected, A may run long, B may be
asked for on a day that is not planned yet. What can be promised whatever happens: A is never put off and never made
slower (no smaller size, no spot), and B is never pulled forward. Then each result is there when it would have been. A
may still move: a region changes no run's length.
"""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.planner.problem import Flags


def awaited(register: pa.Table) -> dict[str, tuple[str, ...]]:
    """Workloads that others depend on, each with those that wait for it, from ``workload_id`` and ``depends_on``.

    ``depends_on`` is a comma-joined list of workload ids; a workload that names itself waits for nobody.
    """
    found: dict[str, list[str]] = {}
    stated = register.filter(pc.is_valid(register.column("depends_on")))
    for row in stated.select(["workload_id", "depends_on"]).sort_by("workload_id").to_pylist():
        for name in dict.fromkeys(part.strip() for part in row["depends_on"].split(",")):
            if name and name != row["workload_id"]:
                found.setdefault(name, []).append(row["workload_id"])
    return {name: tuple(waiting) for name, waiting in sorted(found.items())}


def not_put_off(groups: pa.Table, names: Collection[str]) -> pa.Table:
    """``groups`` (UPCOMING_JOBS) with a longest delay of 0 h for those of the named workloads."""
    if not names:
        return groups
    at = groups.column_names.index("max_delay_hours")
    field = groups.schema.field(at)
    hold = pc.is_in(groups.column("workload_id"), value_set=pa.array(sorted(names), pa.string()))
    return groups.set_column(at, field, pc.if_else(hold, pa.scalar(0.0, field.type), groups.column(at)))


def among(groups: pa.Table, names: Collection[str]) -> Flags:
    """Which groups are of the named workloads."""
    found = pc.is_in(groups.column("workload_id"), value_set=pa.array(sorted(names), pa.string()))
    return found.to_numpy(zero_copy_only=False)
