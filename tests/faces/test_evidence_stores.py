"""`sust evidence` with the books on PostgreSQL and the lake on an object store: the same evidence to the byte, and
whoever changes a row or an object there is found and named.
"""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from postgres_server import Server, without_driver
from sust_cli import Ran, sust

sys.path.insert(0, str(Path(__file__).parents[1] / "verifier" / "evidence"))

from evidence_worlds import document, make_project, verify

from sust_dagster.settings import Project, load_project, simulated_project
from sust_dagster.world.books import Books
from sust_dagster.world.lake import Lake
from sust_dagster.world.schemas import tables

SLOW = pytest.mark.slow
#: What may be changed behind the books' back: column, new value, and the member of the bundle that then differs.
CHANGES = [
    pytest.param("decision_events", "reason", "'another'", "books.decision_events[0].reason"),
    pytest.param("outbox", "payload", "replace(payload, '0.02', '0.03')", "books.outbox[0].payload", marks=SLOW),
    pytest.param("approvals", "signer", "'mallory'", "books.approvals[0].signer", marks=SLOW),
    pytest.param("emission_factors", "value", "value * 1.5", "factors.rows[0].value"),
    pytest.param(
        "decision_events", "occurred_at", "occurred_at - interval '1 microsecond'",
        "books.decision_events[0].occurred_at", marks=SLOW,
    ),
]  # fmt: skip
TABLES = [
    "emissions",
    *(pytest.param(name, marks=SLOW) for name in ("activity_ledger", "grid_intensity", "placements")),
]
KEYS = {"decision_events": "event_id", "approvals": "approval_id", "outbox": "intent_id"}


