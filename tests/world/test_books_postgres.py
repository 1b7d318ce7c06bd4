"""The books on a real PostgreSQL: tables, guards, view, roles; with a driver also the whole of ``Books``.

The SQL part goes through ``psql`` and needs no driver.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa
from books_samples import OWNERS, PATHS, PROPOSAL, START, bring_to, event, sample, sample_table, step
from postgres_server import DRIVERS, Server, without_driver
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DatabaseError
from test_books_concurrency import run_two_processes
from test_transparency import NOW, Case, fill, run_four_writers

from sust_dagster.world import migrations
from sust_dagster.world.access import World
from sust_dagster.world.books import AppendResult, Books, ConflictError
from sust_dagster.world.books_schema import DECISION_LOG_ARROW, TABLES_SQL, postgres_script
from sust_dagster.world.decisions import VERB_BY_STATUS, TransitionRefused
from sust_dagster.world.factor_store import FactorStore
from sust_dagster.world.lake import Lake
from sust_dagster.world.permissions import PermissionRefused, allowed, postgres_grants, role
from sust_dagster.world.schemas import AGENTS, DECISION_STATES, POLICIES, TABLES, tables

BOOKS = list(tables("books"))
OK, DENIED, RAISED = "00000", "42501", "P0001"


def codes(server: Server, database: str, statements: dict[str, str], agent: str | None = None) -> dict[str, str]:
    """SQLSTATE of each statement, each in a transaction that is rolled back, as an agent's role if given."""
    become = f"SET LOCAL ROLE {role(agent)};" if agent else ""
    script = "".join(f"BEGIN; {become}\n{s};\n\\echo '##' {n} :SQLSTATE\nROLLBACK;\n" for n, s in statements.items())
    lines = [line.split() for line in server.psql(database, script, stop=False).splitlines() if line.startswith("##")]
    return {name: code for _, name, code in lines}


@pytest.fixture(scope="session")
def server(postgres: Server) -> Server:
    return postgres


@pytest.fixture(scope="module")
def database(server: Server) -> str:
    """A database set up by the scripts, roles included."""
    name = server.create("scripted")
    server.psql(name, postgres_script() + postgres_grants())
    return name


def insert(table: str, row: dict[str, object]) -> str:
    dialect = postgresql.dialect(paramstyle="named")
    statement = TABLES_SQL[table].insert().values(row)
    return str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def events_to(recommendation: str, status: str) -> str:
    path = (*PATHS[status], status)
    rows = [event(recommendation, to, i, path[i - 1] if i else None) for i, to in enumerate(path)]
    return "".join(insert("decision_events", r) + ";\n" for r in rows)


# -- the SQL, through psql ----------------------------------------------------------------------------------


def test_the_scripts_make_the_declared_tables(server: Server, database: str) -> None:
    query = (
        "SELECT table_name, column_name, is_nullable, col_description(table_name::regclass, ordinal_position) "
        "FROM information_schema.columns WHERE table_schema = 'public'"
    )
    found = {tuple(line.split("|")[:2]): line.split("|")[2:] for line in server.psql(database, query).splitlines()}
    for spec in BOOKS:
        for column in spec.columns:
            nullable, comment = found[spec.name, column.name]
            assert nullable == ("YES" if column.nullable else "NO")
            assert comment == (f"{column.doc} [{column.unit}]" if column.unit else column.doc)
    assert server.psql(database, f"SELECT * FROM {migrations.VERSION_TABLE}").strip() == migrations.HEAD


def test_grants_may_be_run_again(server: Server, database: str) -> None:
    server.psql(database, postgres_grants())


def test_not_even_the_owner_changes_or_removes_a_row(server: Server, database: str) -> None:
    for spec in BOOKS:
        text = next(c.name for c in spec.columns if c.type == pa.string())
        found = codes(
            server,
            database,
            {
                "update": f"UPDATE {spec.name} SET {text} = 'forged'",
                "delete": f"DELETE FROM {spec.name}",
                "truncate": f"TRUNCATE {spec.name} CASCADE",
                "upsert": f"INSERT INTO {spec.name} SELECT * FROM {spec.name} ON CONFLICT "
                f"({', '.join(c.name for c in TABLES_SQL[spec.name].primary_key)}) DO UPDATE SET {text} = 'forged'",
            },
        )
        assert found == dict.fromkeys(("update", "delete", "truncate", "upsert"), RAISED), spec.name


def test_a_factor_version_is_unique_nulls_included(server: Server, database: str) -> None:
    row = sample(TABLES["emission_factors"], region=None, provider=None)
    twice = f"{insert('emission_factors', row)}; {insert('emission_factors', row | {'factor_id': 'another'})}"
    assert codes(server, database, {"twice": twice}) == {"twice": "23505"}


