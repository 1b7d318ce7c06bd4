"""Every (agent, table, verb) through the handle, and what the access log says of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest
from books_samples import OWNERS, PATHS, START, bring_to, event, sample, sample_table, slot, step

from sust_dagster.world.access import AgentHandle, World
from sust_dagster.world.books import AppendResult, Books, BooksError
from sust_dagster.world.decisions import VERB_BY_STATUS, TransitionRefused
from sust_dagster.world.lake import Lake
from sust_dagster.world.permissions import ALIASES, PermissionRefused, allowed, may, verbs_of
from sust_dagster.world.schemas import AGENTS, POLICIES, TABLES, Agent
from sust_dagster.world.transparency import LOG, append_leaves, make_leaf

NOW = START + timedelta(days=1)
LAKE = sorted(t for t in TABLES if TABLES[t].home == "lake")
BOOKS = sorted(t for t in TABLES if TABLES[t].home == "books")


def make_world(folder: Path) -> World:
    return World(Lake(folder / "lake"), Books.open(folder / "books.db"), clock=lambda: NOW)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with make_world(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One world for the walk over all cells; factor rows are there to be reviewed."""
    with make_world(tmp_path_factory.mktemp("cells")) as made:
        spec = TABLES["emission_factors"]
        made.books.append("emission_factors", [sample(spec, 1000 + i) for i in range(len(AGENTS))])
        yield made


def log(world: World, **where: Any) -> list[dict[str, Any]]:
    return world.books.read("access_log", where).to_pylist()


# -- the walk -----------------------------------------------------------------------------------------------


def attempt(world: World, handle: AgentHandle, table: str, verb: str) -> int:
    """Do what the verb means, through the handle; returns how many rows came or went."""
    spec, n = TABLES[table], AGENTS.index(handle.agent)
    if spec.home == "lake" and verb == "read":
        handle.lake_dataset(table)
        handle.read_lake(table, *slot(spec), columns=list(spec.key), as_of=None)
        return 1
    if spec.home == "lake":
        return handle.write_lake(table, sample_table(spec, n + 1), *slot(spec), reason="a test").rows
    if verb == "read":
        handle.read_books(table)
        return 1
    if table == LOG:  # nobody writes it by hand; a handle adds leaves in its agent's name
        with world.books.transaction(handle.agent) as transaction:
            return append_leaves(transaction, [make_leaf("test", handle.agent)], NOW) + 1
    if verb == "write":
        references = {"factor_id": f"text-{1000 + n}"} if table == "factor_reviews" else {}
        signature = {"agent": handle.agent} if table in ("access_log", "alerts") else {}
        return handle.append(table, [sample(spec, 50 + n, **references, **signature)]).inserted
    made = 0
    for status in [s for s, v in VERB_BY_STATUS.items() if v == verb]:
        name = f"{handle.agent}-{status}"
        for before in PATHS[status]:
            world.books.decide(OWNERS[before], [step(name, before)], START)
        wanted = step(name, status)
        made += handle.transition(
            name, status, reason=wanted.reason, plan_hash=wanted.plan_hash, payload=wanted.payload
        ).appended
    return made


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("agent", AGENTS)
def test_a_handle_does_what_its_cell_says_and_nothing_else(shared: World, agent: Agent, table: str) -> None:
    handle = shared.handle(agent)
    for verb in verbs_of(table):
        refused_before = len(log(shared, agent=agent, table_name=table, verb=verb, allowed=False))
        if allowed(agent, table, verb):
            assert handle.can(table, verb)
            assert attempt(shared, handle, table, verb) > 0
            continue
        assert not handle.can(table, verb)
        with pytest.raises(PermissionRefused) as refusal:
            attempt(shared, handle, table, verb)
        assert (refusal.value.agent, refusal.value.table, refusal.value.verb) == (agent, table, verb)
        assert refusal.value.who_may == may(table, verb)
        assert len(log(shared, agent=agent, table_name=table, verb=verb, allowed=False)) > refused_before


@pytest.mark.parametrize("agent", AGENTS)
def test_no_other_door(shared: World, agent: Agent) -> None:
    """The wrong method for a table, a view, another name, an unknown table: none gets past the matrix."""
    handle = shared.handle(agent)
    for name in ALIASES:
        if not allowed(agent, name, "read"):
            with pytest.raises(PermissionRefused):
                handle.read_books(name)
            with pytest.raises(PermissionRefused):
                handle.read_lake(name)
    for table in ("books_version", "sqlite_master", "decision_log", "outcome_log_of_others"):
        with pytest.raises(PermissionRefused):
            handle.append(table, [{}])
        with pytest.raises(PermissionRefused):
            handle.write_lake(table, pa.table({}), START, NOW)
    for status in ("deleted", "write", "read", ""):
        with pytest.raises(PermissionRefused):
            handle.transition("r", status, reason="none")


