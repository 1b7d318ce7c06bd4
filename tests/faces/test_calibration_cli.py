"""`sust calibration`: files, exit codes, the same bytes twice, and a project's plan intervals."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sust_cli import Ran, sust

from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.settings import Project
from sust_dagster.world.schemas import OUTCOMES, RECOMMENDATIONS, TableSpec

DAY = datetime(2026, 9, 1, tzinfo=UTC)
WORLDS = ("--worlds", 100)


def rows_of(spec: TableSpec, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of a table; required columns nobody speaks of hold something of their type."""

    def filler(kind: pa.DataType) -> object:
        if pa.types.is_timestamp(kind):
            return DAY
        return "x" if pa.types.is_string(kind) else 0 if pa.types.is_integer(kind) else 0.0

    columns = {}
    for field in spec.arrow:
        missing = None if field.nullable else filler(field.type)
        columns[field.name] = pa.array([r.get(field.name, missing) for r in rows], field.type)
    return pa.table(columns, schema=spec.arrow)


def project_with(root: Path, days: int, inside_of_ten: int) -> Path:
    """A project with ten settled outcomes a day, so many of them inside their plan interval, and one not settled."""
    project = Project(root=root, source="files", billing=["nowhere.csv"], grid="static", start=DAY, end=DAY)
    project.save()
    with ProjectResource(root=str(root)) as resource:
        for d in range(days):
            at = DAY + timedelta(days=d)
            names = [f"{d}/{i}" for i in range(11)]
            made = [
                {
                    "outcome_id": name, "recommendation_id": name, "executed_on": at, "claimed_delta_kg": -1.1,
                    "plan_ci_lower": -2.0, "plan_ci_upper": -1.0,
                    "measured_carbon_delta_kg": None if i == 10 else -1.5 if (i + d) % 10 < inside_of_ten else -0.5,
                }
                for i, name in enumerate(names)
            ]  # fmt: skip
            planned = [
                {"recommendation_id": name, "planned_for": at, "action_type": "time_shift"}
                for name in names
                if name != "0/0"
            ]
            span = (at, at + timedelta(days=1))
            resource.handle("planner").write_lake("recommendations", rows_of(RECOMMENDATIONS, planned), *span)
            resource.handle("verifier").write_lake("outcomes", rows_of(OUTCOMES, made), *span)
    return root


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Path]:
    """One run without a project, and its folder."""
    out = tmp_path_factory.mktemp("calibration") / "first"
    return sust("calibration", *WORLDS, "--out", out), out


def test_it_writes_the_card_and_its_picture(first):
    ran, out = first
    assert ran.code == 0, ran.err
    document = json.loads((out / "calibration.json").read_text())
    assert document["passed"] and document["worlds"] == 100 and "project" not in document
    assert all(line["passed"] and line["reasons"] == [] for line in document["fleets"])
    assert (out / "calibration.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    for said in ("one-way (1.0)", "in time, the wrong way (1.0)", "observed anew", "moves that look good", "passed"):
        assert said in ran.out
    assert sorted(p.name for p in out.iterdir()) == ["calibration.json", "calibration.png"]


def test_the_same_seed_makes_the_same_bytes_and_another_other_worlds(first, tmp_path):
    _, out = first
    document = json.loads((out / "calibration.json").read_text())
    again = sust("calibration", *WORLDS, "--out", tmp_path, "--json")
    assert again.json == document
    for name in ("calibration.json", "calibration.png"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
    other = sust("calibration", *WORLDS, "--seed", 43, "--out", tmp_path, "--json").json
    shares = [[line["coverage_jobs"] for line in found["fleets"]] for found in (document, other)]
    assert shares[0] != shares[1]
    # The fleets are the same, but for the one that is observed anew.
    assert [line["point_kg"] for line in document["fleets"][:-1]] == [f["point_kg"] for f in other["fleets"][:-1]]


@pytest.mark.parametrize("arguments", [("--worlds", 99), ("--worlds", "many"), ("--wolrds", 100)])
def test_usage_errors_exit_with_2(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert sust("calibration", *arguments).code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_project_is_bad_input(tmp_path):
    ran = sust("calibration", *WORLDS, "--project", tmp_path / "nothing", "--out", tmp_path / "out")
    assert ran.code == 3
    assert not (tmp_path / "out").exists()


def test_plan_intervals_that_hold_pass(tmp_path):
    root = project_with(tmp_path / "project", 12, 9)
    ran = sust("calibration", *WORLDS, "--project", root, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    plans = json.loads((tmp_path / "out" / "calibration.json").read_text())["project"]
    rows = {r["action_type"]: r for r in plans["plan_intervals"]}
    assert (rows["time_shift"]["outcomes"], rows["time_shift"]["settled"]) == (131, 119)
    assert rows["time_shift"]["inside_share"] == pytest.approx(0.9, abs=0.01)
    assert rows["time_shift"]["claimed_over_measured"] == pytest.approx(1.1 / 1.4, rel=0.01)
    # The recommendation of one outcome is not in the lake any more: it is not counted with any action.
    assert rows["unknown"]["outcomes"] == 1 and rows["unknown"]["reason"].startswith("too_few")
    made = {r["action_type"]: r for r in plans["calibrated"]}
    assert (made["time_shift"]["ratio_lower"], made["time_shift"]["ratio_upper"]) == pytest.approx(
        (0.5 / 1.1, 1.5 / 1.1)
    )
    assert made["unknown"]["reason"] == "too_few_outcomes: 1, needs 19"
    assert "plan intervals of 132 outcomes" in ran.out


def test_plan_intervals_that_do_not_hold_are_a_finding(tmp_path):
    root = project_with(tmp_path / "project", 12, 6)
    ran = sust("--project", root, "calibration", *WORLDS, "--out", tmp_path / "out")
    assert ran.code == 1
    assert "plan intervals of time_shift: too narrow: 0.5" in " ".join(ran.err.split())
    document = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert not document["passed"] and all(line["passed"] for line in document["fleets"])
    assert (tmp_path / "out" / "calibration.png").stat().st_size > 10_000


def test_a_project_without_outcomes_says_so(tmp_path):
    root = project_with(tmp_path / "project", 0, 0)
    ran = sust("calibration", *WORLDS, "--project", root, "--out", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    assert [r["reason"] for r in ran.json["project"]["plan_intervals"]] == ["not_settled"]
    assert ran.json["project"]["calibrated"] == []
