"""Which metered usage belongs to an executed change, and where and when it would have run without it.

Belongs here: joining placements that took effect, the scheduler's record of what was asked for, and the accounted
usage, into the tables of ``inputs``. Does not belong here: reading them, any saving.

Nothing here is taken from the plan but which groups it moved and by how much it scaled them: the time a run was asked
for and the region it was at home in are the scheduler's, its energy and its price are the bill's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.factors import FactorSet
from sust_dagster.agents.accountant.lookups import place_lookup
from sust_dagster.agents.accountant.methods import method as method_of
from sust_dagster.agents.verifier.inputs import LEAKAGE_SCHEMA, SLICE_SCHEMA
from sust_dagster.world.schemas import TIMESTAMP

_TEXT, _FLOAT = pa.string(), pa.float64()

#: Groups that an executed change placed: a workload's runs asked for within one hour.
MOVE_SCHEMA = pa.schema(
    [
        pa.field("outcome_id", _TEXT, nullable=False),
        pa.field("workload_id", _TEXT, nullable=False),
        pa.field("requested_hour", TIMESTAMP, nullable=False),
        pa.field("home_region", _TEXT, nullable=False),
        pa.field("vcpus_scale", _FLOAT, nullable=False),
    ]
)

#: Groups as a done intent names them: ``group`` is their id in the frozen plan of the recommendation.
PLACED_SCHEMA = pa.schema(
    [
        pa.field("outcome_id", _TEXT, nullable=False),
        pa.field("recommendation_id", _TEXT, nullable=False),
        pa.field("group", _TEXT, nullable=False),
        pa.field("workload_id", _TEXT, nullable=False),
        pa.field("requested_hour", TIMESTAMP, nullable=False),
        pa.field("vcpus_scale", _FLOAT, nullable=False),
    ]
)

#: Home region of a group that no frozen plan names; no run is at home there, so its runs are ambiguous.
UNKNOWN_REGION = "unknown"

#: The scheduler's own record of each run: when it was asked for, and where it runs when nobody places it.
REQUEST_SCHEMA = pa.schema(
    [
        pa.field("job_id", _TEXT, nullable=False),
        pa.field("workload_id", _TEXT, nullable=False),
        pa.field("requested_at", TIMESTAMP, nullable=False),
        pa.field("home_region", _TEXT, nullable=False),
    ]
)

#: Columns of the ledger and of the emissions that are read here, by activity.
LEDGER_COLUMNS = ("activity_id", "job_id", "instance_type", "usage_hours", "vcpus")
EMISSIONS_COLUMNS = (
    "activity_id", "job_id", "workload_id", "cloud_provider", "region", "resource_type", "started_at", "ended_at",
    "energy_kwh", "pue", "kg_location", "cost_usd", "power_factor_key", "provider_pue_factor_key",
    "region_pue_factor_key", "quality",
)  # fmt: skip
#: Columns of the emissions that tell when a run ran.
SPAN_COLUMNS = ("job_id", "started_at", "ended_at", "resource_type", "quality")

#: Why a component of leakage that is not metered apart is zero.
ZERO_LEAKAGE = {
    "egress": "nothing was billed for leaving the region",
    "retries": "a run that was interrupted goes on under its own id: its repeated hours are in its usage",
    "warm_up": "start and warm-up are billed hours of the run and in its usage",
    "duplicated_storage": "data goes with each run; no copy is kept, none is billed",
}


@dataclass(frozen=True)
class Moved:
    """Inputs of a verification, and what was found on the way."""

    slices: pa.Table
    """SLICE_SCHEMA."""
    leakage: pa.Table
    """LEAKAGE_SCHEMA: every component of every outcome, with a number or the reason why it is zero."""
    runs: pa.Table
    """One row per outcome and run: outcome_id, run_id, workload_id, requested_at, home_region, planned_home_region,
    started_at, ended_at (null where no usage is known), region, shift_us."""
    usage: pa.Table
    """The usage behind the slices: outcome_id, run_id, activity_id, instance_type, usage_hours, vcpus, cost_usd,
    original_at, home_region, resource_type, vcpus_scale."""
    egress: pa.Table
    """What was billed for leaving a region: outcome_id, run_id, activity_id, billed_usd."""


def moves_of(placed: pa.Table, homes: pa.Table) -> pa.Table:
    """``placed`` (PLACED_SCHEMA) as MOVE_SCHEMA, in the same order, with the home region the frozen plan names.

    ``homes``: recommendation_id, job_id (the group), home_region; a group it does not hold is at UNKNOWN_REGION.
    """
    named = homes.select(["recommendation_id", "job_id", "home_region"]).to_pandas().rename(columns={"job_id": "group"})
    named = named.drop_duplicates(["recommendation_id", "group"], keep="last")
    found = placed.to_pandas().merge(named, "left", ["recommendation_id", "group"])
    found["home_region"] = found["home_region"].astype(object).where(found["home_region"].notna(), UNKNOWN_REGION)
    return pa.Table.from_pandas(found[MOVE_SCHEMA.names], MOVE_SCHEMA, preserve_index=False)


def places_of(factors: FactorSet, method: str, pairs: Iterable[tuple[str, str]]) -> pa.Table:
    """PUE and its factor keys by (provider, region), as the accountant's method has them."""
    places = sorted(set(pairs))
    found = place_lookup(factors, method_of(method), places)
    return pa.table(
        {
            "cloud_provider": pa.array([p for p, _ in places], _TEXT),
            "home_region": pa.array([r for _, r in places], _TEXT),
            "pue_before": pa.array(found.pue, _FLOAT, from_pandas=True),
            "provider_pue_factor_key_before": pa.array(found.provider_keys, _TEXT),
            "region_pue_factor_key_before": pa.array(found.region_keys, _TEXT),
        }
    )


