"""The state machine of decisions: in the code, in the database, and in the view that folds it."""

from __future__ import annotations

import itertools
import json
import sqlite3
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from books_samples import OWNERS, PATHS, PROPOSAL, START, bring_to, event, step
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.world.books import Books
from sust_dagster.world.books_schema import DECISION_LOG_ARROW
from sust_dagster.world.decisions import TRANSITIONS, Transition, TransitionRefused, check_event, event_of, fold
from sust_dagster.world.schemas import AGENTS, DECISION_STATES, Agent

STATES = (None, *DECISION_STATES)
ALLOWED = {(f, t): a for f, t, a in TRANSITIONS}
#: The founding design's columns, in its order.
SEED_COLUMNS = (
    "decision_id recommendation_id workload_id action_type current_config proposed_config est_carbon_delta_kg "
    "est_cost_delta_usd est_latency_delta confidence workload_category rationale status proposed_at approved_at "
    "approved_by executed_at execution_ref risk_level"
)


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with Books.open(tmp_path / "books.db") as opened:
        yield opened


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    with Books.open(tmp_path_factory.mktemp("decisions") / "books.db") as opened:
        yield opened


def raw(books: Books) -> sqlite3.Connection:
    return sqlite3.connect(str(books.url.database), isolation_level=None)


def raw_insert(connection: sqlite3.Connection, row: dict[str, Any]) -> None:
    row = row | {"occurred_at": "2026-01-05T00:00:00.000000Z"}
    marks = ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO decision_events ({', '.join(row)}) VALUES ({marks})", list(row.values()))


# -- every cell of the state machine ------------------------------------------------------------------------


@pytest.mark.parametrize("agent", AGENTS)
def test_every_transition_by_every_agent_from_every_state(shared: Books, agent: Agent) -> None:
    for state, target in itertools.product(STATES, DECISION_STATES):
        name = f"{agent}-{state}-{target}"
        if state is not None:
            bring_to(shared, name, state)
        if ALLOWED.get((state, target)) == agent:
            (decided,) = shared.decide(agent, [step(name, target)], START)
            assert decided.appended and decided.event["to_status"] == target
        elif state is not None and target in (*PATHS[state], state) and OWNERS[target] == agent:
            (decided,) = shared.decide(agent, [step(name, target)], START)
            assert not decided.appended, "said again, word for word: the same event"
        else:
            with pytest.raises(TransitionRefused, match=name):
                shared.decide(agent, [step(name, target)], START)


@pytest.mark.parametrize("agent", AGENTS)
def test_the_database_refuses_the_same_from_raw_sql(shared: Books, agent: str) -> None:
    for state, target in itertools.product(STATES, DECISION_STATES):
        name = f"raw-{agent}-{state}-{target}"
        path = () if state is None else (*PATHS[state], state)
        if state is not None:
            bring_to(shared, name, state)
        row = event(name, target, len(path), state, agent=agent)
        with raw(shared) as connection:
            if ALLOWED.get((state, target)) == agent:
                raw_insert(connection, row)
                continue
            with pytest.raises(sqlite3.IntegrityError, match="no such transition for this agent"):
                raw_insert(connection, row)


WRONG_EVENTS = {
    "sequence": ({"sequence": 7}, "its sequence is not the next"),
    "state": ({"from_status": "approved", "to_status": "expired"}, "its from_status is not the state"),
    "actor": ({"actor": "executor"}, "its actor is another agent"),
    "no plan": ({"plan_hash": None}, "it must name the plan"),
    "other plan": ({"plan_hash": "other"}, "it is about another plan"),
}


@pytest.mark.parametrize(("change", "message"), WRONG_EVENTS.values(), ids=WRONG_EVENTS)
def test_an_event_that_does_not_follow_is_refused_by_code_and_database(
    books: Books, change: dict[str, Any], message: str
) -> None:
    bring_to(books, "r", "proposed")
    row = event("r", "approved", 1, "proposed") | change
    with pytest.raises(TransitionRefused):
        books.append("decision_events", [row])
    with raw(books) as connection, pytest.raises(sqlite3.IntegrityError, match=message):
        raw_insert(connection, row)


