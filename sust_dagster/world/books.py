"""The books: transactional tables in SQL, append-only, on SQLite or PostgreSQL.

Belongs here: opening and migrating, idempotent appends, reads as Arrow tables, transactions over several
appends, transitions of decisions. Does not belong here: columns (``schemas``), SQL objects
(``books_schema``), the rules of decisions (``decisions``), who may do what (``access``).

SQLite runs in WAL mode with full durability: a transaction that was reported done survives a power cut.
Writers take their lock when they begin, so what a transaction read still holds when it writes.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import threading
import time
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy import event as sa_event
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError

from sust_dagster.world.books_schema import (
    DECISION_LOG,
    DECISION_LOG_ARROW,
    DECISION_LOG_VIEW,
    TABLES_SQL,
    UNIQUE,
)
from sust_dagster.world.decisions import (
    Decided,
    Event,
    Transition,
    TransitionRefused,
    check_event,
    event_of,
    fold,
    is_human,
    needs_signatures,
    same_event,
)
from sust_dagster.world.migrations import HEAD, VERSION_TABLE
from sust_dagster.world.permissions import postgres_grants, role
from sust_dagster.world.schemas import TABLES, Agent, SchemaError, TableSpec

Rows = pa.Table | Sequence[Mapping[str, Any]]
Where = Mapping[str, Any]

BUSY_SECONDS = 30.0
_CHUNK = 500
_MIGRATING = threading.Lock()
#: Arbitrary, constant keys of PostgreSQL advisory locks.
_LOCK_MIGRATION, _LOCK_DECISIONS, _LOCK_LOG = 7_301_001, 7_301_002, 7_301_003
#: Tables whose writers need not be able to read them: rows go in without a look at what is there.
_WRITE_ONLY = ("access_log",)
#: The character NUL in a JSON text; after an even number of backslashes, or it is one's own text.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class BooksError(RuntimeError):
    """The books cannot be opened or asked like that."""


class BooksUnavailableError(BooksError, OSError):
    """Nothing answers at the books' address, or it is no address of books: a fault of the set-up, no finding."""


class ConflictError(ValueError):
    """A row with this key is in the books with other content."""

    def __init__(self, table: str, key: Mapping[str, Any], columns: Sequence[str]) -> None:
        self.table, self.key, self.columns = table, dict(key), tuple(columns)
        named = ", ".join(f"{k}={v}" for k, v in key.items())
        super().__init__(f"{table} holds {named} already, with other {', '.join(columns)}; rows are never changed")


@dataclass(frozen=True)
class AppendResult:
    """How many rows an append added, and how many were there already with the same content."""

    table: str
    inserted: int
    unchanged: int


def books_url(address: str | Path) -> sa.URL:
    """The SQLAlchemy URL of a file path or a database URL, with a driver that is installed."""
    text = str(address)
    if "://" not in text:
        return sa.URL.create("sqlite", database=str(Path(text).absolute()))
    try:
        url = sa.make_url(text.replace("postgres://", "postgresql://", 1))
    except (ArgumentError, ValueError) as error:  # whose text may hold the password
        raise BooksUnavailableError("the books' address is no SQLAlchemy URL") from error
    if url.drivername == "postgresql":
        # A bare postgresql:// means another driver in each SQLAlchemy release: name the one that is there.
        for driver in ("psycopg2", "psycopg"):
            if importlib.util.find_spec(driver):
                return url.set(drivername=f"postgresql+{driver}")
        shown = url.render_as_string()  # without the password
        raise BooksUnavailableError(f"no PostgreSQL driver for {shown}: install psycopg2-binary or psycopg")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise BooksUnavailableError(f"the books are kept in SQLite or PostgreSQL, not in {url.get_backend_name()}")
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise BooksUnavailableError("the books need a file: sqlite:///path/to/books.db")
    return url


