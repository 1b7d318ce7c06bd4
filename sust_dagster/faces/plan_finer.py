"""What starts at any moment, and runs that may be suspended, would save beside the plan of whole hours.

Belongs here: the second file of `sust plan --finer` and its summary. Does not belong here: how the best start or the
cheapest hours are found (``agents.planner.finer``), the plan itself (``faces.plan``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sust_dagster.agents.planner.finer import any_start, suspended
from sust_dagster.agents.planner.jobs import HOUR_US
from sust_dagster.agents.planner.kernels import NOWHERE
from sust_dagster.agents.planner.problem import Floats, Ints
from sust_dagster.connectors.plans import PlanFileError
from sust_dagster.faces.plan_summary import Made
from sust_dagster.faces.simulate import replaced
from sust_dagster.world.schemas import TIMESTAMP

#: One row per job and unbroken piece of its run, by mode.
PIECES = pa.schema(
    [
        pa.field("mode", pa.string(), nullable=False),
        pa.field("job_id", pa.string(), nullable=False),
        pa.field("region", pa.string(), nullable=False),
        pa.field("start", TIMESTAMP, nullable=False),
        pa.field("hours_run", pa.float64(), nullable=False),
    ]
)


def write_finer(made: Made, path: Path) -> dict[str, Any]:
    """Write the pieces of both modes to ``path``; what each would save, for the summary.

    Jobs that no limit couples, each at its best alone. Raises :class:`PlanFileError` where limits couple them.
    """
    problem, objective = made.choice.problem, made.choice.objective
    if problem.coupled:
        fix = "leave out --finer, or --capacity, --max-cost-increase, --egress-budget, --share-cap and depends_on"
        raise PlanFileError("--finer looks at each job alone, and limits couple these", file=str(path), fix=fix)
    before = np.where(made.choice.planned, made.choice.before.score(objective), np.nan)
    moment, parts = any_start(problem, objective), suspended(problem, objective)
    alone = np.flatnonzero(moment.region != NOWHERE)
    starts = _rows("any_start", made, alone, moment.region[alone], moment.start_hours[alone])
    starts = starts.append_column(PIECES.field("hours_run"), pa.array(problem.duration_hours[alone]))
    with replaced(path) as part:
        pq.write_table(pa.concat_tables([starts, _pieces(made, parts.region, parts.job, parts.hour, parts.hours_run)]),
                       part, compression="zstd", store_schema=False)  # fmt: skip
    unit = "kg" if objective.name == "min-carbon" else "usd"
    return {
        "finer": {
            "file": str(path),
            f"score_before_{unit}": float(np.nansum(before[made.counted])),
            f"whole_hours_{unit}": made.after.score,
            f"any_start_{unit}": _sum(moment.score, moment.region, before, made),
            f"suspended_{unit}": _sum(parts.score, parts.region, before, made),
        }
    }


def _sum(score: Floats, region: Ints, before: Floats, made: Made) -> float:
    """Sum over what is counted; a job without a place, or with none better than now, stays."""
    return float(np.nansum(np.fmin(np.where(region == NOWHERE, np.inf, score), before)[made.counted]))


def _pieces(made: Made, region: Ints, job: Ints, hour: Ints, hours_run: Floats) -> pa.Table:
    """The hours of each suspended run as unbroken pieces: a part of an hour lies where it joins the next.

    A first hour that runs in part ends with it, a later one begins with it; which, nothing costs.
    """
    problem = made.choice.problem
    first = np.maximum(problem.start_hours[job], hour)
    begins = np.ones(len(job), bool)
    begins[1:] = (job[1:] != job[:-1]) | (hour[1:] != hour[:-1] + 1)
    ends = np.append(begins[1:], True)
    # An hour run in part is run towards its neighbour: late where the piece begins, early where it ends.
    start = np.where(begins & ~ends, hour + 1.0 - hours_run, first)
    broken = ~begins & (np.append(0.0, (start + hours_run)[:-1]) < start - 1e-9)
    begins |= broken
    group = np.cumsum(begins) - 1
    lead = np.flatnonzero(begins)
    rows = _rows("suspended", made, job[lead], region[job[lead]], start[lead])
    total = np.bincount(group, hours_run, minlength=len(lead)) if len(lead) else np.zeros(0)
    return rows.append_column(PIECES.field("hours_run"), pa.array(total))


def _rows(mode: str, made: Made, job: Ints, region: Ints, start_hours: Floats) -> pa.Table:
    found, problem = made.loaded.found, made.choice.problem
    delay_us = np.rint((start_hours - problem.start_hours[job]) * HOUR_US).astype(np.int64)
    at = found.jobs.start_us[found.rows[job]] + delay_us
    names = pa.array(problem.regions)
    columns = [
        pa.array([mode] * len(job), pa.string()),
        found.jobs.ids.take(pa.array(found.rows[job])).cast(pa.string()),
        names.take(pa.array(region)).cast(pa.string()),
        pa.array(at).cast(TIMESTAMP),
    ]
    return pa.table(columns, schema=pa.schema(list(PIECES)[:4]))
