"""Eight processes at one set of books: chains and log come out whole, on SQLite and on PostgreSQL, and a forgery by
whoever owns the database is found and named.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from books_samples import START, sample, step
from postgres_server import Server, without_driver
from processes import process_context

from sust_dagster.world.access import World
from sust_dagster.world.books import Books
from sust_dagster.world.checkpoint import Checkpoint, Signer, read_checkpoints
from sust_dagster.world.decisions import TRANSITIONS, TransitionRefused
from sust_dagster.world.lake import Lake
from sust_dagster.world.merkle import leaf_hash, verify_consistency
from sust_dagster.world.schemas import OUTBOX, POLICIES, TABLES
from sust_dagster.world.transparency import (
    LOG,
    LogError,
    make_leaf,
    prove_consistency,
    read_tree,
    row_hash,
    sign_log,
    verify_log,
)

WRITERS, ROUNDS = 8, 4
NOW, HOUR = START + timedelta(days=1), timedelta(hours=1)
SIGNER = Signer("log.example/eight", bytes(31) + b"\x08")
GRID = TABLES["grid_intensity"]
#: What is written when all are done.
LAST = sample(POLICIES, 9999)
#: What a writer's own decisions become, and what one that all of them fight for becomes.
OWN, SHARED = ("proposed", "approved", "executing", "executed", "verified"), ("proposed", "approved")


# -- places to write to -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Books, a lake and checkpoints, and what their owner can do to the books."""

    folder: Path
    server: Server | None = None
    database: str = ""

    @property
    def address(self) -> str:
        return self.server.url(self.database) if self.server else str(self.folder / "books.db")

    def open(self) -> World:
        return World(Lake(self.folder / "lake"), Books.open(self.address), clock=lambda: NOW)

    def checkpoints(self) -> list[Checkpoint]:
        return read_checkpoints(self.folder / "checkpoints", SIGNER.verifier)

    def copy(self, folder: Path) -> Place:
        shutil.copytree(self.folder, folder)
        return Place(folder, self.server, self.server.create(like=self.database) if self.server else "")

    def forge(self, *statements: str) -> None:
        """As a superuser, or as the owner of the file: whom no trigger stops."""
        if self.server:
            self.server.forge(self.database, *statements)
            return
        with closing(sqlite3.connect(self.folder / "books.db")) as connection, connection:
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                connection.execute(f"DROP TRIGGER {name}")
            for statement in statements:
                assert connection.execute(statement).rowcount, statement

    def found(self, checkpoints: Sequence[Checkpoint]) -> set[tuple[str, str]]:
        with self.open() as world:
            lake = Lake(self.folder / "lake")
            return {(p.what, p.subject) for p in verify_log(world.books, lake, checkpoints).problems}

    def rows(self, table: str, where: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        with self.open() as world:
            return world.books.read(table, where).to_pylist()


# -- writing ------------------------------------------------------------------------------------------------


class Undone(Exception):
    """Ends a transaction that is not to happen."""


def write(place: Place, me: int, gate: Barrier, results: Queue[dict[str, int]]) -> None:
    """One of the writers: decisions of its own from the first to the last state, and those that all fight for."""
    won = refused = 0
    with place.open() as world:
        gate.wait(60)
        for i in range(ROUNDS):
            if i == ROUNDS // 2:  # the parent signs while everybody stands
                gate.wait(60)
                gate.wait(60)
            own, shared = f"own-{me}-{i}", f"shared-{i}"
            world.handle("planner").transitions([step(own, "proposed"), step(shared, "proposed")], now=START)
            try:
                world.handle("governance").transition(
                    shared, "approved", reason=f"said by {me}", plan_hash=f"plan-{shared}", now=START
                )
                won += 1
            except TransitionRefused:
                refused += 1
            with world.handle("governance").transaction() as transaction:
                transaction.append("policies", [sample(POLICIES, 1000 * me + i)])
                transaction.transitions([step(own, "approved")], now=START)
            with suppress(Undone), world.handle("governance").transaction() as transaction:
                transaction.append("policies", [sample(POLICIES, 1000 * me + 100 + i)])
                raise Undone
            with world.handle("executor").transaction() as transaction:
                transaction.transitions([step(own, "executing")], now=START)
                transaction.append("outbox", [sample(OUTBOX, i, intent_id=own, sequence=0, recommendation_id=own)])
            world.handle("executor").transitions([step(own, "executed")], now=START)
            with world.handle("verifier").transaction() as transaction:
                transaction.transitions([step(own, "verified")], now=START)
                transaction.commit_bundle(own, hashlib.sha256(own.encode()).hexdigest())
            if i % 3 == 0:
                begin = START + (10 * me + i) * HOUR
                rows = pa.Table.from_pylist([sample(GRID, me, ts=begin)], schema=GRID.arrow)
                world.handle("accountant").write_lake(GRID.name, rows, begin, begin + HOUR)
    results.put({"won": won, "refused": refused})


@dataclass
class Written:
    """What the writers left, and what they said of it."""

    place: Place
    middle: Checkpoint
    said: list[dict[str, int]] = field(default_factory=list)


def run_writers(place: Place) -> Written:
    """Eight writers, signed for all the while; one checkpoint is certain to be of the middle."""
    context = process_context()
    gate, results = context.Barrier(WRITERS + 1), context.Queue()
    writers = [context.Process(target=write, args=(place, me, gate, results), daemon=True) for me in range(WRITERS)]
    over = threading.Event()

    def sign(books: Books) -> Checkpoint:
        return sign_log(books, Lake(place.folder / "lake"), place.folder / "checkpoints", SIGNER, NOW).checkpoint

    def keep_signing(books: Books) -> None:
        while not over.wait(0.2):
            sign(books)

    with Books.open(place.address) as books:
        for writer in writers:
            writer.start()
        gate.wait(60)
        signing = threading.Thread(target=keep_signing, args=(books,))
        signing.start()
        try:
            gate.wait(60)
            middle = sign(books)
            gate.wait(60)
            said = [results.get(timeout=120) for _ in writers]
            for writer in writers:
                writer.join(60)
                assert writer.exitcode == 0
        finally:
            over.set()
            signing.join()
    with place.open() as world:
        world.handle("governance").append("policies", [LAST])
        sign(world.books)
    return Written(place, middle, said)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        return run_writers(Place(folder))
    if why := without_driver():
        pytest.skip(why)
    server: Server = request.getfixturevalue("postgres")
    return run_writers(Place(folder, server, server.create()))


@pytest.fixture
def place(written: Written, tmp_path: Path) -> Place:
    """A copy to do harm to."""
    return written.place.copy(tmp_path / "copy")


# -- what must hold -----------------------------------------------------------------------------------------


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962 §2.1, word for word, with nothing of the product."""
    n = len(leaves)
    if n <= 1:
        return hashlib.sha256(b"\x00" + leaves[0] if n else b"").digest()
    k = 1
    while 2 * k < n:
        k *= 2
    return hashlib.sha256(b"\x01" + merkle_root(leaves[:k]) + merkle_root(leaves[k:])).digest()


def breaks(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every place where a recommendation's events are no chain from its beginning."""
    chains: dict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for event in events:
        chains[event["recommendation_id"]][event["sequence"]] = event
    found = [] if sum(map(len, chains.values())) == len(events) else ["two events have one place"]
    for name, chain in chains.items():
        before = None
        for i in range(len(chain)):
            event = chain.get(i)
            if event is None or event["from_status"] != before:
                found.append(f"{name}[{i}]")
                break
            before = event["to_status"]
            if (event["from_status"], before, event["agent"]) not in TRANSITIONS:
                found.append(f"{name}[{i}] {before}")
    return found


def test_no_chain_is_broken(written: Written) -> None:
    events = written.place.rows("decision_events")
    assert breaks(events) == []
    states: dict[str, list[str]] = defaultdict(list)
    for event in events:  # read in the order of the sequence
        states[event["recommendation_id"]].append(event["to_status"])
    assert states == {f"own-{me}-{i}": list(OWN) for me in range(WRITERS) for i in range(ROUNDS)} | {
        f"shared-{i}": list(SHARED) for i in range(ROUNDS)
    }
    assert sum(s["won"] for s in written.said) == ROUNDS, "one of eight wins"
    assert sum(s["refused"] for s in written.said) == ROUNDS * (WRITERS - 1)
    refusals = written.place.rows("access_log", {"allowed": False})
    assert Counter(r["table_name"] for r in refusals) == {"decision_events": ROUNDS * (WRITERS - 1)}
    # Negative control: an event less, an event twice, an event in another's name.
    assert breaks(events[:1] + events[2:]) and breaks([*events, events[0]])
    assert breaks([e | {"agent": "learner"} if e is events[3] else e for e in events])


def test_leaves_are_contiguous_and_each_row_has_one(written: Written) -> None:
    rows = written.place.rows(LOG)
    assert [r["leaf_index"] for r in rows] == list(range(len(rows)))
    decisions = WRITERS * ROUNDS * len(OWN) + ROUNDS * len(SHARED)
    commits = [r for r in rows if r["kind"] == "partition"]
    others = [(r["kind"], r["subject"]) for r in rows if r["kind"] != "partition"]
    own = WRITERS * ROUNDS
    expected = {"decision": decisions, "policy": own + 1, "execution": own, "bundle": own}
    assert Counter(kind for kind, _ in others) == expected
    assert len(set(others)) == len(others), "one leaf each"
    # The signing may have given a commit its leaf before its writer did; it says the same then.
    said = {(r["subject"], json.dumps(json.loads(r["leaf"]) | {"late": True}, sort_keys=True)) for r in commits}
    assert len(said) == len({subject for subject, _ in said}) == WRITERS * len(range(0, ROUNDS, 3))
    at = {r["subject"]: r["leaf_index"] for r in rows if r["kind"] == "decision"}
    chains: dict[str, list[int]] = defaultdict(list)
    for event in written.place.rows("decision_events"):
        chains[event["recommendation_id"]].append(at[event["event_id"]])
    assert all(indices == sorted(indices) for indices in chains.values()), "the log tells it in the order it happened"


def test_the_root_is_the_one_of_the_definition_and_every_checkpoint_its_beginning(written: Written) -> None:
    leaves = [r["leaf"].encode() for r in written.place.rows(LOG)]
    signed, lake = written.place.checkpoints(), Lake(written.place.folder / "lake")
    with written.place.open() as world:
        verification = verify_log(world.books, lake, signed)
        assert verification.ok, verification.problems
        assert (verification.size, verification.root) == (len(leaves), merkle_root(leaves).hex())
        assert read_tree(world.books).root() == merkle_root(leaves)
        assert written.middle in signed and 0 < written.middle.size < signed[-1].size == len(leaves)
        for checkpoint in signed:
            assert checkpoint.root == merkle_root(leaves[: checkpoint.size])
            proof = prove_consistency(world.books, checkpoint.size, len(leaves))
            steps = [bytes.fromhex(h) for h in proof.proof]
            assert verify_consistency(checkpoint.size, len(leaves), steps, checkpoint.root, merkle_root(leaves))
        other = merkle_root([*leaves[:-1], b"another"])
        steps = [bytes.fromhex(h) for h in prove_consistency(world.books, written.middle.size).proof]
        assert not verify_consistency(written.middle.size, len(leaves), steps, written.middle.root, other)


# -- what the owner of the database does --------------------------------------------------------------------


def event_of(place: Place, recommendation: str, status: str) -> dict[str, Any]:
    (event,) = place.rows("decision_events", {"recommendation_id": recommendation, "to_status": status})
    return event


def leaf_of(place: Place, subject: str) -> dict[str, Any]:
    return place.rows(LOG, {"subject": subject})[0]


def change_an_event(place: Place) -> set[tuple[str, str]]:
    event = event_of(place, "own-3-1", "approved")
    place.forge(f"UPDATE decision_events SET actor = 'mallory' WHERE event_id = '{event['event_id']}'")
    return {("row_changed", f"decision_events {event['event_id']}")}


def remove_the_last_event(place: Place) -> set[tuple[str, str]]:
    event = event_of(place, "own-7-3", "verified")
    place.forge(f"DELETE FROM decision_events WHERE event_id = '{event['event_id']}'")
    return {("row_deleted", f"decision_events {event['event_id']}")}


def add_an_approval(place: Place) -> set[tuple[str, str]]:
    columns = [c.name for c in TABLES["decision_events"].columns]
    other = {"event_id": "'forged'", "sequence": "9"}
    place.forge(
        f"INSERT INTO decision_events ({', '.join(columns)}) SELECT {', '.join(other.get(c, c) for c in columns)} "
        f"FROM decision_events WHERE event_id = '{event_of(place, 'own-0-0', 'approved')['event_id']}'"
    )
    return {("row_added", "decision_events forged")}


def change_a_leaf(place: Place) -> set[tuple[str, str]]:
    entry = leaf_of(place, "own-2-2")
    leaf = make_leaf("bundle", "own-2-2", sha256="0" * 64).data.decode()
    place.forge(f"UPDATE {LOG} SET leaf = '{leaf}' WHERE leaf_index = {entry['leaf_index']}")
    return {("leaf", f"entry {entry['leaf_index']} (bundle own-2-2)")}


def take_a_leaf_out(place: Place) -> set[tuple[str, str]]:
    index = leaf_of(place, "own-2-2")["leaf_index"]
    place.forge(f"DELETE FROM {LOG} WHERE leaf_index = {index}")
    after = place.rows(LOG, {"leaf_index": index + 1})[0]
    return {("gap", f"entry {index + 1} ({after['kind']} {after['subject']})")}


@pytest.mark.parametrize(
    "harm", [change_an_event, remove_the_last_event, add_an_approval, change_a_leaf, take_a_leaf_out]
)
def test_one_thing_altered_is_named(place: Place, harm: Callable[[Place], set[tuple[str, str]]]) -> None:
    signed = place.checkpoints()
    assert place.found(signed) == set(), "negative control: nothing is found in what was left alone"
    expected = harm(place)
    found = place.found(())
    assert found == expected
    beyond = {what for what, _ in place.found(signed) - expected}
    assert beyond <= {"root", "truncated"}, "what the checkpoints say beside it"
    if harm in (change_a_leaf, take_a_leaf_out):
        with Books.open(place.address) as books, pytest.raises(LogError):
            sign_log(books, None, place.folder / "checkpoints", SIGNER, NOW)


def forge_row_leaf_and_hash(place: Place) -> tuple[str, str]:
    event = event_of(place, "own-1-1", "approved")
    index = leaf_of(place, event["event_id"])["leaf_index"]
    forged = event | {"actor": "mallory"}
    leaf = make_leaf("decision", event["event_id"], table="decision_events", row_sha256=row_hash(forged)).data
    place.forge(
        f"UPDATE decision_events SET actor = 'mallory' WHERE event_id = '{event['event_id']}'",
        f"UPDATE {LOG} SET leaf = '{leaf.decode()}', leaf_hash = '{leaf_hash(leaf).hex()}' WHERE leaf_index = {index}",
    )
    return "root", "differs"


def change_places(place: Place) -> tuple[str, str]:
    place.forge(
        f"UPDATE {LOG} SET leaf_index = -1 WHERE leaf_index = 4",
        f"UPDATE {LOG} SET leaf_index = 4 WHERE leaf_index = 5",
        f"UPDATE {LOG} SET leaf_index = 5 WHERE leaf_index = -1",
    )
    return "root", "differs"


def cut_the_tail(place: Place) -> tuple[str, str]:
    """The newest entry, and the row that it is about."""
    newest = place.rows(LOG)[-1]
    place.forge(
        f"DELETE FROM {LOG} WHERE leaf_index = {newest['leaf_index']}",
        f"DELETE FROM policies WHERE version = {LAST['version']}",
    )
    return "truncated", "the newest are gone"


@pytest.mark.parametrize("harm", [forge_row_leaf_and_hash, change_places, cut_the_tail])
def test_what_is_forged_throughout_is_found_by_a_checkpoint_kept_elsewhere(
    place: Place, harm: Callable[[Place], tuple[str, str]]
) -> None:
    signed = place.checkpoints()
    what, why = harm(place)
    assert place.found(()) == set(), "negative control: without a checkpoint it looks whole"
    newest = signed[-1]
    assert place.found([newest]) == {(what, f"{SIGNER.name} at {newest.size}")}
    with Books.open(place.address) as books:
        (problem,) = verify_log(books, None, newest).problems if what == "truncated" else [None]
        with pytest.raises(LogError, match="not signed"):
            sign_log(books, None, place.folder / "checkpoints", SIGNER, NOW)
    assert problem is None or why in problem.detail
