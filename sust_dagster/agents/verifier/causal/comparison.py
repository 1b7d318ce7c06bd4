"""Moved runs beside those that were left alone by lot: does moving make a run use more?

Belongs here: which runs are compared with which, and the usage ratio of each outcome. Does not belong here: the
estimate itself (``usage_ratio``), carbon, reading tables.

Runs are compared within their workload. The moved ones are those an executed change placed; the others are held out by
the draw (``world.holdout``), so that which is which was decided before anything was known of the run. A run counts when
it was asked for so long ago that it has ended wherever it was put: else only the short ones would be there. Energy is
compared per vCPU asked for: that half the vCPUs use half the energy is what the counterfactual of a smaller run takes
for granted, and what is measured here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.factors import NamedFactor
from sust_dagster.agents.verifier.causal.holdout import balance
from sust_dagster.agents.verifier.causal.usage_ratio import USAGE_RATIOS, usage_ratio
from sust_dagster.agents.verifier.sensitivity import lognormal_factor
from sust_dagster.world.holdout import held_out
from sust_dagster.world.schemas import BOOL, FLOAT, STRING, TIMESTAMP

#: Prior of ln(ratio) by kind of pool: normal around 0 with this standard deviation. Assumptions, not findings: before
#: any run was compared, 95 % of moves that keep the size are taken to change a run's energy by less than about 10 %,
#: of those that change it by less than about 20 %. With comparisons they lose their weight.
PRIOR_LOG_SD = {"same_size": 0.05, "resized": 0.10}

#: One row per run that is compared, or will be once it has ended (``energy_kwh`` null until then).
COMPARED = pa.schema(
    [
        ("run_id", STRING),
        ("pool", STRING),
        ("workload_id", STRING),
        ("requested_hour", TIMESTAMP),
        ("moved", BOOL),
        ("vcpus_scale", FLOAT),
        ("energy_kwh", FLOAT),
    ]
)

#: Columns of the emissions that are read here.
USED = ("job_id", "resource_type", "quality", "energy_kwh", "started_at")

#: The pool of each outcome: workloads that a change resized that month are apart from the others.
POOLS = pa.schema([("outcome_id", STRING), ("pool", STRING)])


@dataclass(frozen=True)
class Comparison:
    """What was compared, and what came of it."""

    runs: pa.Table
    """:data:`COMPARED`, by run."""
    pools: pa.Table
    """:data:`POOLS`, by outcome."""
    ratios: pa.Table
    """``USAGE_RATIOS``, one row per pool: every pool of an outcome has one, measured or the prior's."""
    balance: pa.Table
    """``BALANCE``, one row: whether the draw was obeyed by the workloads that were moved."""
    hours: pa.Table
    """pool, hour: the hours of the emissions that hold the usage of its runs."""


def compare(
    moves: pa.Table,
    executed: pa.Table,
    requests: pa.Table,
    emissions: pa.Table,
    *,
    seed: int,
    share: float,
    ended_before: datetime,
) -> Comparison:
    """Compare moved runs with held-out ones, by month and kind of move.

    ``moves``: MOVE_SCHEMA. ``executed``: outcome_id, executed_at (its month is the outcome's).
    ``requests``: REQUEST_SCHEMA of the same time. ``emissions``: at least :data:`USED` of the hours the runs may have
    run in. ``seed``, ``share``: of the draw. Runs asked for from ``ended_before`` on may still run.
    A run that two changes claim is compared with nothing, for either.
    """
    placed = _placed(moves, executed)
    runs = _asked(requests)
    held = held_out(seed, runs["workload_id"], runs["requested_hour"], share)
    told = runs.to_pandas()
    told["month"] = told["requested_hour"].dt.strftime("%Y-%m")
    arms = pd.concat(
        [
            told.drop(columns="month").merge(placed, "inner", ["workload_id", "requested_hour"]).assign(moved=True),
            told[held].assign(moved=False, vcpus_scale=1.0),
        ]
    )
    arms = arms[~arms.duplicated("run_id", keep=False)]
    resized = set(placed.loc[placed["vcpus_scale"] != 1.0, ["workload_id", "month"]].itertuples(index=False, name=None))
    arms["pool"] = _pools(arms, resized)
    used = emissions.filter(pc.is_in(emissions["job_id"], pa.array(arms["run_id"], STRING)))
    arms = arms.merge(energy_by_run(used).to_pandas(), "left", "run_id").sort_values("run_id", kind="stable")
    arms.loc[arms["requested_hour"] >= pd.Timestamp(ended_before), "energy_kwh"] = np.nan
    compared = pa.Table.from_pandas(arms[COMPARED.names], COMPARED, preserve_index=False)
    by_outcome = placed.drop_duplicates("outcome_id").sort_values("outcome_id")
    pools = pa.table(
        {
            "outcome_id": pa.array(by_outcome["outcome_id"], STRING),
            "pool": pa.array(_pools(by_outcome, resized), STRING),
        }
    )
    obeyed = balance(_groups(told, placed), seed=seed, share=share)
    return Comparison(compared, pools, ratios_of(compared), obeyed, _hours(compared, used))


