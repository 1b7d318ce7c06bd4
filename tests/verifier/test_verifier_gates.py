"""Sufficiency gates, both ways: each closes on its own defect alone, and stays open without it."""

from __future__ import annotations

from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from verifier_cases import (
    POWER,
    PROVIDER,
    START,
    Run,
    claim_table,
    factors_of,
    leakage_table,
    row,
    signal_of,
    site,
    slice_table,
    verified,
)

from sust_dagster.agents.verifier import GATES, OUTCOME_SCHEMA, InputError
from sust_dagster.world.schemas import OUTCOMES

DAY = {"A": [400.0 + h for h in range(48)], "B": [100.0 + h for h in range(48)]}
GOOD = [Run("o", "A", "B", 12, 2, 3)]

#: Columns of the outcome table that hold no computed figure.
CARRIED = {
    "outcome_id", "decision_id", "recommendation_id", "executed_on", "measured_cost_delta_usd", "sla_compliant",
    "sla_detail", "verification_method", "verification_status", "reason", "team_id", "month", "runs", "signal",
    "signal_method", "claimed_delta_kg", "plan_ci_lower", "plan_ci_upper",
}  # fmt: skip


def replaced(table: pa.Table, **columns: list) -> pa.Table:
    for name, values in columns.items():
        at = table.column_names.index(name)
        table = table.set_column(at, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    return table


def claims(**changes):
    return {"claims": claim_table(["o"], **changes)}


def slices(**columns):
    return {"slices": replaced(slice_table(GOOD), **columns)}


def grid(**changes):
    return {"signal": signal_of(DAY | changes)}


def estimated(region, hours):
    return {"signal": signal_of(DAY, estimated={region: [h in hours for h in range(48)]})}


def without(key):
    return {"factors": {k: v for k, v in factors_of("A", "B").items() if k != key}}


def lacking(hour):
    day = list(DAY["A"])
    day[hour] = float("nan")
    return grid(A=day)


LEAK = leakage_table(["o"])

CASES = [
    ("no_frozen_baseline", claims(baseline_frozen_at=None)),
    ("late_baseline", claims(baseline_frozen_at=START + timedelta(seconds=1))),
    ("missing_runs", claims(runs_expected=2)),
    ("missing_runs", {"slices": slice_table(GOOD).slice(0, 0)}),
    ("ambiguous_runs", claims(runs_ambiguous=1)),
    ("unsettled_data", claims(settled=False)),
    ("restated_inputs", claims(restated=True)),
    ("mixed_signals", claims(baseline_signal="marginal")),
    ("mixed_signals", claims(baseline_method="direct")),
    ("missing_energy", slices(energy_kwh=[1.0, None])),
    ("missing_energy", slices(energy_ratio=[None, 1.0])),
    ("missing_pue", slices(pue_before=[1.1, None])),
    ("missing_pue", slices(pue_after=[None, 1.1])),
    ("missing_intensity", lacking(9)),
    ("missing_intensity", lacking(12)),
    ("missing_intensity", slices(region_before=["nowhere", "A"])),
    ("missing_intensity", slices(shift_us=[0, 100 * 3_600_000_000])),
    ("missing_factor", without(POWER)),
    ("missing_factor", without(PROVIDER)),
    ("missing_factor", without(site("A"))),
    ("missing_factor", slices(power_factor_key=[None, POWER])),
    ("missing_factor", slices(ratio_factor_key=["usage/none", None])),
    ("missing_factor", {"leakage": leakage_table(["o"], retries={"kg": 1.0, "factor_key": "power/none"})}),
    ("constant_series", grid(A=[400.0] * 48)),
    ("constant_series", grid(B=[100.0] * 24 + DAY["B"][24:])),
    ("estimated_series", estimated("A", range(48))),
    ("estimated_series", estimated("B", {9, 10, 12, 13})),
    ("leakage_unstated", {"leakage": LEAK.slice(1)}),
    ("actual_not_reproduced", slices(kg_location=[1.1 * 0.112, 1.1 * 0.113 * (1 + 1e-6)])),
]


@pytest.mark.parametrize(("gate", "case"), CASES, ids=[f"{g}-{i}" for i, (g, _) in enumerate(CASES)])
def test_a_defect_closes_its_gate_and_no_other(gate, case):
    case = dict(case)
    result = verified(GOOD, case.pop("signal", signal_of(DAY)), case.pop("factors", None), **case)
    o = row(result)
    assert o["verification_status"] == "disqualified"
    assert o["reason"] == f"sufficiency.{gate}"
    assert {name for name, value in o.items() if value is not None} <= CARRIED
    assert result.gates["gate"].to_pylist() == [f"sufficiency.{gate}"]
    assert result.gates["text"].to_pylist() == [GATES[f"sufficiency.{gate}"]]
    assert result.gates["count"][0].as_py() >= 1
    assert result.sensitivities.num_rows == 0


def test_every_gate_is_tried():
    assert {f"sufficiency.{g}" for g, _ in CASES} == set(GATES)


OPEN = [
    claims(),
    claims(runs_expected=1, baseline_signal=None, baseline_method=None),
    claims(executed_at=None),
    slices(kg_location=[1.1 * 0.112, 1.1 * 0.113 * (1 + 1e-12)]),
    slices(power_factor_key_before=[POWER, None]),
    lacking(2),
    grid(A=DAY["A"][:24] + [400.0] * 24),
    estimated("A", {9, 10, 12}),
    {"leakage": leakage_table(["o"], retries={"kg": 0.0, "factor_key": POWER})},
]


@pytest.mark.parametrize("case", OPEN, ids=range(len(OPEN)))
def test_what_is_in_order_passes(case):
    case = dict(case)
    result = verified(GOOD, case.pop("signal", signal_of(DAY)), case.pop("factors", None), **case)
    assert row(result)["reason"] is None
    assert row(result)["measured_carbon_delta_kg"] < 0
    assert result.gates.num_rows == 0


def test_a_constant_or_estimated_series_may_back_a_move_in_space():
    runs = [Run("o", "A", "B", 12, 2)]
    assert row(verified(runs, signal_of({"A": [400.0] * 48, "B": [50.0] * 48})))["reason"] is None
    flags = {"A": [True] * 48, "B": [True] * 48}
    assert row(verified(runs, signal_of(DAY, estimated=flags)))["reason"] is None


def test_all_failed_gates_are_named_and_others_are_not_touched():
    runs = [Run("o", "A", "B", 12, 2, 3), Run("p", "A", "B", 13, 2, 3)]
    both = verified(runs, signal_of(DAY), claims=claim_table(["o", "p"], settled=[False, True], restated=[True, False]))
    assert row(both, "o")["reason"] == "sufficiency.unsettled_data;sufficiency.restated_inputs"
    alone = verified(runs[1:], signal_of(DAY))
    assert row(both, "p") == row(alone)
    assert both.portfolios.equals(alone.portfolios)
    assert both.portfolios["outcomes"].to_pylist() == [1]


def test_an_outcome_without_qualified_runs_leaves_an_empty_portfolio():
    result = verified(GOOD, signal_of(DAY), claims=claim_table(["o"], settled=False))
    assert result.portfolios.to_pylist()[0] | {"team_id": "", "month": None} == {
        "team_id": "", "month": None, "outcomes": 0, "savings_kg": 0.0, "sd_kg": 0.0, "savings_ci_lower": 0.0,
        "savings_ci_upper": 0.0, "credit_bound_kg": 0.0, "credited_kg": 0.0,
    }  # fmt: skip


def test_no_claim_is_an_empty_table():
    empty = [t.slice(0, 0) for t in (claim_table(["o"]), slice_table(GOOD), LEAK)]
    result = verified(GOOD, signal_of(DAY), claims=empty[0], slices=empty[1], leakage=empty[2])
    assert [t.num_rows for t in (result.outcomes, result.sensitivities, result.gates, result.portfolios)] == [0] * 4


def test_what_was_promised_and_measured_elsewhere_is_carried():
    promised = {
        "claimed_delta_kg": -0.5, "claimed_delta_kg_lower": -0.9, "claimed_delta_kg_upper": -0.1,
        "measured_cost_delta_usd": 1.25, "sla_compliant": False, "sla_detail": '{"p99_ms":12}',
        "executed_on": START.replace(day=17),
    }  # fmt: skip
    o = row(verified(GOOD, signal_of(DAY), **claims(**promised)))
    assert (o["plan_ci_lower"], o["plan_ci_upper"]) == (-0.9, -0.1)
    assert {k: o[k] for k in promised if k in o} == {k: v for k, v in promised.items() if k in o}
    assert (o["month"].month, o["month"].day) == (3, 1)
    assert o["verification_status"] == "confirmed"
    bold = row(verified(GOOD, signal_of(DAY), **claims(**promised | {"claimed_delta_kg": -5.0})))
    assert bold["verification_status"] == "partial"
    assert bold["credited_kg"] == o["credited_kg"]


def test_the_declared_outcome_columns_are_all_there():
    declared = {f.name: f.type for f in OUTCOMES.arrow}
    ours = {f.name: f.type for f in OUTCOME_SCHEMA}
    assert {k: ours.get(k) for k in declared} == declared


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"slices": slice_table(GOOD).drop_columns(["shift_us"])}, "slices: no column shift_us"),
        (
            {"slices": slice_table([Run("other", "A", "B", 1, 1)])},
            "slices row 0: outcome other is not among the claims",
        ),
        ({"claims": claim_table(["o", "o"])}, "outcome o stands twice"),
        ({"claims": claim_table(["o"], settled=None)}, "claims row 0, column settled: is empty"),
        ({"leakage": leakage_table(["o"], egress={})}, "leakage row 0 .*state exactly one"),
        ({"leakage": leakage_table(["o"], egress={"kg": 1.0, "reason": "none"})}, "state exactly one"),
        ({"leakage": leakage_table(["o"], egress={"kg": 1.0})}, "needs the factor_key"),
        ({"leakage": leakage_table(["o"], egress={"energy_kwh": 1.0, "factor_key": POWER})}, "needs region and at"),
        ({"leakage": replaced(LEAK, component=["egress", "retries", "warm_up", "weather"])}, "component is not one of"),
    ],
)
def test_tables_that_break_their_contract_are_refused(tables, message):
    with pytest.raises(InputError, match=message):
        verified(GOOD, signal_of(DAY), **tables)


def test_text_columns_may_be_dictionaries_and_order_does_not_matter():
    table = slice_table([*GOOD, Run("o", "B", "A", 20, 3, 1)])
    coded = pa.table(
        {
            n: pc.dictionary_encode(table[n]) if pa.types.is_string(table[n].type) else table[n]
            for n in table.column_names
        }
    )
    plain = verified(GOOD, signal_of(DAY), slices=table)
    assert verified(GOOD, signal_of(DAY), slices=coded).outcomes.equals(plain.outcomes)
    turned = table.take(list(range(table.num_rows))[::-1])
    other = verified(GOOD, signal_of(DAY), slices=turned)
    assert row(other)["carbon_sd_kg"] == pytest.approx(row(plain)["carbon_sd_kg"], rel=1e-12)