def test_the_raw_event_needs_the_verb_of_its_transition(world: World) -> None:
    bring_to(world.books, "r", "proposed")
    approval = event("r", "approved", 1, "proposed")
    for agent in AGENTS:
        if agent != "governance":
            with pytest.raises(PermissionRefused):
                world.handle(agent).append("decision_events", [approval])
    with pytest.raises(PermissionRefused, match="in the name of executor"):
        world.handle("governance").append("decision_events", [approval | {"agent": "executor"}])
    assert world.handle("governance").append("decision_events", [approval]) == AppendResult("decision_events", 1, 0)
    with pytest.raises(PermissionRefused, match="executor may not approve"):
        world.handle("executor").append("decision_events", pa.Table.from_pylist([approval]))


def test_nobody_writes_the_access_log_in_anothers_name(world: World) -> None:
    entry = sample(TABLES["access_log"], agent="verifier")
    with pytest.raises(PermissionRefused, match="in the name of verifier"):
        world.handle("planner").append("access_log", [entry])
    (kept,) = log(world)
    assert (kept["agent"], kept["allowed"]) == ("planner", False)


@pytest.mark.parametrize("agent", AGENTS)
def test_nobody_writes_a_leaf_by_hand(world: World, agent: Agent) -> None:
    with pytest.raises(PermissionRefused, match="never by hand"):
        world.handle(agent).append(LOG, [sample(TABLES[LOG])])
    assert world.books.read(LOG).num_rows == 0
    (kept,) = log(world)
    assert (kept["agent"], kept["table_name"], kept["allowed"]) == (agent, LOG, False)


def test_there_is_no_handle_for_a_stranger(world: World) -> None:
    with pytest.raises(ValueError, match="there is no agent 'root'"):
        world.handle(cast("Agent", "root"))


# -- lake ---------------------------------------------------------------------------------------------------


def test_the_lake_is_passed_what_the_handle_was_given(world: World) -> None:
    spec = TABLES["grid_intensity"]
    handle, (begin, end) = world.handle("accountant"), slot(spec)
    first = handle.write_lake("grid_intensity", sample_table(spec, 2), begin, end, run_id="run-1")
    second = handle.write_lake("grid_intensity", sample_table(spec, 3), begin, end, "a late hour", "run-2")
    (latest, _) = cast("Lake", world.lake).history("grid_intensity")
    assert (latest["writer"], latest["reason"], latest["run_id"]) == ("accountant", "a late hour", "run-2")
    reader = world.handle("planner")
    assert reader.read_lake("grid_intensity", begin, end, ["region"]).num_rows == 3
    assert reader.read_lake("grid_intensity", begin, end, None, first.version).num_rows == 2
    assert reader.lake_dataset("grid_intensity", begin, end, second.version).count_rows() == 3
    assert reader.read_lake("grid_intensity", end).num_rows == 0


def test_a_refused_write_leaves_the_lake_as_it_was(world: World) -> None:
    spec = TABLES["outcomes"]
    with pytest.raises(PermissionRefused):
        world.handle("planner").write_lake("outcomes", sample_table(spec), *slot(spec))
    assert world.lake.read("outcomes").num_rows == 0
    (entry,) = log(world)
    begin, end = slot(spec)
    assert (entry["verb"], entry["allowed"], entry["detail"]) == (
        "write",
        False,
        f"{begin.isoformat()}/{end.isoformat()}",
    )


# -- the access log -----------------------------------------------------------------------------------------


def test_reads_are_counted_in_memory_and_written_with_the_next_write(world: World) -> None:
    governance = world.handle("governance")
    for _ in range(100):
        governance.read_books("policies")
    world.handle("governance").read_books("decision_log")
    world.handle("planner").read_books("policies")
    assert log(world) == []
    governance.append("policies", [sample(POLICIES)])
    entries = {(e["agent"], e["table_name"], e["verb"]): (e["allowed"], e["detail"]) for e in log(world)}
    assert entries == {
        ("governance", "policies", "read"): (True, "reads=100"),
        ("governance", "decision_events", "read"): (True, "reads=1"),
        ("governance", "policies", "write"): (True, "rows=1"),
    }
    assert all(e["occurred_at"] == NOW for e in log(world))


