"""The transparency log: what was committed to, in order, so that nothing can be changed afterwards unseen.

Belongs here: what a leaf says, appending leaves, late leaves for commits that lost theirs to a crash, proofs, signing
for the log, and holding books and lake against it. Does not belong here: the tree (``merkle``), signatures and their
files (``checkpoint``), when a leaf is due (``access``).

A leaf is the RFC 8785 text of an object with ``kind``, ``subject`` and digests. ``LOG_COMMITMENTS`` holds the leaves in
order, without a gap: whoever appends holds a lock until its transaction ends (on SQLite the write lock, on PostgreSQL
an advisory lock of the log's own, taken last). The time of a leaf is not part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from deltalake.exceptions import DeltaError

from sust_dagster.world.books import Books, Transaction
from sust_dagster.world.books_schema import TABLES_SQL
from sust_dagster.world.canonical import EXACT, canonical_bytes
from sust_dagster.world.checkpoint import Checkpoint, Signer, read_checkpoints, write_checkpoint
from sust_dagster.world.lake import Commit, Lake, LakeError
from sust_dagster.world.merkle import Tree, leaf_hash
from sust_dagster.world.schemas import TABLES, Agent, tables

#: Table of the books → kind of the leaf that each of its rows gets. Other tables follow from these or from the lake.
KINDS: Mapping[str, str] = {
    "decision_events": "decision",
    "approvals": "approval",
    "policies": "policy",
    "policy_reviews": "policy_review",
    "emission_factors": "factor",
    "factor_reviews": "factor_review",
    "outbox": "execution",
}
#: Kinds beside those: an intent with its frozen baseline, a commit of the lake, an evidence bundle.
BASELINE, PARTITION, BUNDLE = "baseline", "partition", "bundle"

#: The table that holds the leaves.
LOG = "log_commitments"
_LOG = TABLES_SQL[LOG]
_HEAD, _NEW_LEAF = sa.select(sa.func.max(_LOG.c.leaf_index)), _LOG.insert()
_STREAM = 5_000


class LogError(RuntimeError):
    """The log is not whole, or was asked for what it does not hold; nothing is signed for it."""


# -- leaves -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    """One entry to be: its kind, what it is about and the bytes that are hashed."""

    kind: str
    subject: str
    data: bytes


def make_leaf(kind: str, subject: str, **fields: Any) -> Leaf:
    """The leaf of a kind and subject with its digest fields."""
    return Leaf(kind, subject, canonical_bytes({"kind": kind, "subject": subject, **fields}))


def partition_leaf(commit: Commit, *, late: bool = False) -> Leaf:
    """The leaf of a commit of the lake: the files added and removed; a file's name holds the SHA-256 of its bytes."""
    return make_leaf(PARTITION, f"{commit.table}/{commit.version}", **_commit_fields(commit), **_late(late))


def bundle_leaf(subject: str, sha256: str) -> Leaf:
    """The leaf of an evidence bundle."""
    if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise ValueError(f"bundle of {subject}: {sha256[:80]!r} is no SHA-256 in 64 hexadecimal digits")
    return make_leaf(BUNDLE, subject, sha256=sha256)


def row_leaves(table: str, rows: Iterable[Mapping[str, Any]], *, late: bool = False) -> list[Leaf]:
    """The leaves of rows of the books; none for a table that is not in the log."""
    if table not in KINDS:
        return []
    return [_row_leaf(table, row, late) for row in rows]


def _row_leaf(table: str, row: Mapping[str, Any], late: bool) -> Leaf:
    kind, fields = KINDS[table], {"table": table, "row_sha256": row_hash(row), **_late(late)}
    if table == "outbox" and row["state"] == "intended":
        kind, fields = BASELINE, fields | _frozen(row["payload"])
    return make_leaf(kind, subject_of(table, row), **fields)


def _frozen(payload: str) -> dict[str, str]:
    """The hashes that an intent carries; its row's hash covers them too."""
    try:
        said = json.loads(payload)
    except ValueError:
        return {}
    said = said if isinstance(said, dict) else {}
    return {name: said[name] for name in ("baseline_hash", "change_hash") if isinstance(said.get(name), str)}


