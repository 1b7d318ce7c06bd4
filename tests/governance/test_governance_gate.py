"""The policy gate at the books: seeding, proposing, two signatures, alerts, and who is turned away."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from governance_cases import NOW, SINCE, policy
from governance_world import desk, open_world, policies, propose

from sust_dagster.agents.governance import PolicyError, default_policy
from sust_dagster.orchestration.alerts import acknowledge
from sust_dagster.orchestration.policy_desk import SignatureRefused
from sust_dagster.orchestration.policy_seed import POLICY_FILE, first_policy, seed_policy
from sust_dagster.settings import Project, simulated_project
from sust_dagster.world.access import World

FREE = {"planning__carbon_price_usd_per_t": 0}
LATER = NOW + timedelta(minutes=1)


def alerts(world: World) -> list[tuple[str, str]]:
    events = world.books.read("alerts").to_pylist()
    return [(e["kind"], e["text"]) for e in sorted(events, key=lambda e: (e["occurred_at"], e["kind"]), reverse=True)]


def test_somebody_sets_the_carbon_price_to_zero(world: World) -> None:
    """Failure mode 12 of the founding design: it takes two others, and everybody hears of it."""
    proposed = policies(world).propose(policy(**FREE), "ada", NOW)
    assert (proposed.version, proposed.state, proposed.waits_for) == (2, "draft", ("platform", "team-lead"))
    assert alerts(world) == [
        ("policy_proposed", "ada proposes policy 2, against 1: planning.carbon_price_usd_per_t: 75.0 → 0.0")
    ]
    with pytest.raises(SignatureRefused, match="ada wrote policy 2; two others sign it"):
        policies(world).sign(2, "ada", "approve", "mine", NOW)
    assert policies(world).sign(2, "dana", "approve", "fine", NOW).waits_for == ("team-lead",)
    assert policies(world).in_force(LATER).policy.planning.carbon_price_usd_per_t == 75
    done = policies(world).sign(2, "ben", "approve", "fine", LATER)
    assert (done.state, set(done.signed_by), done.approved_at) == ("in force", {"dana", "ben"}, LATER)
    assert policies(world).in_force(LATER).policy.planning.carbon_price_usd_per_t == 0
    assert policies(world).in_force(LATER - timedelta(seconds=1)).version == 1
    assert alerts(world)[0] == (
        "policy_changed",
        "policy 2 replaces 1, signed by dana, ben: planning.carbon_price_usd_per_t: 75.0 → 0.0",
    )


def test_every_decision_names_the_policy_it_was_made_under(world: World) -> None:
    propose(world, "before")
    desk(world).review(NOW)
    policies(world).propose(policy(**FREE), "max", NOW)
    for who in ("dana", "ben"):
        policies(world).sign(2, who, "approve", "fine", LATER)
    propose(world, "after", policy_version=2)
    desk(world).review(LATER)
    events = world.books.read("decision_events", {"recommendation_id": ["before", "after"], "to_status": "approved"})
    assert {e["recommendation_id"]: e["policy_version"] for e in events.to_pylist()} == {"before": 1, "after": 2}


def test_saying_it_again_changes_nothing(world: World) -> None:
    first = policies(world).propose(policy(**FREE), "max", NOW)
    assert policies(world).propose(policy(**FREE), "max", LATER) == first
    policies(world).sign(2, "dana", "approve", "fine", NOW)
    policies(world).sign(2, "dana", "approve", "fine", LATER)
    policies(world).sign(2, "ben", "approve", "fine", LATER)
    again = policies(world).sign(2, "ben", "approve", "fine", LATER)
    assert again.state == "in force"
    assert world.books.read("policies").num_rows == 2
    assert world.books.read("policy_reviews").num_rows == 2
    assert len(alerts(world)) == 2
    assert [s.state for s in policies(world).history(LATER)] == ["superseded", "in force"]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda d: d.propose(policy(**FREE), "mallory", NOW), "'mallory' is no account of policy 1"),
        (lambda d: d.propose(policy(**FREE), "governance", NOW), "'governance' is no account"),
        (lambda d: d.propose(policy(), "max", NOW), "is policy 1, which is in force"),
        (lambda d: d.propose(default_policy(), "max", NOW), "nobody could sign anything again"),
        (lambda d: d.sign(2, "max", "approve", "x", NOW), "'max' holds no role platform or team-lead"),
        (lambda d: d.sign(2, "mallory", "approve", "x", NOW), "'mallory' holds no role"),
        (lambda d: d.sign(2, "ben", "approve", "x", NOW, role="platform"), "'ben' holds no role platform"),
        (lambda d: d.sign(2, "dana", "approve", " ", NOW), "with a reason"),
        (lambda d: d.sign(2, "dana", "perhaps", "x", NOW), "'approve' or 'reject'"),
        (lambda d: d.sign(1, "dana", "approve", "x", NOW), "policy 1 is in force; only a draft is signed"),
    ],
)
def test_who_may_not_is_told_why(world: World, act: Callable[[Any], Any], message: str) -> None:
    policies(world).propose(policy(planning__carbon_price_usd_per_t=60), "max", NOW)
    tables = ("policies", "policy_reviews", "alerts")
    before = [world.books.read(t) for t in tables]
    with pytest.raises(SignatureRefused, match=re.escape(message)):
        act(policies(world))
    assert [world.books.read(t) for t in tables] == before


def test_a_policy_that_contradicts_itself_is_not_even_proposed(world: World) -> None:
    wrong = policy(windows__balanced_hours=6, places__denied_regions=["*"])
    with pytest.raises(PolicyError) as error:
        policies(world).propose(wrong, "max", NOW)
    assert [p.split(":")[0] for p in error.value.problems] == ["no_region_left", "window_too_long"]
    misspelt = policy(places__denied_regions=["us-eats-1"])
    with pytest.raises(PolicyError, match="unknown_region: 'us-eats-1'"):
        policies(world).propose(misspelt, "max", NOW, regions=["us-east-1"])
    with pytest.raises(PolicyError, match="there is no version 9"):
        policies(world).sign(9, "dana", "approve", "x", NOW)


def test_a_rejected_draft_stays_rejected(world: World) -> None:
    policies(world).propose(policy(**FREE), "max", NOW)
    assert policies(world).sign(2, "ben", "reject", "no", NOW).state == "rejected"
    with pytest.raises(SignatureRefused, match="policy 2 is rejected"):
        policies(world).sign(2, "dana", "approve", "but", LATER)
    again = policies(world).propose(policy(**FREE), "max", LATER)
    assert again.version == 3, "it may be proposed again, as another version, and is heard of again"


def test_an_alert_is_acknowledged_by_a_person_and_stays(world: World) -> None:
    policies(world).propose(policy(**FREE), "max", NOW)
    (alert,) = world.books.read("alerts").to_pylist()
    with world.handle("governance").transaction() as t:
        assert acknowledge(t, "governance", alert["alert_id"], actor="dana", text="looking", now=LATER)
        assert not acknowledge(t, "governance", alert["alert_id"], actor="ben", text="me too", now=LATER)
        for actor, alert_id, message in (
            ("planner", alert["alert_id"], "is an agent"),
            ("dana", "x", "there is no alert x"),
        ):
            with pytest.raises(ValueError, match=message):
                acknowledge(t, "governance", alert_id, actor=actor, text="?", now=LATER)
    raised, seen = world.books.read("alerts").to_pylist()
    assert raised == alert
    assert (seen["event"], seen["actor"], seen["text"], seen["subject"]) == (
        "acknowledged",
        "dana",
        "looking",
        alert["subject"],
    )


# -- the first policy ---------------------------------------------------------------------------------------


def test_the_first_policy_is_seeded_once(tmp_path: Path) -> None:
    with open_world(tmp_path / "books.db") as world:
        assert policies(world).seed(policy(), SINCE)
        assert not policies(world).seed(policy(**FREE), NOW)
        assert policies(world).in_force(NOW).policy.planning.carbon_price_usd_per_t == 75


def test_a_project_starts_with_the_shipped_policy_at_its_own_carbon_price(tmp_path: Path) -> None:
    project = Project(root=tmp_path, source="files", carbon_price_usd_per_t=120.0)
    first = first_policy(project)
    assert first.planning.carbon_price_usd_per_t == 120
    assert first.roles.accounts == frozenset()
    with open_world(tmp_path / "books.db") as world:
        assert seed_policy(world, project, NOW)
        assert not seed_policy(world, project, NOW)
        assert policies(world).in_force(project.start).created_at == NOW, "it holds from the project's first hour on"
        again = first.model_copy(update={"roles": policy().roles})
        policies(world).propose(again, "max", NOW)  # a project names its people once
        policies(world).sign(2, "dana", "approve", "us", NOW)
        assert policies(world).sign(2, "ada", "approve", "us", NOW).state == "in force"


def test_a_projects_own_file_is_its_first_policy(tmp_path: Path) -> None:
    from sust_dagster.agents.governance import write_policy_file

    project = Project(root=tmp_path, source="files")
    path = tmp_path / POLICY_FILE
    path.write_text(write_policy_file(policy(places__denied_regions=["ap-*"])))
    assert first_policy(project).places.denied_regions == ("ap-*",)
    path.write_text(write_policy_file(policy(places__denied_regions=["aq-*"])))
    with pytest.raises(PolicyError, match=r"policy\.toml: unknown_region: 'aq-\*'"):
        first_policy(project)


def test_a_simulated_project_has_the_fake_organisations_people(tmp_path: Path) -> None:
    project = simulated_project(tmp_path, days=3, seed=1)
    first = first_policy(project)
    assert len(first.roles.accounts) == 100
    assert set(first.roles.team_leads) == {
        "checkout",
        "search",
        "payments",
        "platform",
        "data",
        "ml",
        "mobile",
        "growth",
    }
    assert {r.name for r in first.places.residency} >= {"etl-ledger", "train-fraud"}
    with open_world(tmp_path / "books.db") as world:
        seed_policy(world, project, NOW)
        assert policies(world).in_force(project.start).policy == first, "from its first hour on"


def test_a_price_no_policy_may_have_is_refused_at_the_start(tmp_path: Path) -> None:
    project = Project(root=tmp_path, source="files", carbon_price_usd_per_t=1e9)
    with open_world(tmp_path / "books.db") as world, pytest.raises(PolicyError, match="carbon_price_usd_per_t"):
        seed_policy(world, project, NOW)
