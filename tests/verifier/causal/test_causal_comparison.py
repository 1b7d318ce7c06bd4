"""Who is compared with whom: the draw decides, months and sizes are apart, and the ratio reaches the slices."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from sust_dagster.agents.verifier.causal.comparison import (
    COMPARED,
    PRIOR_LOG_SD,
    Comparison,
    compare,
    energy_by_run,
    ratios_of,
    with_usage_ratio,
)
from sust_dagster.agents.verifier.causal.usage_ratio import USAGE_RATIOS
from sust_dagster.agents.verifier.inputs import SLICE_SCHEMA
from sust_dagster.agents.verifier.runs import MOVE_SCHEMA, REQUEST_SCHEMA
from sust_dagster.world.holdout import held_out
from sust_dagster.world.schemas import TIMESTAMP

START = datetime(2026, 3, 1, tzinfo=UTC)
SEED, SHARE = 7, 0.1


class Fleet:
    """Workloads that run every hour; what is not held out is moved, one outcome per workload and day."""

    def __init__(self, *, ratio: float = 1.0, workloads: int = 12, days: int = 20, scale: float = 1.0) -> None:
        random = np.random.default_rng(3)
        hours = days * 24
        names = np.repeat([f"w{i:02d}" for i in range(workloads)], hours)
        at = [START + timedelta(hours=int(h), minutes=7) for h in np.tile(np.arange(hours), workloads)]
        self.requests = pa.table(
            {
                "job_id": [f"{w}-{t:%m%d%H}" for w, t in zip(names, at, strict=True)],
                "workload_id": names,
                "requested_at": pa.array(at, TIMESTAMP),
                "home_region": ["us-east-1"] * len(at),
            },
            schema=REQUEST_SCHEMA,
        )
        hour = pc.cast(pc.floor_temporal(self.requests["requested_at"], unit="hour"), TIMESTAMP)
        self.held = held_out(SEED, self.requests["workload_id"], hour, SHARE)
        moved = ~self.held
        size = np.exp(random.normal(0, 1, workloads))[np.repeat(np.arange(workloads), hours)]
        energy = size * np.exp(random.normal(0, 0.2, len(at))) * np.where(moved, ratio * scale, 1.0)
        self.emissions = pa.table(
            {
                "job_id": self.requests["job_id"],
                "resource_type": ["compute"] * len(at),
                "quality": [""] * len(at),
                "energy_kwh": energy,
                "started_at": pa.array([t + timedelta(hours=5) for t in at], TIMESTAMP),
            }
        )
        outcome = np.array([f"{w}/{t:%m-%d}" for w, t in zip(names, at, strict=True)])
        self.moves = pa.table(
            {
                "outcome_id": outcome[moved],
                "workload_id": names[moved],
                "requested_hour": hour.filter(pa.array(moved)),
                "home_region": ["us-east-1"] * int(moved.sum()),
                "vcpus_scale": np.full(int(moved.sum()), scale),
            },
            schema=MOVE_SCHEMA,
        )
        ids, first = np.unique(outcome, return_index=True)
        self.executed = pa.table(
            {"outcome_id": ids, "executed_at": pa.array([at[i].replace(hour=0, minute=0) for i in first], TIMESTAMP)}
        )

    def compare(self, **other) -> Comparison:
        given = {
            "moves": self.moves, "executed": self.executed, "requests": self.requests, "emissions": self.emissions,
            "seed": SEED, "share": SHARE, "ended_before": START + timedelta(days=365),
        } | other  # fmt: skip
        return compare(
            given.pop("moves"), given.pop("executed"), given.pop("requests"), given.pop("emissions"), **given
        )


def test_a_hungrier_move_is_measured_and_an_idle_one_is_not():
    found, none = (Fleet(ratio=r).compare().ratios.to_pylist()[0] for r in (1.1, 1.0))
    assert found["pool"] == "same_size/2026-03" and found["reason"] is None
    assert abs(found["log_ratio"] - np.log(1.1)) < 3 * found["log_se"] < 0.05
    # Negative control: a move that changes nothing is not found to.
    assert abs(none["log_ratio"]) < 3 * none["log_se"]
    assert none["prior_log_sd"] == PRIOR_LOG_SD["same_size"]


def test_only_the_draw_makes_a_run_a_comparison():
    """What nobody planned is left alone for a reason, and that reason may be its energy."""
    fleet = Fleet()
    energy = fleet.emissions["energy_kwh"].to_numpy()
    level = np.array([np.median(energy[fleet.requests["workload_id"].to_numpy() == w]) for w in
                      fleet.requests["workload_id"].to_pylist()])  # fmt: skip
    big = energy > level
    # The planner moves the big runs alone; small ones that were not drawn stay as well.
    moved = dict(zip(fleet.requests["job_id"].to_pylist(), (big & ~fleet.held).tolist(), strict=True))
    hour = pc.floor_temporal(fleet.requests["requested_at"], unit="hour").to_pylist()
    name = {(w, h): moved[j] for w, h, j in zip(fleet.requests["workload_id"].to_pylist(), hour, moved, strict=True)}
    kept = [name[w, h] for w, h in zip(fleet.moves["workload_id"].to_pylist(),
                                       fleet.moves["requested_hour"].to_pylist(), strict=True)]  # fmt: skip
    found = fleet.compare(moves=fleet.moves.filter(pa.array(kept)))
    arms = {r["run_id"]: r["moved"] for r in found.runs.to_pylist()}
    held = set(fleet.requests["job_id"].filter(pa.array(fleet.held)).to_pylist())
    assert {run for run, went in arms.items() if not went} == held
    assert {run for run, went in arms.items() if went} == {run for run, went in moved.items() if went}


def test_months_and_sizes_are_apart_and_a_resized_run_is_compared_per_vcpu():
    long = Fleet(days=36, workloads=4)
    assert long.compare().ratios["pool"].to_pylist() == ["same_size/2026-03", "same_size/2026-04"]
    half = Fleet(ratio=1.2, scale=0.5).compare().ratios.to_pylist()[0]
    assert half["pool"] == "resized/2026-03" and half["prior_log_sd"] == PRIOR_LOG_SD["resized"]
    assert abs(half["log_ratio"] - np.log(1.2)) < 3 * half["log_se"]
    # One resized day takes the whole workload's month with it, so that no run is in two pools.
    fleet = Fleet(workloads=3)
    scale = np.where(pc.equal(fleet.moves["outcome_id"], "w01/03-05"), 0.5, 1.0)
    mixed = fleet.compare(moves=fleet.moves.set_column(4, MOVE_SCHEMA.field("vcpus_scale"), pa.array(scale)))
    assert {r["workload_id"]: r["pool"] for r in mixed.runs.to_pylist()} == {
        "w00": "same_size/2026-03", "w01": "resized/2026-03", "w02": "same_size/2026-03",
    }  # fmt: skip
    assert set(mixed.pools.filter(pc.starts_with(mixed.pools["outcome_id"], "w01"))["pool"].to_pylist()) == {
        "resized/2026-03"
    }


def test_runs_that_may_not_have_ended_are_known_but_not_counted():
    fleet = Fleet()
    cut = START + timedelta(days=10)
    found = fleet.compare(ended_before=cut)
    for row in found.runs.to_pylist():
        assert (row["energy_kwh"] is None) == (row["requested_hour"] >= cut)
    row = found.ratios.to_pylist()[0]
    assert row["runs_left_out"] == sum(r["energy_kwh"] is None for r in found.runs.to_pylist())
    nothing = fleet.compare(ended_before=START).ratios.to_pylist()[0]
    assert (nothing["ratio"], nothing["log_sd"]) == (1.0, PRIOR_LOG_SD["same_size"])
    assert nothing["reason"].startswith("too_few_clusters")
    # The hours named are those of the rows that were used.
    hours = found.hours["hour"].to_pylist()
    assert hours[0] >= START + timedelta(hours=5) and hours[-1] < cut + timedelta(hours=5)
    assert set(found.hours["pool"].to_pylist()) == {"same_size/2026-03"}


def test_a_run_that_two_changes_claim_is_compared_with_nothing():
    fleet = Fleet(workloads=3)
    twice = fleet.moves.slice(0, 1).set_column(0, MOVE_SCHEMA.field("outcome_id"), pa.array(["w00/03-02"]))
    found = fleet.compare(moves=pa.concat_tables([fleet.moves, twice]))
    whole = fleet.compare().runs["run_id"].to_pylist()
    assert set(whole) - set(found.runs["run_id"].to_pylist()) == {"w00-030100"} or len(whole) == found.runs.num_rows + 1


def test_the_draw_was_obeyed_and_one_that_was_not_is_named():
    fleet = Fleet(workloads=3)
    kept = fleet.compare().balance.to_pylist()[0]
    assert kept["reason"] is None and kept["keys"] == fleet.requests.num_rows
    assert kept["held_out_groups"] == int(fleet.held.sum()) and kept["moved_although_held_out"] == 0
    # Negative control: one group that was to stay is moved after all.
    at = int(np.flatnonzero(fleet.held)[0])
    row = fleet.requests.slice(at, 1).to_pylist()[0]
    stray = {
        "outcome_id": "w00/03-01", "workload_id": row["workload_id"], "home_region": "us-east-1", "vcpus_scale": 1.0,
        "requested_hour": row["requested_at"].replace(minute=0),
    }  # fmt: skip
    moves = pa.concat_tables([fleet.moves, pa.Table.from_pylist([stray], MOVE_SCHEMA)])
    broken = fleet.compare(moves=moves)
    assert broken.balance["reason"].to_pylist() == ["holdout_moved"]
    assert broken.balance["first_moved_although_held_out"].to_pylist() == [row["job_id"]]
    assert row["job_id"] not in broken.runs["run_id"].to_pylist()


def test_without_a_hold_out_the_prior_stands_and_says_so():
    row = Fleet().compare(share=0.0).ratios.to_pylist()[0]
    assert (row["ratio"], row["log_sd"], row["reason"]) == (1.0, PRIOR_LOG_SD["same_size"], "no_unmoved_runs")


def test_the_estimate_is_a_function_of_the_compared_rows():
    found = Fleet(ratio=1.05).compare()
    assert found.runs.schema == COMPARED and found.ratios.schema == USAGE_RATIOS
    assert ratios_of(found.runs).equals(found.ratios)
    order = np.random.default_rng(1).permutation(found.runs.num_rows)
    again = ratios_of(found.runs.take(pa.array(order))).to_pylist()[0]
    assert again["log_ratio"] == pytest.approx(found.ratios["log_ratio"][0].as_py(), abs=1e-12)


def test_the_ratio_reaches_the_slices_of_its_pool():
    fleet = Fleet(ratio=1.1, workloads=3)
    found = fleet.compare()
    rows = [
        {
            "outcome_id": outcome, "run_id": "r", "started_at": START, "ended_at": START + timedelta(hours=1),
            "energy_kwh": 1.0, "region_before": "A", "region_after": "B", "shift_us": 0, "energy_ratio": 2.0,
        }
        for outcome in ("w00/03-02", "w02/03-04")
    ]  # fmt: skip
    slices = with_usage_ratio(pa.Table.from_pylist(rows, SLICE_SCHEMA), found)
    ratio, key = found.ratios["ratio"][0].as_py(), found.ratios["factor_key"][0].as_py()
    assert slices.schema == SLICE_SCHEMA
    assert slices["energy_ratio"].to_pylist() == [2.0 / ratio] * 2
    assert slices["ratio_factor_key"].to_pylist() == [key] * 2


def test_energy_of_a_run_is_that_of_its_vcpus():
    rows = pa.table(
        {
            "job_id": ["a", "a", "a", "b", "b", "c"],
            "resource_type": ["compute", "compute", "network", "compute", "memory", "compute"],
            "quality": ["", "", "", "", "memory_in_vcpu", ""],
            "energy_kwh": [1.0, 2.0, 50.0, 4.0, None, None],
        }
    )
    assert sorted(map(tuple, (r.values() for r in energy_by_run(rows).to_pylist()))) == [
        ("a", 3.0), ("b", 4.0), ("c", None),
    ]  # fmt: skip
