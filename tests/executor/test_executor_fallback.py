"""A closed region: the next-best place inside the approval, or home, and never anything else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from executor_cases import DAY, config, group, history
from hypothesis import given
from hypothesis import strategies as st

from sust_dagster.agents.executor.fallback import cell_of, fall_back, in_scope, left_over
from sust_dagster.agents.executor.orders import Change, change_of

REGIONS = ("us-west-2", "eu-north-1", "us-east-1", "ap-south-1")
GROUPS = [group(5), group(6, "eu-north-1", 2), group(9, delay=1)]


def change(groups: list[dict[str, Any]] | None = None, action: str = "region_shift") -> Change:
    fields = {"action_type": action, "proposed_config": config(action, GROUPS if groups is None else groups)}
    return change_of(history("approved", **fields), "simulated")


def at(region: str, hour: int) -> tuple[str, Any]:
    return region, DAY + timedelta(hours=hour)


def test_where_everything_is_open_the_approved_change_is_made() -> None:
    placed = fall_back(change(), [at("ap-south-1", 5), at("us-west-2", 6)])
    assert (placed.change, placed.fell_back) == (change(), ())


def test_a_closed_region_gives_way_to_the_other_approved_one_at_the_same_hour() -> None:
    placed = fall_back(change(), [at("us-west-2", 5)])
    assert placed.change.placements == [group(5, "eu-north-1"), *GROUPS[1:]]
    (fell,) = placed.fell_back
    assert fell.job_id == group(5)["job_id"]
    assert fell.why == "region_outage: us-west-2 takes nothing at 2026-01-07T05:00:00+00:00"
    assert placed.change.intent_id == change().intent_id, "it is the same intent"


def test_of_several_the_one_that_leaves_least_comes_first() -> None:
    groups = [group(5), group(6, "eu-north-1"), group(7, "ap-south-1")]
    by_name = fall_back(change(groups), [at("us-west-2", 5)])
    assert by_name.change.placements[0]["region"] == "ap-south-1"
    ranked = fall_back(change(groups), [at("us-west-2", 5)], left_over={"ap-south-1": 2.0, "eu-north-1": 0.1})
    assert ranked.change.placements[0]["region"] == "eu-north-1"


def test_where_no_approved_region_is_open_the_group_stays_at_home() -> None:
    placed = fall_back(change(), [at("us-west-2", 5), at("eu-north-1", 5)])
    assert placed.change.placements == GROUPS[1:]
    assert placed.fell_back[0].instead is None
    assert placed.fell_back[0].as_json()["instead"] == "left as it is, at home"


def test_right_sizing_does_not_move_to_another_region() -> None:
    groups = [group(5, "us-east-1"), group(6, "us-west-2")]
    placed = fall_back(change(groups, "right_size"), [at("us-east-1", 5)])
    assert placed.change.placements == groups[1:]


def test_a_group_that_has_begun_is_left_out_with_the_reason() -> None:
    placed = fall_back(change(), [], {GROUPS[0]["job_id"]: "already_started"})
    assert placed.change.placements == GROUPS[1:]
    assert placed.fell_back[0].why == "already_started"


def test_regions_are_ranked_by_what_they_leave() -> None:
    rows = [
        {"region": "a", "kg_before": 2.0, "kg_after": 1.0},
        {"region": "a", "kg_before": 2.0, "kg_after": 2.0},
        {"region": "b", "kg_before": 0.0, "kg_after": 0.0},
    ]
    assert left_over(rows) == {"a": 0.75}


placements = st.lists(
    st.builds(group, st.integers(4, 23), st.sampled_from(REGIONS), st.integers(0, 5)),
    min_size=1,
    max_size=8,
    unique_by=lambda g: g["job_id"],
)
cells = st.sets(st.builds(at, st.sampled_from(REGIONS), st.integers(4, 28)), max_size=60)


@given(placements, cells)
def test_whatever_is_closed_what_is_done_is_open_and_was_approved(groups: list[dict[str, Any]], closed: Any) -> None:
    approved = change(groups)
    placed = fall_back(approved, closed)
    by_job = {g["job_id"]: g for g in groups}
    for kept in placed.change.placements:
        assert cell_of(kept) not in closed
        was = by_job[kept["job_id"]]
        assert kept | {"region": was["region"]} == was, "nothing but the region differs"
        assert kept["region"] in {g["region"] for g in groups}
    told = {f.job_id for f in placed.fell_back}
    assert told == {g["job_id"] for g in groups if cell_of(g) in closed}, "each that fell back is named, no other"
    assert in_scope(approved, placed.change) is True or not placed.change.placements


@given(placements, st.data())
def test_a_placement_that_nobody_approved_is_out_of_scope(groups: list[dict[str, Any]], data: st.DataObject) -> None:
    approved = change(groups)
    at_random = data.draw(st.integers(0, len(groups) - 1))
    spoilt = data.draw(
        st.sampled_from(
            [
                {"region": "eu-west-1"},
                {"delay_hours": groups[at_random]["delay_hours"] + 1},
                {"delay_hours": float(groups[at_random]["delay_hours"]) + 0.5},
                {"requested_start": "2026-01-07T01:00:00Z"},
                {"job_id": "another"},
                {"spot": True},
            ]
        )
    )
    other = [g | spoilt if i == at_random else g for i, g in enumerate(groups)]
    assert in_scope(approved, change(other)) is not True