def test_every_cell_of_the_matrix_as_a_real_role(server: Server, database: str) -> None:
    factor = sample(TABLES["emission_factors"], 500)
    server.psql(database, insert("emission_factors", factor))
    for agent in AGENTS:
        statements, expected = {}, {}
        for i, spec in enumerate(BOOKS):
            statements[f"{spec.name}/read"] = f"SELECT count(*) FROM {spec.name}"
            expected[f"{spec.name}/read"] = OK if allowed(agent, spec.name, "read") else DENIED
            if spec.name != "decision_events":
                changes = {"factor_id": factor["factor_id"]} if spec.name == "factor_reviews" else {}
                changes |= {"agent": agent} if spec.name in ("access_log", "alerts") else {}
                statements[f"{spec.name}/write"] = insert(spec.name, sample(spec, 100 + i, **changes))
                expected[f"{spec.name}/write"] = OK if allowed(agent, spec.name, "write") else DENIED
            for verb in ("UPDATE", "DELETE"):
                change = f"UPDATE {spec.name} SET {spec.columns[0].name} = NULL"
                statements[f"{spec.name}/{verb}"] = change if verb == "UPDATE" else f"DELETE FROM {spec.name}"
                expected[f"{spec.name}/{verb}"] = DENIED
        statements["decision_log/read"] = "SELECT count(*) FROM decision_log"
        expected["decision_log/read"] = OK if allowed(agent, "decision_log", "read") else DENIED
        statements["version/read"] = f"SELECT version_num FROM {migrations.VERSION_TABLE}"
        expected["version/read"] = OK
        assert codes(server, database, statements, agent) == expected


def test_each_role_makes_its_own_transitions_and_no_others(server: Server, database: str) -> None:
    server.psql(database, "".join(events_to(f"at-{s}", PATHS[s][-1]) for s in DECISION_STATES if PATHS[s]))
    for agent in AGENTS:
        statements, expected = {}, {}
        for status in DECISION_STATES:
            before = PATHS[status]
            row = event(f"at-{status}", status, len(before), before[-1] if before else None)
            statements[status] = insert("decision_events", row)
            expected[status] = OK if allowed(agent, "decision_events", VERB_BY_STATUS[status]) else DENIED
            # The same transition signed with the role's own name: the state machine knows whose it is.
            statements[f"{status}/signed"] = insert("decision_events", row | {"agent": agent, "actor": agent})
            reads = allowed(agent, "decision_events", "read")
            expected[f"{status}/signed"] = OK if OWNERS[status] == agent else (RAISED if reads else DENIED)
        found = codes(server, database, statements, agent)
        wrong = {k: (v, expected[k]) for k, v in found.items() if v != expected[k]}
        # Without the right to insert, the trigger or the grant may be the first to refuse.
        assert all(got != OK and want != OK for got, want in wrong.values()), (agent, wrong)


def test_the_state_machine_binds_raw_sql(server: Server, database: str) -> None:
    server.psql(database, events_to("sm", "proposed"))
    good = event("sm", "approved", 1, "proposed")
    wrong = {
        "skip": event("sm", "executed", 1, "proposed"),
        "gap": good | {"sequence": 2},
        "state": good | {"from_status": "approved", "to_status": "expired"},
        "actor": good | {"actor": "planner"},
        "plan": good | {"plan_hash": "edited"},
        "no_plan": good | {"plan_hash": None},
        "twice": event("sm", "proposed", 1, "proposed"),
    }
    found = codes(server, database, {n: insert("decision_events", r) for n, r in ({"good": good} | wrong).items()})
    assert found == {"good": OK} | dict.fromkeys(wrong, RAISED)


def test_a_high_risk_plan_needs_two_people_whoever_asks(server: Server) -> None:
    name = server.create("high")
    proposed = event("r", "proposed", 0, None)
    proposed["payload"] = proposed["payload"].replace('"risk_level":"low"', '"risk_level":"high"')
    server.psql(name, postgres_script() + postgres_grants() + insert("decision_events", proposed))
    ends = START + timedelta(hours=1)
    signed = {
        "recommendation_id": "r",
        "plan_hash": "plan-r",
        "verdict": "approve",
        "signed_at": START,
        "expires_at": ends,
    }
    spec, approval = TABLES["approvals"], event("r", "approved", 1, "proposed", policy_version=1)
    one = insert("approvals", sample(spec, 1, signer="zoe", policy_version=1, **signed))
    two = insert("approvals", sample(spec, 2, signer="bob", policy_version=1, **signed | {"signed_at": START}))
    twice = insert("approvals", sample(spec, 3, signer="zoe", policy_version=1, **signed))
    approve = insert("decision_events", approval)
    statements = {
        "none": approve,
        "one": f"{one}; {approve}",
        "one_twice": f"{one}; {twice}; {approve}",
        "two": f"{one}; {two}; {approve}",
    }
    assert codes(server, name, statements, "governance") == {
        "none": RAISED,
        "one": RAISED,
        "one_twice": RAISED,
        "two": OK,
    }
    server.psql(name, f"{one}; {two}; {approve}")
    assert server.psql(name, "SELECT status, approved_by FROM decision_log").strip() == "approved|bob, zoe"


