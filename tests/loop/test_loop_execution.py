"""Executions through real books: exactly once whatever fails, nothing unapproved, and a cloud that changes."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "executor"))

from executor_cases import (
    DAY,
    NOW,
    UNTIL,
    WORKLOAD,
    Crash,
    Faults,
    Ledgered,
    Mortal,
    Outside,
    approve,
    approved,
    config,
    desk,
    group,
    open_world,
    outbox,
    payload,
    propose,
    state,
)

from sust_dagster.agents.executor.canary import Health
from sust_dagster.agents.executor.executions import executions_of
from sust_dagster.agents.executor.limits import Limits
from sust_dagster.connectors.schedulers.placement_file import placements_path, read_rows
from sust_dagster.connectors.schedulers.simulated import SimulatedScheduler
from sust_dagster.connectors.sources import fake_cloud, untouched_cloud
from sust_dagster.connectors.targets import Applied, Order, Preview, TargetRefused, TargetUnavailable
from sust_dagster.orchestration.execution_desk import ExecutionDesk
from sust_dagster.settings import simulated_project
from sust_dagster.simulator.cloud import FakeCloud
from sust_dagster.world.access import World
from sust_dagster.world.canonical import canonical_json
from sust_dagster.world.decisions import TransitionRefused, plan_hash
from sust_dagster.world.permissions import PermissionRefused

NAMES = ("a", "b")
WELL = Health(100.0, 0.001, 500)
Making = Callable[[Outside, Callable[..., Any]], Ledgered]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Books with two approved changes, each to a workload of its own."""
    folder = tmp_path_factory.mktemp("two")
    with open_world(folder) as world:
        for name in NAMES:
            approved(world, name, workload_id=f"w-{name}")
    return folder / "books.db"


def test_what_is_approved_is_carried_out_once(tmp_path: Path) -> None:
    outside = Outside()
    with open_world(tmp_path) as world:
        approved(world, "a")
        done = desk(world, Ledgered(outside)).execute(NOW)
        assert list(done.executed) == ["a"], done
        assert state(world, "a") == "executed"
        assert [r["state"] for r in outbox(world, "a")] == ["intended", "attempting", "done"]
        again = desk(world, Ledgered(outside)).execute(NOW)
        assert not again.executed
        assert len(outside.applied) == 1


# -- whatever fails -------------------------------------------------------------------------------------------


class Forgetful(Ledgered):
    """Negative control: it never finds what an earlier call left, and so does it again."""

    def _find(self, order: Order, preview: Preview) -> Applied | None:
        return None

    def _apply(self, order: Order, preview: Preview) -> Applied:
        self.outside.documents[order.workload_id] = {"content": preview.change["set"], "intent": order.intent_id}
        self.outside.applied.append(order.intent_id)
        return Applied(order.intent_id)


class Careless(Ledgered):
    """Negative control: it says it undid what it left as it is."""

    def _rollback(self, order: Order, preview: Preview) -> None:
        self.outside.undone.append(order.intent_id)


def what_went_wrong(folder: Path, books: Path, seed: int, make: Making = Ledgered) -> list[str]:
    """One schedule of faults: the loop is started again after every crash, until it has nothing left to do.

    Returns every way in which outside and books disagree, or a change was made twice.
    """
    folder.mkdir()
    shutil.copy(books, folder / "books.db")
    outside, faults = Outside(), Faults(seed, count=1 + seed % 9)
    restarts = 0
    while True:
        with open_world(folder) as world:
            try:
                done = desk(world, make(outside, faults), Mortal(world.handle("executor"), faults)).execute(
                    NOW + timedelta(minutes=restarts)
                )
            except Crash:
                restarts += 1
                continue
            restarts += 1
            if not done.open and not done.held:
                break
        assert restarts < 60, "the loop does not come to an end"
    wrong = []
    with open_world(folder) as world:
        table = executions_of(world.books.read("outbox"), world.books.read("decision_events")).to_pylist()
        applied = Counter(outside.applied)
        for name in NAMES:
            rows = outbox(world, name)
            intent, ended = rows[0]["intent_id"], rows[-1]["state"]
            there = outside.documents.get(f"w-{name}", {"content": None, "intent": None})
            wanted = payload()["proposed_config"] if ended == "done" else None
            if applied[intent] > 1:
                wrong.append(f"{name} was applied {applied[intent]} times")
            if there["content"] != wanted:
                wrong.append(f"{name} is {ended} and {'there' if there['content'] else 'not there'}")
            if state(world, name) != {"done": "executed", "rolled_back": "failed", "failed": "failed"}.get(ended):
                wrong.append(f"{name} is {ended} in the outbox and {state(world, name)} in the log")
            statuses = [r["status"] for r in table if r["recommendation_id"] == name]
            last = {"done": "applied", "rolled_back": "rolled_back"}.get(ended, "refused")
            if not statuses or statuses[-1] != last or statuses.count("applied") > 1:
                wrong.append(f"{name} is {ended} in the outbox and {statuses} in the executions")
    return wrong


def findings(folder: Path, books: Path, seeds: range, make: Making = Ledgered) -> Iterator[str]:
    for seed in seeds:
        yield from (f"{seed}: {w}" for w in what_went_wrong(folder / str(seed), books, seed, make))


