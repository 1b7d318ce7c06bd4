"""The heart: taking something away from what a decision is made from never turns a refusal into an approval.

The same search, run over an evaluator written the other way round (a list of what is forbidden), finds how that one
opens when a field is missing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from governance_cases import NOW, both, document, inputs, proposal, row_of, signature
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sust_dagster.agents.governance import PolicyError, decide
from sust_dagster.agents.governance.versions import policy_of
from sust_dagster.world.canonical import canonical_json, content_hash
from sust_dagster.world.schemas import ACTION_TYPES

Inputs = dict[str, Any]
Path = tuple[Any, ...]


def allows(given: Inputs) -> bool:
    parts = {name: given.get(name) for name in ("proposal", "policy", "signatures", "record", "now")}
    return decide(**parts).verdict == "approve"  # type: ignore[arg-type]


# -- taking away --------------------------------------------------------------------------------------------


def places(value: Any, at: Path = ()) -> list[Path]:
    """Every field and every element, however deep."""
    steps = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [p for s in steps for p in ((*at, s), *places(value[s], (*at, s)))]


def removed(given: Inputs, path: Path) -> Inputs:
    made = copy.deepcopy(given)
    del _parent(made, path)[path[-1]]
    return made


def replaced(given: Inputs, path: Path, value: Any) -> Inputs:
    made = copy.deepcopy(given)
    _parent(made, path)[path[-1]] = value
    return made


def _parent(made: Any, path: Path) -> Any:
    for step in path[:-1]:
        made = made[step]
    return made


def kind_of(value: Any) -> str:
    """What a reader of the field takes it for: a whole and a broken number are both numbers."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return "number"
    if isinstance(value, datetime) and value.tzinfo is not None:
        return "instant"
    return type(value).__name__


def other_types(value: Any, ought: Any) -> list[Any]:
    """Values of other kinds than the field ought to have, most of which look like the one that is there."""
    made: list[Any] = [str(value), [value], {"value": value}, True, math.nan, 0, object(), NOW]
    return [v for v in made if kind_of(v) != kind_of(ought)]


def at(given: Any, path: Path) -> Any:
    """What is at a path; ``None`` where nothing is."""
    try:
        for step in path:
            given = given[step]
    except (KeyError, IndexError, TypeError):
        return None
    return given


# -- what is decided on -------------------------------------------------------------------------------------

EU_ONLY = {"applies_to": "data_class", "name": "pii", "regions": ["eu-*"], "reason": "law"}


def start(kind: str) -> Inputs:
    """One situation in which a decision is an approval, for each way there is to one."""
    policy = document(places__residency=[EU_ONLY], places__denied_regions=["ap-*"], approval__medium_default="approve")
    given = inputs(policy=row_of(policy))
    if kind == "signed medium":
        given["proposal"] = proposal(confidence=0.7)
        given["signatures"] = [signature(given["proposal"], "eve", "platform")]
    elif kind == "signed high":
        given["proposal"] = proposal(service_tier="production", est_cost_delta_usd=-500.0)
        given["signatures"] = both(given["proposal"])
    elif kind == "silent medium":
        given["proposal"] = proposal(confidence=0.7, proposed_at=NOW - timedelta(hours=30))
    return given


STARTS = ("low", "signed medium", "signed high", "silent medium")

#: What makes an approval a refusal: one change each, at a path, in the situations it matters.
SPOILERS: dict[str, tuple[Path, Any]] = {
    "nothing": ((), None),
    "cost": (("proposal", "est_cost_delta_usd"), -900.0),
    "cost increase": (("proposal", "est_cost_delta_usd"), 9.0),
    "production": (("proposal", "service_tier"), "production"),
    "confidence": (("proposal", "confidence"), 0.1),
    "carbon rises": (("proposal", "est_carbon_delta_kg"), 0.5),
    "stated risk": (("proposal", "risk_level"), "high"),
    "data class": (("proposal", "data_class"), "pii"),
    "edited plan": (("proposal", "proposed_config", "spot"), True),
    "denied region": (("proposal", "proposed_config", "placements", 0, "region"), "ap-south-1"),
    "too late": (("now",), NOW + timedelta(days=3)),
    "too early": (("now",), NOW - timedelta(days=3)),
    "wrong zone": (("now",), NOW.replace(tzinfo=None)),
    "rate limit": (("record", "actions_that_day"), 99),
    "rejected": (("record", "rejections"), 1),
    "executed": (("record", "state"), "executed"),
    "novel": (("record", "precedents"), dict.fromkeys(ACTION_TYPES, 2)),
    "nan": (("proposal", "cost_before_usd"), float("nan")),
    "wrong type": (("proposal", "policy_version"), "1"),
    "not json": (("proposal", "proposed_config"), "{"),
    "old signature": (("signatures", 0, "expires_at"), NOW),
    "author signs": (("signatures", 0, "signer"), "planner"),
    "stranger signs": (("signatures", 0, "signer"), "mallory"),
    "another plan signed": (("signatures", 0, "plan_hash"), "0" * 64),
    "rejection": (("signatures", 0, "verdict"), "reject"),
    "no such verdict": (("signatures", 0, "verdict"), "perhaps"),
    "tampered policy": (("policy", "document"), canonical_json(document(planning__carbon_price_usd_per_t=0))),
    "leaves home": (("proposal", "current_config", "regions"), ["ap-south-1"]),
    "policy of tomorrow": (("policy", "valid_from"), NOW + timedelta(days=1)),
}


