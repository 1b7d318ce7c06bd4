"""Decisions at the books: review, signatures with their transition, rejections, limits, silence, twice and at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from governance_cases import NOW, PLANNED_FOR, config, policy
from governance_world import PROPOSED_AT, desk, open_world, policies, propose, state

from sust_dagster.agents.governance import PolicyError, may_execute
from sust_dagster.orchestration.policy_desk import SignatureRefused
from sust_dagster.world.access import World
from sust_dagster.world.books import Books
from sust_dagster.world.decisions import TransitionRefused

HIGH = {"service_tier": "production"}
MEDIUM = {"confidence": 0.7}


def log(world: World, name: str) -> dict[str, Any]:
    return world.books.read("decision_log", {"recommendation_id": name}).to_pylist()[0]


def rows(world: World, table: str, **where: Any) -> list[dict[str, Any]]:
    return world.books.read(table, where).to_pylist()


def everything(books: Books) -> dict[str, Any]:
    """All that governance writes."""
    return {
        t: books.read(t).to_pylist() for t in ("decision_events", "approvals", "alerts", "policies", "policy_reviews")
    }


# -- review -------------------------------------------------------------------------------------------------


def test_a_review_decides_everything_proposed(world: World) -> None:
    propose(world, "harmless")
    propose(world, "doubtful", **MEDIUM)
    propose(world, "heavy", **HIGH)
    propose(world, "forbidden", workload_category="urgent")
    propose(world, "silent", at=NOW - timedelta(hours=25), **MEDIUM)
    propose(world, "past", planned_for=(PLANNED_FOR - timedelta(days=2)).isoformat())
    done = desk(world).review(NOW)
    assert done.approved == ("harmless",)
    assert set(done.rejected) == {"forbidden"} and "window_is_kept" in done.rejected["forbidden"]
    assert set(done.expired) == {"silent", "past"}
    assert {c.recommendation_id: c.decision.verdict for c in done.waiting} == {
        "doubtful": "needs_review",
        "heavy": "needs_signatures",
    }
    states = {n: state(world, n) for n in ("harmless", "doubtful", "heavy", "forbidden", "silent", "past")}
    assert states == {
        "harmless": "approved", "doubtful": "proposed", "heavy": "proposed",
        "forbidden": "rejected", "silent": "expired", "past": "expired",
    }  # fmt: skip
    (event,) = rows(world, "decision_events", recommendation_id="harmless", to_status="approved")
    assert (event["actor"], event["agent"], event["policy_version"]) == ("governance", "governance", 1)
    told = json.loads(event["payload"])
    assert (told["risk_level"], told["risk_reasons"], told["signed"]) == ("low", [], [])
    assert told["holds_until"] == (NOW + timedelta(hours=24)).isoformat()
    assert "plan_is_what_was_hashed" in told["checks"]
    before = everything(world.books)
    again = desk(world).review(NOW)
    assert (again.approved, again.rejected, again.expired) == ((), {}, {})
    assert everything(world.books) == before, "the same moment, the same books"


def test_the_first_twenty_are_left_to_people(tmp_path: Path) -> None:
    with open_world(tmp_path / "books.db") as world:
        policies(world).seed(policy(limits__max_actions_per_team_per_day=100), PROPOSED_AT)
        for i in range(22):
            propose(world, f"r{i:02d}", est_carbon_delta_kg=-1.0 - i / 100)
        assert desk(world).review(NOW).approved == ()
        for i in range(19):
            assert desk(world).approve(f"r{i:02d}", "ada", NOW).state == "approved"
        assert desk(world).review(NOW).approved == (), "nineteen were approved by people"
        desk(world).approve("r19", "dana", NOW)
        assert desk(world).review(NOW).approved == ("r21", "r20"), "from the twentieth on it runs by itself"


def test_a_rate_limit_leaves_the_smallest_savings_waiting(ready_world: Callable[..., World]) -> None:
    with ready_world(limits__max_actions_per_team_per_day=3) as world:
        for i in range(5):
            propose(world, f"r{i}", est_carbon_delta_kg=-1.0 - i / 10)
        propose(world, "other-team", team_id="ml")
        propose(world, "other-day", planned_for=(PLANNED_FOR - timedelta(days=1)).isoformat())
        done = desk(world).review(NOW)
        assert set(done.approved) == {"r4", "r3", "r2", "other-team", "other-day"}
        assert {c.recommendation_id for c in done.waiting} == {"r0", "r1"}, "not turned down: the limit passes"
        with pytest.raises(SignatureRefused, match="within_rate_limit: team data has 3 actions for that day, 3 may be"):
            desk(world).approve("r0", "ada", NOW)
        assert desk(world).review(PLANNED_FOR + timedelta(days=1)).expired.keys() >= {"r0", "r1"}


def test_an_approval_that_is_not_used_in_time_expires(world: World) -> None:
    digest = propose(world, "r")
    desk(world).review(NOW)
    assert desk(world).review(NOW + timedelta(hours=23)).expired == {}
    assert set(desk(world).review(NOW + timedelta(hours=24)).expired) == {"r"}
    with pytest.raises(TransitionRefused, match="it is expired"):
        world.handle("executor").transition("r", "executing", reason="late", plan_hash=digest)


def test_what_waits_for_people_is_said_once(world: World) -> None:
    propose(world, "heavy", **HIGH)
    for hours in range(3):
        desk(world).review(NOW + timedelta(hours=hours))
    (alert,) = rows(world, "alerts")
    assert (alert["kind"], alert["subject"], alert["agent"]) == ("approval_wanted", "heavy", "governance")
    assert "team data" in alert["text"] and "production" in alert["text"] and "team-lead and platform" in alert["text"]


def test_without_a_policy_nothing_is_decided(tmp_path: Path) -> None:
    with open_world(tmp_path / "books.db") as world:
        propose(world, "r")
        for act in (lambda: desk(world).review(NOW), lambda: desk(world).approve("r", "ada", NOW)):
            with pytest.raises(PolicyError, match="no version of policy"):
                act()
        assert state(world, "r") == "proposed"


# -- signatures ---------------------------------------------------------------------------------------------


def test_two_people_approve_a_high_risk_plan(world: World) -> None:
    digest = propose(world, "heavy", **HIGH)
    first = desk(world).approve("heavy", "ada", NOW, reason="team agrees", plan_hash=digest)
    assert (first.state, first.role, first.decision.waits_for, first.new) == (
        "proposed",
        "team-lead",
        ("platform",),
        True,
    )
    again = desk(world).approve("heavy", "ada", NOW + timedelta(minutes=1), reason="said again")
    assert (again.state, again.new) == ("proposed", False)
    assert len(rows(world, "approvals")) == 1, "a signature is given once"
    second = desk(world).approve("heavy", "dana", NOW + timedelta(minutes=5))
    assert (second.state, second.role) == ("approved", "platform")
    (event,) = rows(world, "decision_events", recommendation_id="heavy", to_status="approved")
    assert (event["actor"], event["role"], event["plan_hash"]) == ("dana", "platform", digest)
    assert json.loads(event["payload"])["signed"] == ["ada as team-lead", "dana as platform"]
    told = log(world, "heavy")
    assert (told["approved_by"], told["approved_at"]) == ("ada, dana", NOW + timedelta(minutes=5))
    last = desk(world).approve("heavy", "dana", NOW + timedelta(minutes=9))
    assert (last.state, last.new) == ("approved", False)
    assert len(rows(world, "approvals")) == 2
    signed = rows(world, "approvals", signer="ada")[0]
    assert (signed["reason"], signed["policy_version"], signed["plan_hash"]) == ("team agrees", 1, digest)
    assert signed["expires_at"] == NOW + timedelta(hours=24)
    history = rows(world, "decision_events", recommendation_id="heavy")
    plan = {**json.loads(history[0]["payload"])}
    assert all(c.ok for c in may_execute(history, plan, 0, NOW + timedelta(minutes=10)))


def test_a_person_with_both_roles_signs_once(world: World) -> None:
    propose(world, "heavy", **HIGH, team_id="ml")
    assert desk(world).approve("heavy", "dana", NOW).role == "team-lead"
    assert desk(world).approve("heavy", "dana", NOW, role="platform").new is False
    with pytest.raises(SignatureRefused, match="may not sign for team ml as platform"):
        desk(world).approve("heavy", "cleo", NOW, role="platform")
    assert desk(world).approve("heavy", "eve", NOW).state == "approved"


@pytest.mark.parametrize("signer", ["mallory", "max", "cleo", "Ada", "governance", "planner", "release", ""])
def test_who_holds_no_role_is_refused_and_told_who_does(world: World, signer: str) -> None:
    propose(world, "heavy", **HIGH)
    before = everything(world.books)
    for act in (desk(world).approve, lambda *a: desk(world).reject(a[0], a[1], "no", a[2])):
        with pytest.raises(SignatureRefused, match=r"team-lead of data: ada, ben; platform: dana, eve"):
            act("heavy", signer, NOW)
    assert everything(world.books) == before


def test_an_author_does_not_sign_what_they_wrote(world: World) -> None:
    propose(world, "by-ada", actor="ada", **HIGH)
    propose(world, "for-ada", proposed_by="ada", **HIGH)
    for name in ("by-ada", "for-ada"):
        with pytest.raises(SignatureRefused, match="ada is its author; others sign it"):
            desk(world).approve(name, "ada", NOW)
        desk(world).approve(name, "ben", NOW)
        assert desk(world).approve(name, "eve", NOW).state == "approved"


def test_a_signature_is_for_one_plan(world: World) -> None:
    propose(world, "heavy", **HIGH)
    with pytest.raises(SignatureRefused, match=r"is about plan .* now, not"):
        desk(world).approve("heavy", "ada", NOW, plan_hash="0" * 64)
    propose(world, "again", workload_id="workload-of-heavy", **HIGH)
    for name in ("ada", "dana"):
        desk(world).approve("heavy", name, NOW)
    assert state(world, "again") == "proposed", "the same plan proposed again is signed again"
    propose(world, "edited", **HIGH, proposed_config=config(spot=True))
    assert {c.recommendation_id for c in desk(world).review(NOW).waiting} == {"again", "edited"}


def test_an_old_signature_has_to_be_given_again(world: World) -> None:
    late = PLANNED_FOR + timedelta(hours=6)
    propose(world, "heavy", **HIGH)
    desk(world).approve("heavy", "ada", NOW)
    later = NOW + timedelta(hours=25)
    assert later < late
    assert desk(world).approve("heavy", "dana", later).state == "proposed", "the first has run out"
    assert desk(world).approve("heavy", "ada", later).state == "approved"
    assert len(rows(world, "approvals", signer="ada")) == 2
    assert log(world, "heavy")["approved_by"] == "ada, dana"


def test_another_policy_voids_signatures(world: World) -> None:
    propose(world, "heavy", **HIGH)
    desk(world).approve("heavy", "ada", NOW)
    _change_policy(world)
    later = NOW + timedelta(minutes=2)
    assert desk(world).approve("heavy", "dana", later).state == "proposed"
    assert desk(world).approve("heavy", "ada", later).state == "approved"
    assert (
        "another_policy"
        in json.loads(rows(world, "decision_events", to_status="approved", recommendation_id="heavy")[0]["payload"])[
            "risk_reasons"
        ]
    )


def _change_policy(world: World) -> None:
    changed = policy(planning__carbon_price_usd_per_t=80)
    policies(world).propose(changed, "max", NOW)
    policies(world).sign(2, "eve", "approve", "yes", NOW + timedelta(minutes=1))
    assert policies(world).sign(2, "ben", "approve", "yes", NOW + timedelta(minutes=1)).state == "in force"


def test_what_the_rules_forbid_cannot_be_signed(world: World) -> None:
    propose(world, "urgent", workload_category="urgent")
    before = everything(world.books)
    with pytest.raises(SignatureRefused, match="window_is_kept: deferred by 3 h, 0 h are allowed"):
        desk(world).approve("urgent", "ada", NOW)
    assert everything(world.books) == before
    with pytest.raises(ValueError, match="there is no recommendation nobody-made"):
        desk(world).approve("nobody-made", "ada", NOW)


def test_a_recommendation_that_is_through_is_not_signed(world: World) -> None:
    propose(world, "r")
    desk(world).review(NOW)
    with pytest.raises(SignatureRefused, match="is_proposed: it is approved"):
        desk(world).approve("r", "ada", NOW)


# -- rejections ---------------------------------------------------------------------------------------------


def test_a_rejection_is_final_for_the_plan(world: World) -> None:
    digest = propose(world, "heavy", **HIGH)
    desk(world).approve("heavy", "ada", NOW)
    said = desk(world).reject("heavy", "ben", "not this week", NOW)
    assert (said.state, said.role, state(world, "heavy")) == ("rejected", "team-lead", "rejected")
    assert desk(world).reject("heavy", "ben", "not this week", NOW + timedelta(hours=1)).new is False
    with pytest.raises(SignatureRefused, match="nobody_rejected"):
        desk(world).approve("heavy", "dana", NOW)
    with pytest.raises(TransitionRefused, match="ben rejected plan"):
        propose(world, "same-plan", workload_id="workload-of-heavy", **HIGH)
    (event,) = rows(world, "decision_events", to_status="rejected")
    assert (event["actor"], event["reason"], event["plan_hash"]) == ("ben", "not this week", digest)
    with pytest.raises(SignatureRefused, match="is rejected; it cannot be rejected any more"):
        desk(world).reject("heavy", "dana", "me too", NOW)


def test_an_approved_plan_is_withdrawn_before_it_begins(world: World) -> None:
    digest = propose(world, "r")
    propose(world, "twin", workload_id="workload-of-r")
    desk(world).review(NOW)
    assert desk(world).reject("r", "eve", "freeze", NOW).state == "expired"
    assert (
        "withdrawn by eve: freeze"
        in rows(world, "decision_events", recommendation_id="r", to_status="expired")[0]["reason"]
    )
    with pytest.raises(TransitionRefused, match="it is expired"):
        world.handle("executor").transition("r", "executing", reason="now", plan_hash=digest)
    history = rows(world, "decision_events", recommendation_id="twin")
    gate = may_execute(history, json.loads(history[0]["payload"]), len(rows(world, "approvals", verdict="reject")), NOW)
    assert [c.name for c in gate if not c.ok] == ["nobody_rejected"], "the same plan approved twice is stopped twice"
    propose(world, "third", workload_id="workload-of-r")
    assert "third" in desk(world).review(NOW).rejected


def test_what_has_begun_is_not_rejected(world: World) -> None:
    digest = propose(world, "r")
    desk(world).review(NOW)
    world.handle("executor").transition("r", "executing", reason="now", plan_hash=digest)
    with pytest.raises(SignatureRefused, match="is executing; it cannot be rejected any more"):
        desk(world).reject("r", "ada", "stop", NOW)
    with pytest.raises(SignatureRefused, match="needs a reason"):
        desk(world).reject("r", "ada", " ", NOW)


# -- at once ------------------------------------------------------------------------------------------------


def test_two_people_at_the_same_moment_are_two_signatures(ready_world: Callable[..., World], tmp_path: Path) -> None:
    """Each in a connection of their own, many times over: the plan is approved once, by both, never stuck."""
    path = tmp_path / "books.db"
    world = ready_world(limits__max_actions_per_team_per_day=100)
    names = [f"r{i}" for i in range(8)]
    for name in names:
        propose(world, name, **HIGH)
    states: dict[str, list[str]] = {name: [] for name in names}
    barrier = threading.Barrier(2)

    def sign(account: str) -> None:
        with open_world(path) as own:
            for name in names:
                barrier.wait(30)
                states[name].append(desk(own).approve(name, account, NOW).state)

    threads = [threading.Thread(target=sign, args=(a,)) for a in ("ada", "dana")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(sorted(s) == ["approved", "proposed"] for s in states.values()), states
    assert len(rows(world, "approvals")) == 16
    assert {log(world, n)["approved_by"] for n in names} == {"ada, dana"}


def test_everything_happens_together_or_not_at_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash between the signature and the transition leaves neither."""
    from sust_dagster.world.access import AgentTransaction

    propose(world, "r", **MEDIUM)
    before = everything(world.books)

    def crash(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(AgentTransaction, "transitions", crash)
        desk(world).approve("r", "ada", NOW)
    assert everything(world.books) == before
    assert desk(world).approve("r", "ada", NOW).state == "approved"