class Books:
    """The books at ``url``. :meth:`open` is the way in: it creates and migrates them too.

    ``agent_roles``: on PostgreSQL, a transaction of an agent runs as that agent's role, so the database
    refuses what the matrix refuses. Needs :meth:`install_roles` once, and an account that is granted the roles.
    """

    def __init__(self, url: str | Path | sa.URL, *, agent_roles: bool = False) -> None:
        self.url = url if isinstance(url, sa.URL) else books_url(url)
        self.agent_roles = agent_roles
        self._thread = threading.local()
        sqlite = self.url.get_backend_name() == "sqlite"
        # What is read under a lock must not be of before the lock, whatever the server's own default is.
        there: dict[str, Any] = {"pool_pre_ping": True, "isolation_level": "READ COMMITTED"}
        try:
            options = {"connect_args": {"timeout": BUSY_SECONDS}} if sqlite else there
            self.engine = sa.create_engine(self.url, **options)
        except (ArgumentError, ImportError) as error:
            raise BooksUnavailableError(f"no driver for the books at {self.url.render_as_string()}: {error}") from error
        if sqlite:
            sa_event.listen(self.engine, "connect", _sqlite_connected)
            sa_event.listen(self.engine, "begin", _sqlite_begin)
        else:
            sa_event.listen(self.engine, "connect", _postgres_connected)

    @classmethod
    def open(cls, path_or_url: str | Path, *, agent_roles: bool = False) -> Books:
        """Open the books, creating or migrating them first; two processes may do so at once."""
        books = cls(path_or_url, agent_roles=agent_roles)
        if books.url.get_backend_name() == "sqlite":
            Path(str(books.url.database)).parent.mkdir(parents=True, exist_ok=True)
        books.migrate()
        return books

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back all connections."""
        self.engine.dispose()

    # -- set-up -------------------------------------------------------------------------------------

    def revision(self) -> str | None:
        """The migration the database is at; ``None`` when it holds no books."""
        with self._connect() as connection:
            return _revision(connection)

    def migrate(self) -> None:
        """Bring the database to this release's revision; raises when it is of a newer one."""
        current = self.revision()
        if current == HEAD:
            return
        if current is not None and current > HEAD:
            raise BooksError(f"the books are at revision {current}, this release knows {HEAD}: upgrade the software")
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        with _MIGRATING, self._begin(write=True) as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_LOCK_MIGRATION})"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def install_roles(self) -> None:
        """Create the agents' roles, grants and row-level security (PostgreSQL; needs CREATEROLE)."""
        if self.engine.dialect.name != "postgresql":
            raise BooksError("SQLite has no roles; there the handles and the triggers stand guard")
        with self._begin(write=True) as connection:
            connection.execute(sa.text(postgres_grants()))

    # -- use ----------------------------------------------------------------------------------------

    def _connect(self) -> sa.Connection:
        try:
            return self.engine.connect()
        except OperationalError as error:
            said = (str(error.orig).splitlines() or [""])[0]
            raise BooksUnavailableError(f"no books at {self.url.render_as_string()}: {said}") from error

    @contextmanager
    def _begin(self, *, write: bool, agent: Agent | None = None) -> Generator[sa.Connection]:
        if write and getattr(self._thread, "writing", False):
            raise BooksError("this thread has a transaction open: write through it, a second one would wait for it")
        if write:
            self._thread.writing = True
        try:
            with self._connect().execution_options(sust_write=write) as connection, connection.begin():
                if agent is not None and self.agent_roles and connection.dialect.name == "postgresql":
                    connection.execute(sa.text(f"SET LOCAL ROLE {role(agent)}"))
                yield connection
        finally:
            if write:
                self._thread.writing = False

    @contextmanager
    def transaction(self, agent: Agent | None = None) -> Generator[Transaction]:
        """Several appends and transitions that happen together or not at all."""
        with self._begin(write=True, agent=agent) as connection:
            yield Transaction(connection)

    @contextmanager
    def snapshot(self, agent: Agent | None = None) -> Generator[Transaction]:
        """Several reads of one state of the books."""
        with self._begin(write=False, agent=agent) as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            yield Transaction(connection)

    def append(self, table: str, rows: Rows) -> AppendResult:
        """Append rows in a transaction of their own; see :meth:`Transaction.append`."""
        with self.transaction() as transaction:
            return transaction.append(table, rows)

    def read(
        self,
        table: str,
        where: Where | None = None,
        *conditions: sa.ColumnElement[bool],
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Rows as an Arrow table; see :meth:`Transaction.read`."""
        with self._begin(write=False) as connection:
            return Transaction(connection).read(table, where, *conditions, columns=columns)

    def decide(self, agent: Agent, transitions: Iterable[Transition], now: datetime) -> list[Decided]:
        """Make transitions in a transaction of their own; see :meth:`Transaction.decide`."""
        with self.transaction(agent) as transaction:
            return transaction.decide(agent, transitions, now)


class Transaction:
    """One transaction of the books. It ends with its ``with`` block; an exception undoes all of it."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.inserted: list[tuple[str, Sequence[Mapping[str, Any]]]] = []
        """What this transaction has put in, in order: table and rows, but for those nobody looks up."""
        self._postgres = connection.dialect.name == "postgresql"

    def append(self, table: str, rows: Rows) -> AppendResult:
        """Append rows. A row whose key is there with the same content is left alone.

        Raises :class:`ConflictError` when it is there with other content, ``SchemaError`` when a row does not
        fit the table, :class:`TransitionRefused` when a decision event does not follow from the state.
        """
        spec = _spec(table)
        records = _records(spec, rows)
        if table == "decision_events":
            return self._append_events(records)
        return self._append(spec, records)

    def read(
        self,
        table: str,
        where: Where | None = None,
        *conditions: sa.ColumnElement[bool],
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Rows of a table or of the view ``decision_log``, ordered by key.

        ``where`` maps columns to a value, to a collection of values or to ``None``; ``conditions`` are
        SQLAlchemy expressions over ``TABLES_SQL[table]`` or ``DECISION_LOG_VIEW``. Decision events come in the
        order they happened within a recommendation.
        """
        wanted = where or {}
        shape = tuple((name, _kind(value)) for name, value in wanted.items())
        query, schema = _query(table, None if columns is None else tuple(columns), shape, self._postgres)
        given = {f"{_GIVEN}{n}": list(v) if _kind(v) == "in" else v for n, v in wanted.items() if v is not None}
        found = self.connection.execute(query.where(*conditions) if conditions else query, given).all()
        cells = list(zip(*found, strict=True)) or [()] * len(schema)
        result = pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(cells, schema, strict=True)], schema=schema)
        return _canonical_configs(result) if table == DECISION_LOG and self._postgres else result

    def decide(self, agent: Agent, transitions: Iterable[Transition], now: datetime) -> list[Decided]:
        """Make transitions on behalf of an agent, all or none.

        Of several processes that make the same transition one appends it; another that says the very same
        gets the event with ``appended`` false, one that says anything else is refused. Raises
        :class:`TransitionRefused`.
        """
        wanted = list(transitions)
        histories = self._histories([t.recommendation_id for t in wanted])
        rejected_by = self._rejected_by((t.plan_hash for t in wanted), histories)
        signers = self._signers([t.recommendation_id for t in wanted if t.to_status == "approved"], histories)
        results: list[Decided] = []
        for transition in wanted:
            history = histories[transition.recommendation_id]
            earlier = next((e for e in history if e["to_status"] == transition.to_status), None)
            before = history if earlier is None else history[: earlier["sequence"]]
            event = _typed(event_of(transition, agent, before, now))
            if earlier is not None and same_event(earlier, event):
                results.append(Decided(earlier, appended=False))
                continue
            check_event(event, history, rejected_by, _holding(signers, event))
            history.append(event)
            if event["to_status"] == "rejected" and is_human(event["actor"]):
                rejected_by[event["plan_hash"]] = event["actor"]
            results.append(Decided(event, appended=True))
        self._insert(TABLES["decision_events"], [r.event for r in results if r.appended])
        return results

    def state(self, recommendation_id: str) -> str | None:
        """The state of a recommendation; ``None`` when it was never proposed."""
        return fold(self.read("decision_events", {"recommendation_id": recommendation_id}).to_pylist())

    # -- appending ----------------------------------------------------------------------------------

    def _append(self, spec: TableSpec, records: list[dict[str, Any]]) -> AppendResult:
        if not records or spec.name in _WRITE_ONLY:
            self._insert(spec, records)
            return AppendResult(spec.name, len(records), 0)
        key = spec.key
        wanted: dict[tuple[Any, ...], dict[str, Any]] = {}
        for record in records:
            identity = tuple(record[k] for k in key)
            _compare(spec, key, wanted.setdefault(identity, record), record)
        missing = self._missing(spec, key, wanted)
        inserted = self._insert(spec, missing)
        if inserted < len(missing):
            # Another process was first with some of them: what it wrote must be what we would have.
            for record in self._missing(spec, key, wanted):
                raise ConflictError(spec.name, {k: record[k] for k in UNIQUE.get(spec.name, key)}, key)
        return AppendResult(spec.name, inserted, len(records) - inserted)

    def _missing(
        self, spec: TableSpec, key: tuple[str, ...], wanted: Mapping[tuple[Any, ...], dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """The wanted rows that are not there; raises when one is there with other content."""
        identities = list(wanted)
        present: set[tuple[Any, ...]] = set()
        for begin in range(0, len(identities), _CHUNK):
            chunk = identities[begin : begin + _CHUNK]
            given = {_GIVEN: [i[0] for i in chunk] if len(key) == 1 else chunk}
            for row in self.connection.execute(_by_key(spec.name, key), given).mappings():
                identity = tuple(row[k] for k in key)
                _compare(spec, key, row, wanted[identity])
                present.add(identity)
        return [r for i, r in wanted.items() if i not in present]

    def _insert(self, spec: TableSpec, records: list[dict[str, Any]]) -> int:
        """Insert rows; on PostgreSQL those that another process has just inserted are passed over."""
        if not records:
            return 0
        table = TABLES_SQL[spec.name]
        if self._postgres and spec.name == "decision_events":
            _refuse_nul(records)
        if self._postgres and spec.name not in (*_WRITE_ONLY, "decision_events"):
            statement = postgresql.insert(table).on_conflict_do_nothing()
            key = [table.c[k] for k in spec.key]
            new = {tuple(r) for r in self.connection.execute(statement.returning(*key), records).all()}
            records = [r for r in records if tuple(r[k] for k in spec.key) in new]
        else:
            try:
                self.connection.execute(_INSERTS[spec.name], records)
            except IntegrityError as error:
                raise self._conflict(spec, records, error) from error
        if spec.name not in _WRITE_ONLY:
            self.inserted.append((spec.name, records))
        return len(records)

    def _conflict(self, spec: TableSpec, records: list[dict[str, Any]], error: IntegrityError) -> Exception:
        """What an integrity error means: a natural key that is taken, or the database's own words."""
        if spec.name == "decision_events":
            first = records[0]
            return TransitionRefused(first["recommendation_id"], first["to_status"], str(error.orig))
        unique = UNIQUE.get(spec.name)
        if unique and "key is taken" in str(error.orig):
            for record in records:
                natural = {c: record[c] for c in unique}
                if self.read(spec.name, natural).num_rows:
                    return ConflictError(spec.name, natural, spec.key)
        return SchemaError(f"table {spec.name}: {error.orig}")

    # -- decisions ----------------------------------------------------------------------------------

    def _append_events(self, records: list[dict[str, Any]]) -> AppendResult:
        histories = self._histories([r["recommendation_id"] for r in records])
        rejected_by = self._rejected_by((r["plan_hash"] for r in records), histories)
        approved = [r["recommendation_id"] for r in records if r["to_status"] == "approved"]
        signers = self._signers(approved, histories)
        fresh: list[Event] = []
        for event in sorted(records, key=lambda r: r["sequence"]):
            history = histories[event["recommendation_id"]]
            if any(same_event(e, event) for e in history):
                continue
            held = next((e for e in history if e["event_id"] == event["event_id"]), None)
            if held is not None:
                _compare(TABLES["decision_events"], ("event_id",), held, event)
            check_event(event, history, rejected_by, _holding(signers, event))
            history.append(event)
            fresh.append(event)
            if event["to_status"] == "rejected" and is_human(event["actor"]):
                rejected_by[event["plan_hash"]] = event["actor"]
        self._insert(TABLES["decision_events"], fresh)
        return AppendResult("decision_events", len(fresh), len(records) - len(fresh))

    def lock_decisions(self) -> None:
        """Let no other process decide before this transaction ends; on SQLite its write lock does that already."""
        if self._postgres:
            self.connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_LOCK_DECISIONS})"))

    def lock_log(self) -> None:
        """Let no other process add to the transparency log before this transaction ends; the last lock it takes."""
        if self._postgres:
            self.connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_LOCK_LOG})"))

    def _histories(self, recommendations: Sequence[str]) -> dict[str, list[Event]]:
        """Events of each recommendation in order, under a lock against other writers of decisions."""
        self.lock_decisions()
        histories: dict[str, list[Event]] = {r: [] for r in recommendations}
        names = list(histories)
        for begin in range(0, len(names), _CHUNK):
            chunk = names[begin : begin + _CHUNK]
            for event in self.read("decision_events", {"recommendation_id": chunk}).to_pylist():
                histories[event["recommendation_id"]].append(_typed(event))
        return histories

    def _rejected_by(self, plans: Iterable[str | None], histories: Mapping[str, Sequence[Event]]) -> dict[str, str]:
        """Who rejected any of these plans, or the plan of any of these histories, wherever that was."""
        proposed = {events[0]["plan_hash"] for events in histories.values() if events}
        names = sorted({p for p in plans if p is not None} | proposed)
        found: dict[str, str] = {}
        for begin in range(0, len(names), _CHUNK):
            where = {"plan_hash": names[begin : begin + _CHUNK], "to_status": "rejected"}
            for row in self.read("decision_events", where, columns=["plan_hash", "actor"]).to_pylist():
                if is_human(row["actor"]):
                    found[row["plan_hash"]] = row["actor"]
        return found

    def _signers(
        self, recommendations: Sequence[str], histories: Mapping[str, Sequence[Event]]
    ) -> Mapping[str, list[dict[str, Any]]]:
        """Approving signatures on those of the recommendations that need any."""
        names = [r for r in dict.fromkeys(recommendations) if needs_signatures(histories[r])]
        found: dict[str, list[dict[str, Any]]] = {}
        for begin in range(0, len(names), _CHUNK):
            where = {"recommendation_id": names[begin : begin + _CHUNK], "verdict": "approve"}
            for row in self.read("approvals", where).to_pylist():
                found.setdefault(row["recommendation_id"], []).append(row)
        return found


