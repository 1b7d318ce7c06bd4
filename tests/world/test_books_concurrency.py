"""Two processes at the same books: one creates them, one wins each transition, nothing is written twice."""

from __future__ import annotations

from datetime import timedelta
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from books_samples import START, sample_table, step
from processes import process_context

from sust_dagster.world import migrations
from sust_dagster.world.books import Books, ConflictError
from sust_dagster.world.decisions import TransitionRefused
from sust_dagster.world.schemas import LOG_COMMITMENTS, POLICIES

RECOMMENDATIONS = [f"r{i}" for i in range(15)]


def compete(address: str, me: int, barrier: Barrier, results: Queue[dict[str, Any]]) -> None:
    """One process: everything the other does, at the same moments."""
    barrier.wait(20)
    with Books.open(address) as books:
        barrier.wait(20)
        same = [books.append("log_commitments", sample_table(LOG_COMMITMENTS, n)).inserted for n in range(1, 30)]
        conflicts = 0
        for i in range(20):
            try:
                books.append("policies", sample_table(POLICIES, i + 1, author=f"writer {me}").slice(i))
            except ConflictError:
                conflicts += 1
        books.decide("planner", [step(r, "proposed") for r in RECOMMENDATIONS], START)
        barrier.wait(20)
        won, refused, identical = [], 0, 0
        for r in RECOMMENDATIONS:
            try:
                # Each says it in its own words, so one of the two must lose.
                books.decide("governance", [step(r, "approved", reason=f"said by {me}")], START + timedelta(hours=me))
                won.append(r)
            except TransitionRefused:
                refused += 1
            # Both say the very same: one appends it, the other is told that it was there.
            identical += books.decide("executor", [step(r, "executing")], START)[0].appended
        results.put({"same": sum(same), "conflicts": conflicts, "won": won, "refused": refused, "identical": identical})


def test_two_processes_from_the_first_moment(tmp_path: Path) -> None:
    run_two_processes(str(tmp_path / "fresh" / "books.db"))


def run_two_processes(address: str) -> None:
    """Books that are not there yet, two processes, and what must hold afterwards."""
    context = process_context()
    barrier, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=compete, args=(address, me, barrier, results)) for me in (1, 2)]
    for process in processes:
        process.start()
    one, two = results.get(timeout=45), results.get(timeout=45)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert sorted(one["won"] + two["won"]) == sorted(RECOMMENDATIONS), "exactly one wins each approval"
    assert one["refused"] + two["refused"] == len(RECOMMENDATIONS)
    assert one["identical"] + two["identical"] == len(RECOMMENDATIONS), "exactly one appends each execution"
    assert one["same"] + two["same"] == 29
    assert one["conflicts"] + two["conflicts"] == 20
    with Books.open(address) as books:
        assert books.revision() == migrations.HEAD
        assert books.read("decision_events").num_rows == 3 * len(RECOMMENDATIONS)
        assert books.read("policies").num_rows == 20
        statuses = books.read("decision_log").column("status").to_pylist()
        assert statuses == ["executing"] * len(RECOMMENDATIONS)