def test_without_its_trigger_an_unapproved_execution_could_be_written(books: Books) -> None:
    """Negative control: it is the trigger that refuses raw SQL."""
    bring_to(books, "r", "proposed")
    with raw(books) as connection:
        connection.execute("DROP TRIGGER decision_events_transition")
        raw_insert(connection, event("r", "executed", 1, "executing"))
    with books.snapshot() as snapshot:
        assert snapshot.state("r") == "executed"


def test_an_event_id_is_that_of_its_transition(books: Books) -> None:
    with pytest.raises(TransitionRefused, match="event_id"):
        books.append("decision_events", [event("r", "proposed", 0, None, event_id="made up")])


# -- plans, persons, reasons --------------------------------------------------------------------------------


def test_an_approval_is_for_one_plan(books: Books) -> None:
    bring_to(books, "r", "proposed")
    for wrong, message in ((None, "must name the plan_hash"), ("edited", "it is about plan edited")):
        with pytest.raises(TransitionRefused, match=message):
            books.decide("governance", [step("r", "approved", plan_hash=wrong)], START)
    bring_to(books, "s", "approved")
    with pytest.raises(TransitionRefused, match="it is about plan edited"):
        books.decide("executor", [step("s", "executing", plan_hash="edited")], START)


def test_what_a_person_rejected_stays_rejected_for_that_plan(books: Books) -> None:
    books.decide("planner", [step("a", "proposed", plan_hash="p"), step("b", "proposed", plan_hash="p")], START)
    books.decide("planner", [step("c", "proposed", plan_hash="q")], START)
    books.decide("governance", [step("a", "rejected", plan_hash="p", actor="alice", role="team_lead")], START)
    books.decide("governance", [step("c", "rejected", plan_hash="q")], START)
    with pytest.raises(TransitionRefused, match="alice rejected plan p"):
        books.decide("governance", [step("b", "approved", plan_hash="p", actor="bob")], START)
    with pytest.raises(TransitionRefused, match="alice rejected plan p"):
        books.decide("planner", [step("d", "proposed", plan_hash="p")], START)
    row = event("d", "proposed", 0, None, plan_hash="p")
    with raw(books) as connection, pytest.raises(sqlite3.IntegrityError, match="a person rejected this plan"):
        raw_insert(connection, row)
    books.decide("planner", [step("e", "proposed", plan_hash="q")], START)  # a rule's rejection is not final
    books.decide("governance", [step("b", "rejected", plan_hash="p", actor="bob")], START)  # and may be repeated


def test_within_one_batch_a_rejection_counts_at_once(books: Books) -> None:
    books.decide("planner", [step(r, "proposed", plan_hash="p") for r in "ab"], START)
    with pytest.raises(TransitionRefused, match="alice rejected"):
        books.decide(
            "governance",
            [step("a", "rejected", plan_hash="p", actor="alice"), step("b", "approved", plan_hash="p")],
            START,
        )
    with books.snapshot() as snapshot:
        assert snapshot.state("a") == "proposed", "all or none"


# -- two people behind a high-risk plan ----------------------------------------------------------------------


def signed(signer: str, **changes: Any) -> dict[str, Any]:
    """A signature on the high-risk plan of ``r``."""
    return {
        "approval_id": str(uuid.uuid4()),
        "recommendation_id": "r",
        "plan_hash": "plan-r",
        "signer": signer,
        "role": "platform",
        "verdict": "approve",
        "reason": "looked at it",
        "policy_version": 1,
        "signed_at": START,
        "expires_at": START + timedelta(hours=1),
    } | changes


NOT_ENOUGH: dict[str, list[dict[str, Any]]] = {
    "nobody": [],
    "one person": [signed("alice")],
    "one person twice": [signed("alice"), signed("alice", role="team-lead")],
    "an agent": [signed("alice"), signed("governance")],
    "the author": [signed("alice"), signed("author")],
    "a rejection": [signed("alice"), signed("bob", verdict="reject")],
    "another plan": [signed("alice"), signed("bob", plan_hash="edited")],
    "another recommendation": [signed("alice"), signed("bob", recommendation_id="s")],
    "expired": [signed("alice"), signed("bob", expires_at=START)],
    "endless": [signed("alice"), signed("bob", expires_at=None)],
}


