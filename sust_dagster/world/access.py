"""The handle a step receives: it can read and write what its agent may, and nothing else.

Belongs here: holding an agent to the permission matrix at run time, and the access log. Does not belong here:
the matrix (``permissions``), storage (``lake``, ``books``).

What the access log holds: every refusal, at once and whatever becomes of the step; every write that changed
something, in the transaction that wrote it where that is the books; reads as counts per agent and table,
written with the agent's next write or by :meth:`World.close`, so that a read costs a dictionary entry and no
disk. A write of what is there already is no write.

What is committed to gets its leaf in the transparency log (``transparency``) here too: rows of the books in their own
transaction, a commit of the lake right after it.
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, Self

import pyarrow as pa
import pyarrow.dataset as pads
import sqlalchemy as sa

from sust_dagster.world.books import AppendResult, Books, Rows, Transaction, Where
from sust_dagster.world.decisions import VERB_BY_STATUS, Decided, Transition, TransitionRefused
from sust_dagster.world.permissions import EVIDENCE, SIGNED, PermissionRefused, allowed, check, resolve
from sust_dagster.world.schemas import AGENTS, Agent
from sust_dagster.world.transparency import LOG, Leaf, append_leaves, bundle_leaf, partition_leaf, row_leaves

if TYPE_CHECKING:
    from sust_dagster.world.lake import WriteResult


class LakeStore(Protocol):
    """What the handles need of the lake."""

    def write(
        self,
        table: str,
        data: pa.Table,
        start: datetime,
        end: datetime,
        *,
        writer: str,
        reason: str | None = None,
        run_id: str | None = None,
    ) -> WriteResult: ...

    def read(
        self,
        table: str,
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        columns: Sequence[str] | None = None,
        as_of: int | datetime | None = None,
    ) -> pa.Table: ...

    def dataset(
        self,
        table: str,
        start: datetime | None = None,
        end: datetime | None = None,
        as_of: int | datetime | None = None,
    ) -> pads.Dataset: ...


def _verb(to_status: Any) -> str:
    """The verb of a transition; for a state there is not, a word that is nobody's verb."""
    return VERB_BY_STATUS.get(to_status, f"transition to '{to_status}'")


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class _Notes:
    """What is to be written down about work that is done: entries of the access log, leaves of the log."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    leaves: list[Leaf] = field(default_factory=list)


class World:
    """The shared memory, and the only giver of handles.

    ``clock`` dates the access log, the transparency log and undated events.
    """

    def __init__(self, lake: LakeStore, books: Books, *, clock: Callable[[], datetime] = _utc_now) -> None:
        self.lake = lake
        self.books = books
        self.clock = clock
        self._reads: Counter[tuple[Agent, str]] = Counter()
        self._lock = threading.Lock()
        self._thread = threading.local()

    def handle(self, agent: Agent) -> AgentHandle:
        """What this agent may do, and no more."""
        if agent not in AGENTS:
            raise ValueError(f"there is no agent '{agent}'; agents: {', '.join(AGENTS)}")
        return AgentHandle(self, agent)

    def close(self) -> None:
        """Write down the reads that no write has carried yet, and close the books."""
        with self._lock:
            agents = {agent for agent, _ in self._reads}
        for agent in sorted(agents):
            with self.books.transaction(agent) as transaction:
                transaction.append("access_log", self.pending_reads(agent))
        self.books.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the access log -----------------------------------------------------------------------------

    def record(self, agent: Agent, entries: Sequence[dict[str, Any]], leaves: Sequence[Leaf] = ()) -> None:
        """Write entries and leaves now, or as soon as this thread's open transaction has ended, however it ends."""
        later: _Notes | None = getattr(self._thread, "later", None)
        if later is not None:
            later.entries.extend(entries)
            later.leaves.extend(leaves)
            return
        with self.books.transaction(agent) as transaction:
            transaction.append("access_log", entries)
            append_leaves(transaction, leaves, self.clock())

    @contextmanager
    def deferred(self, agent: Agent) -> Generator[None]:
        """Hold entries back while a transaction has the write lock; what is undone must not undo them."""
        later = _Notes()
        outer = getattr(self._thread, "later", None)
        self._thread.later = later
        try:
            yield
        finally:
            self._thread.later = outer
            if later.entries or later.leaves:
                self.record(agent, later.entries, later.leaves)

    def count_read(self, agent: Agent, table: str) -> None:
        with self._lock:
            self._reads[agent, resolve(table)] += 1

    def pending_reads(self, agent: Agent) -> list[dict[str, Any]]:
        """Entries for the reads of an agent since they were last written down."""
        with self._lock:
            counts = {table: n for (a, table), n in self._reads.items() if a == agent}
            for table in counts:
                del self._reads[agent, table]
        return [self.entry(agent, t, "read", allowed=True, detail=f"reads={n}") for t, n in sorted(counts.items())]

    def entry(self, agent: Agent, table: str, verb: str, *, allowed: bool, detail: str | None) -> dict[str, Any]:
        return {
            "entry_id": str(uuid.uuid4()),
            "agent": agent,
            "table_name": table,
            "verb": verb,
            "allowed": allowed,
            "detail": detail,
            "occurred_at": self.clock(),
        }


