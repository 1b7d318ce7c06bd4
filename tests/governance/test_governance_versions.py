"""Which policy is in force: two people, neither the author, bound to the document, under the version of the day."""

from __future__ import annotations

import copy
from datetime import datetime, timedelta
from typing import Any

import pytest
from governance_cases import NOW, SINCE, document, row_of

from sust_dagster.agents.governance import PolicyError, policy_of, version_states

HOUR = timedelta(hours=1)
FIRST = row_of(document())
CHEAP = document(planning__carbon_price_usd_per_t=0)


def draft(made: dict[str, Any] = CHEAP, version: int = 2, author: str = "max", **changes: Any) -> dict[str, Any]:
    return row_of(made, version, author=author, approved_by=None, valid_from=NOW, created_at=NOW) | changes


def review(row: dict[str, Any], signer: str, role: str, at: datetime = NOW, **changes: Any) -> dict[str, Any]:
    return {
        "review_id": f"{row['version']}-{signer}-{role}-{at}",
        "policy_id": "default",
        "version": row["version"],
        "document_hash": row["document_hash"],
        "signer": signer,
        "role": role,
        "verdict": "approve",
        "policy_version": 1,
        "signed_at": at,
    } | changes


def in_force(rows: list[dict[str, Any]], reviews: list[dict[str, Any]], at: datetime = NOW + HOUR) -> int:
    return policy_of(rows, reviews, at).version


def states(rows: list[dict[str, Any]], reviews: list[dict[str, Any]], at: datetime = NOW + HOUR) -> list[str]:
    return [s.state for s in version_states(rows, reviews, at)]


BOTH = [review(draft(), "dana", "platform"), review(draft(), "ada", "team-lead")]


def test_the_first_version_is_in_force_by_the_release() -> None:
    assert in_force([FIRST], []) == 1
    assert policy_of([FIRST], [], SINCE).policy.planning.carbon_price_usd_per_t == 75
    with pytest.raises(PolicyError, match="no version of policy 'default' is in force"):
        policy_of([FIRST], [], SINCE - timedelta(microseconds=1))
    with pytest.raises(PolicyError, match="no version"):
        policy_of([], [], NOW)


@pytest.mark.parametrize(
    "change", [{"author": "mallory"}, {"approved_by": "mallory"}, {"approved_by": None}, {"version": 2}]
)
def test_nothing_else_is_in_force_without_signatures(change: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match="no version"):
        policy_of([FIRST | change], [], NOW)
    assert in_force([FIRST, draft(author="release", approved_by="release")], []) == 1


def test_a_platform_account_and_another_lead_bring_a_version_into_force() -> None:
    rows = [FIRST, draft()]
    assert in_force(rows, []) == in_force(rows, BOTH[:1]) == in_force(rows, BOTH[1:]) == 1
    assert in_force(rows, BOTH) == in_force(rows, BOTH[::-1]) == 2
    assert states(rows, BOTH[:1]) == ["in force", "draft"]
    assert version_states(rows, BOTH[:1], NOW)[1].waits_for == ("team-lead",)
    (first, second) = version_states(rows, BOTH, NOW + HOUR)
    assert (first.state, second.state) == ("superseded", "in force")
    assert (first.signed_by, set(second.signed_by)) == (("release",), {"dana", "ada"})
    assert (second.approved_at, second.waits_for) == (NOW, ())


def test_it_applies_from_its_last_signature_and_not_before_its_day() -> None:
    rows = [FIRST, draft()]
    late = [BOTH[0], review(draft(), "ada", "team-lead", NOW + 5 * HOUR)]
    assert in_force(rows, late, NOW + 5 * HOUR - timedelta(microseconds=1)) == 1
    assert in_force(rows, late, NOW + 5 * HOUR) == 2
    tomorrow = [FIRST, draft(valid_from=NOW + timedelta(days=1))]
    assert in_force(tomorrow, BOTH, NOW + 23 * HOUR) == 1
    assert states(tomorrow, BOTH, NOW + HOUR) == ["in force", "approved"]
    assert in_force(tomorrow, BOTH, NOW + timedelta(days=1)) == 2


WORTHLESS: dict[str, dict[str, Any]] = {
    "the author": {"signer": "max"},
    "a stranger": {"signer": "mallory"},
    "an agent": {"signer": "governance"},
    "the release": {"signer": "release"},
    "a role not held": {"signer": "ben", "role": "platform"},
    "another document": {"document_hash": "0" * 64},
    "under another version": {"policy_version": 2},
    "of another policy": {"policy_id": "other"},
    "before it was written": {"signed_at": NOW - HOUR},
    "not yet given": {"signed_at": NOW + 2 * HOUR},
    "no verdict": {"verdict": "maybe"},
    "the same person": {"signer": "dana", "role": "team-lead"},
}