@pytest.mark.parametrize("risk", ["high", "unknown"])
@pytest.mark.parametrize("signatures", NOT_ENOUGH.values(), ids=NOT_ENOUGH)
def test_a_high_risk_plan_is_not_approved_without_two_people(
    books: Books, signatures: list[dict[str, Any]], risk: str
) -> None:
    proposed = step("r", "proposed", payload=PROPOSAL | {"risk_level": "high"}, actor="author")
    books.decide("planner", [proposed], START)
    if risk == "unknown":  # what no code writes, but raw SQL could
        with raw(books) as connection:
            connection.execute("DROP TRIGGER decision_events_no_update")
            connection.execute("UPDATE decision_events SET payload = json_remove(payload, '$.risk_level')")
    books.append("approvals", signatures)
    with pytest.raises(TransitionRefused, match="a high-risk plan needs the signatures of two people"):
        books.decide("governance", [step("r", "approved", actor="alice")], START)
    row = event("r", "approved", 1, "proposed", actor="alice")
    with pytest.raises(TransitionRefused, match="a high-risk plan needs"):
        books.append("decision_events", [row])
    with raw(books) as connection, pytest.raises(sqlite3.IntegrityError, match="a high-risk plan needs"):
        raw_insert(connection, row)
    assert books.read("decision_log").column("status").to_pylist() == ["proposed"]


def test_with_two_people_it_is_and_the_view_names_both(books: Books) -> None:
    books.decide("planner", [step("r", "proposed", payload=PROPOSAL | {"risk_level": "high"})], START)
    later = START + timedelta(minutes=5)
    books.append("approvals", [signed("zoe"), signed("bob", signed_at=later), signed("eve", policy_version=7)])
    books.append("approvals", [signed("ann", verdict="reject", plan_hash="old")])
    books.decide("governance", [step("r", "approved", actor="bob", role="platform", policy_version=1)], later)
    (row,) = books.read("decision_log").to_pylist()
    assert (row["approved_by"], row["approved_at"]) == ("zoe, bob", later), "in the order they signed"


def test_the_database_lets_raw_sql_approve_what_two_people_signed(books: Books) -> None:
    """The guard refuses for want of signatures and for nothing else."""
    books.decide("planner", [step("r", "proposed", payload=PROPOSAL | {"risk_level": "high"})], START)
    books.append("approvals", [signed("alice"), signed("bob")])
    with raw(books) as connection:
        raw_insert(connection, event("r", "approved", 1, "proposed"))
    assert books.read("decision_log").column("status").to_pylist() == ["approved"]


def test_no_agent_signs_for_another_and_no_one_without_a_reason(books: Books) -> None:
    bring_to(books, "r", "proposed")
    with pytest.raises(TransitionRefused, match="actor 'planner' is an agent and not the governance"):
        books.decide("governance", [step("r", "approved", actor="planner")], START)
    with pytest.raises(TransitionRefused, match="no reason"):
        books.decide("governance", [step("r", "approved", reason=" ")], START)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"est_carbon_delta_kg": None}, "est_carbon_delta_kg must be a finite number"),
        ({"est_cost_delta_usd": "1"}, "est_cost_delta_usd must be a finite number"),
        ({"est_cost_delta_usd": True}, "est_cost_delta_usd must be a finite number"),
        ({"confidence": 1.2}, "confidence must be a number from 0 to 1"),
        ({"risk_level": "none"}, "risk_level must be one of low, medium, high"),
        ({"action_type": "delete"}, "action_type must be one of"),
        ({"current_config": "not json"}, "current_config must be a JSON object"),
        ({"team_id": ""}, "team_id must be a text"),
        ({"service_tier": 5}, "service_tier must be a text or null"),
        ({"planned_for": "2026-01-06"}, "planned_for must be an instant as ISO text with its zone"),
        ({"planned_for": "soon"}, "planned_for must be an instant"),
        ({"issued_at": 5}, "issued_at must be an instant"),
        ({"policy_version": True}, "policy_version must be a whole number"),
        ({"cost_before_usd": None}, "cost_before_usd must be a finite number"),
        ({"est_latency_delta_ms": "fast"}, "est_latency_delta_ms"),
        ({"rationale_text": ""}, "rationale_text must be a text"),
        ({"confidence": float("nan")}, "not JSON"),
    ],
)
def test_a_proposal_without_its_estimates_is_refused(books: Books, change: dict[str, Any], message: str) -> None:
    with pytest.raises(TransitionRefused, match=message):
        books.decide("planner", [step("r", "proposed", payload=PROPOSAL | change)], START)
    with pytest.raises(TransitionRefused, match="workload_id"):
        books.decide("planner", [step("r", "proposed", payload=None)], START)


