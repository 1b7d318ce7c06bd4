"""Who waits for whom: of the results that would have been there, the one that came last decides."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.agents.verifier.causal.inputs import CheckInputError
from sust_dagster.agents.verifier.service.dependencies import DEPENDENCIES, WAITS, dependencies, waits_for
from sust_dagster.world.schemas import INT, STRING, TIMESTAMP

T0 = datetime(2026, 3, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
FAR = T0 + timedelta(days=30)
REGISTER = pa.table(
    {
        "workload_id": ["etl", "report", "train", "loop", "none"],
        "depends_on": [None, "etl, features,etl", "features,,", "loop", ""],
    }
)
RUNS = pa.schema([("run_id", STRING), ("workload_id", STRING), ("requested_at", TIMESTAMP)])
AWAITED = pa.schema([*RUNS, ("started_at", TIMESTAMP), ("ended_at", TIMESTAMP), ("shift_us", INT)])


def at(minutes: float | None) -> datetime | None:
    return None if minutes is None else T0 + minutes * MINUTE


def waiting(*rows: tuple[str, str, float]) -> pa.Table:
    made = [{"run_id": run, "workload_id": who, "requested_at": at(asked)} for run, who, asked in rows]
    return pa.Table.from_pylist(made, RUNS)


def awaited(*rows: tuple[str, str, float, float, float | None]) -> pa.Table:
    """Rows of run, workload, asked, start and end in minutes; no end: not seen."""
    made = [
        {
            "run_id": run, "workload_id": who, "requested_at": at(asked),
            "started_at": at(None if end is None else start), "ended_at": at(end),
            "shift_us": 0 if end is None else round(start - asked) * 60_000_000,
        }
        for run, who, asked, start, end in rows
    ]  # fmt: skip
    return pa.Table.from_pylist(made, AWAITED)


def found(own: pa.Table, others: pa.Table, until: datetime = FAR, longest: float = 600) -> list[tuple]:
    waits = waits_for(REGISTER, own["workload_id"])
    table = dependencies(own, others, waits, until=until, longest=longest * MINUTE)
    assert table.schema == DEPENDENCIES
    return [(r["run_id"], r["needs_run_id"], r["needs_ended_at"]) for r in table.to_pylist()]


def test_the_register_says_who_waits() -> None:
    table = waits_for(REGISTER, pa.array(["train", "report", "none", "loop", "etl", "stranger", "report"]))
    assert table.schema == WAITS
    assert [tuple(r.values()) for r in table.to_pylist()] == [
        ("report", "etl"), ("report", "features"), ("train", "features"),
    ]  # fmt: skip
    assert waits_for(REGISTER, pa.array(["etl", "none", "loop"])).num_rows == 0
    assert waits_for(REGISTER.slice(0, 0), pa.array(["report"])).num_rows == 0
    with pytest.raises(CheckInputError, match="register of workloads: no column depends_on"):
        waits_for(REGISTER.drop_columns(["depends_on"]), pa.array(["report"]))


def test_a_run_depends_on_what_would_have_been_there() -> None:
    own = waiting(("b", "report", 100))
    assert found(own, awaited(("a", "etl", 40, 40, 100))) == [("b", "a", at(100))]
    # It would have ended a minute too late to be promised.
    assert found(own, awaited(("a", "etl", 41, 41, 101))) == []
    # Put off by an hour it would have been there all the same; pulled forward it would not.
    assert found(own, awaited(("a", "etl", 40, 100, 160))) == [("b", "a", at(160))]
    assert found(own, awaited(("a", "etl", 60, 30, 90))) == []
    # Another's input is no input of this one.
    assert found(own, awaited(("a", "train", 0, 0, 10))) == []
    assert found(waiting(("b", "etl", 100)), awaited(("a", "features", 0, 0, 10))) == []


def test_of_those_that_would_have_been_there_the_last_to_end_decides() -> None:
    own = waiting(("b", "report", 100), ("c", "report", 30), ("d", "train", 100))
    others = awaited(
        ("a1", "etl", 10, 10, 20), ("a2", "features", 20, 90, 140), ("a3", "etl", 40, 40, 60),
        ("a4", "etl", 95, 95, 99),
    )  # fmt: skip
    assert found(own, others) == [("b", "a2", at(140)), ("c", "a1", at(20)), ("d", "a2", at(140))]
    twins = awaited(("a2", "etl", 10, 10, 20), ("a1", "etl", 10, 10, 20))
    assert found(own.slice(0, 1), twins) == [("b", "a1", at(20))]


def test_what_was_not_seen_to_end_is_waited_for_as_long_as_it_may_be_on_its_way() -> None:
    own = waiting(("b", "report", 100), ("c", "report", 650))
    lost = awaited(("lost", "etl", 60, 0, None), ("a", "etl", 10, 10, 20))
    assert found(own, lost) == [("b", "a", at(20)), ("b", "lost", None), ("c", "a", at(20)), ("c", "lost", None)]
    assert found(own, lost, longest=590) == [("b", "a", at(20)), ("b", "lost", None), ("c", "a", at(20))]
    # Still running at the last hour looked at is not seen either; asked for after it, it is no matter.
    assert found(own.slice(0, 1), awaited(("a", "etl", 10, 10, 20)), until=at(20)) == [("b", "a", None)]
    assert found(own.slice(0, 1), awaited(("lost", "etl", 101, 0, None))) == []


def test_a_run_that_two_changes_claim_is_asked_for_once() -> None:
    own = waiting(("b", "report", 100), ("b", "report", 100))
    assert found(own, awaited(("a", "etl", 40, 40, 100))) == [("b", "a", at(100))]


@settings(max_examples=80, deadline=None)
@given(
    own=st.lists(st.tuples(st.sampled_from(["report", "train", "etl"]), st.integers(0, 100)), max_size=8),
    others=st.lists(
        st.tuples(
            st.sampled_from(["etl", "features", "none"]),
            st.integers(0, 100),
            st.integers(-20, 60),
            st.one_of(st.none(), st.integers(1, 60)),
        ),
        max_size=12,
    ),
    until=st.integers(50, 200),
    longest=st.integers(1, 100),
)
def test_it_is_what_a_plain_loop_says(own: list, others: list, until: int, longest: int) -> None:
    needs = {"report": {"etl", "features"}, "train": {"features"}}
    names = [f"a{i:02}" for i in range(len(others))]
    told = [(n, w, r, r + s, None if k is None else r + s + k) for n, (w, r, s, k) in zip(names, others, strict=True)]
    want = []
    for i, (who, asked) in enumerate(own):
        mine = [t for t in told if t[1] in needs.get(who, ())]
        seen = [(t[4], t[0]) for t in mine if t[4] is not None and t[4] < until and t[4] - (t[3] - t[2]) <= asked]
        lost = [(t[2], t[0]) for t in mine if (t[4] is None or t[4] >= until) and asked - longest < t[2] <= asked]
        for rows, unseen in ((seen, False), (lost, True)):
            if rows:
                last = max(when for when, _ in rows)
                want.append((f"b{i}", min(n for when, n in rows if when == last), None if unseen else at(last)))
    table = waiting(*((f"b{i}", who, asked) for i, (who, asked) in enumerate(own)))
    assert found(table, awaited(*told), until=at(until), longest=longest) == sorted(want, key=lambda r: r[:2])


def test_malformed_tables_are_refused_by_name() -> None:
    with pytest.raises(CheckInputError, match="awaited runs of dependencies: no column shift_us"):
        found(waiting(("b", "report", 1)), awaited().drop_columns(["shift_us"]))
    with pytest.raises(CheckInputError, match="runs of dependencies: no column requested_at"):
        found(waiting(("b", "report", 1)).drop_columns(["requested_at"]), awaited())
