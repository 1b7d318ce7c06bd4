"""The runs behind a usage ratio: made again from their document, and what was changed in it is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from evidence_worlds import make_project, verify

from sust_dagster.agents.verifier.causal.comparison import COMPARED, ratios_of
from sust_dagster.agents.verifier.evidence.recompute import (
    Comparisons,
    Normals,
    canonical,
    check,
    compared,
    comparisons_beside,
    named_by_hash,
    sha256,
)
from sust_dagster.settings import Project

NORMALS = Normals()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = make_project(tmp_path_factory.mktemp("compared") / "project", 7)
    verify(made)
    return made


def bundle_with_runs(project: Project) -> Path:
    """A bundle whose own runs are among those compared."""
    for path in sorted(project.evidence_root.glob("*.json")):
        document = json.loads(path.read_bytes())
        held = comparisons_beside(path).of(document["usage_ratio"]["comparison_sha256"])
        if held and any(held.runs.get(job, (0, {})) for job in document["requests"]["job_id"]):
            return path
    raise AssertionError("no bundle's runs were compared")


def checked(path: Path, comparisons: Comparisons | None = None) -> tuple[list[str], list[str]]:
    report = check(path.read_bytes(), named_by_hash(path), NORMALS, comparisons or comparisons_beside(path))
    return [str(d) for d in report.differences], report.notes


def test_a_bundle_agrees_with_its_comparison_and_says_when_it_is_not_there(project: Project, tmp_path: Path) -> None:
    path = bundle_with_runs(project)
    assert checked(path) == ([], [])
    alone = Path(shutil.copy(path, tmp_path / path.name))
    found, notes = checked(alone)
    assert not found and "is not at hand: its usage ratio is as stated" in notes[0]


@pytest.mark.parametrize("share", [0.3, 0.1, 0.02, 0.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_estimate_is_made_a_second_time(seed: int, share: float) -> None:
    """The regression with the standard library against the one with arrays, from no comparison to a sound one."""
    random = np.random.default_rng(seed)
    rows = [
        {
            "run_id": f"r{i}", "pool": "resized/2026-02", "workload_id": f"w{random.integers(6)}",
            "requested_hour": int(random.integers(490_000, 490_040)), "moved": bool(random.random() >= share),
            "vcpus_scale": float(random.choice([0.5, 1.0])),
            "energy_kwh": float(random.choice([np.nan, 0.0, 1.0], p=[0.05, 0.05, 0.9]) * random.lognormal(0, 1)),
        }
        for i in range(300)
    ]  # fmt: skip
    for row in rows:
        row["energy_kwh"] = None if np.isnan(row["energy_kwh"]) else row["energy_kwh"]
    table = pa.Table.from_pylist(
        [
            {**r, "requested_hour": np.datetime64(r["requested_hour"], "h").astype("datetime64[us]").item()}
            for r in rows
        ],
        pa.schema([f if f.name != "requested_hour" else pa.field(f.name, pa.timestamp("us")) for f in COMPARED]),
    ).cast(COMPARED)
    ours, theirs = ratios_of(table).to_pylist()[0], compared(rows, 0.10)
    for name, value in theirs.items():
        assert ours[name] == (pytest.approx(value, abs=1e-12) if isinstance(value, float) else value), name
    if share >= 0.1:
        assert ours["reason"] is None and ours["weight"] > 0
    elif share == 0:
        assert ours["reason"] == "no_unmoved_runs"


def changed(project: Project, tmp_path: Path, change: Any, *, forge: bool) -> tuple[Path, dict[str, Any]]:
    """A bundle and its comparison after ``change``; forged: with names and hashes made to fit."""
    path = bundle_with_runs(project)
    document = json.loads(path.read_bytes())
    sha = document["usage_ratio"]["comparison_sha256"]
    comparison = json.loads((path.parent / "comparisons" / f"{sha}.json").read_bytes())
    change(comparison, document)
    folder = tmp_path / "comparisons"
    folder.mkdir()
    if forge:
        document["usage_ratio"]["comparison_sha256"] = sha256(comparison)
        document["digests"]["usage_ratio"] = sha256(document["usage_ratio"])
    name = document["usage_ratio"]["comparison_sha256"]
    (folder / f"{name}.json").write_text(canonical(comparison))
    text = canonical(document)
    target = tmp_path / f"{sha256(document)}.json"
    target.write_text(text)
    return target, document


def test_a_changed_byte_of_a_comparison_is_named(project: Project, tmp_path: Path) -> None:
    def change(comparison: dict[str, Any], document: dict[str, Any]) -> None:
        comparison["runs"]["energy_kwh"][0] = 1e9

    path, _ = changed(project, tmp_path, change, forge=False)
    found, _ = checked(path)
    assert any(line.startswith("usage_ratio.comparison_sha256: stored") for line in found)


def own_run(comparison: dict[str, Any], document: dict[str, Any]) -> int:
    jobs = set(document["requests"]["job_id"])
    return next(i for i, run in enumerate(comparison["runs"]["run_id"]) if run in jobs)


def test_energy_that_the_bill_does_not_show_is_named(project: Project, tmp_path: Path) -> None:
    def change(comparison: dict[str, Any], document: dict[str, Any]) -> None:
        at = own_run(comparison, document)
        comparison["runs"]["energy_kwh"][at] = (comparison["runs"]["energy_kwh"][at] or 1.0) * 2 + 1

    found, _ = checked(changed(project, tmp_path, change, forge=True)[0])
    assert any(line.startswith("(comparison).runs.energy_kwh[") for line in found)


def test_a_run_that_was_left_alone_for_another_reason_is_named(project: Project, tmp_path: Path) -> None:
    def change(comparison: dict[str, Any], document: dict[str, Any]) -> None:
        comparison["runs"]["moved"][own_run(comparison, document)] = False

    found, _ = checked(changed(project, tmp_path, change, forge=True)[0])
    assert any("not left alone by lot" in line for line in found)
    assert any(line.startswith("(comparison).runs.moved[") and line.endswith("recomputed true") for line in found)


def test_a_ratio_that_its_numbers_do_not_give_is_named(project: Project, tmp_path: Path) -> None:
    def change(comparison: dict[str, Any], document: dict[str, Any]) -> None:
        document["usage_ratio"]["ratio"] *= 0.9

    found, _ = checked(changed(project, tmp_path, change, forge=True)[0])
    assert any(line.startswith("usage_ratio.ratio: stored") for line in found)
    assert any(line.startswith("outputs.measured_carbon_delta_kg") for line in found)


def test_a_prior_that_was_chosen_to_please_is_named(project: Project, tmp_path: Path) -> None:
    def change(comparison: dict[str, Any], document: dict[str, Any]) -> None:
        document["usage_ratio"]["prior_log_sd"] = 0.001

    found, _ = checked(changed(project, tmp_path, change, forge=True)[0])
    assert any(line.startswith("usage_ratio.prior_log_sd: stored 0.001") for line in found)
