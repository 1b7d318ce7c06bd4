"""`sust doctor`: a whole project is well; each kind of damage is one finding with its fix, and exit code 1."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sust_cli import T0, sust, usage, write_bill


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A project of one bill, sensed and modelled."""
    folder = tmp_path_factory.mktemp("doctor")
    bill = write_bill(folder / "bill.csv", [usage(T0, vcpus=v) for v in (2, 4)])
    arguments = ["--start", "2026-10-01", "--end", "2026-10-01T02:00:00", "--out", folder / "project"]
    assert sust("init", "--billing", bill, *arguments).code == 0
    command = [sys.executable, "-m", "sust_dagster.cli", "--project", str(folder / "project"), "backfill", "--no-marts"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "project"


@pytest.fixture
def project(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "project"))


def findings(folder: Path) -> dict[str, dict]:
    ran = sust("--project", folder, "doctor", "--json")
    found = ran.json
    bad = {f["subject"]: f for f in found["findings"] if not f["ok"]}
    assert (ran.code, found["ok"]) == ((1, False) if bad else (0, True))
    return bad


def emission_file(project: Path) -> Path:
    return next((project / "lake" / "emissions").rglob("*.parquet"))


def test_a_whole_project_has_no_finding_but_its_age(project):
    assert set(findings(project)) <= {"freshness"}
    ran = sust("--project", project, "doctor")
    assert "lake: emissions" in ran.out
    assert ran.err == ""


def test_a_changed_byte_is_found_and_named(project):
    path = emission_file(project)
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    finding = findings(project)["lake: emissions"]
    assert path.name in finding["detail"]
    assert "SHA-256" in finding["fix"]
    ran = sust("--project", project, "doctor")
    assert ran.code == 1
    assert f"fix: {finding['fix']}" in ran.out


def test_a_file_that_is_gone_is_found(project):
    emission_file(project).unlink()
    assert "1 files are missing" in findings(project)["lake: emissions"]["detail"]


def test_an_unreadable_table_is_a_finding_and_the_others_are_still_looked_at(project):
    for entry in (project / "lake" / "emissions" / "_delta_log").glob("*.json"):
        entry.write_text("garbage")
    bad = findings(project)
    assert "cannot be read" in bad["lake: emissions"]["detail"]
    assert "lake: activity_ledger" not in bad


def test_books_that_are_none_or_gone_are_a_finding(project):
    (project / "books.db").write_text("no books")
    assert "books" in findings(project)
    (project / "books.db").unlink()
    assert "is not there" in findings(project)["books"]["detail"]
    assert not (project / "books.db").exists()  # it looks; it makes nothing


def test_the_books_are_closed_again(project, monkeypatch):
    from sust_dagster.world.books import Books

    opened, closed = [], []
    real_init, real_close = Books.__init__, Books.close
    monkeypatch.setattr(Books, "__init__", lambda self, *a, **k: (opened.append(self), real_init(self, *a, **k))[1])
    monkeypatch.setattr(Books, "close", lambda self: (closed.append(self), real_close(self))[1])
    findings(project)
    assert opened
    assert opened == closed


def test_a_folder_without_a_project_is_a_finding(tmp_path):
    finding = findings(tmp_path)["project"]
    assert "sust.toml" in finding["detail"]
    assert "--project" in finding["fix"]


def test_a_project_that_was_never_planned_has_no_heartbeat_of_a_plan_to_miss(project):
    found = sust("--project", project, "doctor", "--json").json
    subjects = {f["subject"] for f in found["findings"]}
    assert not subjects & {"heartbeat: decide", "heartbeat: act"}
    assert {s: state["mode"] for s, state in found["steps"].items() if s in ("decide", "act")} == {
        "decide": "not started",
        "act": "not started",
    }


def test_every_step_has_its_heartbeat_and_a_late_one_is_a_finding_with_its_remedy(project):
    found = sust("--project", project, "doctor", "--json").json["steps"]
    assert list(found) == ["sense", "model", "decide", "act", "verify"]
    assert {"mode", "last_success", "age_hours", "limit_hours", "reason", "remedy"} <= set(found["sense"])
    assert (found["model"]["last_success"], found["model"]["mode"]) == ("2026-10-01T02:00:00Z", "normal")
    settings = project / "sust.toml"
    settings.write_text(settings.read_text().replace("2026-10-01T02:00:00Z", "2026-10-01T07:00:00Z"))
    late = findings(project)["heartbeat: model"]
    assert late["detail"].startswith("degraded: its last success is 5 h old, due every 1 h")
    assert "sust backfill" in late["fix"]
    shutil.rmtree(project / "dagster")
    by_tables = sust("--project", project, "doctor", "--json").json["steps"]["model"]
    assert by_tables["age_hours"] == 5
    assert not (project / "dagster").exists(), "it looks; it makes nothing"
