"""What was promised of each run: by the register, by its change's category, by the way to where it ran."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from sust_dagster.agents.verifier.causal.inputs import CheckInputError
from sust_dagster.agents.verifier.service.dependencies import DEPENDENCIES
from sust_dagster.agents.verifier.service.promises import promised_runs
from sust_dagster.agents.verifier.service.sla import sla
from sust_dagster.world.schemas import FLOAT, STRING, TIMESTAMP

T0 = datetime(2026, 3, 1, 8, tzinfo=UTC)
RUNS = pa.schema(
    [
        ("outcome_id", STRING),
        ("run_id", STRING),
        ("workload_id", STRING),
        ("requested_at", TIMESTAMP),
        ("home_region", STRING),
        ("started_at", TIMESTAMP),
        ("ended_at", TIMESTAMP),
        ("region", STRING),
    ]
)
CASES = pa.table({"outcome_id": ["o", "p"], "workload_category": ["balanced", None]})
REGISTER = pa.table(
    {"workload_id": ["w", "v"], "max_delay_hours": [2.0, None], "sla_latency_ms": [None, 80.0]},
    schema=pa.schema([("workload_id", STRING), ("max_delay_hours", FLOAT), ("sla_latency_ms", FLOAT)]),
)
LATENCY = pa.table(
    {"from_region": ["A", "B", "A"], "to_region": ["B", "A", "C"], "rtt_ms": [70.0, 71.0, None]},
    schema=pa.schema([("from_region", STRING), ("to_region", STRING), ("rtt_ms", FLOAT)]),
)


def runs(*given: tuple[str, str, str, str | None]) -> pa.Table:
    """Rows of outcome, workload, home, where it ran."""
    rows = [
        {
            "outcome_id": o, "run_id": f"{o}{i}", "workload_id": w, "requested_at": T0, "home_region": home,
            "started_at": T0 if region else None, "ended_at": T0 if region else None, "region": region,
        }
        for i, (o, w, home, region) in enumerate(given)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, RUNS)


def test_each_run_has_the_promises_of_its_workload_and_its_change() -> None:
    found = promised_runs(runs(("o", "w", "A", "A"), ("p", "v", "A", "A"), ("o", "?", "A", "A")), CASES, REGISTER, None)
    assert found["category"].to_pylist() == ["balanced", None, "balanced"]
    assert found["max_delay_hours"].to_pylist() == [2.0, None, None]
    assert found["sla_latency_ms"].to_pylist() == [None, 80.0, None]
    assert found["deadline"].null_count == 3
    assert found["run_id"].to_pylist() == ["o0", "p1", "o2"]


def test_a_round_trip_is_nothing_at_home_and_unknown_where_nobody_measured() -> None:
    asked = runs(("o", "v", "A", "A"), ("o", "v", "A", "B"), ("o", "v", "B", "A"), ("o", "v", "A", "C"),
                 ("o", "v", "C", "A"), ("o", "v", "A", None))  # fmt: skip
    found = promised_runs(asked, CASES, REGISTER, LATENCY)["round_trip_ms"]
    assert found.to_pylist() == [0.0, 70.0, 71.0, None, None, None]
    twice = pa.concat_tables([LATENCY, LATENCY.slice(0, 1).set_column(2, "rtt_ms", pa.array([90.0]))])
    found = promised_runs(asked, CASES, REGISTER, twice)["round_trip_ms"]
    assert found.to_pylist() == [0.0, 90.0, 71.0, None, None, None], "the evidence holds the last of a route too"
    nobody = promised_runs(asked, CASES, REGISTER, None)["round_trip_ms"]
    assert nobody.to_pylist() == [0.0, None, None, None, None, None]


def test_the_rows_are_judged_as_they_are() -> None:
    asked = runs(("o", "v", "A", "B"), ("o", "v", "A", "C"))
    for limit, kept in ((80.0, None), (60.0, False)):  # one route is not measured: never compliant, at worst broken
        register = REGISTER.set_column(2, "sla_latency_ms", pa.array([None, limit], FLOAT))
        judged = sla(promised_runs(asked, CASES, register, LATENCY), DEPENDENCIES.empty_table(), CASES["outcome_id"])
        assert judged["sla_compliant"].to_pylist() == [kept, None]


def test_no_runs_are_no_rows() -> None:
    assert promised_runs(runs(), CASES, REGISTER, LATENCY).num_rows == 0


def test_missing_columns_are_named() -> None:
    with pytest.raises(CheckInputError, match="register of workloads: no column sla_latency_ms"):
        promised_runs(runs(), CASES, REGISTER.drop_columns(["sla_latency_ms"]), None)
    with pytest.raises(CheckInputError, match="cases: no column workload_category"):
        promised_runs(runs(), CASES.drop_columns(["workload_category"]), REGISTER, None)
