"""Tables, guards, migrations, appends and reads of the books on SQLite."""

from __future__ import annotations

import importlib.util
import sqlite3
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from books_samples import START, bring_to, event, sample, sample_table
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import StatementError

from sust_dagster.world import migrations
from sust_dagster.world.books import AppendResult, Books, BooksError, BooksUnavailableError, ConflictError, books_url
from sust_dagster.world.books_schema import METADATA, TABLES_SQL, UNIQUE, declaration_digest
from sust_dagster.world.decisions import TransitionRefused
from sust_dagster.world.schemas import EMISSION_FACTORS, LOG_COMMITMENTS, POLICIES, SchemaError, TableSpec, tables

BOOKS = list(tables("books"))
#: Tables whose sample rows stand on their own: no state machine, no reference, keys that are checked.
PLAIN = [s for s in BOOKS if s.name not in ("decision_events", "factor_reviews", "access_log")]


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with Books.open(tmp_path / "books.db") as opened:
        yield opened


@pytest.fixture
def full(books: Books) -> Books:
    """Books with a row in every table."""
    books.append("emission_factors", [sample(EMISSION_FACTORS)])
    for spec in BOOKS:
        if spec.name == "decision_events":
            bring_to(books, "r", "proposed")
        elif spec.name == "factor_reviews":
            books.append(spec.name, [sample(spec, factor_id="text-0")])
        elif spec.name != "emission_factors":
            books.append(spec.name, [sample(spec)])
    return books


def raw(books: Books) -> sqlite3.Connection:
    """The file as any other program sees it."""
    return sqlite3.connect(str(books.url.database), isolation_level=None)


# -- tables -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", BOOKS, ids=lambda s: s.name)
def test_the_sql_table_is_the_declaration(books: Books, spec: TableSpec) -> None:
    inspector = sa.inspect(books.engine)
    found = {c["name"]: c["nullable"] for c in inspector.get_columns(spec.name)}
    assert found == {c.name: c.nullable for c in spec.columns}
    assert tuple(inspector.get_pk_constraint(spec.name)["constrained_columns"]) == spec.key
    assert not any(spec.column(k).nullable for k in spec.key)
    assert TABLES_SQL[spec.name].comment == spec.doc
    if spec.name == "points_ledger":
        assert TABLES_SQL[spec.name].c.grams.comment == "verified grams booked, signed [gCO2e]"


def test_settings_of_the_connection(books: Books) -> None:
    with books.engine.connect() as connection:
        pragmas = {p: connection.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("journal_mode", "foreign_keys")}
        assert pragmas == {"journal_mode": "wal", "foreign_keys": 1}
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


@pytest.mark.parametrize("spec", BOOKS, ids=lambda s: s.name)
def test_raw_sql_can_neither_change_nor_remove_nor_replace_a_row(full: Books, spec: TableSpec) -> None:
    table, columns = spec.name, ", ".join(spec.column_names)
    with raw(full) as connection:
        before = connection.execute(f"SELECT * FROM {table}").fetchall()
        assert before
        text = next(c.name for c in spec.columns if c.type == pa.string() and c.name not in spec.key)
        for statement in (
            f"UPDATE {table} SET {text} = 'forged'",
            f"DELETE FROM {table}",
            f"INSERT OR REPLACE INTO {table} ({columns}) SELECT {columns} FROM {table}",
            f"INSERT INTO {table} SELECT * FROM {table} WHERE true ON CONFLICT DO UPDATE SET {text} = 'forged'",
            f"UPDATE OR REPLACE {table} SET {text} = 'forged'",
        ):
            with pytest.raises(sqlite3.IntegrityError, match=r"append-only|refused"):
                connection.execute(statement)
        with pytest.raises(sqlite3.OperationalError, match="no such column: rowid"):
            connection.execute(f"SELECT rowid FROM {table}")
        assert connection.execute(f"SELECT * FROM {table}").fetchall() == before


def test_without_its_trigger_a_row_could_be_changed(full: Books) -> None:
    """Negative control: it is the trigger that refuses."""
    with raw(full) as connection:
        connection.execute("DROP TRIGGER policies_no_update")
        assert connection.execute("UPDATE policies SET document = 'forged'").rowcount == 1


def test_a_required_value_is_required_by_the_database(full: Books) -> None:
    with raw(full) as connection, pytest.raises(sqlite3.IntegrityError, match="NOT NULL"):
        connection.execute("INSERT INTO policies (policy_id, version, document) VALUES ('p', 9, '{}')")


