"""`sust evidence` over a small project whose lake, books, log and bundles are real, and over what was done to it."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sust_cli import Ran, sust

sys.path.insert(0, str(Path(__file__).parents[1] / "verifier" / "evidence"))

from evidence_worlds import DAY, NOW, START, document, make_project, verify

from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.world.lake import Lake
from sust_dagster.world.merkle import leaf_hash, node_hash


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with its evidence, signed for."""
    root = tmp_path_factory.mktemp("evidence") / "project"
    verify(make_project(root))
    assert sust("--project", root, "evidence", "checkpoint").code == 0
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy to do harm to."""
    copied = shutil.copytree(whole, tmp_path / "project")
    return Path(copied)


def bundle_of(root: Path, **wanted: Any) -> Path:
    """A bundle whose outcome has these values."""
    for path in sorted((root / "evidence").glob("*.json")):
        if all(document(path)["outputs"][k] == v for k, v in wanted.items()):
            return path
    raise AssertionError(f"no outcome has {wanted}")


def differences(ran: Ran) -> list[dict[str, Any]]:
    assert ran.code == 1, ran.err
    found = ran.json["differences"]
    assert not ran.json["ok"] and ran.json["first_difference"] == found[0]
    return found


def verify_all(root: Path, *more: object) -> Ran:
    return sust("--project", root, "evidence", "verify", "--json", *more)


def test_what_was_left_alone_is_the_same(whole: Path) -> None:
    ran = verify_all(whole)
    assert ran.code == 0, ran.out
    found = ran.json
    assert found["ok"] and found["differences"] == [] and found["first_difference"] is None
    assert found["bundles"] == found["bundles_committed"] == 10
    assert found["portfolios"] == 2 and found["checkpoints"] == 1 and found["lake_files"] > 100
    for path in (whole / "evidence").glob("*.json"):
        assert sust("evidence", "verify", path).code == 0
    path = bundle_of(whole, verification_status="confirmed")
    assert sust("evidence", "verify", path, "--lake", whole / "lake").code == 0
    outcome = document(path)["claim"]["outcome_id"]
    for reference in (path, path.stem, outcome):
        ran = sust("evidence", "verify", reference, "--project", whole, "--json")
        assert ran.code == 0 and ran.json["sha256"] == path.stem


def test_a_changed_byte_of_a_bundle_is_named(root: Path) -> None:
    draw = random.Random(5)
    path = bundle_of(root, uncertainty_method="linear")
    whole = path.read_bytes()
    for _ in range(12):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= draw.randrange(1, 256)
        path.write_bytes(data)
        found = differences(sust("evidence", "verify", path, "--json"))
        assert found[0]["subject"] == path.stem and found[0]["path"] != "(file name)"
    everything = differences(verify_all(root))
    assert {f["subject"] for f in everything} >= {path.stem} and any("bundle_changed" in f["path"] for f in everything)
    path.write_bytes(whole)
    assert verify_all(root).code == 0


def test_folded_files_are_no_finding_before_their_leaf_is_written(root: Path) -> None:
    lake = Lake(root / "lake")
    for table in ("emissions", "activity_ledger", "grid_intensity"):
        lake.compact(table, NOW)
    ran = verify_all(root)
    assert ran.code == 0 and any("still to come" in note for note in ran.json["notes"])
    version = lake.version("emissions")
    assert version is not None
    folded = root / "lake" / "emissions" / lake.commit("emissions", version).added[0]
    folded.write_bytes(folded.read_bytes()[:-1] + b"x")
    assert any(f["path"] == "(file_changed)" for f in differences(verify_all(root)))


def test_a_bundle_that_is_gone_is_named(root: Path) -> None:
    path = bundle_of(root, verification_status="confirmed")
    outcome = document(path)["claim"]["outcome_id"]
    path.unlink()
    found = differences(verify_all(root))
    assert {(f["subject"], f["path"]) for f in found} == {
        (outcome, "(bundle_gone)"),
        (f"outcome {outcome}", "evidence_chain"),
    }


@pytest.mark.parametrize("table", ["emissions", "activity_ledger", "grid_intensity", "placements"])
def test_a_changed_byte_of_the_lake_is_named(root: Path, table: str) -> None:
    path = bundle_of(root, verification_status="confirmed")
    inputs = document(path)["inputs"][table]
    draw = random.Random(table)
    file = root / "lake" / table / draw.choice(inputs)
    data = bytearray(file.read_bytes())
    data[draw.randrange(len(data))] ^= 1
    file.write_bytes(data)
    alone = differences(sust("evidence", "verify", path, "--lake", root / "lake", "--json"))
    assert alone[0]["path"] == f"inputs.{table}[{inputs.index(alone[0]['stored'])}]"
    assert alone[0]["stored"] == str(file.relative_to(root / "lake" / table))
    everything = differences(verify_all(root))
    assert any(f["path"] == "(file_changed)" and f["subject"].endswith(file.name) for f in everything)
    file.unlink()
    alone = differences(sust("evidence", "verify", path, "--lake", root / "lake", "--json"))
    assert alone[0]["computed"] == "the lake has no such file"


#: What may be changed behind the books' back: column, new value, and the member of the bundle that then differs.
CHANGES = [
    ("decision_events", "reason", "'another'", "books.decision_events[0].reason"),
    ("decision_events", "actor", "'mallory'", "books.decision_events[0].actor"),
    ("decision_events", "occurred_at", "'2026-01-01T02:00:00.000000Z'", "books.decision_events[0].occurred_at"),
    ("approvals", "signer", "'mallory'", "books.approvals[0].signer"),
    ("outbox", "payload", "replace(payload, '0.02', '0.03')", "books.outbox[0].payload"),
    ("emission_factors", "value", "value * 1.5", "factors.rows[0].value"),
    ("emission_factors", "source", "'elsewhere'", "factors.rows[0].source"),
]


def tamper(root: Path, *statements: str) -> None:
    """Change the books as the owner of the file can: without their triggers."""
    with closing(sqlite3.connect(root / "books.db")) as books:
        triggers = books.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            books.execute(f'DROP TRIGGER "{name}"')
        for statement in statements:
            books.execute(statement)
        for _, sql in triggers:
            books.execute(sql)
        books.commit()


@pytest.mark.parametrize(("table", "column", "value", "named"), CHANGES)
def test_a_changed_row_of_the_books_is_named(root: Path, table: str, column: str, value: str, named: str) -> None:
    path = next(p for p in sorted((root / "evidence").glob("*.json")) if document(p)["books"]["approvals"])
    said = document(path)
    rows = said["factors"]["rows"] if table == "emission_factors" else said["books"][table]
    key = {"decision_events": "event_id", "approvals": "approval_id", "outbox": "intent_id"}.get(table, "factor_id")
    tamper(root, f"UPDATE {table} SET {column} = {value} WHERE {key} = '{rows[0][key]}'")
    alone = differences(sust("evidence", "verify", path, "--project", root, "--json"))
    assert named in {f["path"] for f in alone if f["subject"] == path.stem}
    everything = differences(verify_all(root))
    assert named in {f["path"] for f in everything if f["subject"] == path.stem}
    assert any(f["path"] == "(row_changed)" and table in f["subject"] for f in everything)


def test_a_deleted_and_an_added_row_are_named(root: Path) -> None:
    path = next(p for p in sorted((root / "evidence").glob("*.json")) if document(p)["books"]["approvals"])
    row = document(path)["books"]["approvals"][0]
    columns = ", ".join(c for c in row if c != "approval_id")
    tamper(root, f"INSERT INTO approvals (approval_id, {columns}) SELECT 'added', {columns} FROM approvals LIMIT 1")
    found = differences(sust("evidence", "verify", path, "--project", root, "--json"))
    assert {"books.approvals", "(row_added)"} <= {f["path"] for f in found}
    tamper(root, f"DELETE FROM approvals WHERE approval_id = '{row['approval_id']}'")
    found = differences(sust("evidence", "verify", path, "--project", root, "--json"))
    assert {"books.approvals[0]", "(row_deleted)"} <= {f["path"] for f in found}


def test_rows_that_fit_no_file_are_named_though_the_bundle_is_whole(root: Path) -> None:
    """A bundle built of other rows, consistent in itself, does not pass for one of this lake."""
    from sust_dagster.agents.verifier.evidence.recompute import canonical, sha256

    path = bundle_of(root, verification_status="disqualified", reason="sufficiency.missing_energy")
    forgery = document(path)
    forgery["usage"]["vcpus"][0] = 17
    forgery["digests"] = {name: sha256(forgery[name]) for name in forgery["digests"]}
    other = path.with_name(f"{sha256(forgery)}.json")
    other.write_text(canonical(forgery))
    assert sust("evidence", "verify", other).code == 0, "no figure rests on it"
    found = differences(sust("evidence", "verify", other, "--lake", root / "lake", "--json"))
    assert found[0]["path"] == "usage.vcpus[0]" and "16.0 in activity_ledger" in found[0]["computed"]
    found = differences(sust("evidence", "verify", other, "--project", root, "--json"))
    assert {"usage.vcpus[0]", "(log)"} <= {f["path"] for f in found}


def test_a_row_that_was_left_out_is_named(root: Path) -> None:
    from sust_dagster.agents.verifier.evidence.recompute import canonical, sha256

    path = next(
        p for p in (root / "evidence").glob("*.json") if any("memory" in q for q in document(p)["usage"]["quality"])
    )
    forgery = document(path)
    at = next(i for i, q in enumerate(forgery["usage"]["quality"]) if "memory" in q)
    activity = forgery["usage"]["activity_id"][at]
    forgery["usage"] = {n: v[:at] + v[at + 1 :] for n, v in forgery["usage"].items()}
    forgery["digests"] = {name: sha256(forgery[name]) for name in forgery["digests"]}
    other = path.with_name(f"{sha256(forgery)}.json")
    other.write_text(canonical(forgery))
    assert sust("evidence", "verify", other).code == 0, "it had no energy of its own"
    found = differences(sust("evidence", "verify", other, "--lake", root / "lake", "--json"))
    assert found[0]["path"] == "usage.activity_id" and activity in found[0]["computed"]


def test_an_outcome_that_says_otherwise_than_its_evidence_is_named(root: Path) -> None:
    with ProjectResource(root=str(root)) as resource:
        handle = resource.handle("verifier")
        rows = handle.read_lake("outcomes")
        at = rows.column_names.index("credited_kg")
        credited = [None if v is None else v + 1.0 for v in rows["credited_kg"].to_pylist()]
        changed = rows.set_column(at, rows.schema.field(at), pa.array(credited, pa.float64()))
        handle.write_lake("outcomes", changed, START, START + DAY, reason="more is nicer")
    found = differences(verify_all(root))
    assert {f["path"] for f in found} == {"outputs.credited_kg"}


def test_newest_entries_that_were_deleted_are_found_against_an_older_checkpoint(root: Path, tmp_path: Path) -> None:
    kept = Path(shutil.copytree(root / "checkpoints", tmp_path / "kept"))
    with closing(sqlite3.connect(root / "books.db")) as books:
        (last,) = books.execute("SELECT max(leaf_index) FROM log_commitments WHERE kind = 'bundle'").fetchone()
        subject = books.execute("SELECT subject FROM log_commitments WHERE leaf_index = ?", (last,)).fetchone()[0]
    tamper(root, f"DELETE FROM log_commitments WHERE leaf_index >= {last}")
    shutil.rmtree(root / "checkpoints")
    found = differences(verify_all(root))
    assert {f["path"] for f in found} == {"(log)", "(unlogged)"}, "the bundle and the outcomes lost their leaves"
    found = differences(verify_all(root, "--checkpoints", kept))
    assert any(f["path"] == "(truncated)" and "the newest are gone" in f["computed"] for f in found)
    # Whoever also deletes what those entries were about leaves a whole log behind, but not for who kept a checkpoint.
    path = next(p for p in (root / "evidence").glob("*.json") if document(p)["claim"]["outcome_id"] == subject)
    path.unlink()
    shutil.rmtree(root / "lake" / "outcomes")
    assert verify_all(root).code == 0
    assert [f["path"] for f in differences(verify_all(root, "--checkpoints", kept))] == ["(truncated)"]


def test_a_checkpoint_that_was_edited_is_named(root: Path) -> None:
    note = next((root / "checkpoints").glob("*.checkpoint"))
    note.write_bytes(note.read_bytes().replace(b"A", b"B", 1))
    found = differences(verify_all(root))
    assert found[0]["subject"] == "checkpoints" and note.name in found[0]["computed"]


def test_a_proof_leads_to_the_signed_root(root: Path, tmp_path: Path) -> None:
    since = tmp_path / "older"
    signed = sust("--project", root, "evidence", "checkpoint", "--out", since, "--json").json
    assert signed["new"] is False and since.read_bytes() == Path(signed["checkpoint"]).read_bytes()
    with ProjectResource(root=str(root)) as resource, resource.handle("verifier").transaction() as transaction:
        transaction.commit_bundle("something newer", "0" * 64)
    newer = sust("--project", root, "evidence", "checkpoint", "--json").json
    assert newer["new"] and newer["size"] == signed["size"] + 1
    path = bundle_of(root, verification_status="confirmed")
    ran = sust("evidence", "prove", path, "--project", root, "--since", since, "--json")
    assert ran.code == 0 and ran.json["ok"] and ran.json["checkpoint"]["size"] == newer["size"]
    proof, consistency = ran.json["inclusion"], ran.json["consistency"]
    assert json.loads(proof["leaf"]) == {
        "kind": "bundle", "sha256": path.stem, "subject": document(path)["claim"]["outcome_id"]
    }  # fmt: skip
    found, index, last = leaf_hash(proof["leaf"].encode()), proof["index"], proof["size"] - 1
    for step in map(bytes.fromhex, proof["proof"]):
        if index & 1 or index == last:
            found = node_hash(step, found)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            found = node_hash(found, step)
        index, last = index >> 1, last >> 1
    assert last == 0 and found.hex() == proof["root"] == newer["root"]
    assert consistency["first_root"] == consistency["checkpoint_root"] == signed["root"]
    assert "entry" in sust("evidence", "prove", path, "--project", root).out
    # A log of the same length with another entry in it is another log.
    tamper(root, "UPDATE log_commitments SET kind = kind WHERE leaf_index = 3")
    assert sust("evidence", "prove", path, "--project", root, "--since", since).code == 0, "nothing was changed"
    changed = '{"kind":"decision","row_sha256":"00","subject":"x","table":"decision_events"}'
    tamper(
        root,
        f"UPDATE log_commitments SET leaf = '{changed}', leaf_hash = '{leaf_hash(changed.encode()).hex()}' "
        "WHERE leaf_index = 3",
    )
    ran = sust("evidence", "prove", path, "--project", root, "--since", since)
    assert ran.code == 1 and "not the one that was signed for" in ran.err


def test_showing_a_bundle(whole: Path, tmp_path: Path) -> None:
    path = bundle_of(whole, verification_status="confirmed")
    outcome = document(path)["claim"]["outcome_id"]
    text = sust("--project", whole, "evidence", "show", outcome)
    assert text.code == 0 and f"outcome {outcome}: confirmed" in text.out
    for word in ("verified saving", "factors", "power/simple/v1", "usage ratio", "left alone by lot", "executed"):
        assert word in text.out
    said = sust("evidence", "show", path, "--json").json
    assert said["sha256"] == path.stem and said["outputs"]["verification_status"] == "confirmed"
    assert said["factors"]["power/simple/v1"]["sources"] and said["sensitivities"]
    ratio = said["usage_ratio"]
    assert ratio["ratio_ci_lower"] < ratio["ratio"] < ratio["ratio_ci_upper"]
    changed = tmp_path / path.name
    changed.write_bytes(path.read_bytes().replace(b'"confirmed"', b'"partial"'))
    text = sust("evidence", "show", changed)
    assert text.code == 1 and "outputs.verification_status" in text.err and not text.out
    closed = bundle_of(whole, verification_status="disqualified")
    text = sust("evidence", "show", closed)
    assert text.code == 0 and "sufficiency." in text.out and "not estimated" in text.out


def test_what_is_no_bundle_or_no_project(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[]")
    for reference in (tmp_path / "other.json", tmp_path / "nothing.json", "nobody"):
        assert sust("evidence", "verify", reference).code == 3
        assert sust("evidence", "show", reference).code == 3
    assert sust("--project", whole, "evidence", "verify", "nobody").code == 3
    assert sust("--project", whole, "evidence", "prove", "nobody").code == 3
    assert sust("--project", tmp_path, "evidence", "verify", "--all").code == 3
    assert sust("--project", whole, "evidence", "verify", "x", "--all").code == 2
    text = sust("--project", whole, "evidence", "verify", "--all")
    assert text.code == 0 and text.out.startswith("same")


def test_a_portfolio_that_does_not_add_up_is_named(root: Path) -> None:
    """Bundles that lied when they were written, consistent in themselves and committed to."""
    from sust_dagster.agents.verifier.evidence.recompute import canonical, lower_bound, sha256

    path = bundle_of(root, verification_status="confirmed", team_id="search")
    forgery = document(path)
    total, out = forgery["portfolio"], forgery["outputs"]
    total["other_g_squared"] *= 0.25  # less risk in the others: a larger share for this one
    sd = (sum(g * g for g in total["g_kg"].values()) + total["other_g_squared"]) ** 0.5
    scaled = json.loads(out["scaled_sensitivities"])
    dot = sum(v * total["g_kg"][k] for k, v in scaled.items())
    total["sd_kg"] = sd
    total["credit_bound_kg"], by_saving, by_sd = lower_bound(total["savings_kg"], sd)
    out["credited_kg"] = -by_saving * out["measured_carbon_delta_kg"] + by_sd * dot / sd
    forgery["digests"] = {name: sha256(forgery[name]) for name in forgery["digests"]}
    other = path.with_name(f"{sha256(forgery)}.json")
    other.write_text(canonical(forgery))
    assert sust("evidence", "verify", other).code == 0, "alone it is consistent"
    with ProjectResource(root=str(root)) as resource:
        handle = resource.handle("verifier")
        rows = handle.read_lake("outcomes").to_pylist()
        for row in rows:
            if row["outcome_id"] == out["outcome_id"]:
                row |= {"evidence_chain": other.stem, "credited_kg": out["credited_kg"]}
        table = pa.Table.from_pylist(rows, handle.read_lake("outcomes").schema)
        handle.write_lake("outcomes", table, START, START + DAY, reason="a lie")
        with handle.transaction() as transaction:
            transaction.commit_bundle(out["outcome_id"], other.stem)
    found = differences(verify_all(root))
    assert (other.stem, "portfolio.sd_kg") in {(f["subject"], f["path"]) for f in found}