# -- statements ---------------------------------------------------------------------------------------------
# Made once: to put one together takes as long as to run it.

#: Begins the names of the values that a statement is given.
_GIVEN = "given_"
_INSERTS = {name: table.insert() for name, table in TABLES_SQL.items()}


def _kind(value: Any) -> str:
    """How a column is compared with a value."""
    if value is None:
        return "is null"
    return "in" if isinstance(value, Collection) and not isinstance(value, str) else "="


@lru_cache(maxsize=512)
def _query(
    table: str, columns: tuple[str, ...] | None, shape: tuple[tuple[str, str], ...], postgres: bool
) -> tuple[sa.Select, pa.Schema]:
    """What reads these columns of a table where its columns compare as ``shape`` says, and their Arrow schema."""
    source, schema, order = _source(table)
    if postgres:  # which sorts texts as its database was told to; here they sort as bytes, everywhere
        order = [c.collate("C") if isinstance(c.type, sa.Text) else c for c in order]
    if columns is not None:
        schema = pa.schema([_field(schema, table, c) for c in columns])
    query = sa.select(*(_selected(source.c[f.name]) for f in schema)).order_by(*order)
    for name, kind in shape:
        column = source.c[_field(source_schema(table), table, name).name]
        given = sa.bindparam(f"{_GIVEN}{name}", type_=column.type, expanding=kind == "in")
        compared = column.in_(given) if kind == "in" else column == given
        query = query.where(column.is_(None) if kind == "is null" else compared)
    return query, schema


