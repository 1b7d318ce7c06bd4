"""Decisions: who must sign what, what silence means, what is never allowed, and the last gate before a change."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from governance_cases import (
    NOW,
    PLANNED_FOR,
    both,
    config,
    decided,
    document,
    failed,
    proposal,
    record,
    row_of,
    signature,
)

from sust_dagster.agents.governance import may_execute
from sust_dagster.agents.governance.decide import CHECKS
from sust_dagster.agents.governance.signatures import open_roles
from sust_dagster.world.decisions import Transition, event_of, plan_hash
from sust_dagster.world.schemas import ACTION_TYPES

MEDIUM = {"confidence": 0.7}
HIGH = {"service_tier": "production"}


# -- risk and signatures ------------------------------------------------------------------------------------


def test_low_risk_runs_by_itself() -> None:
    decision = decided()
    assert decision.verdict == "approve"
    assert decision.signed == () and decision.failed == ()
    assert [c.name for c in decision.checks] == list(CHECKS)
    assert decision.until == NOW + timedelta(hours=24)


def test_an_approval_never_outlives_the_plans_day() -> None:
    late = PLANNED_FOR + timedelta(hours=20)
    decision = decided(proposal=proposal(proposed_at=late), now=late)
    assert (decision.verdict, decision.until) == ("approve", PLANNED_FOR + timedelta(days=1))


@pytest.mark.parametrize(("signer", "role"), [("ada", "team-lead"), ("ben", "team-lead"), ("eve", "platform")])
def test_medium_risk_needs_one_person(signer: str, role: str) -> None:
    asked = proposal(**MEDIUM)
    before = decided(proposal=asked)
    assert (before.verdict, before.waits_for) == ("needs_review", ("team-lead", "platform"))
    assert before.until == asked["proposed_at"] + timedelta(hours=24)
    after = decided(proposal=asked, signatures=[signature(asked, signer, role)])
    assert (after.verdict, after.signed) == ("approve", ((signer, role),))


@pytest.mark.parametrize("default", ["expire", "approve"])
def test_silence_is_no_consent_unless_the_policy_says_so(default: str) -> None:
    row = row_of(document(approval__medium_default=default))
    asked = proposal(**MEDIUM, proposed_at=NOW - timedelta(hours=23, minutes=59))
    assert decided(proposal=asked, policy=row).verdict == "needs_review"
    silent = proposal(**MEDIUM, proposed_at=NOW - timedelta(hours=24))
    assert decided(proposal=silent, policy=row).verdict == default
    novel = record(precedents=dict.fromkeys(ACTION_TYPES, 3))
    assert decided(proposal=silent, policy=row, record=novel).verdict == "expire", "the first twenty need a person"
    high = proposal(**HIGH, proposed_at=NOW - timedelta(hours=24))
    assert decided(proposal=high, policy=row).verdict == "needs_signatures", "high risk is never approved by silence"


def test_the_first_twenty_need_a_person() -> None:
    asked, few = proposal(), record(precedents=dict.fromkeys(ACTION_TYPES, 19))
    assert decided(record=few).verdict == "needs_review"
    assert decided(proposal=asked, record=few, signatures=[signature(asked, "ada", "team-lead")]).verdict == "approve"
    assert decided(record=record(precedents=dict.fromkeys(ACTION_TYPES, 20))).verdict == "approve"


def test_high_risk_needs_the_team_lead_and_the_platform() -> None:
    asked = proposal(**HIGH)
    lead, platform = both(asked)
    for signatures, waits in (([], {"team-lead", "platform"}), ([lead], {"platform"}), ([platform], {"team-lead"})):
        decision = decided(proposal=asked, signatures=signatures)
        assert (decision.verdict, set(decision.waits_for)) == ("needs_signatures", waits)
    decision = decided(proposal=asked, signatures=[platform, lead])
    assert decision.verdict == "approve"
    assert set(decision.signed) == {("ada", "team-lead"), ("dana", "platform")}


def test_two_roles_of_one_person_are_one_person() -> None:
    asked = proposal(**HIGH, team_id="ml")  # dana leads ml and signs for the platform
    as_lead, as_platform = signature(asked, "dana", "team-lead"), signature(asked, "dana", "platform")
    assert decided(proposal=asked, signatures=[as_lead, as_platform]).verdict == "needs_signatures"
    assert decided(proposal=asked, signatures=[as_lead, signature(asked, "eve", "platform")]).verdict == "approve"
    two = [as_lead, as_platform, signature(asked, "cleo", "team-lead")]
    assert decided(proposal=asked, signatures=two).verdict == "approve", "cleo leads, dana is the platform's"


def test_the_planners_own_word_can_only_raise_the_risk() -> None:
    assert decided(proposal=proposal(risk_level="medium")).verdict == "needs_review"
    assert decided(proposal=proposal(risk_level="high")).verdict == "needs_signatures"
    stated_low = decided(proposal=proposal(**HIGH, risk_level="low"))
    assert (stated_low.verdict, stated_low.risk.reasons) == ("needs_signatures", ("production",))


#: What makes a signature count for nothing.
WORTHLESS: dict[str, dict[str, Any]] = {
    "an agent": {"signer": "governance"},
    "the release": {"signer": "release"},
    "a stranger": {"signer": "mallory"},
    "another spelling": {"signer": "Ada"},
    "a member": {"signer": "max"},
    "the lead of another team": {"signer": "cleo"},
    "a role not held": {"role": "platform"},
    "expired": {"expires_at": NOW},
    "not yet signed": {"signed_at": NOW + timedelta(seconds=1)},
    "signed before it was proposed": {"signed_at": NOW - timedelta(hours=2)},
    "another plan": {"plan_hash": "0" * 64},
    "another policy": {"policy_version": 2},
}


@pytest.mark.parametrize("change", WORTHLESS.values(), ids=WORTHLESS)
def test_a_signature_that_counts_for_nothing(change: dict[str, Any]) -> None:
    asked = proposal(**MEDIUM)
    assert decided(proposal=asked, signatures=[signature(asked, "ada", "team-lead") | change]).verdict == "needs_review"
    asked = proposal(**HIGH)
    lead, platform = both(asked)
    assert decided(proposal=asked, signatures=[lead | change, platform]).verdict == "needs_signatures"


@pytest.mark.parametrize("author", ["ada", "dana"])
def test_no_author_signs_for_their_own_plan(author: str) -> None:
    for authors in ([author], ["planner", author]):
        asked = proposal(**HIGH, authors=authors)
        decision = decided(proposal=asked, signatures=both(asked))
        assert decision.verdict == "needs_signatures"
        assert author not in {who for who, _ in decision.signed}


def test_a_workload_without_a_known_tier_needs_both_signatures() -> None:
    asked = proposal(service_tier=None)
    assert decided(proposal=asked).verdict == "needs_signatures"
    assert decided(proposal=asked).risk.reasons == ("service_tier_missing",)
    assert decided(proposal=asked, signatures=both(asked)).verdict == "approve"


def test_open_roles() -> None:
    wanted = ("team-lead", "platform")
    assert open_roles(wanted, []) == wanted
    assert open_roles(wanted, [("a", "team-lead"), ("a", "platform")]) == ("platform",)
    assert open_roles(wanted, [("a", "team-lead"), ("a", "platform"), ("b", "team-lead")]) == ()
    assert open_roles((), []) == ()


# -- what is never allowed ----------------------------------------------------------------------------------

EU_ONLY = {"applies_to": "workload", "name": "etl-orders", "regions": ["eu-*"], "reason": "law"}

#: (proposal, policy, record) changes → the checks that fail, whatever is signed.
DENIED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], list[str]]] = {
    "denied region": ({}, {"places__denied_regions": ["us-west-2"]}, {}, ["regions_are_allowed"]),
    "region not allowed": ({}, {"places__allowed_regions": ["eu-*"]}, {}, ["regions_are_allowed"]),
    "residency of a workload": ({}, {"places__residency": [EU_ONLY]}, {}, ["residency_is_kept"]),
    "residency of a team": (
        {},
        {"places__residency": [EU_ONLY | {"applies_to": "team", "name": "data"}]},
        {},
        ["residency_is_kept"],
    ),
    "residency of a data class": (
        {"data_class": "pii"},
        {"places__residency": [EU_ONLY | {"applies_to": "data_class", "name": "pii"}]},
        {},
        ["residency_is_kept"],
    ),
    "deferred too long": ({"workload_category": "balanced"}, {"windows__balanced_hours": 2.5}, {}, ["window_is_kept"]),
    "urgent is not deferred": ({"workload_category": "urgent"}, {}, {}, ["window_is_kept"]),
    "action switched off": ({}, {"actions__region_shift__enabled": False}, {}, ["action_is_allowed"]),
    "right-sizing in disguise": (
        {"proposed_config": config(vcpus_scale="0.8")},
        {"actions__right_size__enabled": False},
        {},
        ["action_is_allowed"],
    ),
    "too little left": ({"proposed_config": config(vcpus_scale="0.4")}, {}, {}, ["action_is_allowed"]),
    "spot in disguise": (
        {"proposed_config": config(spot=True)},
        {"actions__spot_convert__enabled": False},
        {},
        ["action_is_allowed"],
    ),
    "spot for that category": (
        {"proposed_config": config(spot=True)},
        {"actions__spot_convert__categories": ["balanced"]},
        {},
        ["action_is_allowed"],
    ),
    "another action in the plan": (
        {"proposed_config": config("time_shift")},
        {"actions__time_shift__enabled": False},
        {},
        ["action_is_allowed"],
    ),
    "rate limit": ({}, {"limits__max_actions_per_team_per_day": 5}, {"actions_that_day": 5}, ["within_rate_limit"]),
    "frozen": ({}, {"limits__max_actions_per_team_per_day": 0}, {}, ["within_rate_limit"]),
    "rejected before": ({}, {}, {"rejections": 1}, ["nobody_rejected"]),
    "not proposed": ({}, {}, {"state": "executed"}, ["is_proposed"]),
    "not proposed yet": ({"proposed_at": NOW + timedelta(seconds=1)}, {}, {}, ["proposed_before_now"]),
    "edited plan": ({"plan_hash": "1" * 64}, {}, {}, ["plan_is_what_was_hashed"]),
    "nowhere": ({"proposed_config": config(placements=[])}, {}, {}, ["proposal_is_complete"]),
    "policy of tomorrow": ({}, {}, {}, ["policy_is_in_force"]),
}  # fmt: skip


@pytest.mark.parametrize("name", DENIED)
def test_what_the_rules_forbid_no_signature_allows(name: str) -> None:
    changes, policy_changes, record_changes, expected = DENIED[name]
    row = row_of(document(**policy_changes))
    if name == "policy of tomorrow":
        row |= {"valid_from": NOW + timedelta(days=1)}
    asked = proposal(**changes)
    decision = decided(proposal=asked, policy=row, record=record(**record_changes), signatures=both(asked))
    assert decision.verdict == "deny"
    assert [n for n in failed(decision) if n != "risk_is_known"][: len(expected)] == expected
    assert all(n in decision.reason for n in expected)
    assert decision.passing == (expected[0] in ("within_rate_limit", "proposed_before_now")), "the others do not pass"


def test_what_stays_in_its_only_region_is_not_moved_there() -> None:
    """A region work may not be moved to is no reason against waiting in it."""
    here = config("time_shift", placements=[{"region": "ap-south-1", "delay_hours": 3}])
    row = row_of(document(places__denied_regions=["ap-*"], places__residency=[EU_ONLY]))
    at_home = {"action_type": "time_shift", "proposed_config": here, "current_config": {"regions": ["ap-south-1"]}}
    assert decided(proposal=proposal(**at_home), policy=row).verdict == "approve"
    for current in (
        {"regions": ["us-east-1"]},
        {"regions": ["ap-south-1", "us-east-1"]},
        {"regions": "ap-south-1"},
        {},
        None,
    ):
        decision = decided(proposal=proposal(**at_home | {"current_config": current}), policy=row)
        assert failed(decision) == ["regions_are_allowed", "residency_is_kept"]


def test_the_same_without_its_reason_is_allowed() -> None:
    """Negative control of the cases above: what they start from is approved."""
    asked = proposal()
    assert decided(proposal=asked, signatures=both(asked)).verdict == "approve"
    half = config(vcpus_scale="0.5", spot=True)
    assert decided(proposal=proposal(proposed_config=half)).verdict == "approve"


def test_a_plan_whose_day_is_over_expires() -> None:
    ended = PLANNED_FOR + timedelta(days=1)
    assert decided(now=ended - timedelta(microseconds=1)).verdict == "approve"
    assert decided(now=ended).verdict == "expire"
    asked = proposal(**HIGH)
    late = [s | {"expires_at": ended + timedelta(days=1)} for s in both(asked)]
    assert decided(proposal=asked, signatures=late, now=ended).verdict == "expire"


def test_a_rejection_among_the_signatures_is_final() -> None:
    asked = proposal(**HIGH)
    said_no = signature(asked, "ben", "team-lead", verdict="reject", expires_at=None)
    decision = decided(proposal=asked, signatures=[*both(asked), said_no])
    assert (decision.verdict, failed(decision)) == ("deny", ["nobody_rejected"])


def test_signatures_of_another_recommendation_are_no_signatures() -> None:
    asked, other = proposal(**HIGH), proposal(**HIGH, recommendation_id="rec-2")
    assert asked["plan_hash"] == other["plan_hash"], "the same plan proposed again is signed again"
    decision = decided(proposal=asked, signatures=both(other))
    assert (decision.verdict, failed(decision)) == ("deny", ["signatures_are_readable"])


def test_an_unreadable_policy_decides_nothing() -> None:
    row = row_of(document(windows__balanced_hours=9))
    assert failed(decided(policy=row))[0] == "policy_is_in_force"
    tampered = row_of(document()) | {"document": row_of(document(planning__carbon_price_usd_per_t=0))["document"]}
    decision = decided(policy=tampered)
    assert decision.verdict == "deny" and "is not the one of hash" in decision.reason


@pytest.mark.parametrize("now", [None, "2026-01-06", NOW.replace(tzinfo=None), 5])
def test_without_a_clock_nothing_is_decided(now: Any) -> None:
    assert decided(now=now).verdict == "deny"


def test_whatever_is_thrown_at_it_the_answer_is_no() -> None:
    for part in ("proposal", "policy", "signatures", "record", "now"):
        for value in (None, {}, [], "x", 7, object(), SimpleNamespace(), [None], {"version": object()}):
            if (part, value) == ("signatures", []):
                continue
            assert decided(**{part: value}).verdict == "deny", (part, value)


# -- the planner's hash -------------------------------------------------------------------------------------


def test_the_hash_is_over_the_plan_and_nothing_else() -> None:
    base = plan_hash(proposal())
    for name, value in {
        "workload_id": "other", "planned_for": NOW, "action_type": "time_shift", "objective": "min-carbon",
        "policy_version": 2, "proposed_config": config(spot=True),
    }.items():  # fmt: skip
        assert plan_hash(proposal() | {name: value}) != base
        with pytest.raises(KeyError):
            plan_hash({k: v for k, v in proposal().items() if k != name})
    assert plan_hash(proposal() | {"confidence": 0.1, "risk_level": "high"}) == base
    import json

    as_text = {"planned_for": "2026-01-07T05:30:00+05:30", "proposed_config": json.dumps(config(), indent=2)}
    assert plan_hash(proposal() | as_text) == base


# -- the last gate ------------------------------------------------------------------------------------------


def approved_history(**changes: Any) -> list[dict[str, Any]]:
    asked = proposal()
    payload = {"holds_until": (NOW + timedelta(hours=1)).isoformat()}
    first = event_of(
        Transition("rec-1", "proposed", "a plan", plan_hash=asked["plan_hash"], payload={}), "planner", [], NOW
    )
    fields = {"plan_hash": asked["plan_hash"], "payload": payload} | changes
    return [first, event_of(Transition("rec-1", "approved", "yes", **fields), "governance", [first], NOW)]


def test_what_was_approved_may_be_executed_until_its_approval_ends() -> None:
    history, plan = approved_history(), proposal()
    assert all(c.ok for c in may_execute(history, plan, 0, NOW))
    cases: dict[str, tuple[Any, ...]] = {
        "approval_still_counts": (history, plan, 0, NOW + timedelta(hours=1)),
        "plan_is_the_approved_one": (history, plan | {"proposed_config": config(spot=True)}, 0, NOW),
        "nobody_rejected": (history, plan, 1, NOW),
        "is_approved": (history[:1], plan, 0, NOW),
    }
    for name, arguments in cases.items():
        assert name in [c.name for c in may_execute(*arguments) if not c.ok]
    for wrong in (
        ([], plan, 0, NOW), (history, {}, 0, NOW), (history, plan, None, NOW), (history, plan, 0, None),
        (approved_history(payload=None), plan, 0, NOW), (approved_history(payload={"holds_until": 5}), plan, 0, NOW),
    ):  # fmt: skip
        assert not all(c.ok for c in may_execute(*wrong))