def subject_of(table: str, row: Mapping[str, Any]) -> str:
    """The key of a row as one text: its columns joined by '/'."""
    return "/".join(str(row[k]) for k in TABLES[table].key)


def row_hash(row: Mapping[str, Any]) -> str:
    """SHA-256 of the RFC 8785 text of a row, 64 hexadecimal digits.

    Columns that are null are left out, so that a column added later changes no hash; instants are written as
    ``2026-01-05T00:00:00.000000Z``; integers beyond 2^53 as text.
    """
    return hashlib.sha256(canonical_bytes({k: _plain(v) for k, v in row.items() if v is not None})).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= EXACT:
        return str(value)
    return value


def _late(late: bool) -> dict[str, bool]:
    return {"late": True} if late else {}


def _commit_fields(commit: Commit) -> dict[str, Any]:
    return {
        "table": commit.table,
        "version": commit.version,
        "writer": commit.writer,
        "start": commit.start,
        "end": commit.end,
        "added": list(commit.added),
        "removed": list(commit.removed),
    }


# -- appending ----------------------------------------------------------------------------------------------


def append_leaves(transaction: Transaction, leaves: Sequence[Leaf], now: datetime) -> int:
    """Append leaves with the transaction, in order; returns the index of the first (-1 when there are none).

    The last thing a transaction does: on PostgreSQL it holds the lock of the log from here to its end.
    """
    if not leaves:
        return -1
    transaction.lock_log()
    connection = transaction.connection
    # By the key's index, whatever the length of the log.
    head = connection.execute(_HEAD).scalar()
    first = 0 if head is None else head + 1
    rows = [
        {
            "leaf_index": first + i,
            "kind": leaf.kind,
            "subject": leaf.subject,
            "leaf": leaf.data.decode(),
            "leaf_hash": leaf_hash(leaf.data).hex(),
            "committed_at": now,
        }
        for i, leaf in enumerate(leaves)
    ]
    connection.execute(_NEW_LEAF, rows)
    return first


@dataclass(frozen=True)
class Reconciled:
    """What was without a leaf, by subject: what got a late one, compactions, and commits that got none."""

    late: tuple[str, ...] = ()
    compactions: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


def reconcile(books: Books, lake: Lake, now: datetime, *, agent: Agent = "governance") -> Reconciled:
    """Append the leaves of lake commits that have none, marked late.

    A crash between a commit and its leaf leaves one behind. Compactions get theirs here too and are not late: they
    change no content, which :func:`verify_log` checks. Commits that do not carry this product's marks are not
    committed to: they are returned as ``foreign``, and :func:`verify_log` names them.
    """
    versions = {t.name: lake.version(t.name) for t in tables("lake")}
    with books.transaction(agent) as transaction:
        transaction.lock_log()
        chosen = sa.select(_LOG.c.subject).where(_LOG.c.kind == PARTITION)
        known = set(transaction.connection.execute(chosen).scalars())
        late, folded, foreign = [], [], []
        for commit in _commits_without(lake, versions, known):
            (folded if commit.compaction else late if commit.writer else foreign).append(commit)
        leaves = [partition_leaf(c, late=not c.compaction) for c in (*late, *folded)]
        append_leaves(transaction, leaves, now)
    return Reconciled(*(tuple(f"{c.table}/{c.version}" for c in found) for found in (late, folded, foreign)))


def adopt(books: Books, now: datetime, *, agent: Agent = "governance") -> Reconciled:
    """Append the leaves of rows of the books that have none, marked late.

    For books that are older than the log, once, by a person's decision: it also takes in whatever was added behind
    the log's back, which :func:`verify_log` would have named.
    """
    with books.transaction(agent) as transaction:
        transaction.lock_log()
        chosen = sa.select(_LOG.c.kind, _LOG.c.subject).where(_LOG.c.kind.in_([*KINDS.values(), BASELINE]))
        known = {tuple(r) for r in transaction.connection.execute(chosen)}
        leaves = [
            leaf
            for table in KINDS
            for leaf in row_leaves(table, transaction.read(table).to_pylist(), late=True)
            if (leaf.kind, leaf.subject) not in known
        ]
        append_leaves(transaction, leaves, now)
    return Reconciled(tuple(f"{leaf.kind} {leaf.subject}" for leaf in leaves))


