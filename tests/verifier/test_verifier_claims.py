"""What is claimed of each executed recommendation: settled or not, whose runs, with which promises and costs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.agents.verifier import CLAIM_SCHEMA, LEAKAGE_SCHEMA, SLICE_SCHEMA, InputError
from sust_dagster.agents.verifier.claims import CASE_SCHEMA, ambiguous, claims_of
from sust_dagster.agents.verifier.runs import Moved
from sust_dagster.world.canonical import canonical_json
from sust_dagster.world.schemas import BOOL, FLOAT, STRING, TIMESTAMP

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
T0 = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)
LATE = MIDNIGHT + 10 * DAY
RUNS = pa.schema(
    [
        ("outcome_id", STRING),
        ("run_id", STRING),
        ("home_region", STRING),
        ("planned_home_region", STRING),
        ("ended_at", TIMESTAMP),
    ]
)
COSTS = pa.schema([("outcome_id", STRING), ("measured_cost_delta_usd", FLOAT), ("reason", STRING)])
PROMISES = pa.schema([("outcome_id", STRING), ("sla_compliant", BOOL), ("sla_detail", STRING), ("reason", STRING)])


def case(outcome: str = "o", executed: datetime = T0, frozen: datetime | None = T0 - HOUR) -> dict:
    return {
        "outcome_id": outcome, "decision_id": f"d-{outcome}", "recommendation_id": f"r-{outcome}", "team_id": "t",
        "executed_at": executed, "baseline_frozen_at": frozen, "claimed_delta_kg": -2.0,
        "claimed_delta_kg_lower": -3.0, "claimed_delta_kg_upper": None, "workload_category": "balanced",
        "home_instance_type": None,
    }  # fmt: skip


def run(outcome: str = "o", name: str = "j", ended: datetime | None = T0, home: str = "A", planned: str = "A") -> dict:
    return {
        "outcome_id": outcome, "run_id": name, "home_region": home, "planned_home_region": planned, "ended_at": ended,
    }  # fmt: skip


def moved(*runs: dict) -> Moved:
    table, none = pa.Table.from_pylist(list(runs), RUNS), pa.table({})
    return Moved(SLICE_SCHEMA.empty_table(), LEAKAGE_SCHEMA.empty_table(), table, none, none)


def made(
    cases: list[dict], runs: list[dict], now: datetime = LATE, until: datetime = LATE, settle_days: int = 3, **kw
) -> dict[str, dict]:
    ids = [c["outcome_id"] for c in cases]
    # In another order than the cases: rows are found by their id.
    costs = [{"outcome_id": o, "measured_cost_delta_usd": float(len(o)), "reason": kw.get("why")} for o in sorted(ids)]
    said = {"sla_compliant": True, "sla_detail": '{"runs":1}', "reason": kw.get("unseen")}
    table = claims_of(
        pa.Table.from_pylist(cases, CASE_SCHEMA),
        moved(*runs),
        pa.Table.from_pylist(costs, COSTS),
        pa.Table.from_pylist([{"outcome_id": o} | said for o in reversed(ids)], PROMISES),
        now=now,
        until=until,
        settle_days=settle_days,
    )
    assert table.schema.equals(CLAIM_SCHEMA)
    assert table["outcome_id"].to_pylist() == ids
    return {r["outcome_id"]: r for r in table.to_pylist()}


def test_a_claim_says_what_the_books_and_the_runs_say() -> None:
    row = made([case(), case("other")], [run()], why="no_usage")["o"]
    assert row["executed_on"] == MIDNIGHT
    assert (row["decision_id"], row["recommendation_id"], row["team_id"]) == ("d-o", "r-o", "t")
    assert (row["claimed_delta_kg"], row["claimed_delta_kg_lower"], row["claimed_delta_kg_upper"]) == (-2.0, -3.0, None)
    assert (row["executed_at"], row["baseline_frozen_at"]) == (T0, T0 - HOUR)
    assert (row["measured_cost_delta_usd"], row["sla_compliant"], row["restated"]) == (1.0, True, False)
    assert (row["runs_expected"], row["runs_ambiguous"], row["settled"]) == (1, 0, True)
    said = {"cost_reason": "no_usage", "promises": {"runs": 1}, "reason": None}
    assert json.loads(row["sla_detail"]) == said
    assert row["sla_detail"] == canonical_json(said)


def test_costs_and_promises_are_those_of_the_same_outcome() -> None:
    """They stand in another order than the cases."""
    ids = ["o", "q", "p"]
    cases = pa.Table.from_pylist([case(o) for o in ids], CASE_SCHEMA)
    costs = [{"outcome_id": o, "measured_cost_delta_usd": i, "reason": f"cost {o}"} for i, o in enumerate("pqo")]
    promises = [
        {"outcome_id": o, "sla_compliant": o == "q", "sla_detail": f'"{o}"', "reason": f"why {o}"} for o in "qpo"
    ]
    rows = claims_of(
        cases, moved(), pa.Table.from_pylist(costs, COSTS), pa.Table.from_pylist(promises, PROMISES),
        now=LATE, until=LATE, settle_days=3,
    ).to_pylist()  # fmt: skip
    assert [r["measured_cost_delta_usd"] for r in rows] == [2.0, 1.0, 0.0]
    assert [r["sla_compliant"] for r in rows] == [False, True, False]
    said = [{"cost_reason": f"cost {o}", "promises": o, "reason": f"why {o}"} for o in ids]
    assert [json.loads(r["sla_detail"]) for r in rows] == said


def test_a_reason_with_quotes_and_accents_is_still_canonical() -> None:
    row = made([case()], [], why='price of "m5" – naïve\n', unseen="not_observed: latency 1")["o"]
    said = {"cost_reason": 'price of "m5" – naïve\n', "promises": {"runs": 1}, "reason": "not_observed: latency 1"}
    assert row["sla_detail"] == canonical_json(said)


@pytest.mark.parametrize(
    ("now", "settled"),
    [
        (MIDNIGHT + 4 * DAY, True),  # three whole days after the day of execution
        (MIDNIGHT + 4 * DAY - timedelta(microseconds=1), False),
    ],
)
def test_an_outcome_settles_whole_days_after_its_day(now: datetime, settled: bool) -> None:
    assert made([case()], [run()], now=now)["o"]["settled"] is settled
    assert made([case(executed=MIDNIGHT + DAY - timedelta(seconds=1))], [run()], now=now)["o"]["settled"] is settled


@pytest.mark.parametrize(("ended", "settled"), [(LATE - timedelta(microseconds=1), True), (LATE, False), (None, False)])
def test_a_run_that_was_not_seen_to_end_keeps_its_outcome_open(ended: datetime | None, settled: bool) -> None:
    rows = made([case(), case("p")], [run(), run(name="k", ended=ended), run("p", "l")])
    assert (rows["o"]["settled"], rows["p"]["settled"]) == (settled, True)


def test_without_runs_nothing_is_waited_for() -> None:
    row = made([case(frozen=None)], [])["o"]
    assert (row["settled"], row["runs_expected"], row["runs_ambiguous"], row["baseline_frozen_at"]) == (
        True, 0, 0, None,
    )  # fmt: skip


def test_a_run_that_two_changes_claim_is_ambiguous_in_both() -> None:
    rows = made([case(), case("p")], [run("o", "j"), run("o", "own"), run("p", "j")])
    assert [(r["runs_expected"], r["runs_ambiguous"]) for r in rows.values()] == [(2, 1), (1, 1)]
    # Two runs of two outcomes: none is.
    rows = made([case(), case("p")], [run("o", "j"), run("o", "own"), run("p", "k")])
    assert [r["runs_ambiguous"] for r in rows.values()] == [0, 0]


def test_a_run_at_home_elsewhere_than_planned_is_ambiguous() -> None:
    assert made([case()], [run(planned="B"), run(name="k")])["o"]["runs_ambiguous"] == 1
    assert ambiguous(moved(run(planned="unknown"), run(name="k")).runs).tolist() == [True, False]
    assert ambiguous(moved().runs).tolist() == []


_CLAIMED = st.lists(
    st.tuples(
        st.sampled_from("opq"),
        st.sampled_from("jklmn"),
        st.one_of(st.none(), st.integers(0, 12)),
        st.sampled_from("AB"),
    ),
    max_size=12,
    unique_by=lambda row: row[:2],
)


@settings(max_examples=60, deadline=None)
@given(drawn=_CLAIMED, days=st.integers(0, 9), until=st.integers(0, 12), now=st.integers(0, 30))
def test_it_is_what_a_plain_loop_says(drawn: list, days: int, until: int, now: int) -> None:
    cases = [case(o, T0 + i * 7 * HOUR) for i, o in enumerate("opq")]
    at = {None: None} | {h: T0 + h * HOUR for h in range(13)}
    runs = [run(o, j, at[h], "A", planned) for o, j, h, planned in drawn]
    rows = made(cases, runs, now=MIDNIGHT + now * DAY / 2, until=at[until], settle_days=days)
    for row in cases:
        own = [r for r in runs if r["outcome_id"] == row["outcome_id"]]
        due = row["executed_at"].replace(hour=0, minute=0) + (1 + days) * DAY <= MIDNIGHT + now * DAY / 2
        ended = all(r["ended_at"] is not None and r["ended_at"] < at[until] for r in own)
        claimants = {r["run_id"]: {q["outcome_id"] for q in runs if q["run_id"] == r["run_id"]} for r in own}
        vague = [r for r in own if r["planned_home_region"] != "A" or len(claimants[r["run_id"]]) > 1]
        found = rows[row["outcome_id"]]
        assert found["settled"] is (due and ended)
        assert (found["runs_expected"], found["runs_ambiguous"]) == (len(own), len(vague))


def test_what_does_not_belong_together_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="runs row 1: outcome p is not among the cases"):
        made([case()], [run(), run("p")])
    cases = pa.Table.from_pylist([case(), case("p")], CASE_SCHEMA)
    costs = pa.Table.from_pylist([{"outcome_id": "o"}], COSTS)
    both = pa.Table.from_pylist([{"outcome_id": "o"}, {"outcome_id": "p"}], PROMISES)
    for given_costs, given_promises, said in (
        (costs, both, "cases row 1: outcome p is not among the costs"),
        (
            both.append_column("measured_cost_delta_usd", pa.nulls(2, FLOAT)),
            both.slice(1),
            "o is not among the promises",
        ),
    ):
        with pytest.raises(InputError, match=said):
            claims_of(cases, moved(), given_costs, given_promises, now=LATE, until=LATE, settle_days=3)