@pytest.mark.parametrize("region", [None, "eu-west-1"])
def test_a_factor_version_is_unique_nulls_included(books: Books, region: str | None) -> None:
    row = sample(EMISSION_FACTORS, region=region, provider=None)
    books.append("emission_factors", [row])
    with pytest.raises(ConflictError, match="factor_type=text-0") as conflict:
        books.append("emission_factors", [row | {"factor_id": "another id"}])
    assert conflict.value.key["region"] == region
    books.append("emission_factors", [row | {"factor_id": "b", "name": "another name"}])
    books.append("emission_factors", [row | {"factor_id": "c", "version": 2}])
    assert books.read("emission_factors").num_rows == 3
    natural = ", ".join("NULL" if row[c] is None else repr(row[c]) for c in UNIQUE["emission_factors"])
    rest = [c for c in EMISSION_FACTORS.column_names if c not in (*UNIQUE["emission_factors"], "factor_id")]
    with raw(books) as connection, pytest.raises(sqlite3.IntegrityError, match="key is taken"):
        connection.execute(
            f"INSERT OR REPLACE INTO emission_factors ({', '.join((*UNIQUE['emission_factors'], *rest))}, factor_id) "
            f"SELECT {natural}, {', '.join(rest)}, 'forged' FROM emission_factors LIMIT 1"
        )


def test_a_review_needs_its_factor(books: Books) -> None:
    with pytest.raises(SchemaError, match="FOREIGN KEY"):
        books.append("factor_reviews", [sample(next(s for s in BOOKS if s.name == "factor_reviews"))])


# -- opening and migrating ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*expression-based index")
def test_the_shipped_revisions_lead_to_the_declarations(books: Books) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    assert script.get_heads() == [migrations.HEAD] == [books.revision()]
    newest = script.get_revision(migrations.HEAD)
    assert newest is not None
    assert declaration_digest() == newest.module.DECLARATION, (
        "the books' declarations changed: add a revision that calls reconcile() and set HEAD "
        "(before the first release: set DECLARATION of r0001 to " + declaration_digest() + ")"
    )
    with books.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": migrations.VERSION_TABLE})
        assert compare_metadata(context, METADATA) == []


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'new' / 'folder' / 'books.db'}"
    with Books.open(address) as books:
        books.append("policies", [sample(POLICIES)])
        version = raw(books).execute("PRAGMA schema_version").fetchone()
    with Books.open(address) as books:
        assert books.read("policies").num_rows == 1
        assert raw(books).execute("PRAGMA schema_version").fetchone() == version


def test_books_of_an_earlier_declaration_gain_what_is_missing(full: Books) -> None:
    with raw(full) as connection:
        connection.execute("ALTER TABLE policies DROP COLUMN approved_by")
        connection.execute("DROP TABLE nudges")
        connection.execute("DROP TRIGGER outbox_no_delete")
        connection.execute(f"DELETE FROM {migrations.VERSION_TABLE}")
    full.migrate()
    assert full.read("policies").to_pylist()[0]["approved_by"] is None
    full.append("policies", [sample(POLICIES, 1)])
    assert full.read("nudges").num_rows == 0
    with raw(full) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute("DELETE FROM outbox")


