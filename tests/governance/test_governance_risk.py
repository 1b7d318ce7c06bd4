"""Risk: every rule at its edge, what is not known is high, one proposal and a table say the same."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from governance_cases import NOW, PLANNED_FOR, policy, proposal, version
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.agents.governance import REASONS, assess, risk_of
from sust_dagster.agents.governance.risk import INPUTS
from sust_dagster.world.schemas import ACTION_TYPES, CATEGORIES, RECOMMENDATIONS

MANY = dict.fromkeys(ACTION_TYPES, 40)
LEVELS = ("low", "medium", "high")


def of(policy_changes: dict[str, Any] | None = None, counts: dict[str, Any] | None = None, **changes: Any) -> Any:
    return risk_of(proposal(**changes), version(policy(**(policy_changes or {}))), MANY if counts is None else counts)


def test_a_harmless_proposal_is_low_for_no_reason() -> None:
    risk = of()
    assert (risk.level, risk.reasons) == ("low", ())


@pytest.mark.parametrize(
    ("changes", "level", "reason"),
    [
        ({"est_cost_delta_usd": -100.0}, "medium", "cost_delta"),
        ({"est_cost_delta_usd": -100.01}, "high", "high_cost_delta"),
        ({"est_cost_delta_usd": 100.01, "cost_before_usd": 1e6}, "high", "high_cost_delta"),
        ({"est_cost_delta_usd": 10.0, "cost_before_usd": 1e6}, "low", None),
        ({"est_cost_delta_usd": 10.01, "cost_before_usd": 1e6}, "medium", "cost_delta"),
        ({"est_cost_delta_usd": -10.01}, "medium", "cost_delta"),
        ({"est_cost_delta_usd": 0.8, "cost_before_usd": 40.0}, "low", None),
        ({"est_cost_delta_usd": 0.81, "cost_before_usd": 40.0}, "high", "cost_increase_over_limit"),
        ({"est_cost_delta_usd": 0.01, "cost_before_usd": 0.0}, "high", "cost_increase_over_limit"),
        ({"est_cost_delta_usd": 0.0, "cost_before_usd": 0.0}, "low", None),
        ({"service_tier": "production"}, "high", "production"),
        ({"service_tier": " Tier-1 "}, "high", "production"),
        ({"service_tier": "tier-2"}, "low", None),
        ({"service_tier": "platinum"}, "high", "service_tier_unknown"),
        ({"confidence": 0.8}, "low", None),
        ({"confidence": 0.79}, "medium", "low_confidence"),
        ({"confidence": 0.5}, "medium", "low_confidence"),
        ({"confidence": 0.49}, "high", "very_low_confidence"),
        ({"est_carbon_delta_kg": 0.1, "est_carbon_delta_kg_upper": 0.2}, "high", "carbon_rises"),
        ({"est_carbon_delta_kg": 0.0, "est_carbon_delta_kg_upper": 0.2}, "low", None),
        ({"est_carbon_delta_kg_lower": -1.4}, "high", "carbon_interval_wrong"),
        ({"est_carbon_delta_kg_upper": -1.6}, "high", "carbon_interval_wrong"),
        ({"action_type": "right_size"}, "medium", "action_risk"),
        ({"action_type": "spot_convert"}, "medium", "action_risk"),
        ({"action_type": "do_nothing"}, "low", None),
        ({"action_type": "delete_all"}, "high", "action_type_unknown"),
        ({"workload_category": "whenever"}, "high", "workload_category_unknown"),
        ({"issued_at": PLANNED_FOR - timedelta(hours=36)}, "low", None),
        ({"issued_at": PLANNED_FOR - timedelta(hours=36, seconds=1)}, "high", "old_plan"),
        ({"policy_version": 2}, "high", "another_policy"),
    ],
)
def test_each_rule_at_its_edge(changes: dict[str, Any], level: str, reason: str | None) -> None:
    risk = of(**changes)
    assert (risk.level, risk.reasons) == (level, (reason,) if reason else ())


@pytest.mark.parametrize("action", ACTION_TYPES)
def test_the_first_twenty_of_an_action_are_reviewed(action: str) -> None:
    own = policy(**{f"actions__{action}__risk": "low"})
    for count, level in ((0, "medium"), (19, "medium"), (20, "low")):
        risk = risk_of(proposal(action_type=action), version(own), MANY | {action: count})
        assert (risk.level, risk.reasons) == (level, ("novel",) if level == "medium" else ())
    for counts in ({}, {action: None}, {action: "40"}, {action: True}, {action: -1}, {action: 40.0}):
        risk = risk_of(proposal(action_type=action), version(own), counts)
        assert (risk.level, risk.reasons) == ("high", ("precedents_missing",))


def test_a_disabled_action_is_high() -> None:
    risk = of({"actions__region_shift__enabled": False})
    assert (risk.level, risk.reasons) == ("high", ("action_disabled",))


def test_reasons_add_up_and_the_highest_counts() -> None:
    risk = of(confidence=0.7, service_tier="prod", est_cost_delta_usd=-50.0)
    assert risk.level == "high"
    assert set(risk.reasons) == {"low_confidence", "production", "cost_delta"}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize(
    "value",
    [None, math.nan, math.inf, -math.inf, "", "7", True, [1], {"a": 1}, 10**400, b"x", NOW.replace(tzinfo=None)],
    ids=lambda v: repr(v)[:20],
)
def test_what_is_not_known_is_high(name: str, value: Any) -> None:
    changed = proposal() | {name: value}
    risk = risk_of(changed, version(), MANY)
    assert risk.level == "high"
    assert {f"{name}_missing", f"{name}_unknown"} & set(risk.reasons)
    without = {k: v for k, v in proposal().items() if k != name}
    assert risk_of(without, version(), MANY).reasons[0] == f"{name}_missing"


# -- over a table -------------------------------------------------------------------------------------------

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "action_type": st.sampled_from([*ACTION_TYPES, "nonsense"]),
    "service_tier": st.sampled_from(["batch", "production", "CI", "unheard of"]),
    "workload_category": st.sampled_from([*CATEGORIES, "x"]),
    "est_carbon_delta_kg": st.floats(-5, 1),
    "est_carbon_delta_kg_lower": st.floats(-9, 0),
    "est_carbon_delta_kg_upper": st.floats(-1, 9),
    "est_cost_delta_usd": st.one_of(st.floats(-200, 200), st.just(float("nan"))),
    "cost_before_usd": st.one_of(st.floats(-1, 1000), st.just(float("inf"))),
    "confidence": st.floats(-0.1, 1.1),
    "planned_for": st.just(PLANNED_FOR),
    "issued_at": st.sampled_from([NOW, NOW - timedelta(days=9)]),
    "policy_version": st.integers(1, 2),
}
ROW = st.fixed_dictionaries({name: st.one_of(st.none(), values, values, values) for name, values in VALUES.items()})


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(ROW, max_size=12), left_out=st.sets(st.sampled_from(list(INPUTS)), max_size=2))
def test_a_table_says_what_its_rows_say(rows: list[dict[str, Any]], left_out: set[str]) -> None:
    kept = {n: t for n, t in INPUTS.items() if n not in left_out}
    table = pa.table({n: pa.array([r[n] for r in rows], t) for n, t in kept.items()} | {"other": np.arange(len(rows))})
    assessed = assess(table, version(), MANY)
    assert assessed.column_names == [*kept, "other", "risk_level", "risk_reasons"]
    for row, found in zip(rows, assessed.to_pylist(), strict=True):
        alone = risk_of({n: row[n] for n in kept}, version(), MANY)
        assert (found["risk_level"], found["risk_reasons"]) == (alone.level, ";".join(alone.reasons) or "ok")


@settings(max_examples=200, deadline=None)
@given(row=ROW, name=st.sampled_from(list(INPUTS)))
def test_knowing_less_never_lowers_the_risk(row: dict[str, Any], name: str) -> None:
    before = risk_of(row, version(), MANY)
    after = risk_of(row | {name: None}, version(), MANY)
    assert LEVELS.index(after.level) >= LEVELS.index(before.level)
    assert after.level == "high"


def test_the_level_and_the_reasons_replace_what_the_planner_left() -> None:
    rows = [
        {c.name: None for c in RECOMMENDATIONS.columns} | {k: v for k, v in proposal().items() if k in INPUTS},
    ]
    table = pa.table({c.name: pa.array([rows[0][c.name]], c.type) for c in RECOMMENDATIONS.columns})
    assessed = assess(table, version(), MANY)
    assert assessed.column("risk_level").to_pylist() == ["low"]
    assert assessed.column("risk_reasons").to_pylist() == ["ok"]
    assert assess(assessed, version(), MANY).equals(assessed)
    assert set(assessed.column_names) >= set(RECOMMENDATIONS.column_names)
    assert assess(assessed.slice(0, 0), version(), MANY).num_rows == 0


def test_columns_of_another_type_count_as_missing() -> None:
    table = pa.table(
        {"confidence": ["0.99"], "policy_version": [1.0], "planned_for": [PLANNED_FOR.replace(tzinfo=None)]}
    )
    reasons = assess(table, version(), MANY).column("risk_reasons").to_pylist()[0].split(";")
    assert {"confidence_missing", "policy_version_missing", "planned_for_missing"} <= set(reasons)
    encoded = pa.table({"service_tier": pa.array(["batch"]).dictionary_encode()})
    assert "service_tier_missing" not in assess(encoded, version(), MANY).column("risk_reasons")[0].as_py()


def test_every_reason_has_a_meaning() -> None:
    """Reasons of a table that has something of everything are all explained, or name the column they are about."""
    for reason in REASONS:
        assert REASONS[reason][0] and REASONS[reason][1] in (1, 2)
    table = pa.table({"confidence": [0.1]})
    for reason in assess(table, version(), {}).column("risk_reasons")[0].as_py().split(";"):
        assert reason in REASONS or reason.rsplit("_", 1)[0] in INPUTS