def test_the_view_has_the_founding_designs_columns_and_types(server: Server, database: str) -> None:
    query = "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'decision_log' "
    found = dict(line.split("|") for line in server.psql(database, query + "ORDER BY ordinal_position").splitlines())
    assert list(found) == DECISION_LOG_ARROW.names
    assert {found[c] for c in ("current_config", "proposed_config")} == {"jsonb"}
    assert {found[c] for c in ("proposed_at", "approved_at", "executed_at")} == {"timestamp with time zone"}
    assert {found[c] for c in ("est_carbon_delta_kg", "confidence")} == {"double precision"}


def test_the_founding_designs_queries_run(server: Server) -> None:
    name = server.create("view")
    server.psql(name, postgres_script())
    server.psql(name, "".join(events_to(f"r-{s}", s) for s in DECISION_STATES))
    query = "SELECT status, recommendation_id, est_carbon_delta_kg FROM decision_log "
    where = "WHERE proposed_config->>'region' = 'us-west-2' AND proposed_at < now() ORDER BY status"
    expected = "".join(f"{s}|r-{s}|-1.5\n" for s in sorted(DECISION_STATES))
    assert server.psql(name, query + where) == expected
    approved = "SELECT count(*) FROM decision_log WHERE approved_by IS NOT NULL AND approved_at <= executed_at"
    assert server.psql(name, approved).strip() == "2"


def test_without_its_trigger_an_unapproved_execution_could_be_written(server: Server) -> None:
    """Negative control: it is the trigger that refuses."""
    name = server.create("control")
    server.psql(name, postgres_script() + events_to("r", "proposed"))
    skip = insert("decision_events", event("r", "executed", 1, "executing"))
    assert codes(server, name, {"skip": skip}) == {"skip": RAISED}
    server.psql(name, "DROP TRIGGER decision_events_transition ON decision_events")
    assert codes(server, name, {"skip": skip}) == {"skip": OK}


@pytest.mark.parametrize("table", ["access_log", "alerts"])
def test_no_role_writes_in_anothers_name(server: Server, database: str, table: str) -> None:
    row = insert(table, sample(TABLES[table], agent="verifier"))
    assert codes(server, database, {"forged": row}, "planner") == {"forged": DENIED}
    assert codes(server, database, {"own": row}, "verifier") == {"own": OK}


# -- Books, through a driver --------------------------------------------------------------------------------


@pytest.fixture(params=DRIVERS)
def address(request: pytest.FixtureRequest, server: Server) -> str:
    """An empty database as a SQLAlchemy URL."""
    if why := without_driver(request.param):
        pytest.skip(why)
    return server.url(server.create(), request.param)


def test_the_books_are_the_same_on_postgresql(address: str) -> None:
    with Books.open(address) as books, Books.open(address) as again:
        assert books.revision() == again.revision() == migrations.HEAD
        for spec in BOOKS:
            if spec.name in ("decision_events", "factor_reviews", "access_log"):
                continue
            table = sample_table(spec, 5)
            assert books.append(spec.name, table) == AppendResult(spec.name, 5, 0)
            assert again.append(spec.name, table) == AppendResult(spec.name, 0, 5)
            assert books.read(spec.name).equals(table)
            assert books.read(spec.name).schema.equals(spec.arrow, check_metadata=True)
        with pytest.raises(ConflictError) as conflict:
            books.append("policies", [sample(POLICIES, 1, author="another")])
        assert conflict.value.columns == ("author",)
        with pytest.raises(ConflictError, match="factor_type"):
            books.append("emission_factors", [sample(TABLES["emission_factors"], factor_id="another")])
        at = START + timedelta(microseconds=1)
        books.append("policies", [sample(POLICIES, 9, valid_from=at)])
        assert books.read("policies", {"valid_from": at}, columns=["valid_from"]).to_pylist() == [{"valid_from": at}]
        with pytest.raises(DatabaseError, match="append-only"), books.transaction() as transaction:
            transaction.connection.execute(sa.text("UPDATE policies SET author = 'forged'"))