def ratios_of(compared: pa.Table) -> pa.Table:
    """The usage ratio of each pool of :data:`COMPARED` rows: schema ``USAGE_RATIOS``, in order of the pools.

    The measure is energy per vCPU asked for, ``energy_kwh / vcpus_scale``; strata are workloads, clusters the draws
    (workload and hour).
    """
    hour = pc.cast(pc.cast(compared["requested_hour"], pa.int64()), STRING)
    runs = pa.table(
        {
            "pool": compared["pool"],
            "stratum": compared["workload_id"],
            "cluster": pc.binary_join_element_wise(compared["workload_id"], hour, "\x1f"),
            "moved": compared["moved"],
            "energy_kwh": pc.divide(compared["energy_kwh"], compared["vcpus_scale"]),
        }
    )
    found = [
        usage_ratio(runs.filter(pc.starts_with(runs["pool"], f"{kind}/")), prior_log_sd=prior)
        for kind, prior in PRIOR_LOG_SD.items()
    ]
    return pa.concat_tables(found, promote_options="none").cast(USAGE_RATIOS).sort_by("pool")


def with_usage_ratio(slices: pa.Table, comparison: Comparison) -> pa.Table:
    """SLICE_SCHEMA rows whose counterfactual energy is divided by the usage ratio of their outcome's pool.

    ``energy_ratio`` becomes itself over the ratio, and ``ratio_factor_key`` names the pool's factor.
    """
    at = pc.index_in(slices["outcome_id"], comparison.pools["outcome_id"].combine_chunks())
    pool = comparison.pools["pool"].combine_chunks().take(at.combine_chunks())
    row = pc.index_in(pool, comparison.ratios["pool"].combine_chunks())
    ratio = comparison.ratios["ratio"].combine_chunks().take(row)
    key = comparison.ratios["factor_key"].combine_chunks().take(row)
    names = slices.column_names
    changed = slices.set_column(
        names.index("energy_ratio"), slices.field("energy_ratio"), pc.divide(slices["energy_ratio"], ratio)
    )
    return changed.set_column(names.index("ratio_factor_key"), slices.field("ratio_factor_key"), key)


def usage_factors(comparison: Comparison) -> dict[str, NamedFactor]:
    """The named factor of each pool's ratio: its error is shared by every outcome of the pool."""
    keys, spreads = (comparison.ratios[name].to_pylist() for name in ("factor_key", "log_sd"))
    return {key: lognormal_factor(key, sd) for key, sd in zip(keys, spreads, strict=True)}


def energy_by_run(emissions: pa.Table) -> pa.Table:
    """IT energy of each job of EMISSIONS rows, without network and memory that is in the vCPUs': run_id, energy_kwh."""
    own = pc.and_(
        pc.not_equal(emissions["resource_type"], "network"),
        pc.invert(pc.match_substring(emissions["quality"], "memory_in_vcpu")),
    )
    rows = emissions.filter(own).select(["job_id", "energy_kwh"])
    summed = rows.group_by("job_id", use_threads=False).aggregate(
        [("energy_kwh", "sum", pc.ScalarAggregateOptions(skip_nulls=False))]
    )
    return pa.table({"run_id": pc.cast(summed["job_id"], STRING), "energy_kwh": summed["energy_kwh_sum"]})


def _asked(requests: pa.Table) -> pa.Table:
    hour = pc.cast(pc.floor_temporal(requests["requested_at"], unit="hour"), TIMESTAMP)
    return pa.table({"run_id": requests["job_id"], "workload_id": requests["workload_id"], "requested_hour": hour})


def _placed(moves: pa.Table, executed: pa.Table) -> pd.DataFrame:
    """outcome_id, workload_id, requested_hour, vcpus_scale, month of execution."""
    days = executed.select(["outcome_id", "executed_at"]).to_pandas()
    placed = moves.select(["outcome_id", "workload_id", "requested_hour", "vcpus_scale"]).to_pandas()
    placed = placed.merge(days, "inner", "outcome_id")
    placed["month"] = placed.pop("executed_at").dt.strftime("%Y-%m")
    return placed.drop_duplicates(["outcome_id", "workload_id", "requested_hour"])


def _hours(compared: pa.Table, used: pa.Table) -> pa.Table:
    """The hours that hold rows of the runs whose energy is compared, by pool."""
    known = compared.filter(compared["energy_kwh"].is_valid())
    at = pc.index_in(pc.cast(used["job_id"], STRING), known["run_id"].combine_chunks()).combine_chunks()
    hour = pc.cast(pc.floor_temporal(used["started_at"], unit="hour"), TIMESTAMP)
    rows = pa.table({"pool": known["pool"].combine_chunks().take(at), "hour": hour}).filter(at.is_valid())
    return rows.group_by(["pool", "hour"]).aggregate([]).sort_by([("pool", "ascending"), ("hour", "ascending")])


def _groups(told: pd.DataFrame, placed: pd.DataFrame) -> pa.Table:
    """The groups of workloads that were moved, and which of them were: a draw is obeyed by workload and hour."""
    keys = ["workload_id", "requested_hour"]
    groups = told[told["workload_id"].isin(placed["workload_id"].unique())].drop_duplicates(keys)
    moved = pd.MultiIndex.from_frame(groups[keys]).isin(pd.MultiIndex.from_frame(placed[keys]))
    return pa.table(
        {
            "job_id": pa.array(groups["run_id"], STRING),
            "workload_id": pa.array(groups["workload_id"], STRING),
            "requested_start": pa.array(groups["requested_hour"], TIMESTAMP),
            "eligible": np.ones(len(groups), bool),
            "moved": moved,
        }
    )


def _pools(rows: pd.DataFrame, resized: set[tuple[str, str]]) -> pd.Series:
    """``<kind>/<month>`` by workload and month."""
    own = pd.MultiIndex.from_frame(rows[["workload_id", "month"]])
    apart = own.isin(list(resized)) if resized else np.zeros(len(rows), bool)
    return pd.Series(np.where(apart, "resized/", "same_size/"), rows.index, dtype="object") + rows["month"]
