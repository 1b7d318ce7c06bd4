"""SLA compliance: kept, broken and unknown are three things."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.agents.verifier.causal.inputs import CheckInputError
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
NEEDS = pa.schema([("run_id", STRING), ("needs_run_id", STRING)])


def at(hours: float | None) -> datetime | None:
    return None if hours is None else T0 + timedelta(hours=hours)


def run(name: str = "r", outcome: str = "o", category: str | None = "balanced", **hours) -> dict:
    given = {"started": 0.0, "ended": 1.0, "delay": None, "deadline": None, "limit": None, "rtt": None} | hours
    return {
        "outcome_id": outcome,
        "run_id": name,
        "category": category,
        "requested_start": T0,
        "started_at": at(given["started"]),
        "ended_at": at(given["ended"]),
        "max_delay_hours": given["delay"],
        "deadline": at(given["deadline"]),
        "sla_latency_ms": given["limit"],
        "round_trip_ms": given["rtt"],
    }


def checked(*runs: dict, needs: list[tuple[str, str]] = (), outcomes: tuple[str, ...] = ("o",), **kw) -> list[dict]:
    table = pa.Table.from_pylist(list(runs), schema=RUNS)
    edges = pa.Table.from_pylist([{"run_id": a, "needs_run_id": b} for a, b in needs], schema=NEEDS)
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
    first = run("a", outcome="other", ended=1.0)
    assert checked(first, run("b", started=1.0), needs=[("b", "a")])[0]["sla_compliant"] is True
    early = checked(first, run("b", started=0.75), needs=[("b", "a")])[0]
    assert early["sla_compliant"] is False
    assert early["sla_detail"]["promises"]["dependencies"]["worst_hours"] == 0.25
    # Without the dependency the same start is fine.
    assert checked(first, run("b", started=0.75))[0]["sla_compliant"] is True
    # One that was not seen leaves it open, unless another is already broken.
    assert checked(run("b", started=1.0), needs=[("b", "gone")])[0]["reason"] == "not_observed: dependencies 1"
    unseen = run("c", outcome="other", ended=None)
    assert checked(first, unseen, run("b", started=1.0), needs=[("b", "a"), ("b", "c")])[0]["sla_compliant"] is None
    assert checked(first, unseen, run("b", started=0.5), needs=[("b", "a"), ("b", "c")])[0]["sla_compliant"] is False


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
        checked(run(), needs=[("x", "r")])
    with pytest.raises(CheckInputError, match="asked for once"):
        checked(run(), outcomes=("o", "o"))
    with pytest.raises(CheckInputError, match="no column deadline"):
        table = pa.Table.from_pylist([run()], schema=RUNS).drop_columns(["deadline"])
        sla(table, pa.Table.from_pylist([], schema=NEEDS), pa.array(["o"]))