@lru_cache(maxsize=64)
def _by_key(table: str, key: tuple[str, ...]) -> sa.Select:
    """What reads the rows of a table whose keys it is given."""
    columns, given = [TABLES_SQL[table].c[k] for k in key], sa.bindparam(_GIVEN, expanding=True)
    among = columns[0].in_(given) if len(key) == 1 else sa.tuple_(*columns).in_(given)
    return sa.select(TABLES_SQL[table]).where(among)


def _selected(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    return sa.cast(column, sa.Text) if column.name.endswith("_config") else column


# -- helpers ------------------------------------------------------------------------------------------------


def _spec(table: str) -> TableSpec:
    spec = TABLES.get(table)
    if spec is None or spec.home != "books":
        raise BooksError(f"{table} is not a table of the books; tables: {', '.join(sorted(TABLES_SQL))}")
    return spec


def source_schema(table: str) -> pa.Schema:
    """Arrow schema of a table of the books or of the view ``decision_log``."""
    return DECISION_LOG_ARROW if table == DECISION_LOG else _spec(table).arrow


def _source(table: str) -> tuple[sa.Table, pa.Schema, list[sa.ColumnElement[Any]]]:
    if table == DECISION_LOG:
        view = DECISION_LOG_VIEW
        return view, DECISION_LOG_ARROW, [view.c.proposed_at, view.c.recommendation_id]
    spec = _spec(table)
    source = TABLES_SQL[table]
    order = ("recommendation_id", "sequence") if table == "decision_events" else spec.key
    return source, spec.arrow, [source.c[c] for c in order]


def _field(schema: pa.Schema, table: str, name: str) -> pa.Field:
    if name not in schema.names:
        raise BooksError(f"{table} has no column {name}")
    return schema.field(name)


def _records(spec: TableSpec, rows: Rows) -> list[dict[str, Any]]:
    """Rows as plain values that fit the table; raises ``SchemaError`` otherwise."""
    if not isinstance(rows, pa.Table):
        unknown = sorted({name for row in rows for name in row} - set(spec.column_names))
        if unknown:
            raise SchemaError(f"table {spec.name}: unknown columns {unknown}; declare them in world/schemas.py")
        try:
            rows = pa.Table.from_pylist([_zoned(spec, r) for r in rows], schema=spec.arrow)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise SchemaError(f"table {spec.name}: {error}") from error
    for name, kind in zip(rows.column_names, rows.schema.types, strict=True):
        if pa.types.is_timestamp(kind) and kind.tz is None:
            raise SchemaError(f"table {spec.name}, column {name}: times without a timezone; they must be UTC")
        if pa.types.is_floating(kind) and pc.all(pc.is_finite(rows.column(name))).as_py() is False:
            raise SchemaError(f"table {spec.name}, column {name}: a value is not a finite number")
    return [_typed(r) for r in spec.conform(rows).to_pylist()]


def _zoned(spec: TableSpec, row: Mapping[str, Any]) -> Mapping[str, Any]:
    for name, value in row.items():
        if isinstance(value, datetime) and value.tzinfo is None:
            raise SchemaError(f"table {spec.name}, column {name}: {value} has no timezone; times must be UTC")
        if isinstance(value, float) and not math.isfinite(value):
            raise SchemaError(f"table {spec.name}, column {name}: {value} is not a finite number")
    return row


def _typed(record: dict[str, Any]) -> dict[str, Any]:
    """The record with its instants in one zone object, so that rows compare by value."""
    return {k: v.astimezone(UTC) if isinstance(v, datetime) else v for k, v in record.items()}


def _refuse_nul(events: Sequence[Event]) -> None:
    """PostgreSQL reads no JSON with a NUL in it: one such payload, and nobody could read ``decision_log`` again."""
    for event in events:
        if _NUL.search(event["payload"] or ""):
            why = "a text of its payload holds the character NUL, which PostgreSQL cannot read; take it out there"
            raise TransitionRefused(event["recommendation_id"], event["to_status"], why)


def _holding(signatures: Mapping[str, list[dict[str, Any]]], event: Event) -> list[str]:
    """Who signed the plan of this event, and not so long ago that it no longer holds."""
    return [
        s["signer"]
        for s in signatures.get(event["recommendation_id"], ())
        if s["plan_hash"] == event["plan_hash"]
        and s["expires_at"] is not None
        and s["expires_at"] > event["occurred_at"]
    ]


def _compare(spec: TableSpec, key: tuple[str, ...], held: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    differing = [c for c in spec.column_names if held[c] != new[c]]
    if differing:
        raise ConflictError(spec.name, {k: new[k] for k in key}, differing)


def _canonical_configs(table: pa.Table) -> pa.Table:
    """The view's JSON as this package writes JSON: PostgreSQL's has spaces and an order of its own."""
    for name in ("current_config", "proposed_config"):
        if name in table.column_names:
            texts = [
                json.dumps(json.loads(v), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
                for v in table.column(name).to_pylist()
            ]
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(texts, pa.string()))
    return table


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()


def _sqlite_connected(connection: Any, _record: Any) -> None:
    """Settings of a new SQLite connection; transactions are begun by us, not by the driver."""
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    deadline = time.monotonic() + BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        # The busy timeout does not cover the change of mode, which two new processes may try at once.
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _postgres_connected(connection: Any, _record: Any) -> None:
    """Settings of a new PostgreSQL connection: the driver reads instants in the session's zone, and the last hours
    of the year 9999 have no name east of Greenwich.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
    connection.commit()


def _sqlite_begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("sust_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