def spoilt(given: Inputs, name: str) -> Inputs:
    path, value = SPOILERS[name]
    if not path or (path[0] == "signatures" and not given["signatures"]):
        return given
    made = replaced(given, path, value)
    if name == "rejection":
        made["record"]["rejections"] = 1  # the books count what they hold
    if name == "author signs":
        made["proposal"]["authors"] = ["planner", "eve", "ada"]
    return made


SITUATIONS = st.builds(
    lambda kind, spoilers: (start(kind), _spoil_all(start(kind), spoilers)),
    st.sampled_from(STARTS),
    st.lists(st.sampled_from(list(SPOILERS)), max_size=2),
)


def _spoil_all(given: Inputs, spoilers: list[str]) -> Inputs:
    for name in spoilers:
        try:
            given = spoilt(given, name)
        except (KeyError, TypeError, IndexError):
            continue  # the other spoiler took its place away
    return given


@st.composite
def losses(draw: st.DrawFn, given: Inputs, whole: Inputs) -> Inputs:
    """The same with something removed, nulled or retyped."""
    path = draw(st.sampled_from(places(given)))
    how = draw(st.sampled_from(["remove", "null", "retype"]))
    if how == "remove":
        return removed(given, path)
    if how == "null":
        return replaced(given, path, None)
    return replaced(given, path, draw(st.sampled_from(other_types(at(given, path), at(whole, path)))))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(situation=SITUATIONS, data=st.data())
def test_taking_something_away_never_opens_the_gate(situation: tuple[Inputs, Inputs], data: st.DataObject) -> None:
    whole, now_given = situation
    open_before = allows(now_given)
    for _ in range(data.draw(st.integers(1, 3))):
        if not places(now_given):
            break
        now_given = data.draw(losses(now_given, whole))
        open_after = allows(now_given)
        assert open_before or not open_after
        open_before = open_after


def openings(evaluate: Callable[[Inputs], bool], kind: str, spoilers: Sequence[str]) -> list[tuple[Path, str]]:
    """Every single loss that turns a refusal of these situations into an approval."""
    whole, found = start(kind), []
    for situation in (spoilt(start(kind), name) for name in spoilers):
        if evaluate(situation):
            continue
        for path in places(situation):
            ways = [("removed", removed(situation, path)), ("nulled", replaced(situation, path, None))]
            values = other_types(at(situation, path), at(whole, path))
            ways += [(f"retyped {v!r}", replaced(situation, path, v)) for v in values]
            found += [(path, how) for how, after in ways if evaluate(after)]
    return found


@pytest.mark.parametrize(
    ("kind", "spoilers"),
    [
        ("low", ["denied region"]),
        ("signed medium", ["author signs"]),
        ("signed high", ["rejection"]),
        ("silent medium", ["novel"]),
    ],
)
def test_no_single_loss_opens_these_refusals(kind: str, spoilers: list[str]) -> None:
    """Not sampled: every loss of every field."""
    assert not any(allows(spoilt(start(kind), name)) for name in spoilers)
    assert openings(allows, kind, spoilers) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", STARTS)
def test_no_single_loss_opens_any_refusal(kind: str) -> None:
    """The same for every way an approval is spoilt."""
    assert sum(not allows(spoilt(start(kind), name)) for name in SPOILERS) > 10, "most of them are refusals"
    assert openings(allows, kind, list(SPOILERS)) == []


def forbids(given: Inputs) -> bool:
    """An evaluator as deny-lists are written: what no rule forbids is allowed."""
    proposal, record = given.get("proposal") or {}, given.get("record") or {}
    denials = [
        lambda: abs(proposal["est_cost_delta_usd"]) > 100,
        lambda: proposal["confidence"] < 0.5,
        lambda: proposal["service_tier"] == "production",
        lambda: record["rejections"] > 0,
        lambda: any(p["region"].startswith("ap-") for p in proposal["proposed_config"]["placements"]),
    ]
    for denial in denials:
        try:
            if denial():
                return True
        except (KeyError, TypeError, AttributeError):
            continue  # undefined: the rule does not hold, as in Rego and in Cedar's forbid
    return False


def test_the_search_finds_how_a_deny_list_opens() -> None:
    """Negative control: the same search over the same situations."""
    spoilers = ["cost", "confidence", "production", "rejected", "denied region"]
    found = openings(lambda some: not forbids(some), "low", spoilers)
    opened = {path for path, _ in found}
    for path in (
        ("proposal", "est_cost_delta_usd"), ("proposal", "confidence"), ("proposal", "service_tier"),
        ("record", "rejections"), ("proposal", "proposed_config", "placements"),
    ):  # fmt: skip
        assert path in opened
    assert {how for path, how in found if path == ("proposal", "confidence")} >= {"removed", "nulled"}