def moved(moves: pa.Table, requests: pa.Table, ledger: pa.Table, emissions: pa.Table, places: pa.Table) -> Moved:
    """The runs of ``moves`` (MOVE_SCHEMA) with their usage, and the same usage where and when it was asked for.

    ``requests``: REQUEST_SCHEMA; ``ledger`` and ``emissions``: rows of the hours the runs may have run in, by the
    columns above; ``places``: :func:`places_of` the home regions. A run counts by the hour it was asked for; it keeps
    its shape: every slice is shifted by as much as the run was (``started_at`` of its first slice - ``requested_at``).
    Where the bill says only the hour a run began in, it is the hours that are compared.
    """
    asked = _requested(moves, requests)
    usage = _usage(asked, ledger, emissions)
    began = usage[usage["resource_type"] != "network"].groupby(["outcome_id", "run_id"], sort=True)
    spans = began.agg(started_at=("started_at", "min"), ended_at=("ended_at", "max"), region=("region", "first"))
    runs = asked.merge(spans.reset_index(), "left", ["outcome_id", "run_id"])
    runs["shift_us"] = _shift_us(runs["started_at"], runs["requested_at"])
    usage = usage.merge(runs[["outcome_id", "run_id", "shift_us", "requested_at"]], "left", ["outcome_id", "run_id"])
    usage = usage.merge(places.to_pandas(), "left", ["cloud_provider", "home_region"])
    usage = usage.sort_values(["outcome_id", "run_id", "started_at", "activity_id"], kind="stable")
    compute = usage[usage["resource_type"] != "network"]
    slices = pd.DataFrame(
        {
            **{n: compute[n] for n in ("outcome_id", "run_id", "started_at", "ended_at", "energy_kwh", "shift_us")},
            "region_before": compute["home_region"],
            "region_after": compute["region"],
            "pue_before": compute["pue_before"],
            "pue_after": compute["pue"],
            **{n: compute[n] for n in _KEYS_AFTER},
            "power_factor_key_before": None,
            **{n: compute[n] for n in ("provider_pue_factor_key_before", "region_pue_factor_key_before")},
            "energy_ratio": 1.0 / compute["vcpus_scale"],
            "ratio_factor_key": None,
            "kg_location": compute["kg_location"],
        }
    )
    outcomes = moves.column("outcome_id").unique().to_pylist()
    network = usage[usage["resource_type"] == "network"]
    compute = compute.assign(original_at=compute["started_at"] - pd.to_timedelta(compute["shift_us"], "us"))
    return Moved(
        slices=pa.Table.from_pandas(slices, SLICE_SCHEMA, preserve_index=False),
        leakage=_leakage(network, sorted(outcomes)),
        runs=pa.Table.from_pandas(runs.sort_values(["outcome_id", "run_id"]), preserve_index=False),
        usage=pa.Table.from_pandas(compute[list(_USAGE)], preserve_index=False),
        egress=pa.Table.from_pandas(
            network.rename(columns={"cost_usd": "billed_usd"})[list(_EGRESS)], preserve_index=False
        ),
    )


def spans(requests: pa.Table, emissions: pa.Table) -> pa.Table:
    """When each of ``requests`` (REQUEST_SCHEMA) ran, moved or not, in their order.

    ``emissions``: SPAN_COLUMNS. Columns: run_id, workload_id, requested_at,
    started_at, ended_at (null where no usage is known), shift_us as in :func:`moved`.
    """
    wanted = requests["job_id"].combine_chunks().cast(_TEXT)
    own = emissions.filter(pc.is_in(emissions["job_id"].cast(_TEXT), wanted))
    metered = pc.and_not(
        pc.not_equal(own["resource_type"].cast(_TEXT), "network"),
        pc.match_substring(own["quality"].cast(_TEXT), "memory_in_vcpu"),
    )
    used = own.filter(metered).group_by("job_id").aggregate([("started_at", "min"), ("ended_at", "max")]).to_pandas()
    used = used.rename(columns={"job_id": "run_id", "started_at_min": "started_at", "ended_at_max": "ended_at"})
    asked = requests.select(["job_id", "workload_id", "requested_at"]).to_pandas().rename(columns={"job_id": "run_id"})
    runs = asked.merge(used, "left", "run_id")
    runs["shift_us"] = _shift_us(runs["started_at"], runs["requested_at"])
    return pa.Table.from_pandas(runs[_SPANS.names], _SPANS, preserve_index=False)