def test_whatever_fails_each_change_is_made_once_or_undone(tmp_path: Path, two: Path) -> None:
    assert list(findings(tmp_path, two, range(200))) == []


@pytest.mark.slow
def test_whatever_fails_a_thousand_times(tmp_path: Path, two: Path) -> None:
    assert list(findings(tmp_path, two, range(200, 1200))) == []


def test_a_target_that_forgets_is_found_out(tmp_path: Path, two: Path) -> None:
    """Negative control of the test above."""
    assert any("times" in w for w in findings(tmp_path, two, range(30), Forgetful))


def test_a_target_that_does_not_undo_is_found_out(tmp_path: Path, two: Path) -> None:
    """Negative control of the test above."""
    assert any("rolled_back and there" in w for w in findings(tmp_path, two, range(40), Careless))


class Faulty:
    """The real scheduler of the fake cloud, with faults on the way to it."""

    def __init__(self, target: SimulatedScheduler, faults: Faults) -> None:
        self._target, self._faults = target, faults

    @property
    def name(self) -> str:
        return self._target.name

    def preview(self, order: Order) -> Preview:
        return self._faults("preview", lambda: self._target.preview(order))

    def find(self, order: Order, preview: Preview) -> Applied | None:
        return self._faults("find", lambda: self._target.find(order, preview))

    def apply(self, order: Order, preview: Preview) -> Applied:
        return self._faults("apply", lambda: self._target.apply(order, preview))

    def read_back(self, order: Order, preview: Preview, applied: Applied) -> tuple[str, ...]:
        return self._faults("read_back", lambda: self._target.read_back(order, preview, applied))

    def rollback(self, order: Order, preview: Preview) -> None:
        return self._faults("rollback", lambda: self._target.rollback(order, preview))


def in_parts_with_faults(folder: Path, seed: int) -> tuple[list[str], str | None]:
    """A change of production in two parts, with faults; what is wrong in the end, and the state it ended in."""
    folder.mkdir()
    faults, moment, restarts = Faults(seed, count=1 + seed % 9), NOW, 0
    groups = [group(5), *(group(h) for h in (20, 21, 22))]
    with open_world(folder) as world:
        approved(world, "a", service_tier="production", proposed_config=config(groups=groups))
    while True:
        restarts += 1
        assert restarts < 60, "the loop does not come to an end"
        with open_world(folder) as world:
            target = Faulty(scheduler(folder, moment), faults)
            watching = desk(world, target, Mortal(world.handle("executor"), faults), health=lambda *_: WELL)
            try:
                done = watching.execute(moment)
            except Crash:
                continue
        if not done.open and not done.held:
            break
        moment = DAY + timedelta(hours=8) if done.open else moment
    with open_world(folder) as world:
        rows, ended = outbox(world, "a"), state(world, "a")
    by_intent = {i: [r for r in rows if r["intent_id"] == i] for i in {r["intent_id"] for r in rows}}
    placed = read_rows(folder / "placements.parquet").to_pylist()
    wrong = []
    for intent, own in by_intent.items():
        there = {r["requested_hour"] for r in placed if r["intent_id"] == intent}
        wanted = {groups_hour(p) for p in own[0]["said"]["order"]["proposed"]["placements"]}
        begun = {h for h in wanted if h <= moment}
        expected = {"done": wanted, "rolled_back": set(), "failed": begun}[own[-1]["state"]]
        if own[-1]["said"].get("refused"):
            expected = set()
        if there != expected:
            wrong.append(f"{seed}: {own[0]['said']['part']} is {own[-1]['state']}, {len(there)} groups are there")
    if len(placed) != len({r["requested_hour"] for r in placed}):
        wrong.append(f"{seed}: a group was placed twice")
    if (ended == "executed") != all(own[-1]["state"] == "done" for own in by_intent.values()):
        wrong.append(f"{seed}: it is {ended}")
    return wrong, ended


def test_a_change_in_parts_is_made_whole_or_undone_whatever_fails(tmp_path: Path) -> None:
    found = [in_parts_with_faults(tmp_path / str(seed), seed) for seed in range(40)]
    assert [w for wrong, _ in found for w in wrong] == []
    assert {ended for _, ended in found} == {"executed", "failed"}, "both ends are met"


# -- nothing unapproved ---------------------------------------------------------------------------------------

#: What somebody may try, the common more often than the rare.
STEPS = (
    "propose", "propose", "approve", "approve", "approve", "approve_late", "reject", "expire", "sign_reject",
    "execute", "execute", "execute", "by_itself", "claim_done",
)  # fmt: skip


