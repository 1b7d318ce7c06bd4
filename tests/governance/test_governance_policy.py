"""The policy document: strict, one text and one hash, refused when it contradicts itself, editable as a file."""

from __future__ import annotations

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from governance_cases import document, policy
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.agents.governance import (
    REASONS,
    Policy,
    PolicyError,
    check_policy,
    contradictions,
    default_policy,
    differences,
    read_policy,
    read_policy_file,
    write_policy_file,
)
from sust_dagster.agents.governance.contradictions import matches
from sust_dagster.agents.governance.decide import CHECKS
from sust_dagster.agents.governance.policy import intact_policy
from sust_dagster.agents.ingestor.default_mapping import DEFAULT_MAPPING
from sust_dagster.world.canonical import canonical_json, content_hash

REGIONS = ("us-east-1", "us-west-2", "eu-west-1", "eu-north-1", "ap-south-1")


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document: fields and list elements."""
    steps = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [p for s in steps for p in ((*at, s), *paths(value[s], (*at, s)))]


def part_at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


#: Fields of the document; what a map of teams holds are entries, not fields.
FIELDS = [p for p in paths(document()) if all(isinstance(s, str) for s in p) and p[:2] != ("roles", "team_leads")]


def test_the_shipped_policy_is_the_founding_designs() -> None:
    p = default_policy()
    assert contradictions(p, REGIONS) == []
    assert p.planning.carbon_price_usd_per_t == 75
    assert (p.windows.urgent_hours, p.windows.balanced_hours, p.windows.sustainable_hours) == (0, 4, 24)
    assert (p.risk.high_cost_delta_usd_per_day, p.risk.reviewed_first) == (100, 20)
    assert (p.approval.medium_default, p.approval.medium_silence_hours) == ("expire", 24), "silence is no consent"
    assert set(p.approval.high_all_of) == {"team-lead", "platform"}
    assert p.roles.accounts == frozenset(), "nobody is in charge until the project says who"


def test_every_tier_of_the_shipped_mapping_is_known_to_the_policy() -> None:
    risk = default_policy().risk
    tiers = {t for names in DEFAULT_MAPPING["tiers"].values() for t in names}
    assert tiers <= {*risk.production_tiers, *risk.other_tiers}
    assert {*risk.production_tiers} <= {*DEFAULT_MAPPING["tiers"]["urgent"]}, "production is never deferrable"


@pytest.mark.parametrize("path", FIELDS, ids=lambda p: ".".join(map(str, p)))
def test_no_field_may_be_left_out(path: tuple[Any, ...]) -> None:
    made = document()
    del part_at(made, path[:-1])[path[-1]]
    with pytest.raises(PolicyError, match="Field required") as error:
        read_policy(canonical_json(made))
    assert any(p.startswith(".".join(path)) for p in error.value.problems)


@pytest.mark.parametrize("value", [None, "x\n", True, 7, [None], {"x": 1}], ids=repr)
def test_no_field_takes_another_type(value: Any) -> None:
    for path in FIELDS:
        made = document()
        part = part_at(made, path[:-1])
        before = part[path[-1]]
        if isinstance(value, bool) and isinstance(before, bool):
            continue
        number = isinstance(before, int | float) and not isinstance(before, bool)
        part[path[-1]] = "7" if number and value == 7 else value  # a number written as text is no number
        with pytest.raises(PolicyError):
            read_policy(canonical_json(made))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planning__surprise": 1}, "planning.surprise: Extra inputs are not permitted"),
        ({"planning__carbon_price_usd_per_t": -1}, "greater than or equal to 0"),
        ({"planning__share_cap": 0}, "greater than 0"),
        ({"planning__objective": "cheap"}, "'effective-cost' or 'min-carbon'"),
        ({"approval__medium_default": "maybe"}, "'expire' or 'approve'"),
        ({"limits__max_actions_per_team_per_day": 2.5}, "valid integer"),
        ({"places__allowed_regions": ["eu_west"]}, "places.allowed_regions.0"),
        ({"places__allowed_regions": ["*-1"]}, "places.allowed_regions.0"),
        ({"roles__platform": ["Dana"]}, "roles.platform.0"),
        ({"roles__team_leads": {"data": "ada"}}, "roles.team_leads.data"),
        ({"format": "sust-policy/2"}, "format"),
    ],
)
def test_what_is_out_of_bounds_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message.replace("(", r"\(")):
        policy(**change)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_no_number_that_is_none(text: str) -> None:
    with pytest.raises(PolicyError, match="carbon_price_usd_per_t"):
        read_policy(
            default_policy().document.replace('"carbon_price_usd_per_t":75', f'"carbon_price_usd_per_t":{text}')
        )


# -- one text, one hash -------------------------------------------------------------------------------------


def test_a_policy_has_one_text_and_one_hash() -> None:
    p = policy()
    assert read_policy(p.document) == p
    assert read_policy(json.dumps(json.loads(p.document), indent=4)).document == p.document
    assert content_hash(json.loads(p.document)) == p.document_hash
    assert policy(planning__carbon_price_usd_per_t=75).document_hash == p.document_hash, "75 and 75.0 are one price"
    assert policy(planning__carbon_price_usd_per_t=0).document_hash != p.document_hash


def test_a_stored_document_is_what_its_hash_says_to_the_byte() -> None:
    p = policy()
    assert intact_policy(p.document, p.document_hash) == p
    other = policy(planning__carbon_price_usd_per_t=0)
    for text, digest in ((other.document, p.document_hash), (p.document + " ", p.document_hash), ("{}", "x")):
        with pytest.raises(PolicyError):
            intact_policy(text, digest)
    wrong = document(windows__balanced_hours=6)
    with pytest.raises(PolicyError, match="window_too_long"):
        intact_policy(canonical_json(wrong), content_hash(wrong))


# -- contradictions -----------------------------------------------------------------------------------------


def stay(name: str, *regions: str, applies_to: str = "team") -> dict[str, Any]:
    return {"applies_to": applies_to, "name": name, "regions": list(regions), "reason": "law"}


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"places__denied_regions": ["*"]}, "no_region_left"),
    ({"places__allowed_regions": []}, "no_region_left"),
    ({"places__allowed_regions": ["eu-*"], "places__denied_regions": ["eu-*"]}, "no_region_left"),
    ({"places__allowed_regions": ["eu-west-1"], "places__denied_regions": ["eu-*", "us-*"]}, "no_region_left"),
    ({"places__residency": [stay("data")]}, "residency_no_region_left"),
    ({"places__residency": [stay("d", "eu-*")], "places__denied_regions": ["eu-*"]}, "residency_no_region_left"),
    ({"places__residency": [stay("d", "eu-*")], "places__allowed_regions": ["us-*"]}, "residency_no_region_left"),
    ({"places__residency": [stay("d", "eu-*"), stay("d", "us-*")]}, "residency_contradicts"),
    ({"windows__urgent_hours": 1}, "window_too_long: urgent_hours is 1, the category allows 0"),
    ({"windows__balanced_hours": 4.5}, "window_too_long: balanced_hours"),
    ({"risk__medium_cost_delta_usd_per_day": 200}, "min_above_max: medium_cost_delta_usd_per_day"),
    ({"risk__medium_needs_confidence": 0.9}, "min_above_max: medium_needs_confidence"),
    ({"actions__right_size__max_peak_utilisation": 0.9}, "min_above_max: max_peak_utilisation"),
    ({"risk__production_tiers": []}, "no_production_tier"),
    ({"risk__other_tiers": ["prod"]}, "tier_twice: prod"),
    ({"approval__high_all_of": ["platform"]}, "high_needs_two_roles"),
    ({"approval__high_all_of": ["platform", "platform"]}, "high_needs_two_roles"),
    ({"approval__high_all_of": []}, "high_needs_two_roles"),
    ({"approval__medium_any_of": []}, "medium_above_high"),
    ({"roles__platform": []}, "nobody_signs: platform"),
    ({"roles__team_leads": {"data": []}}, "nobody_signs: team data"),
    ({"roles__team_leads": {"data": ["dana"]}, "roles__platform": ["dana"]}, "nobody_signs: team data"),
    ({"roles__team_leads": {}}, "nobody_can_change"),
    ({"roles__team_leads": {"data": ["ada"]}, "roles__platform": ["dana"], "roles__members": []}, "nobody_can_change"),
    ({"roles__platform": ["planner", "dana"]}, "account_is_no_person: planner"),
    ({"roles__members": ["release"]}, "account_is_no_person: release"),
]


@pytest.mark.parametrize(("change", "name"), CONTRADICTIONS, ids=lambda v: v if isinstance(v, str) else "")
def test_a_contradiction_is_refused_by_name(change: dict[str, Any], name: str) -> None:
    with pytest.raises(PolicyError) as error:
        check_policy(policy(**change))
    assert any(p.startswith(name) for p in error.value.problems), error.value.problems


@pytest.mark.parametrize(
    "change",
    [
        {"places__allowed_regions": ["eu-*"], "places__denied_regions": ["eu-west-1"]},
        {
            "places__residency": [
                stay("d", "eu-*"),
                stay("d", "eu-west-1"),
                stay("pii", "us-*", applies_to="data_class"),
            ]
        },
        {"windows__balanced_hours": 0, "windows__sustainable_hours": 2},
        {"roles__team_leads": {"data": ["ada"]}, "roles__platform": ["dana"], "roles__members": ["max"]},
        {"approval__medium_default": "approve"},
        {"roles": {"platform": [], "members": [], "team_leads": {}}},
    ],
)
def test_what_only_narrows_is_no_contradiction(change: dict[str, Any]) -> None:
    assert contradictions(policy(**change), REGIONS) == []


def test_with_the_regions_there_are_a_misspelt_one_is_found() -> None:
    made = policy(places__denied_regions=["eu-wset-1"], places__residency=[stay("d", "eu-*", "mars-*")])
    assert contradictions(made) == []
    found = contradictions(made, REGIONS)
    assert [f.split(":")[0] for f in found] == ["unknown_region"] * 2
    assert "eu-wset-1" in found[0] and "mars-*" in found[1]
    all_named = policy(places__denied_regions=list(REGIONS))
    assert contradictions(all_named) == [], "another region could be left"
    assert contradictions(all_named, REGIONS)[0].startswith("no_region_left")


@given(
    st.lists(st.sampled_from(["*", "eu-*", "eu-w*", "us-*", *REGIONS]), max_size=4),
    st.lists(st.sampled_from(["*", "eu-*", "eu-w*", "us-*", *REGIONS]), max_size=4),
)
@settings(max_examples=200, deadline=None)
def test_a_policy_without_contradiction_leaves_a_region(allowed: list[str], denied: list[str]) -> None:
    made = policy(places__allowed_regions=allowed, places__denied_regions=denied)
    left = [r for r in REGIONS if matches(r, allowed) and not matches(r, denied)]
    names = [f.split(":")[0] for f in contradictions(made, REGIONS)]
    assert ("no_region_left" in names) == (not left)
    if any(f.startswith("no_region_left") for f in contradictions(made)):
        assert not left, "derived without the list of regions, it is never wrong"


# -- as a file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made",
    [
        default_policy(),
        policy(places__residency=[stay('a "b" \\ ü', "eu-*", "us-east-1"), stay("pii", "*", applies_to="data_class")]),
        policy(roles__team_leads={"a team.of 'two' \"quotes\"": ["ada", "ben"]}),
    ],
    ids=["shipped", "residency", "names"],
)
def test_the_file_reads_back_as_the_same_policy(made: Policy) -> None:
    text = write_policy_file(made, "version 3")
    assert read_policy_file(text, REGIONS).document == made.document
    assert "# version 3" in text
    for line in text.splitlines():
        if "carbon_price_usd_per_t" in line:
            assert tomllib.loads(line) == {"carbon_price_usd_per_t": 75.0}
    assert "# internal carbon price, USD per tCO2e\n" in text, "the meaning stands above its field"


def test_the_documentation_shows_the_shipped_policy() -> None:
    page = (Path(__file__).parents[2] / "docs" / "governance.md").read_text()
    assert write_policy_file(default_policy()) in page, "put what `sust policy show` prints into docs/governance.md"
    assert not [reason for reason in REASONS if f"`{reason}`" not in page]
    assert not [check for check in CHECKS if f"`{check}`" not in page]


def test_a_file_that_is_wrong_says_where() -> None:
    text = write_policy_file(policy())
    for change, message in (
        (("= 75.0", "= "), "no TOML"),
        (("= 75.0", "= nan"), "value no policy has"),
        (("= 75.0", "= 2026-01-01"), "value no policy has"),
        (("= 75.0", '= "75"'), "planning.carbon_price_usd_per_t"),
        (("carbon_price_usd_per_t = 75.0\n", ""), "planning.carbon_price_usd_per_t: Field required"),
        (("balanced_hours = 4.0", "balanced_hours = 5.0"), "window_too_long"),
        (("[risk]", "[risks]"), "risks: Extra inputs"),
    ):
        assert change[0] in text
        with pytest.raises(PolicyError, match=message):
            read_policy_file(text.replace(*change))


def test_differences_name_the_field_and_both_values() -> None:
    before = policy()
    after = policy(planning__carbon_price_usd_per_t=0, roles__team_leads={"data": ["ada"], "new": ["zoe"]})
    assert [str(c) for c in differences(before, after)] == [
        "planning.carbon_price_usd_per_t: 75.0 → 0.0",
        'roles.team_leads.data: ["ada", "ben"] → ["ada"]',
        'roles.team_leads.new: nothing → ["zoe"]',
        'roles.team_leads.ml: ["cleo", "dana"] → nothing',
    ]
    assert differences(before, copy.deepcopy(before)) == []
    assert len(differences(None, before)) > 30