def test_reads_that_no_write_carried_are_written_at_the_close(tmp_path: Path) -> None:
    with make_world(tmp_path) as world:
        world.handle("copilot").read_lake("emissions")
    with Books.open(tmp_path / "books.db") as books:
        (entry,) = books.read("access_log").to_pylist()
    assert (entry["agent"], entry["table_name"], entry["detail"]) == ("copilot", "emissions", "reads=1")


def test_writes_are_recorded_once_they_change_something(world: World) -> None:
    spec = TABLES["grid_intensity"]
    for _ in range(2):
        world.handle("accountant").write_lake("grid_intensity", sample_table(spec), *slot(spec))
        world.handle("governance").append("policies", [sample(POLICIES)])
        world.handle("planner").transitions([step("a", "proposed"), step("b", "proposed")])
    entries = [(e["agent"], e["table_name"], e["verb"], e["detail"]) for e in log(world)]
    begin, end = slot(spec)
    version = cast("Lake", world.lake).version("grid_intensity")
    assert sorted(entries) == [
        ("accountant", "grid_intensity", "write", f"{begin.isoformat()}/{end.isoformat()} version={version} rows=1"),
        ("governance", "policies", "write", "rows=1"),
        ("planner", "decision_events", "propose", "proposed=2"),
    ]


def test_a_transition_out_of_order_is_recorded_as_a_refusal(world: World) -> None:
    bring_to(world.books, "r", "proposed")
    with pytest.raises(TransitionRefused, match="it is proposed"):
        world.handle("executor").transition("r", "executing", reason="now", plan_hash="plan-r")
    (entry,) = log(world)
    assert (entry["agent"], entry["verb"], entry["allowed"]) == ("executor", "execute", False)
    assert "it is proposed" in entry["detail"]


# -- transactions -------------------------------------------------------------------------------------------


def test_a_state_and_its_intent_are_written_together(world: World) -> None:
    bring_to(world.books, "r", "approved")
    executor = world.handle("executor")
    intent = sample(TABLES["outbox"], recommendation_id="r", state="intended")
    with pytest.raises(KeyboardInterrupt), executor.transaction() as transaction:
        transaction.transition("r", "executing", reason="its hour has come", plan_hash="plan-r", now=NOW)
        transaction.append("outbox", [intent])
        assert transaction.read_books("decision_log").column("status").to_pylist() == ["executing"]
        raise KeyboardInterrupt
    assert world.books.read("outbox").num_rows == 0
    assert world.books.read("decision_log").column("status").to_pylist() == ["approved"]
    assert log(world) == [], "an undone write is none"
    with executor.transaction() as transaction:
        assert transaction.transition("r", "executing", reason="now", plan_hash="plan-r").event["occurred_at"] == NOW
        transaction.append("outbox", [intent])
    assert world.books.read("outbox").num_rows == 1
    verbs = {(e["table_name"], e["verb"]) for e in log(world, agent="executor")}
    assert verbs >= {("decision_events", "execute"), ("outbox", "write")}


def test_a_refusal_outlives_the_transaction_it_undoes(world: World) -> None:
    with pytest.raises(PermissionRefused), world.handle("executor").transaction() as transaction:
        transaction.append("outbox", [sample(TABLES["outbox"])])
        transaction.transition("r", "approved", reason="I say so")
    assert world.books.read("outbox").num_rows == 0
    (entry,) = log(world)
    assert (entry["verb"], entry["allowed"], entry["detail"]) == ("approve", False, "r")


def test_a_refusal_that_the_step_swallows_is_recorded_too(world: World) -> None:
    with world.handle("executor").transaction() as transaction:
        with pytest.raises(PermissionRefused):
            transaction.read_books("points_ledger")
        transaction.append("outbox", [sample(TABLES["outbox"])])
    assert {(e["table_name"], e["allowed"]) for e in log(world)} == {("points_ledger", False), ("outbox", True)}


def test_the_lake_may_be_written_while_a_transaction_is_open(world: World) -> None:
    spec = TABLES["executions"]
    executor = world.handle("executor")
    with executor.transaction() as transaction:
        transaction.append("outbox", [sample(TABLES["outbox"])])
        executor.write_lake("executions", sample_table(spec), *slot(spec))
        with pytest.raises(BooksError, match="write through it"):
            executor.append("outbox", [sample(TABLES["outbox"], 1)])
    assert {(e["table_name"], e["verb"]) for e in log(world)} == {("outbox", "write"), ("executions", "write")}