@pytest.mark.parametrize("change", WORTHLESS.values(), ids=WORTHLESS)
def test_a_signature_that_counts_for_nothing(change: dict[str, Any]) -> None:
    assert in_force([FIRST, draft()], [BOTH[0], BOTH[1] | change]) == 1


@pytest.mark.parametrize("author", ["ada", "dana"])
def test_an_author_does_not_sign(author: str) -> None:
    row = draft(author=author)
    assert in_force([FIRST, row], BOTH) == 1
    two_others = [review(row, "eve", "platform"), review(row, "ben", "team-lead")]
    assert in_force([FIRST, row], two_others) == 2


def test_an_unknown_author_proposes_nothing() -> None:
    assert in_force([FIRST, draft(author="mallory")], BOTH) == 1


def test_a_rejection_is_final() -> None:
    rows = [FIRST, draft()]
    no = review(draft(), "ben", "team-lead", verdict="reject")
    assert in_force(rows, [no, *[b | {"signed_at": NOW + timedelta(minutes=1)} for b in BOTH]]) == 1
    assert states(rows, [no]) == ["in force", "rejected"]
    late = no | {"signed_at": NOW + timedelta(minutes=1)}
    assert in_force(rows, [*BOTH, late]) == 2, "what is in force is replaced, not rejected"


def test_signatures_given_under_another_policy_do_not_count() -> None:
    second, third = draft(), draft(document(planning__carbon_price_usd_per_t=10), 3)
    early = review(third, "eve", "platform", NOW)
    later = review(third, "ben", "team-lead", NOW + HOUR, policy_version=2)
    rows = [FIRST, second, third]
    assert in_force(rows, [early, later | {"policy_version": 1, "signed_at": NOW + timedelta(minutes=1)}]) == 3
    assert in_force(rows, [*BOTH, early, later], NOW + 2 * HOUR) == 2
    again = review(third, "eve", "platform", NOW + HOUR, policy_version=2)
    assert in_force(rows, [*BOTH, early, later, again], NOW + 2 * HOUR) == 3


def test_a_version_older_than_the_one_in_force_stays_a_draft() -> None:
    second, third = draft(), draft(document(planning__carbon_price_usd_per_t=10), 3)
    of_third = [review(third, "dana", "platform"), review(third, "ada", "team-lead")]
    of_second = [
        review(second, "dana", "platform", NOW + timedelta(minutes=1), policy_version=3),
        review(second, "ada", "team-lead", NOW + timedelta(minutes=1), policy_version=3),
    ]
    assert in_force([FIRST, second, third], [*of_third, *of_second]) == 3
    assert states([FIRST, second, third], [*of_third, *of_second]) == ["superseded", "superseded", "in force"]


def test_accounts_are_those_of_the_version_in_force() -> None:
    """Nobody signs themselves in: a draft that names its author's friends is signed by the people of today."""
    taken_over = document(roles={"platform": ["mallory"], "members": ["max"], "team_leads": {"data": ["trudy"]}})
    row = draft(taken_over)
    own = [review(row, "mallory", "platform"), review(row, "trudy", "team-lead")]
    assert in_force([FIRST, row], own) == 1
    signed = [review(row, "dana", "platform"), review(row, "ada", "team-lead")]
    assert in_force([FIRST, row], signed) == 2


def test_where_nobody_is_named_yet_the_people_of_the_draft_name_themselves_once() -> None:
    nobody = row_of(document(roles={"platform": [], "members": [], "team_leads": {}}))
    row = draft(document())
    signed = [review(row, "dana", "platform"), review(row, "ada", "team-lead")]
    assert in_force([nobody, row], signed[:1]) == 1, "two of them, and not the author"
    assert in_force([nobody, row], signed) == 2
    assert in_force([nobody, draft(document(), author="mallory")], signed) == 1


def test_a_version_that_is_not_intact_decides_nothing() -> None:
    tampered = draft() | {"document": draft(document())["document"]}
    assert in_force([FIRST, tampered], BOTH) == 1, "it cannot be signed"
    assert states([FIRST, tampered], BOTH) == ["in force", "unreadable"]
    first = copy.deepcopy(FIRST) | {"document": draft()["document"]}
    with pytest.raises(PolicyError, match="cannot be read or is not intact"):
        policy_of([first], [], NOW)
