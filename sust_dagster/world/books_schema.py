"""The books as SQL: tables, guards and views, derived from ``schemas`` and ``decisions``.

Belongs here: the SQLAlchemy tables of every declared table whose home is the books, the triggers that make
them append-only and hold decision events to the state machine, the view ``decision_log``; for SQLite and
PostgreSQL. Does not belong here: connections (``books``), when they are created (``migrations``).

The guards bind everyone who writes SQL, not only this code. An owner of the file or the database can still
drop them: that is what the transparency log and its checkpoints elsewhere are for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateIndex, CreateTable, SetColumnComment, SetTableComment
from sqlalchemy.types import TypeDecorator, TypeEngine

from sust_dagster.world.decisions import (
    BOUND_TO_PLAN,
    RISK_WITHOUT_SIGNATURES,
    SIGNERS_OF_HIGH_RISK,
    TRANSITIONS,
)
from sust_dagster.world.migrations import HEAD, VERSION_TABLE
from sust_dagster.world.schemas import AGENTS, BOOL, FLOAT, INT, STRING, TIMESTAMP, Column, TableSpec, tables

DECISION_LOG = "decision_log"


class UtcTimestamp(TypeDecorator[datetime]):
    """An instant in UTC, exact to the microsecond.

    SQLite has no such type: there it is ISO text of fixed width, which sorts as time and which its own date
    functions read. A naive value is refused.
    """

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(sa.Text() if dialect.name == "sqlite" else sa.DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no timezone; times in the books are UTC")
        value = value.astimezone(UTC)
        if dialect.name != "sqlite":
            return value
        return value.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return None if value is None else value.astimezone(UTC)
        return datetime.fromisoformat(value)


_SQL_TYPES: Mapping[pa.DataType, type[TypeEngine[Any]]] = {
    STRING: sa.Text,
    FLOAT: sa.Double,
    INT: sa.BigInteger,
    BOOL: sa.Boolean,
    TIMESTAMP: UtcTimestamp,
}

#: Uniqueness beside the primary key; a null counts as a value of its own.
UNIQUE: Mapping[str, tuple[str, ...]] = {
    "emission_factors": ("factor_type", "region", "provider", "name", "version"),
    "decision_events": ("recommendation_id", "sequence"),
}

#: (table, column) → the column of the books it refers to.
REFERENCES: Mapping[tuple[str, str], str] = {("factor_reviews", "factor_id"): "emission_factors.factor_id"}

#: What a table's rows are looked up by, beside its key.
INDEXES: Mapping[str, tuple[str, ...]] = {
    "factor_reviews": ("factor_id",),
    "decision_events": ("plan_hash",),
    "approvals": ("recommendation_id", "plan_hash"),
    "points_ledger": ("team_id", "awarded_at"),
    "outbox": ("recommendation_id",),
    "access_log": ("occurred_at",),
}


def _column(spec: TableSpec, column: Column) -> sa.Column[Any]:
    reference = REFERENCES.get((spec.name, column.name))
    return sa.Column(
        column.name,
        _SQL_TYPES[column.type](),
        *([sa.ForeignKey(reference)] if reference else []),
        primary_key=column.name in spec.key,
        autoincrement=False,
        nullable=column.nullable,
        comment=f"{column.doc} [{column.unit}]" if column.unit else column.doc,
    )


def _null_safe(table: sa.Table, name: str) -> sa.ColumnElement[Any]:
    column = table.c[name]
    return sa.func.coalesce(column, sa.literal_column("''")) if column.nullable else column


def _tables(metadata: sa.MetaData) -> dict[str, sa.Table]:
    made: dict[str, sa.Table] = {}
    for spec in tables("books"):
        # WITHOUT ROWID: else INSERT OR REPLACE could remove a row by its hidden rowid.
        table = sa.Table(
            spec.name,
            metadata,
            *(_column(spec, c) for c in spec.columns),
            comment=spec.doc,
            sqlite_with_rowid=False,
        )
        if spec.name in UNIQUE:
            columns = [_null_safe(table, c) for c in UNIQUE[spec.name]]
            sa.Index(f"{spec.name}_unique", *columns, unique=True)
        if spec.name in INDEXES:
            sa.Index(f"{spec.name}_lookup", *(table.c[c] for c in INDEXES[spec.name]))
        made[spec.name] = table
    return made


METADATA = sa.MetaData()
TABLES_SQL: Mapping[str, sa.Table] = _tables(METADATA)


# -- the view of decisions ----------------------------------------------------------------------------------

#: Columns of ``decision_log``, the founding design's and no others: name → Arrow type.
DECISION_LOG_ARROW = pa.schema(
    [
        ("decision_id", STRING),
        ("recommendation_id", STRING),
        ("workload_id", STRING),
        ("action_type", STRING),
        ("current_config", STRING),
        ("proposed_config", STRING),
        ("est_carbon_delta_kg", FLOAT),
        ("est_cost_delta_usd", FLOAT),
        ("est_latency_delta", FLOAT),
        ("confidence", FLOAT),
        ("workload_category", STRING),
        ("rationale", STRING),
        ("status", STRING),
        ("proposed_at", TIMESTAMP),
        ("approved_at", TIMESTAMP),
        ("approved_by", STRING),
        ("executed_at", TIMESTAMP),
        ("execution_ref", STRING),
        ("risk_level", STRING),
    ]
)

#: The same as a SQLAlchemy table, outside the metadata: it is a view.
DECISION_LOG_VIEW = sa.Table(
    DECISION_LOG, sa.MetaData(), *(sa.Column(f.name, _SQL_TYPES[f.type]()) for f in DECISION_LOG_ARROW)
)

_PAYLOAD_NAMES = {"est_latency_delta": "est_latency_delta_ms", "rationale": "rationale_text"}


def _payload(dialect: str, alias: str, name: str) -> str:
    if dialect == "sqlite":
        return f"json_extract({alias}.payload, '$.{name}')"
    return f"({alias}.payload)::jsonb ->> '{name}'"


def _proposal(dialect: str, field: pa.Field) -> str:
    value = _payload(dialect, "p", _PAYLOAD_NAMES.get(field.name, field.name))
    if field.type.equals(FLOAT):
        value = f"CAST({value} AS {'REAL' if dialect == 'sqlite' else 'double precision'})"
    elif field.name.endswith("_config") and dialect == "postgresql":
        value = f"({value})::jsonb"
    return value


def _signers_of_approval(dialect: str) -> str:
    """The people whose signatures the approval ``a`` rests on, in the order they signed; null when there are none."""
    signatures = (
        "FROM approvals s WHERE s.recommendation_id = a.recommendation_id AND s.plan_hash = a.plan_hash "
        "AND s.verdict = 'approve' AND s.policy_version = a.policy_version "
        "AND s.signed_at <= a.occurred_at AND s.expires_at > a.occurred_at"
    )
    if dialect == "sqlite":
        return f"(SELECT group_concat(signer, ', ') FROM (SELECT s.signer {signatures} ORDER BY s.signed_at, s.signer))"
    return f"(SELECT string_agg(s.signer, ', ' ORDER BY s.signed_at, s.signer) {signatures})"


def view_sql(dialect: str) -> str:
    """``decision_log``: one row per recommendation, its state folded from its events."""
    latest_ref = _payload(dialect, "e", "execution_ref")
    of_the_same = "FROM decision_events e WHERE e.recommendation_id = p.recommendation_id"
    folded = {
        "decision_id": "p.event_id",
        "recommendation_id": "p.recommendation_id",
        "status": f"(SELECT e.to_status {of_the_same} ORDER BY e.sequence DESC LIMIT 1)",
        "proposed_at": "p.occurred_at",
        "approved_at": "a.occurred_at",
        "approved_by": f"coalesce({_signers_of_approval(dialect)}, a.actor)",
        "executed_at": "x.occurred_at",
        "execution_ref": (
            f"(SELECT {latest_ref} {of_the_same} AND {latest_ref} IS NOT NULL ORDER BY e.sequence DESC LIMIT 1)"
        ),
    }
    columns = ",\n  ".join(f"{folded.get(f.name) or _proposal(dialect, f)} AS {f.name}" for f in DECISION_LOG_ARROW)
    # security_invoker: the reader's own rights and row security hold, not those of the view's owner.
    create = (
        f"CREATE VIEW {DECISION_LOG} AS"
        if dialect == "sqlite"
        else f"CREATE OR REPLACE VIEW {DECISION_LOG} WITH (security_invoker = true) AS"
    )
    return (
        f"{create}\nSELECT\n  {columns}\nFROM decision_events p\n"
        "LEFT JOIN decision_events a ON a.recommendation_id = p.recommendation_id AND a.to_status = 'approved'\n"
        "LEFT JOIN decision_events x ON x.recommendation_id = p.recommendation_id AND x.to_status = 'executed'\n"
        "WHERE p.to_status = 'proposed'"
    )


# -- guards -------------------------------------------------------------------------------------------------


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{n}'" for n in names)


def _transition_rules(dialect: str) -> list[tuple[str, str]]:
    """(what is wrong, SQL that is true when it is), for a new row ``NEW`` of decision_events."""
    is_not = "IS NOT" if dialect == "sqlite" else "IS DISTINCT FROM"
    same = "FROM decision_events e WHERE e.recommendation_id = NEW.recommendation_id"
    allowed = " OR ".join(
        f"(NEW.from_status {'IS NULL' if f is None else f'= {f!r}'} AND NEW.to_status = {t!r} AND NEW.agent = {a!r})"
        for f, t, a in TRANSITIONS
    )
    rejection = (
        "SELECT 1 FROM decision_events e WHERE e.to_status = 'rejected' AND e.plan_hash = NEW.plan_hash "
        f"AND e.actor NOT IN ({_quoted(AGENTS)})"
    )
    first = f"{same} AND e.sequence = 0"
    risk = f"coalesce((SELECT {_payload(dialect, 'e', 'risk_level')} {first}), 'unknown')"
    signers = (
        "(SELECT count(DISTINCT s.signer) FROM approvals s WHERE s.recommendation_id = NEW.recommendation_id "
        "AND s.plan_hash = NEW.plan_hash AND s.verdict = 'approve' AND s.expires_at > NEW.occurred_at "
        f"AND s.signer NOT IN ({_quoted(AGENTS)}) AND s.signer <> (SELECT e.actor {first}))"
    )
    high = f"NEW.to_status = 'approved' AND {risk} NOT IN ({_quoted(RISK_WITHOUT_SIGNATURES)})"
    unsigned = f"{high} AND {signers} < {SIGNERS_OF_HIGH_RISK}"
    return [
        ("no such transition for this agent", f"({allowed}) IS NOT TRUE"),
        ("its sequence is not the next", f"NEW.sequence <> (SELECT count(*) {same})"),
        (
            "its from_status is not the state",
            f"NEW.from_status {is_not} (SELECT e.to_status {same} ORDER BY e.sequence DESC LIMIT 1)",
        ),
        ("its actor is another agent", f"NEW.actor <> NEW.agent AND NEW.actor IN ({_quoted(AGENTS)})"),
        (
            "it must name the plan it is about",
            f"NEW.plan_hash IS NULL AND NEW.to_status IN ({_quoted(BOUND_TO_PLAN)})",
        ),
        (
            "it is about another plan than proposed",
            f"NEW.plan_hash <> (SELECT e.plan_hash {first})",
        ),
        ("a person rejected this plan", f"NEW.to_status IN ({_quoted(BOUND_TO_PLAN)}) AND EXISTS ({rejection})"),
        ("a high-risk plan needs the signatures of two people", unsigned),
    ]


def _sqlite_guards() -> list[str]:
    statements = []
    for spec in tables("books"):
        name = spec.name
        for verb in ("update", "delete"):
            refusal = f"SELECT RAISE(ABORT, '{name} is append-only: {verb} refused');"
            statements.append(f"DROP TRIGGER IF EXISTS {name}_no_{verb}")
            statements.append(f"CREATE TRIGGER {name}_no_{verb} BEFORE {verb} ON {name} BEGIN {refusal} END")
        # REPLACE removes the old row without asking the delete trigger.
        held = [" AND ".join(_same_in_sqlite(spec.column(c)) for c in columns) for columns in _unique_sets(spec)]
        taken = " OR ".join(f"EXISTS (SELECT 1 FROM {name} WHERE {h})" for h in held)
        refusal = f"SELECT RAISE(ABORT, '{name} is append-only: its key is taken');"
        statements.append(f"DROP TRIGGER IF EXISTS {name}_no_replace")
        statements.append(f"CREATE TRIGGER {name}_no_replace BEFORE INSERT ON {name} WHEN {taken} BEGIN {refusal} END")
    rules = " ".join(
        f"SELECT RAISE(ABORT, 'decision_events refused, {why}') WHERE {wrong};"
        for why, wrong in _transition_rules("sqlite")
    )
    statements.append("DROP TRIGGER IF EXISTS decision_events_transition")
    statements.append(f"CREATE TRIGGER decision_events_transition BEFORE INSERT ON decision_events BEGIN {rules} END")
    return [*statements, f"DROP VIEW IF EXISTS {DECISION_LOG}", view_sql("sqlite")]


def _same_in_sqlite(column: Column) -> str:
    name = column.name
    return f"coalesce({name}, '') = coalesce(NEW.{name}, '')" if column.nullable else f"{name} = NEW.{name}"


def _unique_sets(spec: TableSpec) -> list[tuple[str, ...]]:
    return [spec.key, *([UNIQUE[spec.name]] if spec.name in UNIQUE else [])]


def _postgres_guards() -> list[str]:
    body = "RAISE EXCEPTION '% is append-only, % refused', TG_TABLE_NAME, lower(TG_OP);"
    head = "RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    statements = [f"CREATE OR REPLACE FUNCTION sust_append_only() {head} {body} END $$"]
    for spec in tables("books"):
        statements.append(
            f"CREATE OR REPLACE TRIGGER {spec.name}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {spec.name} "
            "FOR EACH STATEMENT EXECUTE FUNCTION sust_append_only()"
        )
    rules = " ".join(
        f"IF {wrong} THEN RAISE EXCEPTION 'decision_events refused, {why}'; END IF;"
        for why, wrong in _transition_rules("postgresql")
    )
    statements.append(f"CREATE OR REPLACE FUNCTION sust_decision_transition() {head} {rules} RETURN NEW; END $$")
    statements.append(
        "CREATE OR REPLACE TRIGGER decision_events_transition BEFORE INSERT ON decision_events "
        "FOR EACH ROW EXECUTE FUNCTION sust_decision_transition()"
    )
    return [*statements, view_sql("postgresql")]


def guards(dialect: str) -> list[str]:
    """Triggers and views of a dialect, one statement each; safe to run again."""
    return _sqlite_guards() if dialect == "sqlite" else _postgres_guards()


# -- as text ------------------------------------------------------------------------------------------------


def postgres_script() -> str:
    """Everything but roles and grants as one SQL script, for a database that is set up by hand."""
    dialect = postgresql.dialect(paramstyle="named")  # the default style would double each per cent sign
    statements: list[str] = []
    for table in METADATA.sorted_tables:
        statements.append(str(CreateTable(table).compile(dialect=dialect)).strip())
        statements += [
            str(CreateIndex(i).compile(dialect=dialect)) for i in sorted(table.indexes, key=lambda i: str(i.name))
        ]
        statements.append(str(SetTableComment(table).compile(dialect=dialect)))
        statements += [str(SetColumnComment(c).compile(dialect=dialect)) for c in table.columns]
    statements += guards("postgresql")
    statements.append(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    statements.append(f"INSERT INTO {VERSION_TABLE} VALUES ('{HEAD}')")
    return ";\n".join(statements) + ";\n"


def declaration_digest() -> str:
    """SHA-256 of what the books' SQL is made from: a change of it needs a new migration."""
    declared = [
        [s.name, [[c.name, str(c.type), c.nullable] for c in s.columns], s.key, UNIQUE.get(s.name)]
        for s in tables("books")
    ]
    text = json.dumps([declared, sorted(map(str, REFERENCES.items())), guards("sqlite"), guards("postgresql")])
    return hashlib.sha256(text.encode()).hexdigest()