class AgentHandle:
    """The world as one agent may use it. Whatever the matrix does not allow raises ``PermissionRefused``."""

    def __init__(self, world: World, agent: Agent) -> None:
        self._world = world
        self.agent: Agent = agent

    def can(self, table: str, verb: str) -> bool:
        """Whether the agent may; asking is not trying, and is not recorded."""
        return allowed(self.agent, table, verb)

    # -- lake ---------------------------------------------------------------------------------------

    def write_lake(
        self,
        table: str,
        data: pa.Table,
        start: datetime,
        end: datetime,
        reason: str | None = None,
        run_id: str | None = None,
    ) -> WriteResult:
        """Make ``data`` the whole content of ``[start, end)`` of a lake table."""
        span = f"{start.isoformat()}/{end.isoformat()}"
        self.require(table, "write", span)
        result = self._world.lake.write(table, data, start, end, writer=self.agent, reason=reason, run_id=run_id)
        if result.committed:
            detail = f"{span} version={result.version} rows={result.rows}"
            entry = self._world.entry(self.agent, resolve(table), "write", allowed=True, detail=detail)
            leaves = [partition_leaf(c) for c in result.commits]
            self._world.record(self.agent, [*self._world.pending_reads(self.agent), entry], leaves)
        return result

    def read_lake(
        self,
        table: str,
        start: datetime | None = None,
        end: datetime | None = None,
        columns: Sequence[str] | None = None,
        as_of: int | datetime | None = None,
    ) -> pa.Table:
        """Rows of a lake table whose time lies in ``[start, end)``; ``as_of``: a version or an instant."""
        self.require(table, "read")
        self._world.count_read(self.agent, table)
        return self._world.lake.read(table, start, end, columns=columns, as_of=as_of)

    def lake_dataset(
        self,
        table: str,
        start: datetime | None = None,
        end: datetime | None = None,
        as_of: int | datetime | None = None,
    ) -> pads.Dataset:
        """The same rows, and perhaps neighbours, as a dataset to scan."""
        self.require(table, "read")
        self._world.count_read(self.agent, table)
        return self._world.lake.dataset(table, start, end, as_of)

    # -- books --------------------------------------------------------------------------------------

    def append(self, table: str, rows: Rows) -> AppendResult:
        """Append rows to a table of the books; what is there with the same content is left alone."""
        with self.transaction() as transaction:
            return transaction.append(table, rows)

    def read_books(
        self,
        table: str,
        where: Where | None = None,
        *conditions: sa.ColumnElement[bool],
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Rows of a table of the books, or of ``decision_log``; see ``Books.read``."""
        with self.snapshot() as snapshot:
            return snapshot.read_books(table, where, *conditions, columns=columns)

    def transition(
        self,
        recommendation_id: str,
        to_status: str,
        *,
        reason: str,
        actor: str | None = None,
        role: str | None = None,
        plan_hash: str | None = None,
        policy_version: int | None = None,
        payload: Mapping[str, Any] | None = None,
        now: datetime | None = None,
    ) -> Decided:
        """Move a recommendation to its next state; see :class:`~sust_dagster.world.decisions.Transition`."""
        wanted = Transition(recommendation_id, to_status, reason, actor, role, plan_hash, policy_version, payload)
        return self.transitions([wanted], now=now)[0]

    def transitions(self, transitions: Iterable[Transition], *, now: datetime | None = None) -> list[Decided]:
        """Make several transitions, all or none, in one transaction (and one wait for the disk)."""
        with self.transaction() as transaction:
            return transaction.transitions(transitions, now=now)

    @contextmanager
    def transaction(self) -> Generator[AgentTransaction]:
        """Appends and transitions that happen together or not at all; refusals are recorded in any case."""
        with self._world.deferred(self.agent), self._world.books.transaction(self.agent) as transaction:
            own = AgentTransaction(self._world, self, transaction)
            yield own
            own.record_writes()

    @contextmanager
    def snapshot(self) -> Generator[AgentSnapshot]:
        """Reads that all see one state of the books."""
        with self._world.books.snapshot(self.agent) as snapshot:
            yield AgentSnapshot(self._world, self, snapshot)

    # -- refusals -----------------------------------------------------------------------------------

    def require(self, table: str, verb: str, detail: str | None = None) -> None:
        """Raise ``PermissionRefused``, and record it, unless the matrix allows it."""
        try:
            check(self.agent, table, verb)
        except PermissionRefused:
            self._world.record(self.agent, [self.refusal(table, verb, detail)])
            raise

    def refuse(self, table: str, verb: str, why: str) -> PermissionRefused:
        """Record a refusal for a reason beyond the matrix; returns the error for the caller to raise."""
        self._world.record(self.agent, [self.refusal(table, verb, why)])
        return PermissionRefused(self.agent, table, verb, why)

    def refusal(self, table: str, verb: str, detail: str | None) -> dict[str, Any]:
        return self._world.entry(self.agent, table, verb, allowed=False, detail=detail)


class AgentSnapshot:
    """One state of the books as one agent may see it."""

    def __init__(self, world: World, handle: AgentHandle, transaction: Transaction) -> None:
        self._world = world
        self._handle = handle
        self._transaction = transaction

    def read_books(
        self,
        table: str,
        where: Where | None = None,
        *conditions: sa.ColumnElement[bool],
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Rows as this transaction sees them; see :meth:`AgentHandle.read_books`."""
        self._handle.require(table, "read")
        self._world.count_read(self._handle.agent, table)
        return self._transaction.read(table, where, *conditions, columns=columns)


class AgentTransaction(AgentSnapshot):
    """One transaction of the books as one agent may use it."""

    def __init__(self, world: World, handle: AgentHandle, transaction: Transaction) -> None:
        super().__init__(world, handle, transaction)
        self._writes: list[tuple[str, str, str]] = []
        self._bundles: list[Leaf] = []

    def append(self, table: str, rows: Rows) -> AppendResult:
        """Append rows; see :meth:`AgentHandle.append`."""
        verbs = {"write"}
        if table in SIGNED:
            verbs = self._signed(table, rows)
        for verb in sorted(verbs):
            self._handle.require(table, verb)
        if table == LOG:
            raise self._handle.refuse(table, "write", "a leaf is written with what it commits to, never by hand")
        try:
            result = self._transaction.append(table, rows)
        except TransitionRefused as refusal:
            self._refused(refusal)
            raise
        if result.inserted and table != "access_log":
            self._writes.append((table, "+".join(sorted(verbs)), f"rows={result.inserted}"))
        return result

    def transition(
        self, recommendation_id: str, to_status: str, *, reason: str, now: datetime | None = None, **fields: Any
    ) -> Decided:
        """Move a recommendation to its next state; see :meth:`AgentHandle.transition`."""
        return self.transitions([Transition(recommendation_id, to_status, reason, **fields)], now=now)[0]

    def transitions(self, transitions: Iterable[Transition], *, now: datetime | None = None) -> list[Decided]:
        """Make several transitions; see :meth:`AgentHandle.transitions`."""
        wanted = list(transitions)
        for transition in wanted:
            verb = _verb(transition.to_status)
            self._handle.require("decision_events", verb, transition.recommendation_id)
        try:
            results = self._transaction.decide(self._handle.agent, wanted, now or self._world.clock())
        except TransitionRefused as refusal:
            self._refused(refusal)
            raise
        made = Counter(r.event["to_status"] for r in results if r.appended)
        for status, n in sorted(made.items()):
            self._writes.append(("decision_events", VERB_BY_STATUS[status], f"{status}={n}"))
        return results

    def commit_bundle(self, subject: str, sha256: str) -> None:
        """Commit to an evidence bundle: what it is about, and the SHA-256 of its bytes, 64 hexadecimal digits."""
        self._handle.require(EVIDENCE, "write", subject)
        self._bundles.append(bundle_leaf(subject, sha256))
        self._writes.append((EVIDENCE, "write", f"sha256={sha256}"))

    def lock_decisions(self) -> None:
        """Let nobody else decide until this transaction ends, so that what it counts still holds when it writes."""
        self._transaction.lock_decisions()

    # -- for the handle -----------------------------------------------------------------------------

    def record_writes(self) -> None:
        """Put this transaction's writes, and the reads before them, into the access log with it, and its leaves."""
        if not self._writes:
            return
        leaves = [leaf for table, rows in self._transaction.inserted for leaf in row_leaves(table, rows)]
        agent = self._handle.agent
        entries = [self._world.entry(agent, t, verb, allowed=True, detail=d) for t, verb, d in self._writes]
        self._transaction.append("access_log", [*self._world.pending_reads(agent), *entries])
        append_leaves(self._transaction, [*leaves, *self._bundles], self._world.clock())

    def _signed(self, table: str, rows: Rows) -> set[str]:
        """The verbs that rows with an agent's name on them need; refuses those in another's name."""
        records = rows.to_pylist() if isinstance(rows, pa.Table) else rows
        agent = self._handle.agent
        verbs = {"write"}
        if table == "decision_events":
            verbs = {_verb(r.get("to_status")) for r in records}
        for name in {r.get("agent") for r in records} - {agent}:
            raise self._handle.refuse(table, "+".join(sorted(verbs)), f"the row is in the name of {name}")
        return verbs

    def _refused(self, refusal: TransitionRefused) -> None:
        verb = _verb(refusal.to_status)
        self._world.record(self._handle.agent, [self._handle.refusal("decision_events", verb, str(refusal))])
