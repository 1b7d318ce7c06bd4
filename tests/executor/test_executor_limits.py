"""The executor's own brakes, each with the case it is there for."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pyarrow as pa
import pytest
from executor_cases import config, group, history, payload
from hypothesis import given
from hypothesis import strategies as st

from sust_dagster.agents.executor.limits import Limits, Today, refused, scope_guard, within_limits
from sust_dagster.agents.executor.orders import Change, change_hash, change_of, intent_id
from sust_dagster.world.holdout import draws

HISTORY = history("approved")
SENT, BEFORE = {"set": 1}, {"was": 0}
FROZEN = change_hash(SENT, BEFORE)


def change(**changes: Any) -> Change:
    return change_of(history("approved", **changes), "simulated")


@pytest.mark.parametrize(
    ("limits", "today", "failed"),
    [
        (Limits(), Today(), ""),
        (Limits(enabled=False), Today(), "execution_enabled: execution is switched off"),
        (Limits(disabled_targets=("simulated",)), Today(), "target_enabled: target simulated is switched off"),
        (Limits(max_changes_per_day=3), Today(changes=2), ""),
        (Limits(max_changes_per_day=3), Today(changes=3), "changes_per_day: 3 changes began today, the cap is 3"),
        (Limits(max_changes_per_day=0), Today(), "changes_per_day: 0 changes began today, the cap is 0"),
        (Limits(max_share_of_workloads_per_day=0.5), Today(1, {"x"}, 4), ""),
        (
            Limits(max_share_of_workloads_per_day=0.5),
            Today(2, {"x", "y"}, 4),
            "share_of_workloads_per_day: it would be workload 3 of 4 today, the cap is 0.5",
        ),
        (Limits(max_share_of_workloads_per_day=0.5), Today(2, {"x", "ci-checkout-build"}, 4), ""),
        (
            Limits(max_share_of_workloads_per_day=0.5),
            Today(),
            "share_of_workloads_per_day: a share of the workloads is capped and nobody said how many there are",
        ),
    ],
)
def test_limits(limits: Limits, today: Today, failed: str) -> None:
    assert refused(within_limits(limits, change(), today)) == failed


AWAITED = Limits(awaited={"ci-checkout-build": ("release", "audit")})


@pytest.mark.parametrize(
    ("proposed", "why"),
    [
        (config(), ""),
        (config(groups=[group(5, delay=3), group(6)]), "1 of its groups would start later"),
        (config(groups=[group(5, delay=3), group(6, delay=1)]), "2 of its groups would start later"),
        (config(vcpus_scale="0.5"), "a smaller size may make its runs longer"),
        (config(spot=True), "on spot its runs may be interrupted"),
    ],
)
def test_what_others_wait_for_is_not_held_up(proposed: dict[str, Any], why: str) -> None:
    """Whatever was planned and approved, and whatever became of the changes of those that wait."""
    said = refused(within_limits(AWAITED, change(proposed_config=proposed), Today()))
    assert said == (f"start_before_dependency: audit, release would start before it ends: {why}" if why else "")
    others = Limits(awaited={"release": ("audit",)})
    assert refused(within_limits(others, change(proposed_config=proposed), Today())) == "", "the control: nobody waits"


def test_what_cannot_be_asked_counts_as_no() -> None:
    broken: Any = Limits(max_changes_per_day=None)  # type: ignore[arg-type]
    assert "TypeError" in refused(within_limits(broken, change(), Today()))


def test_the_approved_change_is_in_scope() -> None:
    assert refused(scope_guard(HISTORY, change(), SENT, BEFORE, FROZEN)) == ""


@pytest.mark.parametrize(
    ("spoilt", "name"),
    [
        ({"team_id": "other"}, "order_is_the_approved_one"),
        ({"service_tier": "batch"}, "order_is_the_approved_one"),
        ({"workload_id": "svc-cart"}, "order_is_the_approved_one"),
        ({"proposed_config": config(groups=[group(5, "ap-south-1"), group(6)])}, "order_is_the_approved_one"),
        ({"proposed_config": config(groups=[group(5, delay=1), group(6)])}, "order_is_the_approved_one"),
        ({"proposed_config": config(groups=[group(5), group(6), group(7)])}, "order_is_the_approved_one"),
        ({"proposed_config": config(groups=[group(5), group(5)])}, "order_is_the_approved_one"),
        ({"proposed_config": config(groups=[])}, "order_is_the_approved_one"),
        ({"proposed_config": config(spot=True)}, "order_is_the_approved_one"),
        ({"proposed_config": config(vcpus_scale="1.0")}, "order_is_the_approved_one"),
        ({"current_config": {"regions": ["eu-west-1"]}}, "order_is_the_approved_one"),
    ],
)
def test_a_change_that_differs_anywhere_is_out_of_scope(spoilt: dict[str, Any], name: str) -> None:
    other = change(**spoilt)
    checks = scope_guard(HISTORY, other, SENT, BEFORE, FROZEN)
    assert name in {c.name for c in checks if not c.ok}


def test_a_preview_that_was_exchanged_is_out_of_scope() -> None:
    assert "preview_is_the_frozen_one" in refused(scope_guard(HISTORY, change(), {"set": 2}, BEFORE, FROZEN))
    assert "preview_is_the_frozen_one" in refused(scope_guard(HISTORY, change(), SENT, {"was": 9}, FROZEN))


@given(st.sampled_from(["workload_id", "planned_for", "action_type", "objective", "policy_version", "proposed_config"]))
def test_a_proposal_whose_fields_were_tampered_with_is_out_of_scope(name: str) -> None:
    """The plan's hash is taken over again from the fields, whatever the events say it is."""
    other = {
        "workload_id": "svc-cart",
        "planned_for": "2026-01-09T00:00:00+00:00",
        "action_type": "time_shift",
        "objective": "effective-cost",
        "policy_version": 2,
        "proposed_config": config(groups=[group(5, "us-east-1")]),
    }
    spoilt = [
        e | {"payload": json.dumps(payload() | {name: other[name]})} if e["sequence"] == 0 else e for e in HISTORY
    ]
    checks = scope_guard(spoilt, change_of(spoilt, "simulated"), SENT, BEFORE, FROZEN)
    assert "plan_is_the_proposed_one" in refused(checks)