def test_the_refusal_says_where_it_stands_and_what_is_possible(books: Books) -> None:
    bring_to(books, "r", "approved")
    with pytest.raises(TransitionRefused, match=r"it is approved by governance since 2026.*executing, expired"):
        books.decide("verifier", [step("r", "verified")], START)
    with pytest.raises(TransitionRefused, match="that is the executor's to say, not the verifier's"):
        books.decide("verifier", [step("r", "executing")], START)
    bring_to(books, "f", "failed")
    with pytest.raises(TransitionRefused, match="nothing, the state is final"):
        books.decide("executor", [step("f", "executed")], START)


def test_the_same_said_later_is_not_the_same(books: Books) -> None:
    bring_to(books, "r", "approved")
    assert not books.decide("governance", [step("r", "approved")], START)[0].appended
    with pytest.raises(TransitionRefused):
        books.decide("governance", [step("r", "approved")], START + timedelta(seconds=1))


# -- the view -----------------------------------------------------------------------------------------------


def test_the_view_has_the_founding_designs_columns_and_no_others(books: Books) -> None:
    with raw(books) as connection:
        names = [c[0] for c in connection.execute("SELECT * FROM decision_log").description]
    assert names == SEED_COLUMNS.split() == DECISION_LOG_ARROW.names


def test_the_view_folds_the_events(books: Books) -> None:
    at = [START + timedelta(hours=h, microseconds=7) for h in range(5)]
    books.decide("planner", [step("r", "proposed")], at[0])
    books.decide("governance", [step("r", "approved", actor="alice", role="team_lead")], at[1])
    books.decide("executor", [step("r", "executing", payload={"execution_ref": "queued"})], at[2])
    books.decide("executor", [step("r", "executed", payload={"execution_ref": "https://forge/pull/1"})], at[3])
    books.decide("verifier", [step("r", "verified", payload={"outcome_id": "o"})], at[4])
    (row,) = books.read("decision_log").to_pylist()
    assert row == {
        "decision_id": books.read("decision_events", {"sequence": 0}).to_pylist()[0]["event_id"],
        "recommendation_id": "r",
        "workload_id": "nightly-etl",
        "action_type": "region_shift",
        "current_config": json.dumps(PROPOSAL["current_config"], separators=(",", ":")),
        "proposed_config": json.dumps(PROPOSAL["proposed_config"], separators=(",", ":")),
        "est_carbon_delta_kg": -1.5,
        "est_cost_delta_usd": 0.25,
        "est_latency_delta": 12.0,
        "confidence": 0.9,
        "workload_category": "balanced",
        "rationale": "Oregon's grid is cleaner",
        "status": "verified",
        "proposed_at": at[0],
        "approved_at": at[1],
        "approved_by": "alice",
        "executed_at": at[3],
        "execution_ref": "https://forge/pull/1",
        "risk_level": "low",
    }


@pytest.mark.parametrize("state", DECISION_STATES)
def test_the_views_status_is_the_fold(shared: Books, state: str) -> None:
    name = f"view-{state}"
    bring_to(shared, name, state)
    (row,) = shared.read("decision_log", {"recommendation_id": name}).to_pylist()
    assert row["status"] == state
    assert (row["approved_at"] is not None) == ("approved" in (*PATHS[state], state))
    assert (row["executed_at"] is not None) == ("executed" in (*PATHS[state], state))
    assert row["execution_ref"] is None


def test_configs_given_as_json_text_read_the_same(books: Books) -> None:
    texts = {k: json.dumps(PROPOSAL[k]) for k in ("current_config", "proposed_config")}
    given: list[Transition] = [step("a", "proposed"), step("b", "proposed", payload=PROPOSAL | texts)]
    books.decide("planner", given, START)
    a, b = (json.loads(r["proposed_config"]) for r in books.read("decision_log").to_pylist())
    assert a == b == PROPOSAL["proposed_config"]