_SPANS = pa.schema(
    [
        ("run_id", _TEXT),
        ("workload_id", _TEXT),
        ("requested_at", TIMESTAMP),
        ("started_at", TIMESTAMP),
        ("ended_at", TIMESTAMP),
        ("shift_us", pa.int64()),
    ]
)


def factor_keys(runs: Moved) -> list[str]:
    """Every power, PUE and leakage factor that the inputs name, sorted."""
    columns = [runs.slices.column(n) for n in runs.slices.column_names if "factor_key" in n]
    columns.append(runs.leakage.column("factor_key"))
    return sorted({name for column in columns for name in pc.unique(column).to_pylist() if name is not None})


_KEYS_AFTER = ("power_factor_key", "provider_pue_factor_key", "region_pue_factor_key")
_USAGE = (
    "outcome_id", "run_id", "activity_id", "instance_type", "usage_hours", "vcpus", "cost_usd", "original_at",
    "home_region", "resource_type", "vcpus_scale",
)  # fmt: skip
_EGRESS = ("outcome_id", "run_id", "activity_id", "billed_usd")


def _requested(moves: pa.Table, requests: pa.Table) -> pd.DataFrame:
    """The runs of each outcome, as the scheduler knows them; twice where two changes claim one run."""
    hour = pc.floor_temporal(requests.column("requested_at"), unit="hour")
    told = requests.append_column("requested_hour", hour.cast(TIMESTAMP)).to_pandas()
    wanted = moves.to_pandas().rename(columns={"home_region": "planned_home_region"})
    found = wanted.merge(told, "inner", ["workload_id", "requested_hour"]).rename(columns={"job_id": "run_id"})
    return found.drop_duplicates(["outcome_id", "run_id"]).drop(columns="requested_hour")


def _usage(asked: pd.DataFrame, ledger: pa.Table, emissions: pa.Table) -> pd.DataFrame:
    wanted = pa.array(asked["run_id"].unique(), _TEXT)
    known = emissions.select(list(EMISSIONS_COLUMNS)).filter(pc.is_in(emissions.column("job_id"), wanted)).to_pandas()
    billed = ledger.select(list(LEDGER_COLUMNS)).filter(pc.is_in(ledger.column("job_id"), wanted)).to_pandas()
    # Memory that is part of the vCPU's power has no energy of its own: it is in the run's other row.
    known = known[~known["quality"].str.contains("memory_in_vcpu", regex=False)].drop(columns="quality")
    rows = known.merge(billed.drop(columns="job_id"), "left", "activity_id")
    rows = rows.rename(columns={"job_id": "run_id"}).drop(columns="workload_id")
    return asked[["outcome_id", "run_id", "home_region", "vcpus_scale"]].merge(rows, "inner", "run_id")


def _leakage(network: pd.DataFrame, outcomes: list[str]) -> pa.Table:
    """Bytes that left because of the move, as energy at the meter of where they left; the rest with its reason."""
    rows = pd.DataFrame(
        {
            "outcome_id": network["outcome_id"],
            "component": "egress",
            "energy_kwh": network["energy_kwh"] * network["pue"],
            "region": network["region"],
            "at": network["started_at"],
            "kg": np.nan,
            "factor_key": network["power_factor_key"],
            "reason": None,
        }
    ).dropna(subset=["energy_kwh"])
    with_egress = set(rows["outcome_id"])
    zero = [
        {"outcome_id": outcome, "component": component, "reason": reason}
        for outcome in outcomes
        for component, reason in ZERO_LEAKAGE.items()
        if not (component == "egress" and outcome in with_egress)
    ]
    table = pa.Table.from_pandas(rows, LEAKAGE_SCHEMA, preserve_index=False)
    return pa.concat_tables([table, pa.Table.from_pylist(zero, LEAKAGE_SCHEMA)])


def _shift_us(started: pd.Series, requested: pd.Series) -> pd.Series:
    """Actual start - the one asked for; 0 where no usage is known."""
    hour = 3_600_000_000
    begun, asked = _micros(started), _micros(requested)
    asked = asked.where(begun % hour != 0, asked // hour * hour)
    return (begun - asked).where(started.notna(), 0)


def _micros(times: pd.Series) -> pd.Series:
    return times.astype("datetime64[us, UTC]").astype("int64")