def test_books_of_the_first_revision_are_upgraded_with_their_rows(address: str, server: Server) -> None:
    name = address.split("@/")[1].split("?")[0]
    server.psql(name, (Path(__file__).parent / "data" / "books_r0001_postgres.sql").read_text())
    server.psql(name, events_to("r", "executed") + insert("policies", sample(POLICIES)))
    log = server.psql(name, "SELECT * FROM decision_log")
    with Books.open(address) as books:
        assert books.revision() == migrations.HEAD
        books.install_roles()
        assert server.psql(name, "SELECT * FROM decision_log") == log
        assert books.read("policies").num_rows == 1
        assert books.read("approvals").num_rows == books.read("alerts").num_rows == 0
        books.decide("planner", [step("h", "proposed", payload=PROPOSAL | {"risk_level": "high"})], START)
        with pytest.raises(TransitionRefused, match="signatures of two people"):
            books.decide("governance", [step("h", "approved")], START)


def test_decisions_are_the_same_on_postgresql(address: str, tmp_path: Path) -> None:
    with Books.open(address) as there, Books.open(tmp_path / "books.db") as here:
        for books in (there, here):
            for state in DECISION_STATES:
                bring_to(books, f"r-{state}", state)
            assert not books.decide("planner", [step("r-executed", "proposed")], START)[0].appended
            with pytest.raises(TransitionRefused, match="it is proposed"):
                books.decide("executor", [step("r-proposed", "executing")], START)
        assert there.read("decision_events").equals(here.read("decision_events"))
        assert there.read("decision_log").equals(here.read("decision_log"))


def test_texts_sort_as_bytes_whatever_the_database_sorts_by(address: str, server: Server, tmp_path: Path) -> None:
    names = ["b", "a", "B", "A", "_x", "-y", "ä", "Z", "z1", "z-1", "z 2", "10", "9", "Ω"]
    with Books.open(address) as there, Books.open(tmp_path / "books.db") as here:
        for books in (there, here):
            books.append("alerts", [sample(TABLES["alerts"], i, alert_id=name) for i, name in enumerate(names)])
            books.decide("planner", [step(name, "proposed") for name in names], START)
        for table in ("alerts", "decision_events", "decision_log"):
            assert there.read(table).equals(here.read(table)), table
        assert there.read("alerts").column("alert_id").to_pylist() == sorted(names, key=str.encode)
        with there.snapshot() as snapshot:
            own = snapshot.connection.execute(sa.text("SELECT alert_id FROM alerts ORDER BY alert_id")).scalars().all()
    assert own != sorted(names, key=str.encode), "negative control: the database sorts otherwise"


def test_a_transaction_sees_what_was_committed_before_its_locks(address: str, server: Server) -> None:
    shown = sa.text("SHOW transaction_isolation")
    with Books.open(address) as books:
        with books.transaction() as transaction:
            assert transaction.connection.execute(shown).scalar() == "read committed"
        with books.snapshot() as snapshot:
            assert snapshot.connection.execute(shown).scalar() == "repeatable read"
    assert server.psql("postgres", "SHOW transaction_isolation").strip() == "serializable", "the server's own default"


def test_the_last_instant_there_is_comes_back(address: str, server: Server) -> None:
    last = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    assert server.psql("postgres", "SHOW timezone").strip() == "Asia/Kolkata", "where it is the year 10000 by then"
    with Books.open(address) as books:
        books.append("policies", [sample(POLICIES, valid_from=last)])
        assert books.read("policies").column("valid_from").to_pylist() == [last]


def test_a_text_that_postgresql_cannot_read_does_not_spoil_the_view(address: str) -> None:
    with Books.open(address) as books:
        for i, text in enumerate(("a\0b", "\\\0")):
            with pytest.raises(TransitionRefused, match="NUL"):
                books.decide("planner", [step(f"bad-{i}", "proposed", payload=PROPOSAL | {"workload_id": text})], START)
        for i, text in enumerate(("\\u0000", "a\\\\u0000")):  # backslashes and letters
            books.decide("planner", [step(f"good-{i}", "proposed", payload=PROPOSAL | {"workload_id": text})], START)
        assert books.read("decision_log").column("workload_id").to_pylist() == ["\\u0000", "a\\\\u0000"]


def test_two_processes_from_the_first_moment(address: str) -> None:
    run_two_processes(address)