def take(world: World, outside: Outside, step: str, plan: str, moment: datetime) -> None:
    """One thing somebody does, allowed or not; the books may refuse it."""
    digest = plan_hash(payload(workload_id=f"w-{plan}"))
    governance, executor = world.handle("governance"), world.handle("executor")
    until = {"holds_until": (moment + timedelta(hours=1)).isoformat()}
    with suppress(TransitionRefused, PermissionRefused):
        if step == "propose":
            propose(world, plan, workload_id=f"w-{plan}")
        elif step in ("approve", "approve_late"):
            said = until if step == "approve" else {"holds_until": (moment - timedelta(hours=1)).isoformat()}
            governance.transition(plan, "approved", reason="fine", plan_hash=digest, payload=said, now=moment)
        elif step == "reject":
            governance.transition(plan, "rejected", reason="no", actor="ada", plan_hash=digest, now=moment)
        elif step == "sign_reject":
            governance.append("approvals", [rejection(plan, digest, moment)])
        elif step == "expire":
            governance.transition(plan, "expired", reason="late", plan_hash=digest, now=moment)
        elif step == "by_itself":
            executor.transition(plan, "approved", reason="I say so", plan_hash=digest, payload=until, now=moment)
        elif step == "claim_done":
            executor.transition(plan, "executed", reason="I say so", plan_hash=digest, now=moment)
        else:
            desk(world, Ledgered(outside)).execute(moment)


def rejection(plan: str, digest: str, moment: datetime) -> dict[str, Any]:
    return {
        "approval_id": f"{plan}-{moment.isoformat()}",
        "recommendation_id": plan,
        "plan_hash": digest,
        "signer": "ada",
        "role": "team-lead",
        "verdict": "reject",
        "reason": "no",
        "policy_version": 1,
        "signed_at": moment,
        "expires_at": None,
    }


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(NAMES), st.integers(0, 90)), max_size=14))
def test_in_whatever_order_things_happen_nothing_unapproved_is_done(steps: list[tuple[str, str, int]]) -> None:
    """Each change outside has an approval before it that counted at that moment, and nobody's rejection."""
    outside, moment = Outside(), NOW
    with TemporaryDirectory() as folder, open_world(Path(folder)) as world:
        for step, plan, minutes in steps:
            moment += timedelta(minutes=minutes)
            before = len(outside.applied)
            take(world, outside, step, plan, moment)
            if len(outside.applied) == before:
                continue
            assert step == "execute"
            made = {i: r for n in NAMES for r in outbox(world, n)[:1] for i in (r["intent_id"],)}
            for intent in outside.applied[before:]:
                name = made[intent]["recommendation_id"]
                events = {
                    e["to_status"]: e
                    for e in world.books.read("decision_events").to_pylist()
                    if name == e["recommendation_id"]
                }
                until = datetime.fromisoformat(json.loads(events["approved"]["payload"])["holds_until"])
                assert events["approved"]["agent"] == "governance"
                assert events["approved"]["occurred_at"] <= moment < until
                rejections = world.books.read("approvals", {"recommendation_id": name, "verdict": "reject"}).to_pylist()
                assert not rejections
        assert max(Counter(outside.applied).values(), default=1) == 1


def test_the_orders_of_the_test_above_do_carry_things_out() -> None:
    """Control: a common order of steps ends in a change; without it the test above would prove nothing."""
    outside = Outside()
    with TemporaryDirectory() as folder, open_world(Path(folder)) as world:
        for step in ("propose", "approve", "execute"):
            take(world, outside, step, "a", NOW)
    assert len(outside.applied) == 1


def held(world: World, name: str = "a", **changes: Any) -> str:
    """Try to execute; why it is not, with the proof that nothing was done."""
    outside = Outside()
    done = desk(world, Ledgered(outside), **changes).execute(NOW)
    assert (outside.applied, outbox(world, name)) == ([], [])
    return done.held.get(name, "")