def test_the_key_of_an_intent_is_that_of_recommendation_plan_and_target() -> None:
    one = intent_id("r", "p", "simulated")
    assert one == intent_id("r", "p", "simulated") == intent_id("r", "p", "simulated", "all")
    others = [intent_id("r2", "p", "simulated"), intent_id("r", "p2", "simulated"), intent_id("r", "p", "kubernetes")]
    parts = [intent_id("r", "p", "simulated", "canary"), intent_id("r", "p", "simulated", "rest")]
    assert len({one, *others, *parts}) == 6


def test_a_group_that_is_held_out_is_left_alone() -> None:
    """By the draw that the plan left it out by; with another seed, or none, the same change may begin."""
    told = {p["job_id"]: p for p in change().placements}
    assert told, "the control: the change places groups"
    asked = [datetime.fromisoformat(p["requested_start"]) for p in told.values()]
    names = pa.array([change().workload_id] * len(asked))
    share = max(draws(7, names, pa.array(asked, pa.timestamp("us", tz="UTC")))) + 1e-9
    said = refused(within_limits(Limits(holdout_seed=7, holdout_share=share), change(), Today()))
    assert said.startswith(f"hold_out_is_left_alone: {len(told)} of its groups are held out")
    low = min(draws(7, names, pa.array(asked, pa.timestamp("us", tz="UTC"))))
    assert refused(within_limits(Limits(holdout_seed=7, holdout_share=low), change(), Today())) == ""
    assert refused(within_limits(Limits(holdout_seed=7, holdout_share=0.0), change(), Today())) == ""