def test_several_writers_leave_no_gap_in_the_log(address: str, tmp_path: Path) -> None:
    run_four_writers(tmp_path, address)


def test_the_log_is_the_same_on_postgresql(address: str, tmp_path: Path) -> None:
    there, here = Case(tmp_path / "there", address), Case(tmp_path / "here")
    for case in (there, here):
        fill(case)
        assert case.verify().ok
        case.world.close()
    assert there.verify().root == here.verify().root


def test_a_row_that_another_process_put_in_has_one_leaf(address: str, tmp_path: Path) -> None:
    """Each appends what the other has: only what a transaction truly put in is in the log."""
    with Case(tmp_path, address).world as one, Case(tmp_path, address).world as two:
        for world in (one, two):
            world.handle("governance").append("policies", sample_table(POLICIES, 3))
    case = Case(tmp_path, address)
    assert case.verify().ok and case.verify().size == 3
    case.world.close()


def test_the_database_holds_each_agent_to_its_role(address: str, tmp_path: Path) -> None:
    with Books.open(address) as owner:
        owner.install_roles()
    with World(Lake(tmp_path / "lake"), Books.open(address, agent_roles=True)) as world:
        # Past the handle, straight at the books: the role refuses.
        with pytest.raises(DatabaseError, match="permission denied"), world.books.transaction("planner") as t:
            t.append("policies", [sample(POLICIES)])
        with pytest.raises(DatabaseError, match="permission denied"), world.books.snapshot("ingestor") as t:
            t.read("decision_log")
        world.handle("planner").transitions([step("r", "proposed")], now=START)
        world.handle("governance").transitions([step("r", "approved")], now=START)
        world.handle("governance").append("policies", [sample(POLICIES)])
        with pytest.raises(PermissionRefused):
            world.handle("executor").append("policies", [sample(POLICIES, 1)])
        store = FactorStore(world.handle("accountant"))
        (row,) = store.propose([_factor()], now=START).to_pylist()
        store.review(row["factor_id"], "activate", reviewer="dana", reason="checked", now=START)
        assert FactorStore(world.handle("planner")).active(START).num_rows == 1
        assert world.handle("copilot").read_books("decision_log").column("status").to_pylist() == ["approved"]
        refusals = world.handle("governance").read_books("access_log", {"allowed": False}).to_pylist()
        assert [(e["agent"], e["table_name"]) for e in refusals] == [("executor", "policies")]


def test_an_account_with_the_agents_roles_does_all_the_work_and_can_forge_nothing(
    address: str, server: Server, tmp_path: Path
) -> None:
    """The account of a service: it owns nothing, and is granted the roles of the agents it acts as."""
    with Books.open(address) as owner:
        owner.install_roles()
    account = f"service_{tmp_path.name}".replace("-", "_")[:60].lower()
    roles = ", ".join(role(agent) for agent in AGENTS)
    server.psql("postgres", f"CREATE ROLE {account} LOGIN; GRANT {roles} TO {account}")
    case = Case(tmp_path, address)
    case.world.close()
    case.books = Books.open(address.replace("postgres@", f"{account}@"), agent_roles=True)
    case.world = World(case.lake, case.books, clock=lambda: NOW)
    fill(case)
    case.sign()
    assert case.verify().ok and case.verify().checkpoints == 3
    for statement in (
        "SET session_replication_role = replica",
        "ALTER TABLE decision_events DISABLE TRIGGER ALL",
        "DROP TRIGGER decision_events_append_only ON decision_events",
        "ALTER TABLE decision_events DISABLE ROW LEVEL SECURITY",
        "UPDATE decision_events SET reason = 'forged'",
        "DELETE FROM log_commitments",
        "TRUNCATE log_commitments",
        "ALTER FUNCTION sust_append_only() RENAME TO nothing",
    ):
        with pytest.raises(DatabaseError, match=r"permission denied|must be owner"), case.books.transaction() as t:
            t.connection.execute(sa.text(statement))
    assert case.verify().ok
    case.world.close()
    # Negative control: a superuser can, no trigger stops it, and the log tells.
    name = address.split("@/")[1].split("?")[0]
    server.forge(name, "UPDATE decision_events SET reason = 'forged' WHERE sequence = 0 AND recommendation_id = 'r'")
    case = Case(tmp_path, address)
    assert {what for what, _ in case.found()} == {"row_changed"}
    case.world.close()


def _factor() -> dict[str, object]:
    row = sample(TABLES["emission_factors"], value_lower=1.0, value_upper=2.0, valid_from=START, valid_to=None)
    return {k: v for k, v in row.items() if k not in ("factor_id", "version", "created_at")}