def test_an_approval_that_has_run_out_or_was_withdrawn_does_not_count(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        approve(world, "a", propose(world, "a"), until=NOW)
        assert "approval_still_counts: it counted until" in held(world)
        digest = approved(world, "b", workload_id="w-b")
        world.handle("governance").transition("b", "expired", reason="withdrawn", plan_hash=digest, now=NOW)
        assert held(world, "b") == ""


def test_a_rejection_of_the_same_plan_elsewhere_counts(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        digest = approved(world, "a")
        world.handle("governance").append("approvals", [rejection("other", digest, NOW)])
        assert "nobody_rejected" in held(world)


def test_an_approval_for_another_plan_is_refused_by_the_books(tmp_path: Path) -> None:
    """Replayed: the approval of one plan does not carry another."""
    with open_world(tmp_path) as world:
        digest = approved(world, "a")
        propose(world, "b", workload_id="w-b")
        with pytest.raises(TransitionRefused, match="it is about plan"):
            approve(world, "b", digest)
        desk(world, Ledgered(Outside())).execute(NOW)
        assert state(world, "a") == "executed"
        with pytest.raises(TransitionRefused, match="from there: verified"):
            approve(world, "a", digest, at=NOW)
        assert not desk(world, Ledgered(Outside())).execute(NOW).executed, "executed once, whatever is approved again"


def test_the_executor_cannot_approve(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        digest = propose(world, "a")
        with pytest.raises(PermissionRefused):
            approve_as_executor(world, digest)
        assert held(world) == ""


def approve_as_executor(world: World, digest: str) -> None:
    world.handle("executor").transition("a", "approved", reason="fine", plan_hash=digest, now=NOW)


TAMPERED = {
    "proposed_config": config(groups=[group(5, "ap-south-1"), group(6)]),
    "workload_id": "svc-cart",
    "action_type": "time_shift",
    "planned_for": "2026-01-08T00:00:00+00:00",
}


@pytest.mark.parametrize("name", sorted(TAMPERED))
def test_a_plan_that_was_tampered_with_in_the_database_is_not_carried_out(tmp_path: Path, name: str) -> None:
    with open_world(tmp_path) as world:
        approved(world, "a")
    spoil(tmp_path / "books.db", "decision_events", payload() | {name: TAMPERED[name]}, "sequence = 0")
    with open_world(tmp_path) as world:
        assert "plan_is_the_approved_one" in held(world)


@pytest.mark.parametrize("part", ["order", "change", "before"])
def test_an_intent_that_was_tampered_with_is_not_carried_out(tmp_path: Path, part: str) -> None:
    outside = Outside()
    with open_world(tmp_path) as world:
        approved(world, "a")
        desk(world, Ledgered(outside)).begin(["a"], NOW)
        said = outbox(world, "a")[0]["said"]
    other = {
        "order": said["order"] | {"proposed": TAMPERED["proposed_config"]},
        "change": {"set": 9},
        "before": {"was": 9},
    }
    spoil(tmp_path / "books.db", "outbox", said | {part: other[part]}, "sequence = 0")
    with open_world(tmp_path) as world:
        done = desk(world, Ledgered(outside)).recover(NOW)
        assert outside.applied == []
        assert "scope_guard" in done.failed["a"]
        assert [r["kind"] for r in world.books.read("alerts").to_pylist()] == ["execution_failed"]


def spoil(books: Path, table: str, said: Any, where: str) -> None:
    """Change a row behind the back of the books, past their triggers."""
    with closing(sqlite3.connect(books)) as connection, connection:
        triggers = connection.execute("select name, sql from sqlite_master where type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"drop trigger {name}")
        connection.execute(f"update {table} set payload = ? where {where}", [canonical_json(said)])
        for _, sql in triggers:
            connection.execute(sql)


# -- limits ---------------------------------------------------------------------------------------------------


def test_the_kill_switch_stops_what_is_not_begun_and_what_is(tmp_path: Path) -> None:
    outside, off = Outside(), Limits(enabled=False)
    with open_world(tmp_path) as world:
        approved(world, "a")
        assert held(world, limits=off) == "execution_enabled: execution is switched off"
        asked: list[str] = []
        desk(world, Ledgered(outside, lambda name, call: asked.append(name) or call()), limits=off).execute(NOW)
        assert asked == [], "nobody outside hears of it"
        desk(world, Ledgered(outside)).begin(["a"], NOW)
        assert desk(world, Ledgered(outside), limits=off).execute(NOW).open == ("a",)
        assert outside.applied == []
        assert list(desk(world, Ledgered(outside)).execute(NOW).executed) == ["a"]


def test_the_caps_of_a_day_leave_out_the_least_and_start_anew(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        for i, name in enumerate("abc"):
            approved(world, name, workload_id=f"w-{name}", est_carbon_delta_kg=-1.0 - i)
        capped = desk(world, Ledgered(Outside()), limits=Limits(max_changes_per_day=2))
        done = capped.execute(NOW)
        assert sorted(done.executed) == ["b", "c"]
        assert done.held == {"a": "changes_per_day: 2 changes began today, the cap is 2"}
        assert list(capped.execute(NOW + timedelta(hours=1)).held) == ["a"], "not by asking again"
        assert list(capped.execute(NOW + timedelta(hours=21)).executed) == ["a"], "tomorrow"


def test_what_others_wait_for_is_looked_at_again_right_before_acting(tmp_path: Path) -> None:
    """Both are planned and approved; since then the register says that somebody waits for both."""
    with open_world(tmp_path) as world:
        later = config("time_shift", [group(5, "us-east-1", delay=3, workload="w-a")])
        approved(world, "a", workload_id="w-a", action_type="time_shift", proposed_config=later)
        approved(world, "b", workload_id="w-b")
        outside, waits = Outside(), Limits(awaited={"w-a": ("report",), "w-b": ("report",)})
        done = desk(world, Ledgered(outside), limits=waits).execute(NOW)
        why = "start_before_dependency: report would start before it ends: 1 of its groups would start later"
        assert done.held == {"a": why}
        assert list(done.executed) == ["b"], "what only moves holds nobody up"
        assert "w-a" not in outside.documents and state(world, "a") == "approved"
        assert list(desk(world, Ledgered(outside)).execute(NOW).executed) == ["a"], "the control: nobody waits"


def test_a_dry_run_shows_the_change_and_what_is_against_it(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        digest = propose(world, "a")
        outside = Outside()
        before = desk(world, Ledgered(outside)).dry_run("a", NOW)
        assert (before.ok, before.state) == (False, "proposed")
        assert "is_approved" in [c.name for c in before.checks if not c.ok]
        approve(world, "a", digest)
        shown = desk(world, Ledgered(outside)).dry_run("a", NOW)
        assert shown.ok
        assert shown.preview is not None
        assert shown.preview.change == {"set": payload()["proposed_config"]}
        assert (outbox(world, "a"), outside.applied) == ([], [])
        with pytest.raises(ValueError, match="no recommendation zzz"):
            desk(world, Ledgered(outside)).dry_run("zzz", NOW)


def test_the_baseline_is_frozen_with_the_intent(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        approved(world, "a")
        desk(world, Ledgered(Outside())).begin(["a"], NOW)
        said = outbox(world, "a")[0]["said"]
        assert said["baseline"]["kg_before"] == 3.0
        assert said["baseline"]["current_config"] == payload()["current_config"]
        assert said["before"] == {"was": None}
        (event,) = world.books.read("decision_events", {"to_status": "executing"}).to_pylist()
        told = json.loads(event["payload"])
        assert (told["baseline_hash"], told["change_hash"]) == (said["baseline_hash"], said["change_hash"])
        assert event["plan_hash"] == plan_hash(payload())


# -- recovery -------------------------------------------------------------------------------------------------


def test_what_was_begun_in_time_is_not_applied_after_its_approval_ran_out(tmp_path: Path) -> None:
    outside = Outside()
    with open_world(tmp_path) as world:
        approved(world, "a")
        desk(world, Ledgered(outside)).begin(["a"], NOW)
        done = desk(world, Ledgered(outside)).recover(UNTIL)
        assert "approval_expired" in done.failed["a"]
        assert (outside.applied, state(world, "a"), outbox(world, "a")[-1]["state"]) == ([], "failed", "rolled_back")


def test_what_was_applied_in_time_is_finished_however_late(tmp_path: Path) -> None:
    outside = Outside()

    def lost(name: str, call: Any) -> Any:
        answer = call()
        if name == "apply":
            raise Crash
        return answer

    with open_world(tmp_path) as world:
        approved(world, "a")
        with pytest.raises(Crash):
            desk(world, Ledgered(outside, lost)).execute(NOW)
        assert list(desk(world, Ledgered(outside)).recover(UNTIL).executed) == ["a"]
        assert len(outside.applied) == 1


def test_a_step_is_left_to_who_claimed_it_for_the_time_of_a_lease(tmp_path: Path) -> None:
    outside = Outside()

    def dying(name: str, call: Any) -> Any:
        if name == "apply":
            raise Crash
        return call()

    with open_world(tmp_path) as world:
        approved(world, "a")
        with pytest.raises(Crash):
            desk(world, Ledgered(outside, dying)).execute(NOW)
        lease = timedelta(minutes=15)
        assert desk(world, Ledgered(outside), lease=lease).execute(NOW + timedelta(minutes=14)).open == ("a",)
        assert outside.applied == []
        assert list(desk(world, Ledgered(outside), lease=lease).execute(NOW + lease).executed) == ["a"]


@pytest.mark.parametrize("other", ["finished", "undone"])
def test_a_worker_that_wakes_up_late_leaves_what_the_other_one_made_of_it(tmp_path: Path, other: str) -> None:
    """It was asleep right before it applies, longer than its lease; meanwhile another took over and ended it."""
    outside, asleep = Outside(), [True]
    with open_world(tmp_path) as world:

        def refusing(name: str, call: Any) -> Any:
            if name == "apply" and other == "undone":
                raise TargetRefused("conflict", "no")
            return call()

        def late(name: str, call: Any) -> Any:
            if name == "apply" and asleep:
                asleep.clear()
                desk(world, Ledgered(outside, refusing)).recover(NOW + timedelta(hours=1))
            return call()

        approved(world, "a")
        done = desk(world, Ledgered(outside, late)).execute(NOW)
        states = [r["state"] for r in outbox(world, "a")]
        if other == "finished":
            assert (list(done.executed), outside.applied) == (["a"], [outbox(world, "a")[0]["intent_id"]])
            assert states == ["intended", "attempting", "attempting", "done"]
        else:
            assert (list(done.failed), states[-1]) == (["a"], "rolled_back")
            assert len(outside.applied) == 1, "it did come late"
            assert outside.documents[WORKLOAD]["content"] is None, "and was taken back"


def test_what_cannot_be_undone_is_said_aloud(tmp_path: Path) -> None:
    """Somebody changed it after us, and differently from what we wanted: theirs stays, people hear of it."""
    outside = Outside()

    def meddled(name: str, call: Any) -> Any:
        if name == "read_back":
            return ("it is otherwise",)
        if name == "rollback":
            raise TargetRefused("changed_since", "somebody was here")
        return call()

    with open_world(tmp_path) as world:
        approved(world, "a")
        done = desk(world, Ledgered(outside, meddled)).execute(NOW)
        assert done.failed == {
            "a": "failed: read_back: it is otherwise; it cannot be undone: changed_since: somebody was here"
        }
        (alert,) = world.books.read("alerts").to_pylist()
        assert (alert["kind"], alert["subject"], alert["agent"]) == ("execution_failed", "a", "executor")


def test_an_outside_that_never_answers_is_said_aloud_and_undone_when_it_does(tmp_path: Path) -> None:
    outside = Outside()

    def silent(name: str, call: Any) -> Any:
        if name in ("apply", "rollback"):
            raise TargetUnavailable("no answer")
        return call()

    with open_world(tmp_path) as world:
        approved(world, "a")
        assert desk(world, Ledgered(outside, silent)).execute(NOW).open == ("a",)
        assert state(world, "a") == "executing"
        assert [a["kind"] for a in world.books.read("alerts").to_pylist()] == ["execution_stuck"]
        assert "attempts_exhausted" in desk(world, Ledgered(outside)).execute(NOW).failed["a"]
        assert outbox(world, "a")[-1]["state"] == "rolled_back"


def test_one_that_cannot_be_read_does_not_keep_the_others_from_being_done(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        approved(world, "a", proposed_config={"placements": "all of them"})
        approved(world, "b", workload_id="w-b")
        done = desk(world, Ledgered(Outside())).execute(NOW)
        assert list(done.executed) == ["b"]
        assert state(world, "a") in ("approved", "failed")


def _worker(folder: Path, file: Path, go: Any) -> None:
    with open_world(folder) as world:
        target = SimulatedScheduler(file, FakeCloud(42), lambda: NOW)
        go.wait()
        desk(world, target).execute(NOW)
        desk(world, target).execute(NOW)


def test_several_workers_at_once_do_each_thing_once(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        for hour in range(5, 11):
            approved(world, f"r-{hour}", proposed_config=config(groups=[group(hour)]))
    context = multiprocessing.get_context("fork")
    go = context.Event()
    file = tmp_path / "cloud" / "placements.parquet"
    workers = [context.Process(target=_worker, args=(tmp_path, file, go)) for _ in range(3)]
    for worker in workers:
        worker.start()
    go.set()
    for worker in workers:
        worker.join(60)
    assert [w.exitcode for w in workers] == [0, 0, 0]
    with open_world(tmp_path) as world:
        desk(world, SimulatedScheduler(file, FakeCloud(42), lambda: NOW)).recover(NOW)
        for hour in range(5, 11):
            assert state(world, f"r-{hour}") == "executed"
            assert [r["state"] for r in outbox(world, f"r-{hour}")].count("done") == 1
    assert read_rows(file)["requested_hour"].to_pylist().__len__() == 6


# -- places that are closed -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outage() -> tuple[str, datetime]:
    """A region and an hour of January in which the fake cloud takes nothing there."""
    out = FakeCloud(42).outages(DAY, DAY + timedelta(days=20)).to_pylist()
    return next((r["region"], r["ts"]) for r in out if r["region"] != "us-east-1")


def at(moment: datetime, region: str) -> dict[str, Any]:
    return group(0) | {
        "job_id": f"g@{moment:%Y-%m-%dT%HZ}-{region}",
        "requested_start": f"{moment:%Y-%m-%dT%H}:20:00Z",
        "region": region,
    }


def test_an_outage_at_execution_leads_to_the_other_approved_region(
    tmp_path: Path, outage: tuple[str, datetime]
) -> None:
    region, hour = outage
    other = "eu-north-1" if region != "eu-north-1" else "us-west-2"
    groups = [at(hour, region), at(hour + timedelta(hours=12), other)]
    with open_world(tmp_path) as world:
        approved(world, "a", proposed_config=config(groups=groups))
        done = desk(world, scheduler(tmp_path)).execute(NOW)
        assert list(done.executed) == ["a"]
        (row,) = executions_of(world.books.read("outbox"), world.books.read("decision_events")).to_pylist()
    placed = {r["requested_hour"]: r["region"] for r in read_rows(tmp_path / "placements.parquet").to_pylist()}
    assert placed == {hour: other, hour + timedelta(hours=12): other}
    (fell,) = json.loads(row["detail"])["fell_back"]
    assert fell["why"].startswith(f"region_outage: {region} takes nothing at")
    assert (fell["approved"]["region"], fell["instead"]["region"]) == (region, other)


def test_an_outage_without_another_approved_region_leaves_the_group_at_home(
    tmp_path: Path, outage: tuple[str, datetime]
) -> None:
    region, hour = outage
    groups = [at(hour, region), at(hour + timedelta(hours=12), region)]
    with open_world(tmp_path) as world:
        approved(world, "a", proposed_config=config(groups=groups))
        assert list(desk(world, scheduler(tmp_path)).execute(NOW).executed) == ["a"]
        said = outbox(world, "a")[0]["said"]
    assert [r["requested_hour"] for r in read_rows(tmp_path / "placements.parquet").to_pylist()] == [
        groups_hour(groups[1])
    ]
    assert [f["instead"] for f in said["fell_back"]] == ["left as it is, at home"]


def groups_hour(of: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(of["requested_start"]).replace(minute=0)


def test_an_outage_of_everything_is_not_executed_and_says_why(tmp_path: Path, outage: tuple[str, datetime]) -> None:
    region, hour = outage
    with open_world(tmp_path) as world:
        approved(world, "a", proposed_config=config(groups=[at(hour, region)]))
        done = desk(world, scheduler(tmp_path)).execute(NOW)
        assert "no group is left to place: region_outage" in done.failed["a"]
        (row,) = executions_of(world.books.read("outbox"), world.books.read("decision_events")).to_pylist()
    assert (row["status"], row["execution_ref"]) == ("refused", None)
    assert not (tmp_path / "placements.parquet").exists()


def scheduler(folder: Path, now: datetime = NOW) -> SimulatedScheduler:
    return SimulatedScheduler(folder / "placements.parquet", FakeCloud(42), lambda: now)


def test_a_plan_that_the_cloud_does_not_take_is_refused_whole(tmp_path: Path) -> None:
    """No part of a plan is carried out whose other part the cloud calls wrong."""
    with open_world(tmp_path) as world:
        approved(world, "a", proposed_config=config(groups=[group(5), group(6, "mars-1")]))
        done = desk(world, scheduler(tmp_path)).execute(NOW)
        assert "unknown_region" in done.failed["a"]
    assert not (tmp_path / "placements.parquet").exists()


def test_what_was_carried_out_is_what_was_approved(tmp_path: Path) -> None:
    """The placements that are in force, field by field, against the approved configuration."""
    groups = [group(5, "eu-north-1", 3), group(9, "us-west-2", 0)]
    with open_world(tmp_path) as world:
        approved(world, "a", proposed_config=config(groups=groups))
        desk(world, scheduler(tmp_path)).execute(NOW)
    rows = read_rows(tmp_path / "placements.parquet").to_pylist()
    assert [
        (r["workload_id"], r["requested_hour"], r["region"], r["delay_hours"], r["spot"], r["vcpus_scale"])
        for r in rows
    ] == [(WORKLOAD, groups_hour(g), g["region"], g["delay_hours"], False, 1.0) for g in groups]


#: However often one attempt is cut off: on a slow machine every kill may meet the same change.
_PATIENT = 50


def _until_killed(folder: Path) -> None:
    with open_world(folder) as world:
        desk(world, scheduler(folder), max_attempts=_PATIENT).execute(NOW)


def test_killed_at_any_moment_and_started_again_each_change_is_there_once(tmp_path: Path) -> None:
    names = [f"r-{hour}" for hour in range(4, 24)]
    with open_world(tmp_path) as world:
        for hour, name in enumerate(names, start=4):
            approved(world, name, proposed_config=config(groups=[group(hour)]))
    context, killed = multiprocessing.get_context("fork"), 0
    for turn in range(15):
        process = context.Process(target=_until_killed, args=(tmp_path,))
        process.start()
        process.join(0.08 + 0.013 * turn)
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.join()
    assert killed, "none was killed: the test would prove nothing"
    with open_world(tmp_path) as world:
        desk(world, scheduler(tmp_path), max_attempts=_PATIENT).execute(NOW)
        assert [state(world, n) for n in names] == ["executed"] * len(names)
        intents = [outbox(world, n)[0]["intent_id"] for n in names]
    assert sorted(read_rows(tmp_path / "placements.parquet")["intent_id"].to_pylist()) == sorted(intents)


# -- production -----------------------------------------------------------------------------------------------

SICK = Health(500.0, 0.2, 500)
TEN = [group(h) for h in range(8, 18)]


def watched(world: World, target: Any, after: Health | None) -> ExecutionDesk:
    """A desk whose monitoring saw WELL before, and ``after`` since."""
    return desk(world, target, health=lambda _w, _since, until: WELL if until <= NOW else after)


def production(world: World) -> None:
    fields = {"service_tier": "production", "proposed_config": config(groups=TEN)}
    approved(world, "a", **fields)


def hours(folder: Path) -> list[int]:
    return sorted(t.hour for t in read_rows(folder / "placements.parquet")["requested_hour"].to_pylist())


def test_production_is_not_changed_where_nobody_watches_it(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        production(world)
        assert held(world) == "health_is_watched: nobody measures its health"


def test_production_goes_first_in_part_and_then_the_rest(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        production(world)
        now = watched(world, scheduler(tmp_path), None)
        assert now.execute(NOW).open == ("a",)
        assert hours(tmp_path) == [8], "a tenth of the groups"
        assert state(world, "a") == "executing"
        assert watched(world, scheduler(tmp_path), WELL).execute(NOW).open == ("a",), "it has not run yet"
        at_ten = DAY + timedelta(hours=10, minutes=30)
        done = watched(world, scheduler(tmp_path, at_ten), WELL).execute(at_ten)
        assert list(done.executed) == ["a"]
        assert hours(tmp_path) == [8, *range(11, 18)], "what had begun meanwhile stayed at home"
        assert not watched(world, scheduler(tmp_path, at_ten), WELL).execute(at_ten).executed
        table = executions_of(world.books.read("outbox"), world.books.read("decision_events")).to_pylist()
        assert [(r["attempt"], r["status"]) for r in table] == [(1, "applied"), (2, "applied")]
        fell = json.loads(table[1]["detail"])["fell_back"]
        assert [(f["why"], f["job_id"]) for f in fell] == [("already_started", TEN[i]["job_id"]) for i in (1, 2)]


def test_a_service_is_watched_from_its_next_start(tmp_path: Path) -> None:
    """The plan's day of a service begins at 04:00, the cloud's at midnight: health before that is of the old run."""
    spans: list[tuple[datetime, datetime]] = []

    def health(_workload: str, since: datetime, until: datetime) -> Health:
        spans.append((since, until))
        return WELL

    fields = {"service_tier": "production", "workload_id": "svc-cart", "action_type": "right_size"}
    smaller = config("right_size", groups=[group(4, "us-east-1", workload="svc-cart")], vcpus_scale="0.5")
    midnight, later = DAY + timedelta(days=1), DAY + timedelta(days=1, hours=3)
    with open_world(tmp_path) as world:
        approved(world, "a", **fields, proposed_config=smaller)
        assert desk(world, scheduler(tmp_path), health=health).execute(NOW).open == ("a",)
        assert desk(world, scheduler(tmp_path, later), health=health).execute(later).executed
    assert spans == [(NOW - timedelta(hours=3), NOW), (midnight, later)]


@pytest.mark.parametrize(("after", "why"), [(SICK, "canary: p99_latency"), (None, "canary: health_unknown")])
def test_a_canary_that_does_badly_is_undone(tmp_path: Path, after: Any, why: str) -> None:
    outside = Outside()
    with open_world(tmp_path) as world:
        production(world)
        watched(world, Ledgered(outside), WELL).execute(NOW)
        later = DAY + timedelta(hours=15)
        done = watched(world, Ledgered(outside), after).execute(later)
        assert why in done.failed["a"]
        assert outside.documents[WORKLOAD]["content"] is None
        assert (state(world, "a"), outbox(world, "a")[-1]["state"]) == ("failed", "rolled_back")


def test_where_the_rest_fails_the_canary_is_undone_too(tmp_path: Path) -> None:
    undone: list[str] = []

    class Rest(Ledgered):
        """It has room for the canary only; each intent is a document of its own."""

        def _find(self, order: Order, preview: Preview) -> Applied | None:
            return Applied(order.intent_id) if order.intent_id in self.outside.documents else None

        def _apply(self, order: Order, preview: Preview) -> Applied:
            if len(order.proposed["placements"]) > 1:
                raise TargetRefused("quota", "no room")
            self.outside.documents[order.intent_id] = preview.change
            return Applied(order.intent_id)

        def _read_back(self, order: Order, preview: Preview) -> tuple[str, ...]:
            return ()

        def _rollback(self, order: Order, preview: Preview) -> None:
            if self.outside.documents.pop(order.intent_id, None):
                undone.append(order.intent_id)

    outside = Outside()
    with open_world(tmp_path) as world:
        production(world)
        watched(world, Rest(outside), WELL).execute(NOW)
        assert len(outside.documents) == 1
        done = watched(world, Rest(outside), WELL).execute(DAY + timedelta(hours=10))
        assert "quota" in done.failed["a"]
        assert (outside.documents, len(undone)) == ({}, 1)
        assert state(world, "a") == "failed"


# -- the cloud ------------------------------------------------------------------------------------------------


def test_a_project_changes_its_own_cloud_and_not_its_twin(tmp_path: Path) -> None:
    project = simulated_project(tmp_path, days=30, seed=42)
    target = SimulatedScheduler(placements_path(project.root), untouched_cloud(project), lambda: NOW)
    with open_world(tmp_path) as world:
        approved(world, "a", proposed_config=config(groups=[group(15), group(16)]))
        assert desk(world, target).dry_run("a", NOW).ok
        assert len(fake_cloud(project).placements) == 0
        assert list(desk(world, target).execute(NOW).executed) == ["a"]
    assert len(fake_cloud(project).placements) == 2
    assert len(untouched_cloud(project).placements) == 0
    day = (DAY, DAY + timedelta(days=1))
    ours, twin = fake_cloud(project).true_emissions(*day), untouched_cloud(project).true_emissions(*day)
    assert ours["job_id"] == twin["job_id"]
    moved = pc.not_equal(ours["region"], twin["region"])
    assert set(ours.filter(moved)["workload_id"].to_pylist()) == {WORKLOAD}
    assert ours.filter(pc.invert(moved)) == twin.filter(pc.invert(moved))


def test_a_share_of_the_known_workloads_is_kept(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        for name in ("a", "b"):
            approved(world, name, workload_id=f"w-{name}")
        half = Limits(max_share_of_workloads_per_day=0.5)
        done = desk(world, Ledgered(Outside()), limits=half, known_workloads=2).execute(NOW)
        assert list(done.executed) == ["a"]
        assert done.held == {"b": "share_of_workloads_per_day: it would be workload 2 of 2 today, the cap is 0.5"}


def test_without_a_target_everything_stays_approved(tmp_path: Path) -> None:
    with open_world(tmp_path) as world:
        approved(world, "a")
        done = ExecutionDesk(world.handle("executor"), {}, target="none").execute(NOW)
        assert (done.held, state(world, "a")) == ({"a": "there is no target none"}, "approved")


def test_rows_that_cannot_be_read_keep_nobody_else_waiting(tmp_path: Path) -> None:
    outside = Outside()
    with open_world(tmp_path) as world:
        approved(world, "a")
        approved(world, "b", workload_id="w-b")
        desk(world, Ledgered(outside)).begin(["a", "b"], NOW)
    spoil(tmp_path / "books.db", "outbox", {"not": "an intent"}, "recommendation_id = 'a'")
    with open_world(tmp_path) as world:
        done = desk(world, Ledgered(outside)).execute(NOW)
        assert (list(done.executed), done.open) == (["b"], ("a",))
        assert [a["subject"] for a in world.books.read("alerts").to_pylist()] == ["a"]