def test_books_of_the_first_revision_are_upgraded_with_their_rows(tmp_path: Path) -> None:
    """Books as release 0001 wrote them, rows in every table: nothing is lost, and the new guards hold."""
    path = tmp_path / "books.db"
    with sqlite3.connect(path) as connection:
        connection.executescript((Path(__file__).parent / "data" / "books_r0001.sql").read_text())
        names = [n for (n,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        before = {
            n: connection.execute(f"SELECT * FROM {n} ORDER BY 1, 2").fetchall() for n in names if n != "books_version"
        }
        log = connection.execute("SELECT * FROM decision_log ORDER BY 1").fetchall()
    assert all(before.values()) and len(log) == 8
    assert "approvals" not in before
    with Books.open(path) as books:
        assert books.revision() == migrations.HEAD
        with raw(books) as connection:
            for name, found in before.items():
                assert connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall() == found
            assert connection.execute("SELECT * FROM decision_log ORDER BY 1").fetchall() == log
        for spec in BOOKS:
            assert {c["name"] for c in sa.inspect(books.engine).get_columns(spec.name)} == set(spec.column_names)
        books.append("approvals", [sample(next(s for s in BOOKS if s.name == "approvals"))])
        with raw(books) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute("UPDATE approvals SET signer = 'forged'")
        high = event("new", "proposed", 0, None)
        books.append("decision_events", [high | {"payload": high["payload"].replace('"low"', '"high"')}])
        with pytest.raises(TransitionRefused, match="signatures of two people"):
            books.append("decision_events", [event("new", "approved", 1, "proposed")])
        books.append("decision_events", [event("r-proposed", "approved", 1, "proposed")])


def test_a_failed_migration_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE policies (policy_id TEXT NOT NULL PRIMARY KEY)")
    with pytest.raises(RuntimeError, match=r"policies.version is new and required"):
        Books.open(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("policies",)]


def test_books_of_a_newer_release_are_left_alone(books: Books) -> None:
    with raw(books) as connection:
        connection.execute(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9000'")
    with pytest.raises(BooksError, match="upgrade the software"):
        Books.open(str(books.url.database))


def test_addresses(tmp_path: Path) -> None:
    assert books_url(tmp_path / "b.db").render_as_string() == f"sqlite:///{tmp_path}/b.db"
    assert books_url("postgresql+psycopg2://u@h/d").drivername == "postgresql+psycopg2"
    for address in ("mysql://h/d", "sqlite://", "sqlite:///:memory:"):
        with pytest.raises(BooksError):
            books_url(address)


@pytest.mark.parametrize("installed", [("psycopg2", "psycopg"), ("psycopg",), ()])
def test_a_bare_address_means_a_driver_that_is_there(
    monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in installed else None)
    for address in ("postgres://u:secret@h/d", "postgresql://u:secret@h/d"):
        if installed:
            assert books_url(address).drivername == f"postgresql+{installed[0]}"
            continue
        with pytest.raises(BooksUnavailableError, match="no PostgreSQL driver") as error:
            books_url(address)
        assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "address",
    ["postgresql+nobody://u:secret@h/d", "postgresql+psycopg2://u:secret@h:port/d", "sqlite:////dev/null/books.db"],
)
def test_what_is_no_books_is_a_fault_of_the_set_up(address: str) -> None:
    """An ``OSError`` too: the command line must not take it for a finding."""
    with pytest.raises(BooksUnavailableError) as error:
        Books(address).revision()
    assert isinstance(error.value, OSError) and "secret" not in str(error.value)


# -- appending and reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", PLAIN, ids=lambda s: s.name)
def test_what_is_appended_is_read_back_and_appending_again_is_nothing(books: Books, spec: TableSpec) -> None:
    table = sample_table(spec, 5)
    assert books.append(spec.name, table.take([3, 0, 4, 1, 2])) == AppendResult(spec.name, 5, 0)
    assert books.append(spec.name, table.to_pylist()) == AppendResult(spec.name, 0, 5)
    read = books.read(spec.name)
    assert read.schema.equals(spec.arrow, check_metadata=True)
    assert read.sort_by([(k, "ascending") for k in spec.key]).equals(
        table.sort_by([(k, "ascending") for k in spec.key])
    )


def test_part_new_part_old(books: Books) -> None:
    books.append("log_commitments", sample_table(LOG_COMMITMENTS, 3))
    assert books.append("log_commitments", sample_table(LOG_COMMITMENTS, 1200)) == AppendResult(
        "log_commitments", 1197, 3
    )
    assert books.read("log_commitments").column("leaf_index").to_pylist() == list(range(1200))


def test_other_content_under_the_same_key_names_key_and_columns(books: Books) -> None:
    books.append("policies", sample_table(POLICIES, 2))
    changed = sample(POLICIES, 1, document="{}", author="someone else")
    with pytest.raises(ConflictError) as conflict:
        books.append("policies", [sample(POLICIES, 5), changed])
    assert conflict.value.key == {"policy_id": "text-1", "version": 1}
    assert conflict.value.columns == ("document", "author")
    assert "policy_id=text-1, version=1" in str(conflict.value)
    assert books.read("policies").num_rows == 2, "nothing of the refused append is kept"


def test_one_append_may_repeat_a_row_but_not_contradict_itself(books: Books) -> None:
    row = sample(POLICIES)
    assert books.append("policies", [row, dict(row)]) == AppendResult("policies", 1, 1)
    with pytest.raises(ConflictError, match="document"):
        books.append("policies", [sample(POLICIES, 1), sample(POLICIES, 1, document="x")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": 1}, "unknown columns"),
        ({"author": None}, "null values in required column author"),
        ({"valid_from": START.replace(tzinfo=None)}, "has no timezone"),
        ({"version": "three"}, "table policies"),
    ],
)
def test_rows_that_do_not_fit_are_refused(books: Books, change: dict[str, object], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        books.append("policies", [sample(POLICIES) | change])


def test_no_infinite_figures_and_no_naive_columns(books: Books) -> None:
    for figure in (float("nan"), float("inf")):
        with pytest.raises(SchemaError, match="not a finite number"):
            books.append("emission_factors", [sample(EMISSION_FACTORS, value_upper=figure)])
        with pytest.raises(SchemaError, match="not a finite number"):
            books.append("emission_factors", sample_table(EMISSION_FACTORS, value_upper=figure))
    naive = sample_table(POLICIES)
    column = naive.schema.get_field_index("valid_from")
    naive = naive.set_column(column, "valid_from", naive.column("valid_from").cast(pa.timestamp("us")))
    with pytest.raises(SchemaError, match="without a timezone"):
        books.append("policies", naive)


def test_tables_of_the_lake_are_not_in_the_books(books: Books) -> None:
    for call in (lambda: books.append("emissions", []), lambda: books.read("emissions"), lambda: books.read("x")):
        with pytest.raises(BooksError, match="not a table of the books"):
            call()


def test_reading_a_part(books: Books) -> None:
    books.append("policies", [*sample_table(POLICIES, 4).to_pylist(), sample(POLICIES, 9, approved_by=None)])
    c = TABLES_SQL["policies"].c

    def versions(*args: Any) -> list[int]:
        return books.read("policies", *args, columns=["version"]).column("version").to_pylist()

    assert versions() == [0, 1, 2, 3, 9]
    assert versions({"version": 2}) == [2]
    assert versions({"version": [1, 3, 77]}) == [1, 3]
    assert versions({"version": []}) == []
    assert versions({"approved_by": None}) == [9]
    assert versions({"created_at": START, "author": "text-1"}) == [1]
    assert versions(None, c.version > 1, c.version < 9) == [2, 3]
    assert books.read("policies", {"version": 77}).equals(POLICIES.empty())
    for bad in (lambda: books.read("policies", {"nope": 1}), lambda: books.read("policies", columns=["nope"])):
        with pytest.raises(BooksError, match="policies has no column nope"):
            bad()


def test_several_appends_happen_together_or_not_at_all(books: Books) -> None:
    with pytest.raises(ZeroDivisionError), books.transaction() as transaction:
        transaction.append("policies", [sample(POLICIES)])
        assert transaction.read("policies").num_rows == 1
        assert books.read("policies").num_rows == 0, "others do not see it yet"
        raise ZeroDivisionError
    assert books.read("policies").num_rows == 0
    with books.transaction() as transaction:
        transaction.append("policies", [sample(POLICIES)])
        transaction.append("log_commitments", [sample(LOG_COMMITMENTS)])
    assert books.read("policies").num_rows == books.read("log_commitments").num_rows == 1


def test_a_second_write_inside_a_transaction_says_so_at_once(books: Books) -> None:
    with books.transaction(), pytest.raises(BooksError, match="write through it"):
        books.append("policies", [sample(POLICIES)])
    books.append("policies", [sample(POLICIES)])


def test_a_snapshot_sees_one_state(books: Books) -> None:
    with books.snapshot() as snapshot:
        assert snapshot.read("policies").num_rows == 0
        books.append("policies", [sample(POLICIES)])
        assert snapshot.read("policies").num_rows == 0
    assert books.read("policies").num_rows == 1


# -- time ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clock_books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    with Books.open(tmp_path_factory.mktemp("clock") / "books.db") as opened:
        yield opened


OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))
INSTANTS = st.datetimes(datetime.fromisoformat("1900-01-01"), datetime.fromisoformat("2200-01-01"), timezones=OFFSETS)


@settings(max_examples=40, deadline=None)
@given(instants=st.lists(INSTANTS, min_size=1, max_size=20))
def test_an_instant_comes_back_to_the_microsecond_and_sorts_as_text(
    clock_books: Books, instants: list[datetime]
) -> None:
    run = str(uuid.uuid4())
    rows = [sample(POLICIES, i, policy_id=run, valid_from=t) for i, t in enumerate(instants)]
    clock_books.append("policies", rows)
    read = clock_books.read("policies", {"policy_id": run}).column("valid_from").to_pylist()
    assert read == instants
    assert all(t.utcoffset() == timedelta(0) for t in read)
    with raw(clock_books) as connection:
        query = "SELECT valid_from FROM policies WHERE policy_id = ? ORDER BY valid_from"
        texts = [t for (t,) in connection.execute(query, [run])]
        assert texts == [t.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ") for t in sorted(instants)]
        assert connection.execute("SELECT datetime(?)", [texts[0]]).fetchone() == (texts[0][:19].replace("T", " "),)


def test_a_time_without_a_zone_never_reaches_the_database(books: Books) -> None:
    with pytest.raises(StatementError, match="has no timezone"):
        books.read("policies", {"created_at": START.replace(tzinfo=None)})


def test_decision_events_are_appended_by_the_rules_too(books: Books) -> None:
    books.append("decision_events", [event("r", "proposed", 0, None)])
    assert books.append("decision_events", [event("r", "proposed", 0, None)]) == AppendResult("decision_events", 0, 1)
    with pytest.raises(ConflictError, match="reason"):
        books.append("decision_events", [event("r", "proposed", 0, None, reason="another")])
    books.append("decision_events", [event("r", "executing", 2, "approved"), event("r", "approved", 1, "proposed")])
    with books.snapshot() as snapshot:
        assert snapshot.state("r") == "executing"
        assert snapshot.state("unknown") is None
