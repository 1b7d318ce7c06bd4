"""Which usage belongs to an executed change, and where and when it would have run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from sust_dagster.agents.verifier import LEAKAGE_COMPONENTS, LEAKAGE_SCHEMA, SLICE_SCHEMA
from sust_dagster.agents.verifier.runs import (
    EMISSIONS_COLUMNS,
    LEDGER_COLUMNS,
    MOVE_SCHEMA,
    PLACED_SCHEMA,
    REQUEST_SCHEMA,
    SPAN_COLUMNS,
    ZERO_LEAKAGE,
    factor_keys,
    moved,
    moves_of,
    spans,
)
from sust_dagster.world.schemas import ACTIVITY_LEDGER, EMISSIONS

T0 = datetime(2026, 3, 2, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
PLACES = pa.table(
    {
        "cloud_provider": ["aws", "aws"],
        "home_region": ["A", "B"],
        "pue_before": [1.2, 1.1],
        "provider_pue_factor_key_before": ["pue/aws", "pue/aws"],
        "region_pue_factor_key_before": ["pue/aws/A", "pue/aws/B"],
    }
)


def moves(*rows: tuple[str, datetime, float]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"outcome_id": o, "workload_id": "w", "requested_hour": h, "home_region": "A", "vcpus_scale": s}
            for o, h, s in rows
        ],
        MOVE_SCHEMA,
    )


def requests(*rows: tuple[str, datetime], home: str = "A") -> pa.Table:
    made = [{"job_id": j, "workload_id": "w", "requested_at": at, "home_region": home} for j, at in rows]
    return pa.Table.from_pylist(made, REQUEST_SCHEMA)


def usage(*rows: dict) -> tuple[pa.Table, pa.Table]:
    """Ledger and emissions of slices."""
    filled = [
        {
            "activity_id": f"a{i}", "workload_id": "w", "cloud_provider": "aws", "region": "B",
            "resource_type": "compute",
            "ended_at": r["started_at"] + HOUR, "energy_kwh": 2.0, "pue": 1.1, "kg_location": 0.5, "cost_usd": 3.0,
            "power_factor_key": "power/x", "provider_pue_factor_key": "pue/aws", "region_pue_factor_key": "pue/aws/B",
            "quality": "ok", "instance_type": "m5.large", "usage_hours": 1.0, "vcpus": 2.0, **r,
        }
        for i, r in enumerate(rows)
    ]  # fmt: skip
    out = []
    for spec, names in ((ACTIVITY_LEDGER, LEDGER_COLUMNS), (EMISSIONS, EMISSIONS_COLUMNS)):
        schema = pa.schema([spec.arrow.field(n) for n in names])
        out.append(pa.Table.from_pylist([{n: r[n] for n in names} for r in filled], schema))
    return out[0], out[1]


def test_every_slice_is_shifted_by_as_much_as_its_run():
    asked = T0 + timedelta(minutes=7)
    ledger, emissions = usage(
        {"job_id": "j1", "started_at": asked + 5 * HOUR}, {"job_id": "j1", "started_at": asked + 6 * HOUR},
        {"job_id": "other", "started_at": asked},
    )  # fmt: skip
    found = moved(moves(("o1", T0, 1.0)), requests(("j1", asked), ("late", asked + HOUR)), ledger, emissions, PLACES)
    assert found.slices.schema == SLICE_SCHEMA
    assert found.slices.column("run_id").to_pylist() == ["j1", "j1"]
    assert found.slices.column("shift_us").to_pylist() == [5 * 3_600_000_000] * 2
    (first, second) = found.slices.to_pylist()
    assert (first["region_before"], first["region_after"]) == ("A", "B")
    assert (first["pue_before"], first["pue_after"]) == (1.2, 1.1)
    assert first["region_pue_factor_key_before"] == "pue/aws/A"
    assert found.usage.column("original_at").to_pylist() == [asked, asked + HOUR]
    assert second["energy_ratio"] == 1.0


def test_a_run_of_half_the_size_would_have_used_twice_the_energy():
    ledger, emissions = usage({"job_id": "j1", "started_at": T0})
    found = moved(moves(("o1", T0, 0.5)), requests(("j1", T0)), ledger, emissions, PLACES)
    assert found.slices.column("energy_ratio").to_pylist() == [2.0]


def test_bytes_that_left_are_leakage_and_no_usage():
    ledger, emissions = usage(
        {"job_id": "j1", "started_at": T0},
        {"job_id": "j1", "started_at": T0, "resource_type": "network", "region": "A", "energy_kwh": 0.1, "pue": 1.2,
         "power_factor_key": "power/network", "cost_usd": 0.02},
    )  # fmt: skip
    found = moved(moves(("o1", T0, 1.0)), requests(("j1", T0)), ledger, emissions, PLACES)
    assert found.slices.num_rows == 1
    leaks = {r["component"]: r for r in found.leakage.to_pylist()}
    assert found.leakage.schema == LEAKAGE_SCHEMA
    assert leaks["egress"]["energy_kwh"] == pytest.approx(0.12)
    assert (leaks["egress"]["region"], leaks["egress"]["factor_key"]) == ("A", "power/network")
    assert {c: r["reason"] for c, r in leaks.items() if c != "egress"} == {
        c: ZERO_LEAKAGE[c] for c in LEAKAGE_COMPONENTS if c != "egress"
    }
    assert found.egress.column("billed_usd").to_pylist() == [0.02]


def test_without_egress_every_component_has_its_reason():
    ledger, emissions = usage({"job_id": "j1", "started_at": T0})
    found = moved(moves(("o1", T0, 1.0)), requests(("j1", T0)), ledger, emissions, PLACES)
    assert {r["component"]: r["reason"] for r in found.leakage.to_pylist()} == ZERO_LEAKAGE


def test_a_run_without_usage_stands_among_the_runs_without_times():
    ledger, emissions = usage({"job_id": "j1", "started_at": T0})
    found = moved(moves(("o1", T0, 1.0)), requests(("j1", T0), ("j2", T0)), ledger, emissions, PLACES)
    runs = {r["run_id"]: r for r in found.runs.to_pylist()}
    assert set(runs) == {"j1", "j2"}
    assert runs["j2"]["started_at"] is None
    assert runs["j2"]["ended_at"] is None


def test_a_run_that_two_changes_claim_is_given_to_both():
    ledger, emissions = usage({"job_id": "j1", "started_at": T0})
    found = moved(moves(("o1", T0, 1.0), ("o2", T0, 1.0)), requests(("j1", T0)), ledger, emissions, PLACES)
    assert sorted(found.slices.column("outcome_id").to_pylist()) == ["o1", "o2"]


def test_memory_inside_the_power_of_a_vcpu_is_no_slice_without_energy():
    ledger, emissions = usage(
        {"job_id": "j1", "started_at": T0},
        {"job_id": "j1", "started_at": T0, "resource_type": "memory", "energy_kwh": None, "quality": "memory_in_vcpu"},
    )
    found = moved(moves(("o1", T0, 1.0)), requests(("j1", T0)), ledger, emissions, PLACES)
    assert found.slices.column("energy_kwh").to_pylist() == [2.0]


def test_energy_that_is_missing_stays_missing():
    ledger, emissions = usage({"job_id": "j1", "started_at": T0, "energy_kwh": None})
    found = moved(moves(("o1", T0, 1.0)), requests(("j1", T0)), ledger, emissions, PLACES)
    assert found.slices.column("energy_kwh").to_pylist() == [None]


def test_nothing_moved_is_nothing_found():
    ledger, emissions = usage({"job_id": "j1", "started_at": T0})
    found = moved(moves(), requests(("j1", T0)), ledger, emissions, PLACES)
    assert (found.slices.num_rows, found.leakage.num_rows, found.runs.num_rows) == (0, 0, 0)


@pytest.mark.parametrize(
    ("asked", "begun", "shift_hours"),
    [
        (timedelta(minutes=20), 12 * HOUR, 12),  # the bill says the hour: 10:20 and 22:00 are twelve hours apart
        (timedelta(minutes=20), timedelta(0), 0),
        (timedelta(minutes=20), timedelta(minutes=20), 0),
        (timedelta(minutes=20), 3 * HOUR + timedelta(minutes=50), 3.5),  # it says the minute
        (timedelta(0), 5 * HOUR, 5),
    ],
)
def test_a_bill_by_the_hour_is_compared_by_the_hour(asked: timedelta, begun: timedelta, shift_hours: float) -> None:
    ledger, emissions = usage({"job_id": "j1", "started_at": T0 + begun})
    found = moved(moves(("o1", T0, 1.0)), requests(("j1", T0 + asked)), ledger, emissions, PLACES)
    assert found.slices.column("shift_us").to_pylist() == [shift_hours * 3_600_000_000]


def test_a_group_is_at_home_where_its_own_plan_has_it() -> None:
    placed = pa.Table.from_pylist(
        [
            {
                "outcome_id": f"o-{r}", "recommendation_id": r, "group": g, "workload_id": "w", "requested_hour": T0,
                "vcpus_scale": 0.5,
            }
            for r, g in (("r2", "g1"), ("r1", "g1"), ("r1", "g2"))
        ],
        PLACED_SCHEMA,
    )  # fmt: skip
    homes = pa.table({"recommendation_id": ["r1", "r2"], "job_id": ["g1", "g1"], "home_region": ["A", "B"]})
    found = moves_of(placed, homes)
    assert found.schema.equals(MOVE_SCHEMA)
    assert found["outcome_id"].to_pylist() == ["o-r2", "o-r1", "o-r1"]
    # The second group is in no frozen plan: it is at home nowhere, not where its neighbour is.
    assert found["home_region"].to_pylist() == ["B", "A", "unknown"]
    assert moves_of(placed.slice(0, 0), homes).equals(MOVE_SCHEMA.empty_table())
    assert moves_of(placed, homes.slice(0, 0))["home_region"].to_pylist() == ["unknown"] * 3


def test_runs_that_nobody_moved_have_their_span_too() -> None:
    ledger, emissions = usage(
        {"job_id": "j1", "started_at": T0 + 3 * HOUR}, {"job_id": "j1", "started_at": T0 + 4 * HOUR},
        {"job_id": "j1", "started_at": T0 - HOUR, "resource_type": "network"},
        {"job_id": "j1", "started_at": T0 + 9 * HOUR, "resource_type": "memory", "quality": "ok;memory_in_vcpu"},
        {"job_id": "other", "started_at": T0},
    )  # fmt: skip
    asked = requests(("j2", T0), ("j1", T0 + timedelta(minutes=20)))
    found = spans(asked, emissions.select(SPAN_COLUMNS))
    assert found.select(["run_id", "started_at", "ended_at", "shift_us"]).to_pylist() == [
        {"run_id": "j2", "started_at": None, "ended_at": None, "shift_us": 0},
        {"run_id": "j1", "started_at": T0 + 3 * HOUR, "ended_at": T0 + 5 * HOUR, "shift_us": 3 * 3_600_000_000},
    ]
    # The same run, moved, has the same span.
    own = moved(moves(("o1", T0, 1.0)), asked, ledger, emissions, PLACES).runs.to_pylist()
    assert [(r["started_at"], r["ended_at"], r["shift_us"]) for r in own] == [
        (r["started_at"], r["ended_at"], r["shift_us"]) for r in reversed(found.to_pylist())
    ]
    assert spans(asked.slice(0, 0), emissions).num_rows == 0
    assert spans(asked, emissions.slice(0, 0))["started_at"].null_count == 2


def test_every_factor_that_the_inputs_name_is_asked_for_once() -> None:
    ledger, emissions = usage(
        {"job_id": "j1", "started_at": T0},
        {"job_id": "j1", "started_at": T0 + HOUR},
        {"job_id": "j1", "started_at": T0, "resource_type": "network", "power_factor_key": "power/network"},
    )
    found = moved(moves(("o1", T0, 1.0)), requests(("j1", T0)), ledger, emissions, PLACES)
    assert factor_keys(found) == ["power/network", "power/x", "pue/aws", "pue/aws/A", "pue/aws/B"]
