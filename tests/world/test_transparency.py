"""The transparency log: every commitment has its leaf, and whatever is changed behind its back is found and named."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from books_samples import START, bring_to, sample, sample_table, slot, step
from deltalake import write_deltalake
from processes import process_context

from sust_dagster.world.access import World
from sust_dagster.world.books import Books
from sust_dagster.world.checkpoint import Checkpoint, CheckpointError, Signer, read_checkpoints
from sust_dagster.world.lake import Lake
from sust_dagster.world.merkle import leaf_hash, verify_consistency, verify_inclusion
from sust_dagster.world.permissions import PermissionRefused
from sust_dagster.world.schemas import OUTBOX, POLICIES, TABLES
from sust_dagster.world.transparency import (
    KINDS,
    LOG,
    LogError,
    Verification,
    adopt,
    find_leaves,
    make_leaf,
    prove_consistency,
    prove_inclusion,
    read_tree,
    reconcile,
    row_hash,
    sign_log,
    verify_log,
)

NOW = START + timedelta(days=1)
HOUR = timedelta(hours=1)
SIGNER = Signer("log.example/test", bytes(32))
GRID = TABLES["grid_intensity"]
BUNDLE = b'{"evidence":1}'
BUNDLE_SHA = hashlib.sha256(BUNDLE).hexdigest()
INTENT = {"baseline": {"region": "us-east-1"}, "baseline_hash": "b" * 64, "change_hash": "c" * 64}
ALL_KINDS = {*KINDS.values(), "baseline", "partition", "bundle"}


class Case:
    """A world in a folder, its checkpoints, and a way to spoil it."""

    def __init__(self, folder: Path, books: str = "") -> None:
        self.folder = folder
        self.lake = Lake(folder / "lake")
        self.books = Books.open(books or folder / "books.db")
        self.world = World(self.lake, self.books, clock=lambda: NOW)
        self.checkpoints = folder / "checkpoints"

    def sign(self) -> Checkpoint:
        return sign_log(self.books, self.lake, self.checkpoints, SIGNER, NOW).checkpoint

    def verify(self, *checkpoints: Checkpoint) -> Verification:
        return verify_log(self.books, self.lake, checkpoints or read_checkpoints(self.checkpoints, SIGNER.verifier))

    def found(self, *checkpoints: Checkpoint) -> set[tuple[str, str]]:
        return {(p.what, p.subject) for p in self.verify(*checkpoints).problems}

    def raw(self, *statements: str) -> None:
        """SQL as the owner of the file may run it: every trigger is dropped first."""
        with closing(sqlite3.connect(self.folder / "books.db")) as connection, connection:
            names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
            for (name,) in names:
                connection.execute(f"DROP TRIGGER {name}")
            for statement in statements:
                assert connection.execute(statement).rowcount != 0, statement

    def leaves(self, kind: str | None = None) -> list[dict[str, Any]]:
        rows = self.books.read(LOG, None if kind is None else {"kind": kind}).to_pylist()
        return [json.loads(r["leaf"]) for r in rows]

    def grid(self, hours: int, first: int = 0, value: float = 0.25) -> pa.Table:
        return pa.Table.from_pylist(
            [sample(GRID, i, ts=START + (first + i) * HOUR, intensity_kgco2_kwh=value) for i in range(hours)],
            schema=GRID.arrow,
        )

    def write(self, hours: int, first: int = 0, value: float = 0.25, reason: str | None = None) -> int:
        begin = START + first * HOUR
        data = self.grid(hours, first, value)
        return self.world.handle("accountant").write_lake(GRID.name, data, begin, begin + hours * HOUR, reason).version

    def file(self, slot_name: str = "2026-01-05T01") -> Path:
        (path,) = (self.folder / "lake" / GRID.name).rglob(f"{slot_name}-*.parquet")
        return path


def fill(case: Case) -> None:
    """Something of every kind, with a checkpoint in the middle and one at the end."""
    handle = case.world.handle
    case.write(3)
    handle("governance").append("policies", [sample(POLICIES, 1), sample(POLICIES, 2)])
    handle("governance").append("policy_reviews", [sample(TABLES["policy_reviews"])])
    with handle("accountant").transaction() as accountant:
        accountant.append("emission_factors", [sample(TABLES["emission_factors"], i) for i in range(3)])
        accountant.append("factor_reviews", [sample(TABLES["factor_reviews"], factor_id="text-1")])
    handle("planner").transitions([step("r", "proposed"), step("s", "proposed")], now=START)
    case.sign()
    handle("governance").append("approvals", [sample(TABLES["approvals"])])
    handle("governance").transitions([step("r", "approved"), step("s", "rejected")], now=START)
    with handle("executor").transaction() as executor:
        executor.transition("r", "executing", reason="now", plan_hash="plan-r", now=START)
        executor.append("outbox", [sample(OUTBOX, 0, state="intended", payload=json.dumps(INTENT))])
        executor.append("outbox", [sample(OUTBOX, 1, state="done")])
    with handle("verifier").transaction() as verifier:
        verifier.commit_bundle("outcome-1", BUNDLE_SHA)
    case.write(2, first=3)
    case.write(1, value=0.5, reason="a late reading")
    case.sign()
    handle("governance").append("policies", [sample(POLICIES, 7)])


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log") / "filled"
    case = Case(folder)
    fill(case)
    case.world.close()
    return folder


@pytest.fixture
def case(filled: Path, tmp_path: Path) -> Iterator[Case]:
    """A copy of the filled world, to be spoilt."""
    made = Case(Path(shutil.copytree(filled, tmp_path / "case")))
    yield made
    made.world.close()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Case]:
    made = Case(tmp_path / "fresh")
    yield made
    made.world.close()


# -- leaves -------------------------------------------------------------------------------------------------


def test_everything_has_its_leaf_and_nothing_is_found(case: Case) -> None:
    verification = verify_log(
        case.books, case.lake, read_checkpoints(case.checkpoints, SIGNER.verifier), bundles={BUNDLE_SHA: BUNDLE}.get
    )
    assert verification.ok and verification.problems == verification.notes == ()
    rows = case.books.read(LOG).to_pylist()
    assert [r["leaf_index"] for r in rows] == list(range(len(rows)))
    assert {r["kind"] for r in rows} == ALL_KINDS
    assert {r["committed_at"] for r in rows} == {NOW}, "the world's clock"
    logged = sum(case.books.read(t).num_rows for t in KINDS)
    assert (verification.size, verification.rows) == (len(rows), logged)
    assert len(rows) == logged + 3 + 1, "three commits of the lake, one bundle"
    assert (verification.checkpoints, verification.files, verification.bundles) == (2, 6, 1)
    assert all(leaf_hash(r["leaf"].encode()).hex() == r["leaf_hash"] for r in rows)
    assert verification.root == read_tree(case.books).root().hex()


def test_what_the_leaves_say(case: Case) -> None:
    first, second, third = case.leaves("partition")
    version = case.lake.version(GRID.name)
    assert (first["table"], first["start"], first["end"]) == (
        GRID.name,
        "2026-01-05T00:00:00+00:00",
        "2026-01-05T03:00:00+00:00",
    )
    assert len(first["added"]) == 3 and len(second["added"]) == 2 and not first["removed"]
    assert third["version"] == version and len(third["added"]) == 1 and third["removed"] == first["added"][:1]
    for path in (*first["added"], *second["added"], *third["added"]):
        body = (case.folder / "lake" / GRID.name / path).read_bytes()
        assert path.endswith(f"-{hashlib.sha256(body).hexdigest()}.parquet")
    (intent,) = case.leaves("baseline")
    assert (intent["baseline_hash"], intent["change_hash"]) == ("b" * 64, "c" * 64)
    assert case.leaves("bundle") == [{"kind": "bundle", "subject": "outcome-1", "sha256": BUNDLE_SHA}]
    (event,) = case.books.read("decision_events", {"to_status": "rejected"}).to_pylist()
    (index,) = find_leaves(case.books, "decision", event["event_id"])
    said = json.loads(case.books.read(LOG, {"leaf_index": index}).column("leaf")[0].as_py())
    assert said["row_sha256"] == row_hash(event)


def test_the_hash_of_a_row_with_the_standard_library(case: Case) -> None:
    """As a stranger computes it from the file, with sqlite3, json and hashlib."""
    with closing(sqlite3.connect(case.folder / "books.db")) as connection:
        connection.row_factory = sqlite3.Row
        events = connection.execute("SELECT * FROM decision_events").fetchall()
        leaves = {
            r["subject"]: json.loads(r["leaf"])
            for r in connection.execute("SELECT * FROM log_commitments WHERE kind = 'decision'")
        }
    assert len(events) == len(leaves) == 5
    for event in events:
        row = {k: event[k] for k in event.keys() if event[k] is not None}  # noqa: SIM118 - rows iterate values
        text = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert hashlib.sha256(text.encode()).hexdigest() == leaves[event["event_id"]]["row_sha256"]


def test_a_row_hashes_the_same_with_a_column_more() -> None:
    row = {"a": "x", "b": 1.0, "at": NOW}
    assert row_hash(row) == row_hash({**row, "added_later": None})
    assert row_hash(row) != row_hash({**row, "added_later": ""})
    assert row_hash({"n": 2**53}) == row_hash({"n": str(2**53)}) != row_hash({"n": 2**53 + 1})
    with pytest.raises(ValueError, match="no canonical JSON"):
        row_hash({"x": float("nan")})


def test_what_changes_nothing_has_no_leaf(case: Case) -> None:
    size = case.verify().size
    case.write(2, first=3)
    case.world.handle("governance").append("policies", [sample(POLICIES, 1)])
    case.world.handle("planner").transitions([step("r", "proposed")], now=START)
    case.world.handle("copilot").append("alerts", [sample(TABLES["alerts"], agent="copilot")])
    assert case.verify().size == size


def test_an_undone_transaction_leaves_no_leaf_and_no_gap(case: Case) -> None:
    size = case.verify().size
    with pytest.raises(KeyboardInterrupt), case.world.handle("governance").transaction() as transaction:
        transaction.append("policies", [sample(POLICIES, 8)])
        raise KeyboardInterrupt
    assert case.verify().size == size
    case.world.handle("governance").append("policies", [sample(POLICIES, 8)])
    assert case.verify().size == size + 1 and case.verify().ok


def test_a_lake_commit_inside_an_undone_transaction_keeps_its_leaf(fresh: Case) -> None:
    executor = fresh.world.handle("executor")
    spec = TABLES["executions"]
    with pytest.raises(KeyboardInterrupt), executor.transaction() as transaction:
        transaction.append("outbox", [sample(OUTBOX)])
        executor.write_lake("executions", sample_table(spec), *slot(spec))
        raise KeyboardInterrupt
    assert [leaf["kind"] for leaf in fresh.leaves()] == ["partition"]
    assert fresh.verify().ok


def test_only_the_verifier_commits_to_a_bundle(fresh: Case) -> None:
    with pytest.raises(PermissionRefused), fresh.world.handle("planner").transaction() as transaction:
        transaction.commit_bundle("outcome-1", BUNDLE_SHA)
    with pytest.raises(ValueError, match="no SHA-256"), fresh.world.handle("verifier").transaction() as transaction:
        transaction.commit_bundle("outcome-1", "abc")
    assert fresh.leaves() == []


def write_policies(folder: str, books: str, me: int, barrier: Barrier) -> None:
    """One of several processes: rows, and a lake table of its own hours."""
    case = Case(Path(folder), books)
    barrier.wait(30)
    for i in range(25):
        case.world.handle("governance").append("policies", [sample(POLICIES, 1000 * me + i)])
        if i % 5 == 0:
            case.write(1, first=100 * me + i)
    case.world.close()


def test_several_writers_leave_no_gap(tmp_path: Path) -> None:
    run_four_writers(tmp_path)


def run_four_writers(folder: Path, books: str = "") -> None:
    """Four processes at one log, and what must hold afterwards."""
    case, context = Case(folder, books), process_context()
    barrier = context.Barrier(4)
    processes = [context.Process(target=write_policies, args=(str(folder), books, me, barrier)) for me in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
        assert process.exitcode == 0
    verification = case.verify()
    assert verification.ok and not verification.notes
    assert (verification.size, verification.rows, verification.files) == (120, 100, 20)
    case.world.close()


# -- crashes ------------------------------------------------------------------------------------------------


def test_a_commit_that_lost_its_leaf_gets_a_late_one(case: Case) -> None:
    case.lake.write(GRID.name, case.grid(1, 9), START + 9 * HOUR, START + 10 * HOUR, writer="accountant")
    subject = f"{GRID.name}/{case.lake.version(GRID.name)}"
    assert case.found() == {("unlogged", subject)}
    assert reconcile(case.books, case.lake, NOW).late == (subject,)
    assert reconcile(case.books, case.lake, NOW).late == ()
    verification = case.verify()
    assert verification.ok and [(n.what, n.subject) for n in verification.notes] == [("late", subject)]
    assert case.leaves("partition")[-1]["late"] is True


def test_whenever_a_writer_is_killed_reconciling_mends_the_log(tmp_path: Path) -> None:
    context = process_context()
    committed = 0
    for number in range(4):
        case, barrier = Case(tmp_path / str(number)), context.Barrier(2)
        writer = context.Process(target=write_policies, args=(str(case.folder), "", 1, barrier))
        writer.start()
        barrier.wait(30)
        writer.join(0.05 + 0.1 * number)
        writer.kill()
        writer.join()
        reconcile(case.books, case.lake, NOW)
        verification = case.verify()
        assert verification.ok, verification.problems
        committed += verification.size
        case.world.close()
    assert committed


def test_signing_reconciles_first(case: Case) -> None:
    case.lake.write(GRID.name, case.grid(1, 9), START + 9 * HOUR, START + 10 * HOUR, writer="accountant")
    signed = sign_log(case.books, case.lake, case.checkpoints, SIGNER, NOW)
    assert len(signed.reconciled.late) == 1 and signed.new
    assert case.verify().ok


def test_a_leaf_says_the_same_whoever_writes_it(fresh: Case) -> None:
    """What the handle knows of its commit is what the lake's own log says of it."""
    result = fresh.lake.write(GRID.name, fresh.grid(3), START, START + 3 * HOUR, writer="accountant")
    changed = fresh.grid(3, value=0.75)
    again = fresh.lake.write(GRID.name, changed, START, START + 3 * HOUR, writer="accountant", reason="better")
    for commit in (*result.commits, *again.commits):
        assert fresh.lake.commit(GRID.name, commit.version) == commit
    assert fresh.lake.write(GRID.name, changed, START, START + 3 * HOUR, writer="accountant").commits == ()


