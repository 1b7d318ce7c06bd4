"""The policy in the planner's terms: what it asks for is what the checks of a decision can allow."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from sust_dagster.agents.governance import default_policy
from sust_dagster.agents.governance.planning import day_rules, within_policy
from sust_dagster.agents.governance.policy import Policy, Residency
from sust_dagster.agents.governance.versions import PolicyVersion

REGIONS = ("eu-north-1", "eu-west-1", "us-east-1")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def policy(part: str, **changes: Any) -> Policy:
    base = default_policy()
    return base.model_copy(update={part: getattr(base, part).model_copy(update=changes)})


def version(document: Policy) -> PolicyVersion:
    return PolicyVersion(3, document, document.document_hash, "ada", NOW, NOW)


def allowed(document: Policy, *, listed: str | None = None, home: str = "us-east-1") -> str:
    rows = pa.table(
        {
            "team_id": ["search"],
            "workload_id": ["build"],
            "region": [home],
            "allowed_regions": pa.array([listed], pa.string()),
        }
    )
    return within_policy(rows, document, REGIONS).column("allowed_regions").to_pylist()[0]


def test_limits_and_objective_are_those_of_the_policy() -> None:
    rules = day_rules(version(policy("planning", max_cost_increase_percent=3.0, share_cap=0.5, robust="worst-case")))
    assert rules.objective.name == "min-carbon"
    assert (rules.limits.max_cost_increase, rules.limits.share_cap, rules.worst_case) == (0.03, 0.5, True)
    assert rules.windows.strict_latency, "where no penalty is paid the SLA binds everybody"
    assert rules.policy_version == 3
    dear = day_rules(version(policy("planning", objective="effective-cost", carbon_price_usd_per_t=200.0)))
    assert dear.objective.per_kg == pytest.approx(0.2)
    assert not dear.windows.strict_latency


def test_a_share_cap_of_one_is_none() -> None:
    assert day_rules(version(policy("planning", share_cap=1.0))).limits.share_cap is None


def test_windows_narrow_and_never_widen() -> None:
    found = day_rules(version(policy("windows", sustainable_hours=6.0, balanced_hours=24.0))).windows.windows
    assert {k: w.hours for k, w in found.items()} == {"urgent": 0, "balanced": 4, "sustainable": 6}


def test_switched_off_actions_are_not_planned() -> None:
    base = default_policy()
    off = {n: base.actions.of(n).model_copy(update={"enabled": False}) for n in ("region_shift", "right_size")}
    rules = day_rules(version(policy("actions", **off)))
    assert {w.scope for w in rules.windows.windows.values()} == {"home"}
    assert rules.windows.windows["sustainable"].hours == 24
    assert not rules.options.right_size
    still = day_rules(
        version(policy("actions", time_shift=base.actions.time_shift.model_copy(update={"enabled": False})))
    )
    assert {w.hours for w in still.windows.windows.values()} == {0}


def test_right_sizing_keeps_both_thresholds() -> None:
    """Used by less than 40 % before and by at most 70 % after: at half the vCPUs the first binds at 0.8, the second at
    0.7.
    """
    assert day_rules(version(default_policy())).options.most_utilisation == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("changes", "listed", "found"),
    [
        ({}, None, "eu-north-1,eu-west-1,us-east-1"),
        ({"denied_regions": ("us-*",)}, None, "eu-north-1,eu-west-1"),
        ({"allowed_regions": ("eu-*",)}, "us-east-1,eu-west-1", "eu-west-1"),
        ({"allowed_regions": ("ap-*",)}, None, "us-east-1"),
    ],
)
def test_regions_are_those_that_policy_and_register_both_allow(changes: dict, listed: str | None, found: str) -> None:
    assert allowed(policy("places", **changes), listed=listed) == found


def rule(applies_to: Any, name: str) -> Residency:
    return Residency(applies_to=applies_to, name=name, regions=("eu-*",), reason="law")


@pytest.mark.parametrize(
    ("applies_to", "name", "binds"),
    [("team", "search", True), ("team", "shop", False), ("workload", "build", True), ("data_class", "personal", True)],
)
def test_residency_binds_whom_it_is_about(applies_to: str, name: str, binds: bool) -> None:
    document = policy("places", residency=(rule(applies_to, name),))
    assert (allowed(document) == "eu-north-1,eu-west-1") is binds