def _commits_without(lake: Lake, versions: Mapping[str, int | None], known: set[str]) -> Iterator[Commit]:
    """Commits up to these versions that moved files and are not among the known subjects."""
    for table, newest in versions.items():
        for version in range(0 if newest is None else newest + 1):
            if f"{table}/{version}" not in known:
                commit = lake.commit(table, version)
                if commit.added or commit.removed:
                    yield commit


# -- reading ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One row of the log as it is stored."""

    index: int
    kind: str
    subject: str
    leaf: str
    leaf_hash: str


@contextmanager
def _entries(transaction: Transaction) -> Generator[Iterator[Entry]]:
    query = sa.select(_LOG.c.leaf_index, _LOG.c.kind, _LOG.c.subject, _LOG.c.leaf, _LOG.c.leaf_hash)
    result = transaction.connection.execution_options(yield_per=_STREAM).execute(query.order_by(_LOG.c.leaf_index))
    with result:
        # Whoever owns the file may have put anything there: what is no number is no index.
        yield (Entry(i if isinstance(i, int) else -1, *map(str, texts)) for i, *texts in result)


def read_tree(books: Books) -> Tree:
    """The tree over the leaves, hashed anew.

    Raises :class:`LogError` when an index is missing or a leaf does not have the hash beside it.
    """
    hashes: list[bytes] = []
    with books.snapshot() as snapshot, _entries(snapshot) as entries:
        for entry in entries:
            if entry.index != len(hashes):
                raise LogError(f"the log has no entry {len(hashes)}: the next one is {entry.index}")
            hashes.append(leaf_hash(entry.leaf.encode()))
            if hashes[-1].hex() != entry.leaf_hash:
                raise LogError(f"entry {entry.index} of the log ({entry.kind} {entry.subject}) was changed")
    return Tree(hashes)


@dataclass(frozen=True)
class InclusionProof:
    """That a leaf is at an index of the tree of a size with a root; hashes are hexadecimal, lowest first."""

    index: int
    size: int
    leaf: str
    leaf_hash: str
    proof: tuple[str, ...]
    root: str


@dataclass(frozen=True)
class ConsistencyProof:
    """That the tree of the second size begins with that of the first; hashes are hexadecimal, lowest first."""

    first: int
    second: int
    first_root: str
    second_root: str
    proof: tuple[str, ...]


def find_leaves(books: Books, kind: str, subject: str) -> list[int]:
    """Indices of the leaves of a subject, in order: a row's key, or ``table/version`` of a lake commit."""
    with books.snapshot() as snapshot:
        chosen = sa.select(_LOG.c.leaf_index).where(_LOG.c.kind == kind, _LOG.c.subject == subject)
        return list(snapshot.connection.execute(chosen.order_by(_LOG.c.leaf_index)).scalars())


def prove_inclusion(books: Books, index: int, size: int | None = None) -> InclusionProof:
    """The proof of a leaf in the tree of ``size`` leaves (default: all; give a checkpoint's size to check it there)."""
    tree = read_tree(books)
    size = tree.size if size is None else size
    try:
        proof, root = tree.inclusion_proof(index, size), tree.root(size)
    except ValueError as error:
        raise LogError(str(error)) from error
    with books.snapshot() as snapshot:
        leaf = snapshot.connection.execute(sa.select(_LOG.c.leaf).where(_LOG.c.leaf_index == index)).scalar_one()
    return InclusionProof(index, size, leaf, tree.leaf(index).hex(), tuple(h.hex() for h in proof), root.hex())


def prove_consistency(books: Books, first: int, second: int | None = None) -> ConsistencyProof:
    """The proof that the log of ``second`` leaves (default: all) begins with that of ``first``."""
    tree = read_tree(books)
    second = tree.size if second is None else second
    try:
        proof = tree.consistency_proof(first, second)
        return ConsistencyProof(
            first, second, tree.root(first).hex(), tree.root(second).hex(), tuple(h.hex() for h in proof)
        )
    except ValueError as error:
        raise LogError(str(error)) from error