def test_a_compaction_changes_no_content(fresh: Case) -> None:
    fresh.write(24)
    assert fresh.lake.compact(GRID.name, START + timedelta(days=1)) == 1
    folded = f"{GRID.name}/{fresh.lake.version(GRID.name)}"
    assert fresh.found() == {("unlogged", folded)}
    assert reconcile(fresh.books, fresh.lake, NOW).compactions == (folded,)
    verification = fresh.verify()
    assert verification.ok and not verification.notes and verification.files == 25


def test_a_forged_compaction_is_found(fresh: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh.write(24)
    fold = Lake._fold

    def forging(self: Lake, spec: Any, files: Any) -> tuple[bytes, pa.Table]:
        body, rows = fold(self, spec, files)
        sink = pa.BufferOutputStream()
        at = rows.schema.get_field_index("intensity_kgco2_kwh")
        forged = rows.set_column(at, rows.schema.field(at), pa.array([0.01] * rows.num_rows))
        metadata = pq.read_metadata(pa.BufferReader(body)).metadata
        with pq.ParquetWriter(sink, forged.schema) as writer:
            writer.write_table(forged)
            writer.add_key_value_metadata({k: v for k, v in metadata.items() if k.startswith(b"sust.")})
        return sink.getvalue().to_pybytes(), forged

    monkeypatch.setattr(Lake, "_fold", forging)
    fresh.lake.compact(GRID.name, START + timedelta(days=1))
    folded = f"{GRID.name}/{fresh.lake.version(GRID.name)}"
    reconcile(fresh.books, fresh.lake, NOW)
    assert fresh.found() == {("compaction", folded)}


def test_rows_older_than_the_log_are_adopted_once(fresh: Case) -> None:
    bring_to(fresh.books, "old", "approved")
    fresh.books.append("policies", [sample(POLICIES)])
    assert {what for what, _ in fresh.found()} == {"row_added"}
    assert len(adopt(fresh.books, NOW).late) == 3
    assert adopt(fresh.books, NOW).late == ()
    assert fresh.verify().ok


# -- what is changed behind its back ------------------------------------------------------------------------

EDITS = {
    "a decision's reason": ("decision_events", "UPDATE decision_events SET reason = 'x' WHERE sequence = 0"),
    "a decision's actor": ("decision_events", "UPDATE decision_events SET actor = 'eve' WHERE to_status = 'approved'"),
    "a decision's time": ("decision_events", "UPDATE decision_events SET occurred_at = '2026-01-05T00:00:00.000001Z'"),
    "a policy": ("policies", "UPDATE policies SET document = '{}' WHERE version = 1"),
    "a factor by little": ("emission_factors", "UPDATE emission_factors SET value = value + 1e-12 WHERE version = 1"),
    "a signature's end": ("approvals", "UPDATE approvals SET expires_at = NULL"),
    "a review": ("factor_reviews", "UPDATE factor_reviews SET reviewer = 'eve'"),
    "an intent": ("outbox", "UPDATE outbox SET payload = '{}' WHERE state = 'intended'"),
    "a result": ("outbox", "UPDATE outbox SET state = 'failed' WHERE state = 'done'"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_changed_row_is_named(case: Case, edit: str) -> None:
    table, statement = EDITS[edit]
    before = {r[TABLES[table].key[0]]: row_hash(r) for r in case.books.read(table).to_pylist()}
    case.raw(statement)
    after = {r[TABLES[table].key[0]]: row_hash(r) for r in case.books.read(table).to_pylist()}
    changed = {k for k in before if before[k] != after[k]}
    assert changed
    found = case.found()
    assert {what for what, _ in found} == {"row_changed"}
    assert {subject.removeprefix(f"{table} ").split("/")[0] for _, subject in found} == changed


@pytest.mark.parametrize("table", KINDS)
def test_a_deleted_row_is_named(case: Case, table: str) -> None:
    key = TABLES[table].key[0]
    (row, *_) = case.books.read(table).to_pylist()
    case.raw(f"DELETE FROM {table} WHERE {key} = '{row[key]}'")
    found = case.found()
    assert found and all(what == "row_deleted" and str(row[key]) in subject for what, subject in found)


@pytest.mark.parametrize("table", KINDS)
def test_an_added_row_is_named(case: Case, table: str) -> None:
    columns = [c.name for c in TABLES[table].columns]
    key = TABLES[table].key[0]
    values = ", ".join("'forged'" if c == key else c for c in columns)
    if table in ("emission_factors", "decision_events"):  # unique by their natural keys too
        other = {"emission_factors": "version", "decision_events": "sequence"}[table]
        values = ", ".join("'forged'" if c == key else f"{c} + 90" if c == other else c for c in columns)
    case.raw(f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {table} LIMIT 1")
    ((what, subject),) = case.found()
    assert what == "row_added" and subject.startswith(f"{table} forged")


def test_a_row_that_cannot_be_read_is_no_crash(case: Case) -> None:
    case.raw("UPDATE policies SET created_at = 'once upon a time' WHERE version = 1")
    assert ("row_changed", "policies") in case.found()


def test_a_changed_leaf_is_found_with_and_without_its_hash(case: Case) -> None:
    (good, later) = read_checkpoints(case.checkpoints, SIGNER.verifier)
    leaf = make_leaf("policy", "text-1/1", table="policies", row_sha256="0" * 64)
    where = "WHERE kind = 'policy' AND subject = 'text-1/1'"
    case.raw(f"UPDATE {LOG} SET leaf = '{leaf.data.decode()}' {where}")
    assert {what for what, _ in case.found()} >= {"leaf", "root", "row_changed"}
    with pytest.raises(LogError, match="was changed"):
        sign_log(case.books, case.lake, case.checkpoints, SIGNER, NOW)
    # The forger mends the hash beside it, and the row to match: only the checkpoints know.
    (row,) = (r for r in case.books.read("policies").to_pylist() if r["version"] == 1)
    forged = row | {"document": "{}"}
    leaf = make_leaf("policy", "text-1/1", table="policies", row_sha256=row_hash(forged))
    case.raw(
        f"UPDATE {LOG} SET leaf = '{leaf.data.decode()}', leaf_hash = '{leaf_hash(leaf.data).hex()}' {where}",
        "UPDATE policies SET document = '{}' WHERE version = 1",
    )
    assert verify_log(case.books, case.lake).ok, "negative control: without a checkpoint nothing is seen"
    assert case.found(good) == {("root", f"{SIGNER.name} at {good.size}")}
    assert case.found() == {("root", f"{SIGNER.name} at {c.size}") for c in (good, later)}
    with pytest.raises(LogError, match="not signed: the log is not the one that was signed"):
        case.sign()


def test_which_entries_differ_is_narrowed_down(case: Case) -> None:
    (good, later) = read_checkpoints(case.checkpoints, SIGNER.verifier)
    leaf = make_leaf("bundle", "outcome-1", sha256="0" * 64)
    case.raw(f"UPDATE {LOG} SET leaf = '{leaf.data.decode()}', leaf_hash = '{leaf_hash(leaf.data).hex()}' "
             "WHERE kind = 'bundle'")  # fmt: skip
    (problem,) = case.verify().problems
    assert problem.what == "root"
    assert f"an entry from {good.size} to {later.size - 1} differs" in problem.detail


def test_the_newest_entries_gone_is_found_by_an_older_checkpoint(case: Case) -> None:
    newest = case.sign()
    case.raw(
        f"DELETE FROM {LOG} WHERE leaf_index = {newest.size - 1}",
        "DELETE FROM policies WHERE version = 7",
    )
    assert verify_log(case.books, case.lake).ok, "negative control: a log that was cut short looks whole"
    assert case.found() == {("truncated", f"{SIGNER.name} at {newest.size}")}
    with pytest.raises(LogError, match="the newest are gone"):
        case.sign()
    # Growing it again does not help: the entry is another one.
    case.world.handle("governance").append("policies", [sample(POLICIES, 70), sample(POLICIES, 71)])
    assert case.found() == {("root", f"{SIGNER.name} at {newest.size}")}
    with pytest.raises(LogError, match="not signed"):
        case.sign()


def test_an_entry_gone_from_the_middle_is_named(case: Case) -> None:
    case.raw(f"DELETE FROM {LOG} WHERE leaf_index = 3")
    (gap, *others) = case.verify().problems
    assert (gap.what, gap.detail) == ("gap", "entries 3 to 3 are gone")
    assert {p.what for p in others} <= {"row_added", "truncated"} and others
    with pytest.raises(LogError, match="has no entry 3"):
        case.sign()
    case.raw(f"UPDATE {LOG} SET leaf_index = leaf_index - 1 WHERE leaf_index > 3")
    assert ("root", f"{SIGNER.name} at {read_checkpoints(case.checkpoints, SIGNER.verifier)[0].size}") in case.found()


def test_entries_that_changed_places_are_found(case: Case) -> None:
    case.raw(
        f"UPDATE {LOG} SET leaf_index = -1 WHERE leaf_index = 1",
        f"UPDATE {LOG} SET leaf_index = 1 WHERE leaf_index = 2",
        f"UPDATE {LOG} SET leaf_index = 2 WHERE leaf_index = -1",
    )
    assert {what for what, _ in case.found()} == {"root"}


def test_what_is_no_text_is_no_crash(case: Case) -> None:
    case.raw(f"UPDATE {LOG} SET leaf = x'ff00' WHERE leaf_index = 2")
    assert "leaf" in {what for what, _ in case.found()}
    case.raw(f"UPDATE {LOG} SET leaf_index = 'two' WHERE leaf_index = 2")
    assert "gap" in {what for what, _ in case.found()}


def test_a_second_word_on_a_subject_is_found(case: Case) -> None:
    """A forger who changes a row and appends a leaf for it in good form."""
    case.raw("UPDATE policies SET document = '{}' WHERE version = 1")
    (row,) = (r for r in case.books.read("policies").to_pylist() if r["version"] == 1)
    leaf = make_leaf("policy", "text-1/1", table="policies", row_sha256=row_hash(row), late=True)
    size = case.verify().size
    case.raw(
        f"INSERT INTO {LOG} VALUES ({size}, 'policy', 'text-1/1', '{leaf.data.decode()}', "
        f"'{leaf_hash(leaf.data).hex()}', '2026-01-06T00:00:00.000000Z')"
    )
    assert case.found() == {("row_changed", "policies text-1/1"), ("leaf", f"entry {size} (policy text-1/1)")}


@pytest.mark.parametrize(
    "leaf",
    ['{"subject":"x","kind":"policy"}', "{}", "[]", "not json", '{"kind":"policy","subject":"y"}'],
)
def test_a_leaf_in_no_form_is_named(case: Case, leaf: str) -> None:
    size = case.verify().size
    case.raw(
        f"INSERT INTO {LOG} VALUES ({size}, 'policy', 'x', '{leaf}', '{leaf_hash(leaf.encode()).hex()}', "
        "'2026-01-06T00:00:00.000000Z')"
    )
    assert case.found() == {("leaf", f"entry {size} (policy x)")}


# -- the lake -----------------------------------------------------------------------------------------------


def flip(path: Path, at: int = -100) -> None:
    body = bytearray(path.read_bytes())
    body[at] ^= 1
    path.write_bytes(body)


@pytest.mark.parametrize("at", [0, 50, -1])
def test_a_flipped_byte_of_a_file_is_named(case: Case, at: int) -> None:
    path = case.file()
    flip(path, at)
    assert case.found() == {("file_changed", f"{path.relative_to(case.folder / 'lake').as_posix()}")}


def test_a_flipped_byte_of_a_file_that_was_restated_is_named(case: Case) -> None:
    (first, *_) = case.leaves("partition")[0]["added"]
    flip(case.folder / "lake" / GRID.name / first)
    assert case.found() == {("file_changed", f"{GRID.name}/{first}")}


def test_a_missing_file_is_named(case: Case) -> None:
    path = case.file()
    path.unlink()
    assert case.found() == {("file_gone", f"{path.relative_to(case.folder / 'lake').as_posix()}")}


def test_a_foreign_commit_is_named_and_not_committed_to(case: Case) -> None:
    rows = case.grid(1, first=20).append_column("date", pa.array([START.date()]))
    write_deltalake(case.lake.uri(GRID.name), rows, mode="append")
    subject = f"{GRID.name}/{case.lake.version(GRID.name)}"
    assert reconcile(case.books, case.lake, NOW).foreign == (subject,)
    assert ("foreign", subject) in case.found()


def test_a_rewritten_commit_is_named(case: Case) -> None:
    version = case.leaves("partition")[1]["version"]
    path = case.folder / "lake" / GRID.name / "_delta_log" / f"{version:020d}.json"
    lines = path.read_text().splitlines()
    dropped = next(line for line in lines if '"add"' in line)
    path.write_text("\n".join(line for line in lines if line != dropped) + "\n")
    hidden = json.loads(dropped)["add"]["path"].replace("%3D", "=")
    assert case.found() == {("commit", f"{GRID.name}/{version}"), ("file_hidden", f"{GRID.name}/{hidden}")}


def test_the_newest_commit_of_a_table_gone_is_named(case: Case) -> None:
    """The lake put back to what it was before a restatement."""
    newest = case.leaves("partition")[-1]
    (case.folder / "lake" / GRID.name / "_delta_log" / f"{newest['version']:020d}.json").unlink()
    assert case.found() == {("commit", f"{GRID.name}/{newest['version']}")}


def test_a_commit_gone_from_the_middle_is_named(case: Case) -> None:
    version = case.leaves("partition")[1]["version"]
    (case.folder / "lake" / GRID.name / "_delta_log" / f"{version:020d}.json").unlink()
    found = case.found()
    assert {what for what, _ in found} == {"commit"} and ("commit", f"{GRID.name}/{version}") in found


def test_a_whole_table_gone_is_named(case: Case) -> None:
    shutil.rmtree(case.folder / "lake" / GRID.name)
    what = {w for w, _ in case.found()}
    assert what == {"commit", "file_gone"}


@pytest.mark.parametrize(("body", "what"), [(None, "bundle_gone"), (b"{}", "bundle_changed")])
def test_a_bundle_is_held_against_its_leaf(case: Case, body: bytes | None, what: str) -> None:
    found = verify_log(case.books, case.lake, bundles=lambda _: body).problems
    assert [(p.what, p.subject) for p in found] == [(what, "outcome-1")]


def test_a_lake_on_an_object_store_is_held_against_the_log_too(s3: str, tmp_path: Path) -> None:
    import boto3

    case = Case(tmp_path)
    case.lake = case.world.lake = Lake(f"{s3}/lake")
    case.write(2)
    assert case.verify().ok and case.verify().files == 2
    (leaf,) = case.leaves()
    client, bucket = boto3.client("s3"), s3.removeprefix("s3://")
    first, second = (f"lake/{GRID.name}/{path}" for path in leaf["added"])
    client.delete_object(Bucket=bucket, Key=first)
    client.put_object(Bucket=bucket, Key=second, Body=b"PAR1")
    assert case.found() == {("file_gone", first.removeprefix("lake/")), ("file_changed", second.removeprefix("lake/"))}
    case.world.close()


# -- checkpoints and proofs ---------------------------------------------------------------------------------


def test_a_log_is_signed_once_per_size(fresh: Case) -> None:
    empty = sign_log(fresh.books, None, fresh.checkpoints, SIGNER, NOW)
    assert (empty.checkpoint.size, empty.new) == (0, True)
    assert not sign_log(fresh.books, None, fresh.checkpoints, SIGNER, NOW).new
    fresh.write(2)
    signed = sign_log(fresh.books, fresh.lake, fresh.checkpoints, SIGNER, NOW)
    assert (signed.checkpoint.size, signed.new) == (1, True)
    assert read_checkpoints(fresh.checkpoints, SIGNER.verifier) == [empty.checkpoint, signed.checkpoint]
    assert fresh.verify().ok and fresh.verify().checkpoints == 2


def test_another_key_does_not_sign_into_the_folder(case: Case) -> None:
    other = Signer("log.example/test", bytes(31) + b"\x01")
    with pytest.raises(CheckpointError, match="not signed by"):
        sign_log(case.books, case.lake, case.checkpoints, other, NOW)


def test_a_changed_checkpoint_stops_the_signing(case: Case) -> None:
    path = min(case.checkpoints.glob("*.checkpoint"))
    path.write_text(path.read_text().replace("\n", "\n", 1).replace("A", "B", 1))
    with pytest.raises(CheckpointError):
        case.sign()


def test_proofs_hold_against_the_checkpoints(case: Case) -> None:
    (old, new) = read_checkpoints(case.checkpoints, SIGNER.verifier)
    consistency = prove_consistency(case.books, old.size, new.size)
    proof = [bytes.fromhex(h) for h in consistency.proof]
    assert verify_consistency(old.size, new.size, proof, old.root, new.root)
    assert (consistency.first_root, consistency.second_root) == (old.root.hex(), new.root.hex())
    for index in range(new.size):
        inclusion = prove_inclusion(case.books, index, new.size)
        steps = [bytes.fromhex(h) for h in inclusion.proof]
        leaf = inclusion.leaf.encode()
        assert verify_inclusion(leaf_hash(leaf), index, new.size, steps, new.root)
        assert not verify_inclusion(leaf_hash(leaf + b" "), index, new.size, steps, new.root)
    assert prove_inclusion(case.books, 0).size == new.size + 1
    for ask in (lambda: prove_inclusion(case.books, 999), lambda: prove_inclusion(case.books, 0, 999)):
        with pytest.raises(LogError, match="leaves"):
            ask()
    with pytest.raises(LogError, match="is the beginning of"):
        prove_consistency(case.books, new.size, old.size)


def test_the_check_in_the_documentation_works(case: Case) -> None:
    """The program of docs/audit.md, run as it stands there on a proof, a checkpoint and its neighbour."""
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
    program = next(part for part in page.split("```python\n")[1:] if "def check_inclusion" in part).split("```")[0]
    names: dict[str, Any] = {}
    exec(program, names)
    check = {
        n: cast("Callable[..., Any]", names[n]) for n in ("open_checkpoint", "check_inclusion", "check_consistency")
    }
    vkey = str(SIGNER.verifier)
    (old, new) = [check["open_checkpoint"](p.read_text(), vkey) for p in sorted(case.checkpoints.glob("*.checkpoint"))]
    inclusion = prove_inclusion(case.books, 4, new[0])
    consistency = prove_consistency(case.books, old[0], new[0])
    assert check["check_inclusion"](inclusion.leaf, 4, inclusion.proof, *new)
    assert check["check_consistency"](*old, *new, consistency.proof)
    assert not check["check_inclusion"](inclusion.leaf, 5, inclusion.proof, *new)
    assert not check["check_inclusion"](inclusion.leaf + " ", 4, inclusion.proof, *new)
    assert not check["check_consistency"](old[0] - 1, old[1], *new, consistency.proof)
    changed = min(case.checkpoints.glob("*.checkpoint")).read_text().replace(f"\n{old[0]}\n", f"\n{old[0] + 1}\n")
    with pytest.raises(Exception, match=r"^$"):  # InvalidSignature says no word
        check["open_checkpoint"](changed, vkey)


def test_the_root_and_a_row_by_the_documentation(
    case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
    program = next(part for part in page.split("```python\n")[1:] if "import sqlite3" in part).split("```")[0]
    monkeypatch.chdir(case.folder)
    names: dict[str, Any] = {}
    exec(program, names)
    names["books"].close()
    (size, root), (event, sha) = (line.split() for line in capsys.readouterr().out.splitlines())
    assert (int(size), root) == (case.verify().size, case.verify().root)
    (index,) = find_leaves(case.books, "decision", event)
    assert json.loads(prove_inclusion(case.books, index).leaf)["row_sha256"] == sha
