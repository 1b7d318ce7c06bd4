"""SLA compliance: kept, broken and unknown are three things."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.agents.verifier.causal.inputs import CheckInputError
from sust_dagster.agents.verifier.evidence.recompute import _too_early
from sust_dagster.agents.verifier.service.dependencies import DEPENDENCIES
from sust_dagster.agents.verifier.service.sla import SLA, sla
from sust_dagster.world.schemas import FLOAT, STRING, TIMESTAMP

T0 = datetime(2026, 3, 1, 8, tzinfo=UTC)
RUNS = pa.schema(
    [
        ("outcome_id", STRING),
        ("run_id", STRING),
        ("category", STRING),
        ("requested_start", TIMESTAMP),
        ("started_at", TIMESTAMP),
        ("ended_at", TIMESTAMP),
        ("max_delay_hours", FLOAT),
        ("deadline", TIMESTAMP),
        ("sla_latency_ms", FLOAT),
        ("round_trip_ms", FLOAT),
    ]
)
HOUR_US = 3_600_000_000


def at(hours: float | None) -> datetime | None:
    return None if hours is None else T0 + timedelta(hours=hours)


def run(name: str = "r", outcome: str = "o", category: str | None = "balanced", **hours) -> dict:
    given = {"started": 0.0, "ended": 1.0, "delay": None, "deadline": None, "limit": None, "rtt": None, "asked": 0.0}
    given |= hours
    return {
        "outcome_id": outcome,
        "run_id": name,
        "category": category,
        "requested_start": at(given["asked"]),
        "started_at": at(given["started"]),
        "ended_at": at(given["ended"]),
        "max_delay_hours": given["delay"],
        "deadline": at(given["deadline"]),
        "sla_latency_ms": given["limit"],
        "round_trip_ms": given["rtt"],
    }


def checked(
    *runs: dict, needs: list[tuple[str, str, float | None]] = (), outcomes: tuple[str, ...] = ("o",), **kw
) -> list[dict]:
    table = pa.Table.from_pylist(list(runs), schema=RUNS)
    rows = [{"run_id": a, "needs_run_id": b, "needs_ended_at": at(ended)} for a, b, ended in needs]
    edges = pa.Table.from_pylist(rows, schema=DEPENDENCIES)
    out = sla(table, edges, pa.array(outcomes), **kw)
    assert out.schema == SLA
    return [r | {"sla_detail": json.loads(r["sla_detail"])} for r in out.to_pylist()]


@pytest.mark.parametrize(
    ("category", "delay", "kept"),
    [
        ("urgent", 0.0, True),
        ("urgent", 0.08, True),  # within the tolerance of five minutes
        ("urgent", 0.09, False),
        ("balanced", 4.08, True),
        ("balanced", 4.1, False),
        ("sustainable", 24.0, True),
        ("sustainable", 24.1, False),
        ("balanced", -1.0, True),
    ],
)
def test_a_start_within_the_categorys_limit_is_kept(category: str, delay: float, kept: bool):
    row = checked(run(category=category, started=delay, ended=delay + 1))[0]
    assert row["sla_compliant"] is kept and row["reason"] is None
    promise = row["sla_detail"]["promises"]["start_delay"]
    assert (promise["kept"], promise["broken"], promise["unknown"]) == (int(kept), int(not kept), 0)
    assert promise["first_broken"] == (None if kept else "r")


def test_a_runs_own_limit_narrows_and_never_widens():
    assert checked(run(started=2.0, delay=1.0))[0]["sla_compliant"] is False
    assert checked(run(started=4.5, delay=9.0))[0]["sla_compliant"] is False
    assert checked(run(started=0.08), tolerance_hours=0.0)[0]["sla_compliant"] is True
    assert checked(run(category="urgent", started=0.08), tolerance_hours=0.0)[0]["sla_compliant"] is False


def test_deadline_and_latency():
    assert checked(run(deadline=1.0, limit=50.0, rtt=50.0))[0]["sla_compliant"] is True
    late = checked(run(deadline=0.5))[0]
    assert late["sla_compliant"] is False
    assert late["sla_detail"]["promises"]["deadline"] == {
        "promised": 1,
        "kept": 0,
        "broken": 1,
        "unknown": 0,
        "worst_hours": 0.5,
        "first_broken": "r",
    }
    slow = checked(run(limit=50.0, rtt=51.0))[0]
    assert slow["sla_compliant"] is False and slow["sla_detail"]["promises"]["latency"]["worst_ms"] == 1.0


@pytest.mark.parametrize(
    ("hours", "reason"),
    [
        ({"started": None}, "not_observed: start_delay 1"),
        ({"deadline": 2.0, "ended": None}, "not_observed: deadline 1"),
        ({"limit": 50.0}, "not_observed: latency 1"),
        ({"category": "someday"}, "not_observed: start_delay 1"),
        ({"category": None}, "not_observed: start_delay 1"),
        ({"started": None, "limit": 5.0}, "not_observed: start_delay 1, latency 1"),
    ],
)
def test_what_nobody_saw_is_never_compliant(hours: dict, reason: str):
    row = checked(run(**hours))[0]
    assert row["sla_compliant"] is None and row["reason"] == reason


def test_a_broken_promise_outweighs_what_is_unknown():
    row = checked(run("a", started=None), run("b", started=9.0))[0]
    assert row["sla_compliant"] is False and row["reason"] == "not_observed: start_delay 1" and row["runs"] == 2


def test_an_outcome_without_runs_is_unknown():
    rows = checked(run(), outcomes=("none", "o"))
    assert [(r["outcome_id"], r["sla_compliant"], r["reason"], r["runs"]) for r in rows] == [
        ("none", None, "no_runs", 0),
        ("o", True, None, 1),
    ]


def test_nothing_starts_before_what_it_needs_has_ended():
    first = ("b", "a", 1.25)
    assert checked(run("b", started=1.25), needs=[first])[0]["sla_compliant"] is True
    early = checked(run("b", started=0.75), needs=[first])[0]
    assert early["sla_compliant"] is False
    assert early["sla_detail"]["promises"]["dependencies"] == {
        "promised": 1, "kept": 0, "broken": 1, "unknown": 0, "worst_hours": 0.5, "first_broken": "b",
    }  # fmt: skip
    # Without the dependency the same start is fine.
    assert checked(run("b", started=0.75))[0]["sla_compliant"] is True
    # One that was not seen leaves it open, unless another is already broken.
    unseen = ("b", "c", None)
    assert checked(run("b", started=1.25), needs=[unseen])[0]["reason"] == "not_observed: dependencies 1"
    assert checked(run("b", started=1.25), needs=[first, unseen])[0]["sla_compliant"] is None
    assert checked(run("b", started=0.5), needs=[first, unseen])[0]["sla_compliant"] is False
    assert checked(run("b", started=None), needs=[first])[0]["sla_detail"]["promises"]["dependencies"]["unknown"] == 1


@pytest.mark.parametrize(
    ("asked", "started", "ended", "kept"),
    [
        (0.5, 0.0, 0.4, True),  # billed from the hour on, and asked for at half past: it began at half past
        (0.5, 3.0, 3.4, True),
        (0.5, 3.0, 3.6, False),
        (0.5, 3.0, 4.0, None),  # billed to the hour's end: somewhere between three and four
        (0.5, 3.0, 5.0, False),
        (0.5, 3.25, 3.2, True),  # it says the minute
        (0.5, 3.25, 3.3, False),
        (0.0, 3.0, 3.0, True),
    ],
)
def test_a_bill_by_the_hour_is_no_witness_of_minutes(asked: float, started: float, ended: float, kept: bool | None):
    row = checked(run("b", asked=asked, started=started, ended=9.0), needs=[("b", "a", ended)])[0]
    assert row["sla_compliant"] is kept
    assert row["reason"] == ("not_observed: dependencies 1" if kept is None else None)


@settings(max_examples=100, deadline=None)
@given(
    asked=st.integers(0, 24),
    started=st.one_of(st.none(), st.integers(0, 24)),
    ends=st.lists(st.one_of(st.none(), st.integers(0, 30)), min_size=1, max_size=4),
)
def test_the_second_program_judges_dependencies_the_same(asked: int, started: int | None, ends: list):
    """In quarters of an hour, so that many fall on the hour."""
    needs = [("b", f"a{i}", None if e is None else e / 4) for i, e in enumerate(ends)]
    row = checked(run("b", asked=asked / 4, started=None if started is None else started / 4), needs=needs)[0]
    found = row["sla_detail"]["promises"]["dependencies"]
    quarter = HOUR_US // 4
    other = _too_early(
        {"started_at": None if started is None else started * quarter, "requested_at": asked * quarter},
        [None if e is None else e * quarter for e in ends],
    )
    assert found["promised"] == 1
    assert found["worst_hours"] == other
    assert (found["broken"], found["unknown"]) == (int(other is not None and other > 0), int(other is None))


def test_a_run_that_two_changes_claim_is_judged_in_both():
    shared = [run("b", outcome=o, started=0.75) for o in ("o", "p")]
    rows = checked(*shared, run("c", started=0.5), needs=[("b", "a", 1.25)], outcomes=("o", "p"))
    assert [(r["sla_compliant"], r["runs"]) for r in rows] == [(False, 2), (False, 1)]
    assert {r["sla_detail"]["promises"]["dependencies"]["first_broken"] for r in rows} == {"b"}
    # The change that claims another run has kept what it promised.
    rows = checked(shared[0], run("c", outcome="p", started=0.5), needs=[("b", "a", 1.25)], outcomes=("o", "p"))
    assert [r["sla_compliant"] for r in rows] == [False, True]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["o", "p"]),
            st.sampled_from(["urgent", "balanced", "sustainable", None]),
            st.one_of(st.none(), st.floats(-2, 30)),
            st.one_of(st.none(), st.floats(1, 100)),
            st.one_of(st.none(), st.floats(1, 100)),
        ),
        max_size=12,
    )
)
def test_it_is_what_a_plain_loop_says(drawn: list):
    runs = [
        run(f"r{i}", o, c, started=s, limit=limit, rtt=rtt, ended=40.0) for i, (o, c, s, limit, rtt) in enumerate(drawn)
    ]
    limits = {"urgent": 0.0, "balanced": 4.0, "sustainable": 24.0}
    for row in checked(*runs, outcomes=("o", "p")):
        verdicts = []
        for o, c, s, limit, rtt in drawn:
            if o == row["outcome_id"]:
                us = None if s is None else round(s * 3.6e9)
                verdicts.append(None if us is None or c is None else us <= (limits[c] + 5 / 60) * 3.6e9)
                if limit is not None:
                    verdicts.append(None if rtt is None else rtt <= limit)
        want = False if False in verdicts else None if None in verdicts or not verdicts else True
        assert row["sla_compliant"] is want
        for promise in row["sla_detail"]["promises"].values():
            assert promise["promised"] == promise["kept"] + promise["broken"] + promise["unknown"]


def test_malformed_tables_are_refused_by_name():
    with pytest.raises(CheckInputError, match="row 1 gives run r again"):
        checked(run(), run())
    with pytest.raises(CheckInputError, match="run x is in no row"):
        checked(run(), needs=[("x", "r", 1.0)])
    with pytest.raises(CheckInputError, match="asked for once"):
        checked(run(), outcomes=("o", "o"))
    with pytest.raises(CheckInputError, match="no column deadline"):
        table = pa.Table.from_pylist([run()], schema=RUNS).drop_columns(["deadline"])
        sla(table, DEPENDENCIES.empty_table(), pa.array(["o"]))