# -- signing ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Signed:
    """A checkpoint of the log, where it lies, whether it is new, and what was reconciled before it."""

    checkpoint: Checkpoint
    path: Path
    new: bool
    reconciled: Reconciled


def sign_log(books: Books, lake: Lake | None, folder: Path, signer: Signer, now: datetime) -> Signed:
    """Reconcile with the lake and sign for the log as it is now.

    Raises :class:`LogError`, and signs nothing, when the log is not whole or does not extend every checkpoint of the
    folder; ``CheckpointError`` when a checkpoint there is not this key's. A log of the size of the newest checkpoint
    needs no new one.
    """
    reconciled = Reconciled() if lake is None else reconcile(books, lake, now)
    earlier = read_checkpoints(folder, signer.verifier)
    tree = read_tree(books)
    against = list(_against(tree, earlier))
    if against:
        raise LogError(f"not signed: {against[0].detail}")
    checkpoint = Checkpoint(signer.name, tree.size, tree.root())
    new = not earlier or earlier[-1].size < tree.size
    return Signed(checkpoint, write_checkpoint(folder, checkpoint, signer), new, reconciled)


# -- verifying ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """One thing that is not as the log says: what kind of thing, which one, and how it differs."""

    what: str
    subject: str
    detail: str

    def __str__(self) -> str:
        return f"{self.what}: {self.subject}: {self.detail}"


@dataclass(frozen=True)
class Verification:
    """The log held against checkpoints, books and lake. ``notes`` are no faults: commits whose leaf came late."""

    size: int
    root: str
    checkpoints: int
    rows: int
    files: int
    bundles: int
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass
class _Found:
    """What a reading of the log gathers."""

    hashes: list[bytes] = field(default_factory=list)
    rows: dict[tuple[str, str], str] = field(default_factory=dict)
    """(table, subject) → hash of the row, by the first leaf that says so."""
    commits: dict[tuple[str, int], Commit] = field(default_factory=dict)
    late: set[tuple[str, int]] = field(default_factory=set)
    bundles: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)


def verify_log(
    books: Books,
    lake: Lake | None,
    checkpoints: Checkpoint | Sequence[Checkpoint] = (),
    *,
    bundles: Callable[[str], bytes | None] | None = None,
) -> Verification:
    """Hold the books and the lake against the log, and the log against checkpoints.

    Checked: every leaf's hash, form and index; the root at every checkpoint; every row of the tables in
    :data:`KINDS` against its leaf, both ways; every commit of the lake and the bytes of every file that was ever
    committed, and which files are current; every bundle, where ``bundles`` gives the bytes of a SHA-256 (``None``:
    gone). ``checkpoints`` are those that were read with their signature (``read_checkpoints``); without one kept
    elsewhere, a log that was cut short or rewritten whole looks whole.

    It writes nothing. A write at the same time may show as a commit whose leaf is still to come.
    """
    signed = [checkpoints] if isinstance(checkpoints, Checkpoint) else list(checkpoints)
    unreadable: list[Problem] = []
    versions = {} if lake is None else dict(_versions(lake, unreadable))
    with books.snapshot() as snapshot:
        found = _read_log(snapshot)
        found.problems += unreadable
        rows = sum(_check_table(snapshot, table, found) for table in KINDS)
    tree = Tree(found.hashes)
    found.problems += _against(tree, signed)
    files = 0 if lake is None else _check_lake(lake, versions, found)
    if bundles is not None:
        _check_bundles(bundles, found)
    return Verification(
        tree.size,
        tree.root().hex(),
        len(signed),
        rows,
        files,
        len(found.bundles),
        tuple(found.problems),
        tuple(found.notes),
    )


def _against(tree: Tree, checkpoints: Iterable[Checkpoint]) -> Iterator[Problem]:
    """The checkpoints that the tree does not extend, smallest first."""
    good = 0
    for checkpoint in sorted(checkpoints, key=lambda c: c.size):
        name = f"{checkpoint.origin} at {checkpoint.size}"
        if checkpoint.size > tree.size:
            gone = f"{checkpoint.size} entries were signed for, the log holds {tree.size}: the newest are gone"
            yield Problem("truncated", name, gone)
        elif tree.root(checkpoint.size) != checkpoint.root:
            where = f"the log is not the one that was signed: an entry from {good} to {checkpoint.size - 1} differs"
            yield Problem("root", name, where)
        else:
            good = checkpoint.size


