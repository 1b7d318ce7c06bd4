"""Bundles of a small project, made again by the program that imports nothing of the product."""

from __future__ import annotations

import ast
import copy
import json
import math
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evidence_worlds import NOW, START, document, make_project, verify
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sust_dagster.agents.verifier.evidence import bundles, recompute
from sust_dagster.agents.verifier.evidence.recompute import canonical, check, named_by_hash
from sust_dagster.orchestration.evidence_desk import record_of, write_evidence
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.orchestration.verification_desk import VerificationDesk
from sust_dagster.settings import Project
from sust_dagster.world.lake import Lake

PROGRAM = Path(recompute.__file__)
NORMALS = recompute.Normals()
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = make_project(tmp_path_factory.mktemp("evidence") / "project")
    verify(made)
    return made


@pytest.fixture(scope="module")
def files(project: Project) -> list[Path]:
    return sorted(project.evidence_root.glob("*.json"))


@pytest.fixture(scope="module")
def documents(files: list[Path]) -> list[dict[str, Any]]:
    return [document(path) for path in files]


def forged(bundle: dict[str, Any]) -> list[recompute.Difference]:
    """What the program says of a document whose forger has hashed its sections anew and renamed the file."""
    bundle["digests"] = {name: recompute.sha256(bundle[name]) for name in bundle["digests"]}
    return check(canonical(bundle).encode(), "", NORMALS).differences


def test_every_kind_of_outcome_is_made_again(files: list[Path], documents: list[dict[str, Any]]) -> None:
    for path in files:
        assert check(path.read_bytes(), named_by_hash(path), NORMALS).differences == []
    outputs = [d["outputs"] for d in documents]
    assert {o["uncertainty_method"] for o in outputs} == {"linear", "monte_carlo", None}
    assert {o["decomposition_method"] for o in outputs} == {"shapley;lmdi", "shapley;shapley (lmdi guard)", None}
    assert {o["reason"] for o in outputs} == {None, "sufficiency.missing_energy", "sufficiency.missing_runs"}
    assert {o["sla_compliant"] for o in outputs} >= {True, None}
    assert any(o["leakage_kg"] for o in outputs) and any(o["measured_cost_delta_usd"] is None for o in outputs)
    assert any("memory_in_vcpu" in q for d in documents for q in d["usage"]["quality"])


@pytest.mark.parametrize("seed", [3, 19])
def test_other_worlds_are_made_again(tmp_path: Path, seed: int) -> None:
    made = make_project(tmp_path / "project", seed)
    verify(made)
    for path in made.evidence_root.glob("*.json"):
        assert check(path.read_bytes(), named_by_hash(path), NORMALS).differences == []


def test_the_same_facts_have_the_same_names(project: Project, files: list[Path], tmp_path: Path) -> None:
    """Another folder, another day, and a lake whose files were folded meanwhile."""
    shutil.copytree(project.root, tmp_path / "again", ignore=shutil.ignore_patterns("evidence"))
    again = project.model_copy(update={"root": tmp_path / "again"})
    again.save()
    lake = Lake(again.lake_root)
    for table in ("emissions", "activity_ledger", "grid_intensity"):
        lake.compact(table, NOW)
    assert any(len(p.name) < len("2026-01-01T00-") + 72 for p in Path(again.lake_root, "emissions").rglob("*.parquet"))
    verify(again, now=NOW + timedelta(days=3, hours=5))
    assert [p.name for p in sorted(again.evidence_root.glob("*.json"))] == [p.name for p in files]
    assert all((again.evidence_root / p.name).read_bytes() == p.read_bytes() for p in files)


def test_writing_twice_commits_once(project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.root, tmp_path / "twice")
    with ProjectResource(root=str(tmp_path / "twice")) as resource:
        day = VerificationDesk(resource).verify(START, START.replace(day=2), NOW)
        assert day is not None

        def leaves() -> int:
            return resource.handle("verifier").read_books("log_commitments", {"kind": "bundle"}).num_rows

        before = leaves()
        assert len(write_evidence(resource, day)) == before == leaves() == len(day.cases)