def test_the_founding_designs_queries_run(books: Books) -> None:
    for i, state in enumerate(DECISION_STATES):
        bring_to(books, f"r{i}", state)
    with raw(books) as connection:
        found = connection.execute(
            "SELECT status, count(*), sum(est_carbon_delta_kg) FROM decision_log "
            "WHERE risk_level = 'low' AND confidence >= 0.8 GROUP BY status ORDER BY status"
        ).fetchall()
        assert found == [(s, 1, -1.5) for s in sorted(DECISION_STATES)]
        region = "SELECT DISTINCT json_extract(proposed_config, '$.region') FROM decision_log"
        assert connection.execute(region).fetchall() == [("us-west-2",)]


# -- any order of events ------------------------------------------------------------------------------------

ATTEMPTS = st.lists(
    st.tuples(
        st.sampled_from(AGENTS),
        st.sampled_from(DECISION_STATES),
        st.sampled_from(["a", "b"]),
        st.sampled_from(["p", "q", None]),
        st.sampled_from([None, "alice", "planner"]),
    ),
    max_size=40,
)
#: Long enough and lawful enough to get anywhere: the owner of each state, mostly in order.
LAWFUL = st.lists(st.sampled_from([*PATHS["verified"], *DECISION_STATES, *PATHS["verified"]]), max_size=25).map(
    lambda states: [(OWNERS[s], s, "a", "p", None) for s in states]
)


def assert_lawful(statuses: list[str]) -> None:
    """What may never be: executed without approved, verified without executed, anything after an end."""
    assert len(set(statuses)) == len(statuses)
    for later, earlier in (("approved", "proposed"), ("executing", "approved"), ("executed", "executing")):
        if later in statuses:
            assert earlier in statuses[: statuses.index(later)]
    if "verified" in statuses:
        assert "executed" in statuses[: statuses.index("verified")]
    for end in ("rejected", "expired", "failed", "verified"):
        assert end not in statuses[:-1]


@settings(max_examples=300, deadline=None)
@given(attempts=st.one_of(ATTEMPTS, LAWFUL))
def test_no_order_of_events_reaches_executed_without_approved(attempts: list[tuple[Any, ...]]) -> None:
    histories: dict[str, list[dict[str, Any]]] = {"a": [], "b": []}
    for agent, to_status, name, plan, actor in attempts:
        wanted = step(name, to_status, plan_hash=plan, actor=actor)
        made = event_of(wanted, agent, histories[name], START)
        try:
            check_event(made, histories[name], {})
        except TransitionRefused:
            continue
        histories[name].append(made)
    for history in histories.values():
        statuses = [e["to_status"] for e in history]
        assert_lawful(statuses)
        assert fold(reversed(history)) == (statuses[-1] if statuses else None)
        assert len({e["plan_hash"] for e in history}) <= 1


@settings(max_examples=40, deadline=None)
@given(attempts=st.one_of(ATTEMPTS, LAWFUL))
def test_nor_does_any_order_of_raw_sql(shared: Books, attempts: list[tuple[Any, ...]]) -> None:
    with raw(shared) as connection:
        connection.execute("BEGIN")
        for agent, to_status, name, plan, actor in attempts:
            query = "SELECT to_status FROM decision_events WHERE recommendation_id = ? ORDER BY sequence"
            states = [s for (s,) in connection.execute(query, [name])]
            row = event(name, to_status, len(states), states[-1] if states else None, agent=agent)
            row |= {"plan_hash": plan, "actor": actor or agent}
            try:
                raw_insert(connection, row)
            except sqlite3.IntegrityError:
                continue
        for name in "ab":
            assert_lawful([s for (s,) in connection.execute(query, [name])] if attempts else [])
        connection.execute("ROLLBACK")


def test_the_search_for_unlawful_orders_would_find_one() -> None:
    """Negative control of the two tests above."""
    for statuses in (["proposed", "executing", "executed"], ["proposed", "rejected", "approved"], ["verified"]):
        with pytest.raises(AssertionError):
            assert_lawful(statuses)