def _read_log(snapshot: Transaction) -> _Found:
    found, expected = _Found(), 0
    whole = True
    with _entries(snapshot) as entries:
        for entry in entries:
            name = f"entry {entry.index} ({entry.kind} {entry.subject})"
            if entry.index != expected:
                whole = False
                gap = f"entries {expected} to {entry.index - 1} are gone" if entry.index > expected else "out of order"
                found.problems.append(Problem("gap", name, gap))
            expected = entry.index + 1
            computed = leaf_hash(entry.leaf.encode())
            if computed.hex() != entry.leaf_hash:
                found.problems.append(Problem("leaf", name, "its text does not have the hash beside it"))
            if whole:
                found.hashes.append(computed)
            try:
                _take(entry, found)
            except (ValueError, KeyError, TypeError) as error:
                found.problems.append(Problem("leaf", name, f"it cannot be read as a leaf: {error!r}"))
    found.notes += [
        Problem("late", f"{table}/{version}", "its leaf was written later than its commit, by the reconciliation")
        for table, version in sorted(found.late)
    ]
    return found


def _take(entry: Entry, found: _Found) -> None:
    """Note what an entry commits to; the first word on a subject stands, another one is a problem."""
    said = json.loads(entry.leaf)
    if canonical_bytes(said) != entry.leaf.encode():
        raise ValueError("its text is not the canonical one")
    if (said["kind"], said["subject"]) != (entry.kind, entry.subject):
        raise ValueError(f"it says {said['kind']} {said['subject']}")
    held: Any = None
    if entry.kind == BUNDLE:
        found.bundles.append((entry.subject, said["sha256"]))
    elif entry.kind == PARTITION:
        fields = {name: said[name] for name in ("table", "version", "writer", "start", "end")}
        commit = Commit(**fields, added=tuple(said["added"]), removed=tuple(said["removed"]))
        key = commit.table, commit.version
        if said.get("late") and key not in found.commits:
            found.late.add(key)
        elif not said.get("late"):
            found.late.discard(key)
        held, new = found.commits.setdefault(key, commit), commit
    elif said["table"] in KINDS:
        held, new = found.rows.setdefault((said["table"], entry.subject), said["row_sha256"]), said["row_sha256"]
    else:
        raise ValueError(f"there is no table {said['table']} in the log")
    if held is not None and held != new:
        raise ValueError("an earlier entry on the same subject says otherwise")


def _check_table(snapshot: Transaction, table: str, found: _Found) -> int:
    """Hold a table's rows against their leaves; returns how many rows there are."""
    try:
        rows = snapshot.read(table).to_pylist()
    except (ValueError, TypeError, OverflowError, pa.ArrowException) as error:
        found.problems.append(Problem("row_changed", table, f"its rows cannot be read: {error}"))
        return 0
    logged = {subject: sha for (name, subject), sha in found.rows.items() if name == table}
    for row in rows:
        subject = subject_of(table, row)
        committed = logged.pop(subject, None)
        if committed is None:
            text = "no leaf of the log commits to this row: it was added behind the log's back or before there was one"
            found.problems.append(Problem("row_added", f"{table} {subject}", text))
        elif committed != _hash_or_nothing(row):
            found.problems.append(
                Problem("row_changed", f"{table} {subject}", "it is not the row that was committed to")
            )
    found.problems += [
        Problem("row_deleted", f"{table} {subject}", "the log commits to this row, and it is not there")
        for subject in logged
    ]
    return len(rows)


def _hash_or_nothing(row: Mapping[str, Any]) -> str | None:
    try:
        return row_hash(row)
    except ValueError:  # a number that is none, a text that is none: nothing that was ever committed to
        return None


def _versions(lake: Lake, problems: list[Problem]) -> Iterator[tuple[str, int | None]]:
    for spec in tables("lake"):
        try:
            yield spec.name, lake.version(spec.name)
        except (DeltaError, OSError, ValueError) as error:
            problems.append(Problem("commit", spec.name, f"the table cannot be opened: {error}"))