def test_evidence_of_other_rows_is_not_written(project: Project) -> None:
    with ProjectResource(root=str(project.root)) as resource:
        day = VerificationDesk(resource).verify(START, START.replace(day=2), NOW)
        assert day is not None
        record = record_of(resource, day)
        at = record.emissions.column_names.index("kg_location")
        changed = np.nan_to_num(record.emissions["kg_location"].to_numpy()) * 1.5
        emissions = record.emissions.set_column(at, "kg_location", [changed])
        with pytest.raises(ValueError, match="changed since they were verified"):
            list(bundles(replace(record, emissions=emissions)))
        with pytest.raises(ValueError, match="is not among the emissions"):
            list(bundles(replace(record, emissions=record.emissions.slice(1))))


# -- on a machine without the product -----------------------------------------------------------------------


def test_the_program_imports_the_standard_library_alone() -> None:
    tree = ast.parse(PROGRAM.read_text())
    names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    names += [str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert {n.split(".")[0] for n in names} <= sys.stdlib_module_names


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the copied program with nothing but the standard library in reach."""
    command = [sys.executable, "-I", "-S", str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=program.parent, check=False, timeout=120)


def test_it_runs_bare_and_says_what_it_found(
    files: list[Path], documents: list[dict[str, Any]], tmp_path: Path
) -> None:
    program = Path(shutil.copy(PROGRAM, tmp_path / "recompute.py"))
    drawn = next(i for i, d in enumerate(documents) if d["outputs"]["uncertainty_method"] == "monte_carlo")
    done = run(program, files[drawn])
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(f"same: {files[drawn].stem}")
    data = files[drawn].read_bytes()
    bad = tmp_path / files[drawn].name
    bad.write_bytes(re.sub(rb'"credited_kg":(-?)', rb'"credited_kg":\g<1>1', data, count=1))
    done = run(program, bad)
    assert done.returncode == 1 and done.stdout.startswith("differs: outputs.credited_kg: stored ")
    assert "differs: (file name)" in done.stdout and "differs: digests.outputs" in done.stdout
    bad.write_bytes(data.replace(b'"credited_kg":', b'"credited_kg":[', 1))
    done = run(program, bad)
    assert done.returncode == 1 and done.stdout.startswith("differs: outputs.credited_kg: "), "no JSON any more"
    assert run(program).returncode == run(program, "--help").returncode == 2
    assert run(program, tmp_path / "nothing.json").returncode == 3
    (tmp_path / "other.json").write_text('{"format":"something else"}')
    done = run(program, tmp_path / "other.json")
    assert done.returncode == 3 and "sust-evidence/v2" in done.stderr
    shutil.copy(files[drawn], tmp_path / "mine.json")
    done = run(program, tmp_path / "mine.json")
    assert done.returncode == 0 and files[drawn].stem in done.stderr, "without a hash for a name it says the hash"


# -- what was changed is found, and named -------------------------------------------------------------------


@settings(max_examples=150, suppress_health_check=QUIET, deadline=None)
@given(which=st.integers(0, 9), at=st.floats(0, 1, exclude_max=True), other=st.integers(1, 255))
def test_any_byte_that_is_changed_is_found(files: list[Path], which: int, at: float, other: int) -> None:
    path = files[which]
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= other
    found = check(bytes(data), named_by_hash(path), NORMALS).differences
    assert any(d.path == "(file name)" for d in found)
    assert found[0].path != "(file name)", "something more exact than the hash of the whole is named"


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path, value
        return
    for name, inner in items:
        yield from leaves(inner, (*path, name))


def changed(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 1.01 + 0.001 if isinstance(value, float) else value + 7
    return "changed" if value is None else f"{value}x"


def edited(bundle: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    out = copy.deepcopy(bundle)
    inner = out
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = changed(inner[path[-1]])
    return out


def test_every_figure_is_named_though_all_hashes_were_made_anew(documents: list[dict[str, Any]]) -> None:
    """Every member of the outcome's row, of every bundle."""
    for bundle in documents:
        for name in bundle["outputs"]:
            found = forged(edited(bundle, ("outputs", name)))
            named = {d.path for d in found}
            assert any(p.startswith((f"outputs.{name}", f"claim.{name}")) for p in named), (name, named)


@pytest.mark.parametrize(
    "section",
    ["usage.energy_kwh", "usage.pue", "usage.cost_usd", "usage.power_factor_key", "usage.job_id", "usage.region",
     "grid.regions", "factors.keys", "moves", "requests", "plan", "baseline", "prices", "portfolio.g_kg",
     "portfolio.sd_kg", "formula.draws", "formula.id", "promises.category", "places", "claim.claimed_delta_kg",
     "claim.settled", "claim.runs_expected", "claim.executed_at"],
)  # fmt: skip
def test_what_figures_rest_on_cannot_be_changed(documents: list[dict[str, Any]], section: str) -> None:
    """A forger who hashes everything anew still has to make the figures fit: something differs, and it has a path."""
    draw, tried, silent = random.Random(section), 0, []
    for bundle in documents:
        if bundle["outputs"]["verification_status"] == "disqualified":
            continue
        if section == "formula.draws" and bundle["outputs"]["uncertainty_method"] == "linear":
            continue
        inside: Any = bundle
        for name in section.split("."):
            inside = inside[name]
        paths = [(*section.split("."), *p) for p, _ in leaves(inside)]
        paths = [p for p in paths if _matters(bundle, p)]
        for path in draw.sample(paths, min(2, len(paths))):
            tried += 1
            found = forged(edited(bundle, path))
            if not found:
                silent.append(path)
    assert tried and not silent


def _matters(bundle: dict[str, Any], path: tuple[Any, ...]) -> bool:
    """Whether a figure rests on a value: not every hour of a day is met, and a row without energy has no factor."""
    if path[0] == "grid":
        hour = bundle["grid"]["first_hour"] + path[-1]
        key = f"grid/{path[2]}/{recompute._hour_key('', hour)[6:]}"
        return path[-2] == "kg_per_kwh" and key in (bundle["outputs"]["sensitivities"] or "")
    if path[0] == "usage":
        usage = bundle["usage"]
        counts = "memory_in_vcpu" not in usage["quality"][path[-1]] and usage[path[1]][path[-1]] is not None
        counts = counts and bool(usage["energy_kwh"][path[-1]])
        unbilled = bundle["outputs"]["measured_cost_delta_usd"] is None
        return counts and not (path[1] == "cost_usd" and unbilled)
    if path[0] == "prices":
        return path[1] == "usd_per_unit" and bundle["outputs"]["measured_cost_delta_usd"] is not None
    if path[0] == "requests":
        return path[1] != "requested_at"
    return True


def test_a_row_left_out_or_doubled_is_found(documents: list[dict[str, Any]]) -> None:
    for bundle in documents:
        if bundle["outputs"]["verification_status"] == "disqualified":
            continue
        metered = next(i for i, kwh in enumerate(bundle["usage"]["energy_kwh"]) if kwh)
        for chosen in (lambda v, i=metered: v[:i] + v[i + 1 :], lambda v: [*v, v[-1]]):
            forgery = copy.deepcopy(bundle)
            forgery["usage"] = {name: chosen(values) for name, values in bundle["usage"].items()}
            assert forged(forgery)
        forgery = copy.deepcopy(bundle)
        forgery["books"]["decision_events"] = (
            bundle["books"]["decision_events"][:1] + bundle["books"]["decision_events"][2:]
        )
        assert any(d.path.startswith("books.decision_events[1]") for d in forged(forgery))


def test_a_plan_that_was_edited_after_it_was_signed_is_found(documents: list[dict[str, Any]]) -> None:
    signed = next(d for d in documents if len(d["books"]["approvals"]) == 2)
    forgery = copy.deepcopy(signed)
    first = forgery["books"]["decision_events"][0]
    said = json.loads(first["payload"])
    said["objective"] = "effective-cost"
    first["payload"] = canonical(said)
    assert any(d.path == "plan.fields.objective" for d in forged(forgery))
    forgery["plan"]["fields"]["objective"] = "effective-cost"
    assert any(d.path == "plan.hash" for d in forged(forgery))
    alone = copy.deepcopy(signed)
    del alone["books"]["approvals"][1]
    assert any(d.path == "books.approvals" for d in forged(alone)), "high risk, and one signature"


def test_a_document_of_nonsense_is_a_difference_and_no_crash(documents: list[dict[str, Any]]) -> None:
    for section in sorted(documents[0]["digests"]):
        for nonsense in (None, [], {}, 3, "x", [{}], math.pi):
            forgery = copy.deepcopy(documents[0])
            forgery[section] = nonsense
            if section == "format":
                continue
            assert forged(forgery), (section, nonsense)