@pytest.mark.parametrize("kind", STARTS)
def test_every_field_carries_weight(kind: str) -> None:
    """No field is there for nothing: without it, or as null, an approval is none, but for what is only told."""
    whole = start(kind)
    assert whole["proposal"]["est_cost_delta_usd"] != 0, "a rise of cost makes its status quo matter"
    told = {"policy_id", "approved_by", "author", "created_at", "reason", "job_id", "requested_start", "start"}
    told |= {"current_config", "regions"}  # what stays in its only region may stay: another test
    if kind == "signed high":
        told.add("service_tier")  # an unknown one is high risk too
    assert allows(whole)
    for path in places(whole):
        if path[-1] in told or isinstance(path[-1], int):
            continue
        assert not allows(removed(whole, path)), path
        assert not allows(replaced(whole, path, None)), path


# -- the policy itself --------------------------------------------------------------------------------------


def test_a_policy_that_lost_a_field_decides_nothing_even_with_its_hash_mended() -> None:
    """Whoever writes the row may write a matching hash; a document with less in it is no policy all the same."""
    whole = document(places__residency=[EU_ONLY], places__denied_regions=["us-*"])
    assert decide(**inputs(policy=row_of(whole))).verdict == "deny"
    for path in places(whole):
        if any(isinstance(s, int) for s in path) or path[:2] == ("roles", "team_leads"):
            continue  # an element less is another policy, for people to sign
        for lost in [removed(whole, path), *(replaced(whole, path, v) for v in (None, "x", 1.5, True, [], {}))]:
            given = inputs(
                policy=row_of(document()) | {"document": canonical_json(lost), "document_hash": content_hash(lost)}
            )
            if decide(**given).verdict != "approve":
                continue
            assert _read_as_another(whole, lost, path), path


def _read_as_another(whole: Any, lost: Any, path: Path) -> bool:
    """Whether the loss is a value of the field's own type: then it is another policy, and a signed one."""
    if path not in places(lost):
        return False
    before, after = (_parent(m, path)[path[-1]] for m in (whole, lost))
    number = isinstance(before, float | int) and isinstance(after, float | int)
    return type(before) is type(after) or (number and not isinstance(after, bool))


POLICY_ROWS = [row_of(document())]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_losing_part_of_the_signatures_brings_no_policy_into_force(data: st.DataObject) -> None:
    draft = document(planning__carbon_price_usd_per_t=0)
    rows = [*POLICY_ROWS, row_of(draft, 2, author="max", approved_by=None, valid_from=NOW, created_at=NOW)]
    signers = data.draw(
        st.lists(st.sampled_from([("ada", "team-lead"), ("dana", "platform"), ("max", "platform")]), max_size=3)
    )
    reviews = [
        {
            "review_id": str(i), "policy_id": "default", "version": 2, "document_hash": content_hash(draft),
            "signer": who, "role": role, "verdict": data.draw(st.sampled_from(["approve", "approve", "reject"])),
            "policy_version": 1, "signed_at": NOW + timedelta(minutes=i),
        }
        for i, (who, role) in enumerate(signers)
    ]  # fmt: skip
    whole = {"rows": rows, "reviews": reviews}
    before = policy_of(rows, reviews, NOW + timedelta(hours=1)).version
    path = data.draw(st.sampled_from([p for p in places(whole) if len(p) == 3]))
    ways = [removed(whole, path), replaced(whole, path, None)]
    ways += [replaced(whole, path, v) for v in other_types(at(whole, path), at(whole, path))]
    for lost in ways:
        try:
            after = policy_of(lost["rows"], lost["reviews"], NOW + timedelta(hours=1)).version
        except PolicyError:
            continue  # nothing is in force: nothing is decided
        assert after <= before, path


def test_a_signature_without_its_verdict_approves_nothing() -> None:
    draft = document(planning__carbon_price_usd_per_t=0)
    rows = [*POLICY_ROWS, row_of(draft, 2, author="max", approved_by=None, valid_from=NOW, created_at=NOW)]
    review = {
        "policy_id": "default",
        "version": 2,
        "document_hash": content_hash(draft),
        "policy_version": 1,
        "signed_at": NOW,
    }
    both_signed = [
        {**review, "review_id": "a", "signer": "ada", "role": "team-lead", "verdict": "approve"},
        {**review, "review_id": "b", "signer": "dana", "role": "platform", "verdict": "approve"},
    ]
    assert policy_of(rows, both_signed, NOW).version == 2
    for i in (0, 1):
        for verdict in ("", "approved", "APPROVE"):
            changed = copy.deepcopy(both_signed)
            changed[i]["verdict"] = verdict
            assert policy_of(rows, changed, NOW).version == 1
        for verdict in (None, True, 1, ["approve"]):
            changed[i]["verdict"] = verdict
            with pytest.raises(PolicyError, match="cannot be read"):
                policy_of(rows, changed, NOW)
