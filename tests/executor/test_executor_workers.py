"""Two workers over the same approved changes, on SQLite and on PostgreSQL: each change is carried out exactly once,
also where the server ends every connection now and then.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from executor_cases import NOW, approved, desk, outbox, state
from postgres_server import Server, without_driver
from processes import process_context
from sqlalchemy.exc import DBAPIError

from sust_dagster.connectors.targets import Applied, Order, Preview
from sust_dagster.orchestration.execution_desk import LEASE
from sust_dagster.world.access import World
from sust_dagster.world.books import Books, BooksUnavailableError
from sust_dagster.world.lake import Lake
from sust_dagster.world.transparency import reconcile, verify_log

WORKERS, CHANGES = 2, 12
NAMES = [f"r-{i:02}" for i in range(CHANGES)]


@dataclass(frozen=True)
class Place:
    """Books and a folder that stands for the outside: a file per intent, a line per time it was carried out."""

    folder: Path
    books: str

    def open(self) -> World:
        return World(Lake(self.folder / "lake"), Books.open(self.books), clock=lambda: NOW)

    def carried_out(self) -> dict[str, int]:
        return {p.name: len(p.read_text().splitlines()) for p in (self.folder / "outside").iterdir()}


@dataclass(frozen=True)
class Outside:
    """A slow target. ``blind``: it never finds what is there, so that whoever asks twice gets it twice."""

    folder: Path
    blind: bool = False

    @property
    def name(self) -> str:
        return "simulated"

    def preview(self, order: Order) -> Preview:
        change = {"set": json.loads(json.dumps(dict(order.proposed)))}
        return Preview(self.name, json.dumps(change), change, {"was": None})

    def find(self, order: Order, preview: Preview) -> Applied | None:
        there = not self.blind and (self.folder / order.intent_id).exists()
        return Applied(order.intent_id) if there else None

    def apply(self, order: Order, preview: Preview) -> Applied:
        time.sleep(0.02)
        handle = os.open(self.folder / order.intent_id, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.write(handle, b"carried out\n")
        os.close(handle)
        return Applied(order.intent_id)

    def read_back(self, order: Order, preview: Preview, applied: Applied) -> tuple[str, ...]:
        return () if (self.folder / order.intent_id).exists() else ("it is not there",)

    def rollback(self, order: Order, preview: Preview) -> None:
        (self.folder / order.intent_id).unlink(missing_ok=True)


def work(place: Place, me: int, blind: bool, gate: Barrier, results: Queue[tuple[int, int]]) -> None:
    """Begin each change in an order of one's own, and finish whatever is open, until nothing is left to do."""
    target, names = Outside(place.folder / "outside", blind), random.Random(me).sample(NAMES, len(NAMES))
    begun = cut_off = 0
    with suppress(DBAPIError, BooksUnavailableError), place.open() as world:  # closing it writes too
        gate.wait(60)
        for name in [*names, *names]:
            try:
                worker = desk(world, target, lease=LEASE)
                begun += len(worker.begin([name], NOW).intents)
                worker.recover(NOW)
            except (DBAPIError, BooksUnavailableError):
                cut_off += 1
    results.put((begun, cut_off))


def make(folder: Path, books: str) -> Place:
    place = Place(folder, books)
    (folder / "outside").mkdir()
    with place.open() as world:
        for name in NAMES:
            approved(world, name, workload_id=f"w-{name}")
    return place


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return make(tmp_path, str(tmp_path / "books.db"))
    if why := without_driver():
        pytest.skip(why)
    server: Server = request.getfixturevalue("postgres")
    return make(tmp_path, server.url(server.create()))


def run(places: Sequence[Place], *, blind: bool, meanwhile: Any = None) -> list[tuple[int, int]]:
    """A worker per place, all at once; what each of them began, and how often it was cut off."""
    context = process_context()
    gate, results = context.Barrier(len(places) + 1), context.Queue()
    workers = [
        context.Process(target=work, args=(place, me, blind, gate, results), daemon=True)
        for me, place in enumerate(places)
    ]
    for worker in workers:
        worker.start()
    gate.wait(60)
    while meanwhile is not None and any(w.is_alive() for w in workers) and results.empty():
        meanwhile()
    said = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    return said


def test_two_workers_carry_each_change_out_once(place: Place) -> None:
    said = run([place] * WORKERS, blind=True)
    assert sum(begun for begun, _ in said) == CHANGES
    assert sorted(place.carried_out().values()) == [1] * CHANGES
    with place.open() as world:
        for name in NAMES:
            assert state(world, name) == "executed"
            assert [r["state"] for r in outbox(world, name)] == ["intended", "attempting", "done"]
        assert {r["intent_id"] for name in NAMES for r in outbox(world, name)} == set(place.carried_out())
        assert not world.books.read("alerts").num_rows
        verification = verify_log(world.books, None)
        assert verification.ok and verification.rows == CHANGES * (4 + 3), verification.problems


def test_workers_that_do_not_share_their_books_do_it_twice(tmp_path: Path) -> None:
    """Negative control: it is the claims in the books that keep them apart, and the count would show it."""
    one, two = ((tmp_path / name) for name in ("one", "two"))
    places = []
    for folder in (one, two):
        folder.mkdir()
        places.append(make(folder, str(folder / "books.db")))
    (two / "outside").rmdir()
    (two / "outside").symlink_to(one / "outside")
    assert [begun for begun, _ in run(places, blind=True)] == [CHANGES] * 2
    assert sorted(places[0].carried_out().values()) == [2] * CHANGES


def test_connections_that_the_server_ends_leave_each_change_made_once(postgres: Server, tmp_path: Path) -> None:
    if why := without_driver():
        pytest.skip(why)
    database = postgres.create()
    place = make(tmp_path, postgres.url(database))
    end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = "

    def cut() -> None:
        postgres.psql("postgres", f"{end}'{database}'")
        time.sleep(0.05)

    said = run([place] * WORKERS, blind=False, meanwhile=cut)
    assert sum(cut_off for _, cut_off in said) > 0, "negative control: it did happen"
    with place.open() as world:
        for _ in range(3):  # attempts that lost their worker are taken over once their lease is over
            with suppress(DBAPIError):
                desk(world, Outside(place.folder / "outside"), lease=LEASE).execute(NOW + LEASE)
        assert {state(world, name) for name in NAMES} == {"executed"}
        assert all([r["state"] for r in outbox(world, name)].count("done") == 1 for name in NAMES)
        assert sorted(place.carried_out().values()) == [1] * CHANGES
        reconcile(world.books, Lake(place.folder / "lake"), NOW)
        assert verify_log(world.books, None).ok