@dataclass(frozen=True)
class Stored:
    """A project folder whose lake and books lie elsewhere."""

    root: Path
    server: Server
    database: str
    lake: str

    def copy(self, root: Path) -> Stored:
        """The same project over a copy of its books; the lake is the same one."""
        shutil.copytree(self.root, root)
        database = self.server.create(like=self.database)
        load_project(root).model_copy(update={"books_url": self.server.url(database)}).save()
        return Stored(root, self.server, database, self.lake)

    @contextmanager
    def changed_object(self, name: str, body: bytes | None) -> Generator[None]:
        """An object of the lake that holds something else (``None``: is gone) for a while."""
        import boto3

        client, (bucket, _, prefix) = boto3.client("s3"), self.lake.removeprefix("s3://").partition("/")
        where = {"Bucket": bucket, "Key": f"{prefix}/{name}"}
        whole = client.get_object(**where)["Body"].read()
        assert body != whole
        _ = client.delete_object(**where) if body is None else client.put_object(**where, Body=body)
        try:
            yield
        finally:
            client.put_object(**where, Body=whole)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project on this disk."""
    root = tmp_path_factory.mktemp("here") / "project"
    verify(make_project(root))
    return root


@pytest.fixture(scope="module")
def there(postgres: Server, s3_of_module: str, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """The same project with its books on a server and its lake in a bucket, verified and signed for."""
    if why := without_driver():
        pytest.skip(why)
    stored = Stored(tmp_path_factory.mktemp("there") / "project", postgres, postgres.create(), f"{s3_of_module}/lake")
    with pytest.MonkeyPatch.context() as environment:  # as an operator names them
        environment.setenv("SUST_BOOKS_URL", postgres.url(stored.database))
        environment.setenv("SUST_LAKE_URL", stored.lake)
        verify(make_project(stored.root))
    assert sust("--project", stored.root, "evidence", "checkpoint").code == 0
    return stored


@pytest.fixture
def copied(there: Stored, tmp_path: Path) -> Stored:
    """A copy to do harm to."""
    return there.copy(tmp_path / "project")


def verify_all(root: Path, *more: object) -> Ran:
    return sust("--project", root, "evidence", "verify", "--json", *more)


def differences(ran: Ran) -> list[dict[str, Any]]:
    assert ran.code == 1, ran.err
    return ran.json["differences"]


def evidence(root: Path) -> dict[str, bytes]:
    """Every file of the evidence, by its path."""
    folder = root / "evidence"
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def leaves(root: Path) -> list[str]:
    """What the log says, in order; but for the factors, which are dated when they are installed."""
    with Books.open(load_project(root).books_address) as books:
        rows = books.read("log_commitments").to_pylist()
    return [r["leaf"] for r in rows if not r["kind"].startswith("factor")]


def bundle_of(root: Path, status: str = "confirmed") -> Path:
    paths = sorted((root / "evidence").glob("*.json"))
    return next(p for p in paths if document(p)["outputs"]["verification_status"] == status)


def test_the_evidence_is_the_same_to_the_byte_wherever_it_is_kept(here: Path, there: Stored) -> None:
    assert not (there.root / "books.db").exists() and not (there.root / "lake").exists()
    assert evidence(here) == evidence(there.root) and len(evidence(here)) >= 10
    assert Lake(here / "lake").digest() == Lake(there.lake).digest()
    local, remote = verify_all(here), verify_all(there.root)
    assert (local.code, remote.code) == (0, 0), remote.out
    for name in ("bundles", "portfolios", "log_entries", "book_rows", "lake_files"):
        assert local.json[name] == remote.json[name], name
    assert remote.json["checkpoints"] == 1 and remote.json["lake_files"] > 100
    assert leaves(here) == leaves(there.root)


@SLOW
def test_one_bundle_is_verified_shown_and_proven(there: Stored, tmp_path: Path) -> None:
    path = bundle_of(there.root)
    outcome = document(path)["claim"]["outcome_id"]
    assert sust("evidence", "verify", path, "--lake", there.lake).code == 0
    for reference in (path, path.stem, outcome):
        ran = sust("evidence", "verify", reference, "--project", there.root, "--json")
        assert ran.code == 0 and ran.json["sha256"] == path.stem
    said = sust("--project", there.root, "evidence", "show", outcome, "--json").json
    assert (said["sha256"], said["outputs"]["verification_status"]) == (path.stem, "confirmed")
    signed = sust("--project", there.root, "evidence", "checkpoint", "--out", tmp_path / "kept", "--json").json
    assert not signed["new"] and not signed["late"] and not signed["foreign"]
    ran = sust("evidence", "prove", path, "--project", there.root, "--since", tmp_path / "kept", "--json")
    assert ran.code == 0 and ran.json["inclusion"]["root"] == signed["root"]
    assert ran.json["consistency"]["first_root"] == signed["root"]


@pytest.mark.parametrize("table", TABLES)
def test_a_changed_byte_of_an_object_is_named(there: Stored, table: str) -> None:
    path = bundle_of(there.root)
    inputs, draw = document(path)["inputs"][table], random.Random(table)
    name = draw.choice(inputs)
    body = bytearray(Lake(there.lake).read_file(f"{table}/{name}"))
    body[draw.randrange(len(body))] ^= 1
    with there.changed_object(f"{table}/{name}", bytes(body)):
        (first, *_) = differences(sust("evidence", "verify", path, "--lake", there.lake, "--json"))
        assert (first["path"], first["stored"]) == (f"inputs.{table}[{inputs.index(name)}]", name)
        everything = differences(verify_all(there.root))
        assert (f"{table}/{name}", "(file_changed)") in {(f["subject"], f["path"]) for f in everything}
    with there.changed_object(f"{table}/{name}", None):
        (first, *_) = differences(sust("evidence", "verify", path, "--lake", there.lake, "--json"))
        assert first["computed"] == "the lake has no such file"
    assert sust("evidence", "verify", path, "--lake", there.lake).code == 0, "put back, it is the same again"


@pytest.mark.parametrize(("table", "column", "value", "named"), CHANGES)
def test_a_changed_row_of_the_database_is_named(
    copied: Stored, table: str, column: str, value: str, named: str
) -> None:
    path = next(p for p in sorted((copied.root / "evidence").glob("*.json")) if document(p)["books"]["approvals"])
    said = document(path)
    key = KEYS.get(table, "factor_id")
    row = (said["factors"]["rows"] if table == "emission_factors" else said["books"][table])[0]
    copied.server.forge(copied.database, f"UPDATE {table} SET {column} = {value} WHERE {key} = '{row[key]}'")
    alone = differences(sust("evidence", "verify", path, "--project", copied.root, "--json"))
    assert named in {f["path"] for f in alone if f["subject"] == path.stem}
    assert any(f["path"] == "(row_changed)" and f["subject"].startswith(table) for f in alone)


@SLOW
def test_newest_entries_that_a_superuser_deleted_are_found_against_an_older_checkpoint(
    copied: Stored, tmp_path: Path
) -> None:
    kept = Path(shutil.copytree(copied.root / "checkpoints", tmp_path / "kept"))
    last = copied.server.psql(copied.database, "SELECT max(leaf_index) FROM log_commitments WHERE kind = 'bundle'")
    copied.server.forge(copied.database, f"DELETE FROM log_commitments WHERE leaf_index >= {last}")
    shutil.rmtree(copied.root / "checkpoints")
    assert {f["path"] for f in differences(verify_all(copied.root))} == {"(log)", "(unlogged)"}
    found = differences(verify_all(copied.root, "--checkpoints", kept))
    assert any(f["path"] == "(truncated)" and "the newest are gone" in f["computed"] for f in found)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql+psycopg2://u:secret@127.0.0.1:1/nothing",
        "postgresql+nobody://u:secret@h/d",
        "oracle://u:secret@h/d",
        "postgresql://u:secret@h:port/d",
    ],
)
def test_books_that_cannot_be_reached_are_no_finding(
    there: Stored, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    if without_driver("psycopg2") and "psycopg2" in address:
        pytest.skip(str(without_driver("psycopg2")))
    monkeypatch.setenv("SUST_BOOKS_URL", address)
    path = bundle_of(there.root)
    for command in (("verify",), ("verify", path), ("prove", path), ("checkpoint",)):
        ran = sust("--project", there.root, "evidence", *command)
        assert ran.code == 3 and "books" in ran.err and "secret" not in ran.err + ran.out, (command, ran)


def run_loop(root: Path) -> Project:
    """Four days of the whole loop, without the marts; the runs of the first are settled by then."""
    from sust_dagster.faces.loop import Loop
    from sust_dagster.faces.runs import open_instance
    from sust_dagster.orchestration.build import build_defs

    project = simulated_project(root, days=4, seed=12)
    project.save()
    with open_instance(project) as instance:
        Loop(project, build_defs(project, with_marts=False), instance).run(lambda _: None)
    return project


@SLOW
def test_the_whole_loop_does_the_same_over_a_server_and_a_bucket(
    postgres: Server, s3_of_module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why := without_driver():
        pytest.skip(why)
    near = run_loop(tmp_path / "near")
    monkeypatch.setenv("SUST_BOOKS_URL", postgres.url(postgres.create()))
    monkeypatch.setenv("SUST_LAKE_URL", f"{s3_of_module}/loop")
    far = run_loop(tmp_path / "far")
    assert not list(far.root.glob("books.db*")) and not (far.root / "lake").exists()
    for table in (t.name for t in tables("lake")):
        assert Lake(far.lake_root).digest([table]) == Lake(near.lake_root).digest([table]), table
    assert evidence(far.root) == evidence(near.root)
    bundles = list(far.evidence_root.glob("*.json"))
    assert {document(p)["outputs"]["verification_status"] for p in bundles} > {"disqualified"} and len(bundles) > 10
    ran = sust("--project", far.root, "evidence", "verify", "--json")
    assert ran.code == 0 and ran.json["bundles"] == len(bundles) and ran.json["checkpoints"] == 1, ran.out
    assert sust("--project", far.root, "verify").code == 0, "verified again it is as before"
    assert verify_all(far.root).json["log_entries"] == ran.json["log_entries"]
    doctor = sust("--project", far.root, "doctor", "--json")
    assert not [f for f in doctor.json["findings"] if not f["ok"] and "books" in f["subject"]]