def _check_lake(lake: Lake, versions: Mapping[str, int | None], found: _Found) -> int:
    """Hold the lake against the log; returns how many files were looked at."""
    known = {f"{table}/{version}" for table, version in found.commits}
    by_table: dict[str, dict[int, Commit]] = {}
    for (table, version), commit in found.commits.items():
        by_table.setdefault(table, {})[version] = commit
    looked: dict[tuple[str, str], bool] = {}
    for table in sorted({*by_table, *(t for t, v in versions.items() if v is not None)}):
        commits = by_table.get(table, {})
        try:
            for commit in _commits_without(lake, {table: versions.get(table)}, known):
                commits[commit.version] = commit
                found.problems.append(_without_leaf(commit))
        except LakeError as error:
            found.problems.append(Problem("commit", table, str(error)))
        for _, commit in sorted(commits.items()):
            _check_commit(lake, commit, looked, found)
        if table in versions:
            _check_current(lake, table, versions[table], commits, found)
    return len(looked)


def _without_leaf(commit: Commit) -> Problem:
    subject = f"{commit.table}/{commit.version}"
    if not commit.writer:
        return Problem("foreign", subject, f"a commit that this product did not make; it added {_some(commit.added)}")
    return Problem("unlogged", subject, f"a commit of {commit.writer} without a leaf: reconcile, then look who made it")


def _check_commit(lake: Lake, commit: Commit, looked: dict[tuple[str, str], bool], found: _Found) -> None:
    subject = f"{commit.table}/{commit.version}"
    try:
        if lake.commit(commit.table, commit.version) != commit:
            found.problems.append(Problem("commit", subject, "the lake's commit log says otherwise than the leaf"))
    except LakeError as error:
        found.problems.append(Problem("commit", subject, str(error)))
    for path in commit.added:
        if (commit.table, path) not in looked:
            looked[commit.table, path] = _check_file(lake, commit.table, path, found)
    if commit.compaction and all(looked.get((commit.table, p)) for p in (*commit.added, *commit.removed)):
        try:
            fault = lake.fold_fault(commit)
        except (pa.ArrowException, OSError, ValueError) as error:
            fault = f"its files cannot be read: {error}"
        if fault:
            found.problems.append(Problem("compaction", subject, fault))


def _check_file(lake: Lake, table: str, path: str, found: _Found) -> bool:
    """Whether a file's bytes are those in its name."""
    digest = lake.file_digest(table, path)
    if digest is None:
        found.problems.append(Problem("file_gone", f"{table}/{path}", "the log commits to this file"))
    elif not path.endswith(f"-{digest}.parquet"):
        found.problems.append(Problem("file_changed", f"{table}/{path}", f"its bytes have the SHA-256 {digest}"))
    else:
        return True
    return False


def _check_current(lake: Lake, table: str, version: int | None, commits: Mapping[int, Commit], found: _Found) -> None:
    """The files that readers see are those that the commits, one after the other, leave."""
    expected: set[str] = set()
    for number, commit in sorted(commits.items()):
        if version is not None and number <= version:
            expected = (expected - set(commit.removed)) | set(commit.added)
    try:
        seen = set() if version is None else lake.files(table, version)
    except (DeltaError, OSError, ValueError) as error:
        found.problems.append(Problem("commit", table, f"its current files cannot be read: {error}"))
        return
    for path in sorted(seen - expected):
        found.problems.append(Problem("file_added", f"{table}/{path}", "readers see it, and no commit has added it"))
    for path in sorted(expected - seen):
        found.problems.append(Problem("file_hidden", f"{table}/{path}", "readers do not see it, and no commit took it"))


def _check_bundles(bundles: Callable[[str], bytes | None], found: _Found) -> None:
    for subject, sha in found.bundles:
        body = bundles(sha)
        if body is None:
            found.problems.append(Problem("bundle_gone", subject, f"the log commits to the bundle {sha}"))
        elif hashlib.sha256(body).hexdigest() != sha:
            found.problems.append(Problem("bundle_changed", subject, f"its bytes no longer have the SHA-256 {sha}"))


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "") or "no file"
