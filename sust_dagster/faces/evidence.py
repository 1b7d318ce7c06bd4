"""`sust evidence`: recompute bundles, hold them against lake, books and log, show and prove them.

Belongs here: finding bundles, comparing their rows with the stores', results as plain values. Does not belong here: any
figure (``agents.verifier.evidence.recompute`` makes them), the log's own rules (``world.transparency``).
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import Progress

from sust_dagster.agents.verifier.evidence import COMPARISONS
from sust_dagster.agents.verifier.evidence.recompute import (
    AGREE,
    Comparisons,
    Normals,
    Z,
    check,
    comparisons_beside,
    energy_by_run,
    named_by_hash,
    sha256,
)
from sust_dagster.orchestration.signing import sign_head
from sust_dagster.settings import Project
from sust_dagster.world.access import World
from sust_dagster.world.books import Books
from sust_dagster.world.checkpoint import (
    VERIFIER_FILE,
    Checkpoint,
    CheckpointError,
    Verifier,
    open_checkpoint,
    read_checkpoints,
)
from sust_dagster.world.lake import Lake
from sust_dagster.world.transparency import (
    Verification,
    find_leaves,
    prove_consistency,
    prove_inclusion,
    verify_log,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_HOUR_US = 3_600_000_000
#: Lake files kept while many bundles are compared.
_FILES = 4_000

#: Columns of ``usage`` by the table they are from.
_EMISSIONS = (
    "activity_id", "job_id", "workload_id", "cloud_provider", "region", "resource_type", "started_at", "ended_at",
    "energy_kwh", "pue", "kg_location", "cost_usd", "power_factor_key", "provider_pue_factor_key",
    "region_pue_factor_key", "quality",
)  # fmt: skip
_LEDGER = ("activity_id", "job_id", "instance_type", "usage_hours", "vcpus")
_GRID = (
    "ts", "region", "signal", "method", "intensity_kgco2_kwh", "estimated", "system_rel_lower", "system_rel_upper",
    "hour_rel_lower", "hour_rel_upper",
)  # fmt: skip
_PLACEMENTS = ("recommendation_id", "job_id", "home_region")
_COLUMNS = {"emissions": _EMISSIONS, "activity_ledger": _LEDGER, "grid_intensity": _GRID, "placements": _PLACEMENTS}
_BY = {"emissions": "job_id", "activity_ledger": "job_id", "grid_intensity": "region", "placements": "job_id"}


@dataclass(frozen=True)
class Fault:
    """One thing that is not as it should be: of which bundle or store, where in it, what stands and what should."""

    subject: str
    path: str
    stored: Any
    computed: Any

    def __str__(self) -> str:
        return f"{self.subject} {self.path}: stored {_short(self.stored)}, found {_short(self.computed)}"


@dataclass
class Checked:
    """What a check looked at, and what it found."""

    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.faults

    def as_dict(self) -> dict[str, Any]:
        first = self.faults[0] if self.faults else None
        return {
            **self.counts,
            "ok": self.ok,
            "first_difference": None if first is None else asdict(first),
            "differences": [asdict(f) for f in self.faults],
            "notes": self.notes,
        }


# -- verifying ----------------------------------------------------------------------------------------------


def verify_bundle(reference: str, lake_url: str, project: Project | None, kept: Path | None = None) -> Checked:
    """Recompute one bundle; with a lake also hold its rows against it, with a project against books and log.

    ``reference``: a file, or with a project a SHA-256 or an outcome's id. ``kept``: folder of checkpoints to hold the
    log against instead of the project's. Raises ``ValueError`` or ``OSError`` where there is no such bundle.
    """
    path = find_bundle(reference, project)
    data = path.read_bytes()
    checked = Checked()
    document = _recomputed(data, path, checked, Normals(), comparisons_beside(path))
    sha = hashlib.sha256(data).hexdigest()
    checked.counts |= {"bundle": str(path), "sha256": sha, "outcome_id": _outcome_of(document)}
    if document is not None:
        if lake_url or project is not None:
            lake = Lake(lake_url or (project.lake_root if project else ""))
            files, compared = _Files(lake), comparisons_beside(path)
            checked.faults += _guarded(sha, "inputs", _against_lake(sha, document, files))
            checked.faults += _guarded(sha, "usage_ratio", _Compared(compared, files).against(sha, document))
        if project is not None:
            with World(Lake(project.lake_root), Books.open(project.books_address)) as world:
                stored = _Stored(world, [str(document["claim"].get("recommendation_id"))])
                checked.faults += _guarded(sha, "books", _against_books(sha, document, stored))
                checked.faults += _guarded(sha, "(log)", _against_log(named_by_hash(path) or sha, document, world))
    if project is not None:
        _whole_log(project, kept, checked)
    return checked


def verify_all(project: Project, bars: Progress, kept: Path | None = None) -> Checked:
    """Check every bundle of a project, every file of its lake, its books and its log."""
    checked, normals = Checked(), Normals()
    comparisons = Comparisons(project.evidence_root / COMPARISONS)
    files = sorted(project.evidence_root.glob("*.json"))
    with World(Lake(project.lake_root), Books.open(project.books_address)) as world:
        stored, lake = _Stored(world), _Files(Lake(project.lake_root))
        outcomes = _Outcomes(world)
        portfolios, compared = _Portfolios(), _Compared(comparisons, lake)
        task = bars.add_task("bundles", total=len(files))
        for path in files:
            data, document = path.read_bytes(), None
            try:
                document = _recomputed(data, path, checked, normals, comparisons)
            except ValueError as error:
                checked.faults.append(Fault(path.name, "(document)", "a file among the bundles", str(error)))
            if document is not None:
                sha = hashlib.sha256(data).hexdigest()
                checked.faults += _guarded(sha, "inputs", _against_lake(sha, document, lake))
                checked.faults += _guarded(sha, "usage_ratio", compared.against(sha, document))
                checked.faults += _guarded(sha, "books", _against_books(sha, document, stored))
                checked.faults += _guarded(sha, "(log)", stored.against_leaves(named_by_hash(path) or sha, document))
                checked.faults += _guarded(sha, "outputs", outcomes.against(sha, document))
                portfolios.add(sha, document, current=outcomes.names(sha))
            bars.advance(task)
        checked.faults += outcomes.unproven()
        checked.faults += portfolios.faults()
        checked.notes += portfolios.notes
        checked.counts |= {"bundles": len(files), "portfolios": portfolios.whole}
    _whole_log(project, kept, checked, bars)
    return checked


def find_bundle(reference: str, project: Project | None) -> Path:
    """The file of a bundle: a path, or in a project a SHA-256 or an outcome's id (its newest bundle)."""
    path = Path(reference)
    if path.exists():
        return path
    if project is None:
        raise ValueError(f"{reference}: no such file; with --project a SHA-256 or an outcome's id will do too")
    held = _bundle_path(project, reference)
    if held.exists():
        return held
    with World(Lake(project.lake_root), Books.open(project.books_address)) as world:
        said = _leaves(world, reference)
    if not said:
        raise ValueError(f"{reference}: no file, no bundle and no outcome with evidence in {project.root}")
    return _bundle_path(project, said[-1])


def _bundle_path(project: Project, sha256: str) -> Path:
    return project.evidence_root / f"{sha256}.json"


def _recomputed(
    data: bytes, path: Path, checked: Checked, normals: Normals, comparisons: Comparisons
) -> dict[str, Any] | None:
    """The document, when it can be read; whatever its recomputation finds is noted."""
    name = named_by_hash(path)
    report = check(data, name, normals, comparisons)  # a ValueError where it is no bundle and does not claim to be one
    subject = name or report.sha256
    checked.faults += [Fault(subject, d.path, d.stored, d.computed) for d in report.differences]
    checked.notes += report.notes
    try:
        document = json.loads(data.decode())
    except ValueError:
        return None
    return document if isinstance(document, dict) and report.outcome_id is not None else None


def _guarded(subject: str, path: str, faults: Iterable[Fault]) -> Iterator[Fault]:
    """The faults; a document that cannot be compared at all is one."""
    try:
        yield from faults
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        yield Fault(subject, path, "what cannot be compared", f"{type(error).__name__}: {error}")


# -- the lake -----------------------------------------------------------------------------------------------


class _Files:
    """Files of a lake, each read once: what its bytes hash to, and its rows by job, region or group."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self.read = lru_cache(maxsize=_FILES)(self._read)

    def _read(self, table: str, path: str) -> tuple[str | None, dict[str, list[dict[str, Any]]]]:
        try:
            body = self._lake.read_file(f"{table}/{path}")
        except FileNotFoundError:
            return None, {}
        digest = hashlib.sha256(body).hexdigest()
        if not path.endswith(f"-{digest}.parquet"):
            return digest, {}
        rows = pq.read_table(io.BytesIO(body), columns=list(_COLUMNS[table]))
        by: dict[str, list[dict[str, Any]]] = {}
        for row in rows.cast(_plain_schema(rows.schema)).to_pylist():
            by.setdefault(row[_BY[table]], []).append(row)
        return digest, by


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    """Instants as microseconds, dictionaries as texts."""
    fields = []
    for f in schema:
        kind = f.type
        kind = pa.timestamp("us", tz="UTC") if pa.types.is_timestamp(kind) else kind
        kind = pa.string() if pa.types.is_dictionary(kind) else kind
        fields.append(pa.field(f.name, kind))
    return pa.schema(fields)


def _against_lake(subject: str, document: Mapping[str, Any], files: _Files) -> Iterator[Fault]:
    """Every named file's hash, and the bundle's rows against the rows in those files."""
    held: dict[str, list[dict[str, list[dict[str, Any]]]]] = {}
    for table, paths in document["inputs"].items():
        for i, path in enumerate(paths):
            digest, rows = files.read(table, path)
            if digest is None:
                yield Fault(subject, f"inputs.{table}[{i}]", path, "the lake has no such file")
            elif not path.endswith(f"-{digest}.parquet"):
                yield Fault(subject, f"inputs.{table}[{i}]", path, f"its bytes have the SHA-256 {digest}")
            held.setdefault(table, []).append(rows)
    jobs = document["requests"]["job_id"]
    for table, columns in (("emissions", _EMISSIONS), ("activity_ledger", _LEDGER)):
        found = {r["activity_id"]: r for rows in held.get(table, []) for job in jobs for r in rows.get(job, ())}
        yield from _usage_faults(subject, document["usage"], found, table, columns)
    yield from _grid_faults(subject, document["grid"], held.get("grid_intensity", []))
    recommendation, moves = document["claim"]["recommendation_id"], document["moves"]
    homes = {
        (r["recommendation_id"], r["job_id"]): r["home_region"]
        for rows in held.get("placements", [])
        for group in moves["group"]
        for r in rows.get(group, ())
    }
    for i, (group, home) in enumerate(zip(moves["group"], moves["home_region"], strict=True)):
        if homes.get((recommendation, group), "unknown") != home:
            yield Fault(
                subject, f"moves.home_region[{i}]", home, homes.get((recommendation, group), "no such placement")
            )


class _Compared:
    """Comparisons behind usage ratios, each held against the lake once."""

    def __init__(self, comparisons: Comparisons, files: _Files) -> None:
        self._comparisons, self._files = comparisons, files
        self._held: set[str] = set()

    def against(self, subject: str, document: Mapping[str, Any]) -> Iterator[Fault]:
        """The comparison a bundle names is there, and its energies are those of the files that it names."""
        sha = (document["usage_ratio"] or {}).get("comparison_sha256")
        if sha is None or sha in self._held:
            return
        self._held.add(sha)
        comparison = self._comparisons.of(sha)
        if comparison is None:
            yield Fault(subject, "usage_ratio.comparison_sha256", sha, "no such file among the comparisons")
            return
        used: list[dict[str, Any]] = []
        for i, path in enumerate(comparison.inputs):
            digest, rows = self._files.read("emissions", path)
            if digest is None:
                yield Fault(sha, f"inputs.emissions[{i}]", path, "the lake has no such file")
            elif not path.endswith(f"-{digest}.parquet"):
                yield Fault(sha, f"inputs.emissions[{i}]", path, f"its bytes have the SHA-256 {digest}")
            used += [row for job in comparison.runs.keys() & rows.keys() for row in rows[job]]
        energy = energy_by_run(used)
        for job, (i, run) in comparison.runs.items():
            stated, found = run["energy_kwh"], energy.get(job)
            if stated is not None and (found is None or abs(stated - found) > AGREE * abs(found)):
                yield Fault(sha, f"runs.energy_kwh[{i}]", stated, found)


def _usage_faults(
    subject: str, usage: Mapping[str, list[Any]], found: dict[str, dict[str, Any]], table: str, columns: Sequence[str]
) -> Iterator[Fault]:
    at = {activity: i for i, activity in enumerate(usage["activity_id"])}
    for activity, i in at.items():
        row = found.get(activity)
        if row is None:
            if table == "emissions" or any(usage[name][i] is not None for name in _LEDGER[2:]):
                yield Fault(subject, f"usage.activity_id[{i}]", activity, f"no such row in the named files of {table}")
            continue
        for name in columns:
            value = row[name]
            value = (value - _EPOCH) // _MICROSECOND if isinstance(value, datetime) else value
            if usage[name][i] != value:
                yield Fault(subject, f"usage.{name}[{i}]", usage[name][i], f"{value} in {table}")
    if table == "emissions":
        for activity in sorted(set(found) - set(at)):
            yield Fault(subject, "usage.activity_id", "left out", f"{activity}, a row of one of the runs in {table}")


def _grid_faults(
    subject: str, grid: Mapping[str, Any], held: Sequence[dict[str, list[dict[str, Any]]]]
) -> Iterator[Fault]:
    rows = {
        (r["region"], (r["ts"] - _EPOCH) // _MICROSECOND // _HOUR_US): r
        for by in held
        for region in grid["regions"]
        for r in by.get(region, ())
        if (r["signal"], r["method"]) == (grid["signal"], grid["method"])
    }
    for region, series in grid["regions"].items():
        for i, value in enumerate(series["kg_per_kwh"]):
            path = f"grid.regions.{region}"
            row = rows.get((region, grid["first_hour"] + i))
            if row is None:
                if value is not None:
                    yield Fault(subject, f"{path}.kg_per_kwh[{i}]", value, "no such hour in the named files")
                continue
            if row["intensity_kgco2_kwh"] != value:
                yield Fault(subject, f"{path}.kg_per_kwh[{i}]", value, row["intensity_kgco2_kwh"])
            if row["estimated"] != bool(series["estimated"][i]):
                yield Fault(subject, f"{path}.estimated[{i}]", series["estimated"][i], row["estimated"])
            box = [row[name] for name in _GRID[6:]]
            if grid["boxes"][series["box"][i]] != box:
                yield Fault(subject, f"{path}.box[{i}]", grid["boxes"][series["box"][i]], box)


# -- the books and the log ----------------------------------------------------------------------------------


class _Stored:
    """The rows of the books that bundles are held against, in the form of a bundle."""

    def __init__(self, world: World, recommendations: Sequence[str] | None = None) -> None:
        where = None if recommendations is None else {"recommendation_id": list(recommendations)}
        with world.handle("governance").snapshot() as snapshot:
            self.rows = {
                table: _by(map(_book_row, snapshot.read_books(table, where).to_pylist()), "recommendation_id")
                for table in ("decision_events", "approvals", "outbox")
            }
            factors = snapshot.read_books("emission_factors").to_pylist()
            leaves = snapshot.read_books("log_commitments", {"kind": "bundle"}, columns=["leaf"])
        self.factors = {r["factor_id"]: _book_row(r) for r in factors}
        self._leaves = _by(map(json.loads, leaves.column("leaf").to_pylist()), "subject")

    def against_leaves(self, sha: str, document: Mapping[str, Any]) -> Iterator[Fault]:
        outcome = document["claim"]["outcome_id"]
        said = [leaf["sha256"] for leaf in self._leaves.get(outcome, [])]
        if sha not in said:
            yield Fault(sha, "(log)", outcome, f"committed to {said[-1]}" if said else "no leaf commits to it")


_KEYS = {"decision_events": ("event_id",), "approvals": ("approval_id",), "outbox": ("intent_id", "sequence")}


def _against_books(subject: str, document: Mapping[str, Any], stored: _Stored) -> Iterator[Fault]:
    """The bundle's rows of the books, and its factor versions, against those that are there."""
    recommendation = document["claim"]["recommendation_id"]
    for table, key in _KEYS.items():
        held = {tuple(r[k] for k in key): r for r in stored.rows[table].get(recommendation, [])}
        for i, row in enumerate(document["books"][table]):
            path, other = f"books.{table}[{i}]", held.get(tuple(row[k] for k in key))
            if other is None:
                yield Fault(subject, path, [row[k] for k in key], "no such row in the books")
                continue
            for name in [*row, *(n for n in other if n not in row)]:
                if row.get(name) != other.get(name):
                    yield Fault(subject, f"{path}.{name}", row.get(name), other.get(name))
    yield from _left_out(subject, document, stored.rows)
    for i, row in enumerate(document["factors"]["rows"]):
        other = stored.factors.get(row["factor_id"])
        if other is None:
            yield Fault(subject, f"factors.rows[{i}]", row["factor_id"], "no such factor in the books")
            continue
        for name, value in row.items():
            if other.get(name) != value and not _ended_since(name, value):
                yield Fault(subject, f"factors.rows[{i}].{name}", value, other.get(name))


def _ended_since(name: str, value: Any) -> bool:
    """A version that was still valid may have been replaced since: that is no other figure."""
    return name == "valid_to" and value is None


def _left_out(
    subject: str, document: Mapping[str, Any], rows: Mapping[str, Mapping[str, list[dict[str, Any]]]]
) -> Iterator[Fault]:
    """Rows that were there when the change was executed, and are not in the bundle."""
    recommendation = document["claim"]["recommendation_id"]
    until = document["claim"]["executed_at"]
    for table, at in (("decision_events", "occurred_at"), ("approvals", "signed_at")):
        shown = {tuple(r[k] for k in _KEYS[table]) for r in document["books"][table]}
        for row in rows[table].get(recommendation, []):
            key = tuple(row[k] for k in _KEYS[table])
            if row[at] <= until and key not in shown:
                yield Fault(subject, f"books.{table}", "left out", list(key))


def _leaves(world: World, outcome: str) -> list[str]:
    """SHA-256 of each bundle that was committed to for an outcome, oldest first."""
    found = world.handle("governance").read_books(
        "log_commitments", {"kind": "bundle", "subject": outcome}, columns=["leaf_index", "leaf"]
    )
    return [json.loads(r["leaf"])["sha256"] for r in sorted(found.to_pylist(), key=lambda r: r["leaf_index"])]


def _against_log(sha: str, document: Mapping[str, Any], world: World) -> Iterator[Fault]:
    outcome = document["claim"]["outcome_id"]
    said = _leaves(world, outcome)
    if sha not in said:
        yield Fault(sha, "(log)", outcome, f"committed to {said[-1]}" if said else "no leaf commits to it")


def _whole_log(project: Project, kept: Path | None, checked: Checked, bars: Progress | None = None) -> None:
    """Hold books and lake against the log, and the log against its checkpoints."""
    task = None if bars is None else bars.add_task("lake, books and log", total=1)
    checkpoints: list[Checkpoint] = []
    try:
        checkpoints = _checkpoints(kept or project.checkpoints_root)
    except CheckpointError as error:
        checked.faults.append(Fault("checkpoints", "(signature)", str(kept or project.checkpoints_root), str(error)))
    lake, books = Lake(project.lake_root), Books.open(project.books_address)
    try:
        found = verify_log(books, lake, checkpoints, bundles=lambda sha: _bytes(_bundle_path(project, sha)))
    finally:
        books.close()
    folds = {p.subject for p in found.problems if p.what == "unlogged" and _is_fold(lake, p.subject)}
    problems = [p for p in found.problems if not (p.what == "unlogged" and p.subject in folds)]
    checked.faults += [Fault(p.subject, f"({p.what})", "as committed to", p.detail) for p in problems]
    if folds:
        checked.notes.append(f"{min(folds)}: folded files whose leaf is still to come; they hold what they replaced")
    if found.notes:  # one line for all
        first = found.notes[0]
        more = f" (and {len(found.notes) - 1} more)" if len(found.notes) > 1 else ""
        checked.notes.append(f"{first.subject}{more}: {first.detail}")
    if not checkpoints:
        checked.notes.append("no checkpoint to hold the log against: keep one elsewhere (`sust evidence checkpoint`)")
    checked.counts |= _log_counts(found)
    if bars is not None and task is not None:
        bars.advance(task)


def _is_fold(lake: Lake, subject: str) -> bool:
    """Whether a commit folded files: that changes no content (the log's check compares it) and gets its leaf later."""
    table, _, version = subject.rpartition("/")
    return lake.commit(table, int(version)).compaction


def _log_counts(found: Verification) -> dict[str, Any]:
    return {
        "log_entries": found.size,
        "log_root": found.root,
        "checkpoints": found.checkpoints,
        "book_rows": found.rows,
        "lake_files": found.files,
        "bundles_committed": found.bundles,
    }


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _checkpoints(folder: Path) -> list[Checkpoint]:
    vkey = folder / VERIFIER_FILE
    return read_checkpoints(folder, Verifier.parse(vkey.read_text().strip())) if vkey.exists() else []


def _by(rows: Iterable[dict[str, Any]], name: str) -> dict[str, list[dict[str, Any]]]:
    out: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        out.setdefault(row[name], []).append(row)
    return out


def _book_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _instant(v) for k, v in row.items() if v is not None}


def _instant(value: Any) -> Any:
    if not isinstance(value, datetime):
        return value
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


# -- outcomes and portfolios --------------------------------------------------------------------------------


class _Outcomes:
    """The outcomes that the lake holds now, against the bundles they name."""

    def __init__(self, world: World) -> None:
        table = world.handle("governance").read_lake("outcomes")
        self._by_evidence = {r["evidence_chain"]: r for r in table.to_pylist() if r["evidence_chain"]}
        self._seen: set[str] = set()

    def against(self, sha: str, document: Mapping[str, Any]) -> Iterator[Fault]:
        row = self._by_evidence.get(sha)
        if row is None:
            return
        self._seen.add(sha)
        for name, value in document["outputs"].items():
            held = _instant(row.get(name))
            if held != value:
                yield Fault(sha, f"outputs.{name}", value, f"{_short(held)} in the outcomes of the lake")

    def names(self, sha: str) -> bool:
        """Whether an outcome of the lake names this bundle now."""
        return sha in self._by_evidence

    def unproven(self) -> Iterator[Fault]:
        for sha, row in self._by_evidence.items():
            if sha not in self._seen:
                yield Fault(f"outcome {row['outcome_id']}", "evidence_chain", sha, "no such bundle that can be read")


class _Portfolios:
    """Bundles of one portfolio added up: what each of them says of the whole must be the sum of all."""

    def __init__(self) -> None:
        self._groups: dict[tuple[Any, ...], list[tuple[str, dict[str, Any], dict[str, float], float]]] = {}
        self.whole = 0
        self.notes: list[str] = []

    def add(self, sha: str, document: Mapping[str, Any], *, current: bool) -> None:
        total, row = document.get("portfolio"), document.get("outputs", {})
        if isinstance(total, dict) and isinstance(row.get("scaled_sensitivities"), str):
            # A later verification restates bundles: those that outcomes still name are one generation.
            key = total["team_id"], total["month"], current, total["members_sha256"]
            scaled = json.loads(row["scaled_sensitivities"])
            said = {**total, "outcome_id": row["outcome_id"]}
            self._groups.setdefault(key, []).append((sha, said, scaled, -row["measured_carbon_delta_kg"]))

    def faults(self) -> Iterator[Fault]:
        for (team, month, current, members), bundles in sorted(self._groups.items()):
            if sha256(sorted(said["outcome_id"] for _, said, _, _ in bundles)) != members:
                if current:
                    of = bundles[0][1]["outcomes"]
                    self.notes.append(
                        f"portfolio {team} {month[:7]}: {len(bundles)} of {of} bundles; it is not added up"
                    )
                continue
            self.whole += 1
            g: dict[str, float] = {}
            for _, _, scaled, _ in bundles:
                for name, value in scaled.items():
                    g[name] = g.get(name, 0.0) + value
            sd = sum(v * v for v in g.values()) ** 0.5
            saving = sum(s for *_, s in bundles)
            size = sum(abs(v) for _, _, scaled, _ in bundles for v in scaled.values()) + abs(saving)
            for sha, said, _, _ in bundles:
                stated = {"outcomes": len(bundles), "savings_kg": saving, "sd_kg": sd}
                for name, value in stated.items():
                    if abs(said[name] - value) > AGREE * size:
                        yield Fault(sha, f"portfolio.{name}", said[name], value)
                for name, value in said["g_kg"].items():
                    if abs(g.get(name, 0.0) - value) > AGREE * size:
                        yield Fault(sha, f"portfolio.g_kg.{name}", value, g.get(name, 0.0))


# -- showing, proving, signing ------------------------------------------------------------------------------


def show_bundle(reference: str, project: Project | None) -> dict[str, Any]:
    """What a bundle says, for people: claim and result, its inputs, factors and decisions.

    Raises ``RuntimeError`` for a bundle that does not recompute: what it says is not shown as if it were so.
    """
    path = find_bundle(reference, project)
    data = path.read_bytes()
    report = check(data, named_by_hash(path), comparisons=comparisons_beside(path))
    if report.differences:
        raise RuntimeError(f"{path} does not recompute: {report.differences[0]}; `sust evidence verify` names all")
    try:
        document = json.loads(data.decode())
        out, claim = document["outputs"], document["claim"]
        return {
            "bundle": str(path),
            "sha256": hashlib.sha256(data).hexdigest(),
            "outcome_id": claim["outcome_id"],
            "recommendation_id": claim["recommendation_id"],
            "team_id": claim["team_id"],
            "plan": document["plan"]["fields"] | {"plan_hash": document["plan"]["hash"]},
            "claimed_delta_kg": claim["claimed_delta_kg"],
            "outputs": {k: v for k, v in out.items() if k not in ("sensitivities", "scaled_sensitivities")},
            "portfolio": {k: v for k, v in (document["portfolio"] or {}).items() if k != "g_kg"} or None,
            "formula": document["formula"],
            "runs": len(document["requests"]["job_id"]),
            "rows": len(document["usage"]["activity_id"]),
            "files": {table: len(paths) for table, paths in document["inputs"].items()},
            "factors": {
                key: {**{k: f[k] for k in ("box", "reading", "log_sd")}, "sources": _sources(document, key, f["rows"])}
                for key, f in document["factors"]["keys"].items()
            },
            "usage_ratio": _ratio(document["usage_ratio"]),
            "sensitivities": dict(islice(_largest(out.get("scaled_sensitivities")), 8)),
            "events": [
                {k: e.get(k) for k in ("occurred_at", "to_status", "actor", "role", "reason")}
                for e in document["books"]["decision_events"]
            ],
            "approvals": [
                {k: a.get(k) for k in ("signed_at", "signer", "role", "verdict", "reason")}
                for a in document["books"]["approvals"]
            ],
            "baselines": [{k: b[k] for k in ("intent_id", "baseline_hash")} for b in document["baseline"]],
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: no evidence bundle that can be shown: {error!r}") from error


def _ratio(said: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A usage ratio with its 90 % interval."""
    if said is None:
        return None
    ends = [said["ratio"] * math.exp(side * Z * said["log_sd"]) for side in (-1.0, 1.0)]
    return {**said, "ratio_ci_lower": ends[0], "ratio_ci_upper": ends[1]}


def _sources(document: Mapping[str, Any], key: str, ids: Sequence[str]) -> list[str]:
    ratio = document["usage_ratio"]
    if ratio is not None and key == ratio["factor_key"]:
        arms = f"{ratio['n_treated']} moved runs, {ratio['n_control']} left alone by lot"
        return [
            f"{arms}{': ' + ratio['reason'] if ratio['reason'] else ''}; assumed beforehand {ratio['prior_log_sd']:g}"
        ]
    rows = {r["factor_id"]: r for r in document["factors"]["rows"]}
    return [f"{rows[i]['source']} {rows[i]['source_year'] or ''}, version {rows[i]['version']}" for i in ids]


def _largest(scaled: str | None) -> list[tuple[str, float]]:
    found = json.loads(scaled) if scaled else {}
    return sorted(found.items(), key=lambda item: -abs(item[1]))


def prove_bundle(reference: str, project: Project, since: Path | None, key: Path | None) -> tuple[dict[str, Any], bool]:
    """Proof that a bundle is in the log, against the newest checkpoint that holds it (else the log as it is), and that
    the log extends an older checkpoint; whether all of it holds.

    Raises ``ValueError`` for a bundle that nothing commits to, ``LogError`` for a log that is not whole.
    """
    path = find_bundle(reference, project)
    data = path.read_bytes()
    document, sha = json.loads(data.decode()), hashlib.sha256(data).hexdigest()
    outcome = _outcome_of(document)
    folder = project.checkpoints_root
    signed = _checkpoints(folder)
    books = Books.open(project.books_address)
    try:
        leaves = [prove_inclusion(books, i) for i in find_leaves(books, "bundle", outcome or "")]
        mine = [p for p in leaves if json.loads(p.leaf)["sha256"] == sha]
        if not mine:
            raise ValueError(f"{path}: no leaf of the log commits to {sha}; `sust evidence verify` says what differs")
        index = mine[-1].index
        holding = [c for c in signed if c.size > index]
        inclusion = prove_inclusion(books, index, holding[-1].size) if holding else mine[-1]
        good = not holding or inclusion.root == holding[-1].root.hex()
        out: dict[str, Any] = {
            "bundle": str(path),
            "sha256": sha,
            "outcome_id": outcome,
            "checkpoint": _said(holding[-1], folder) if holding else None,
            "inclusion": asdict(inclusion),
            "consistency": None,
        }
        if since is not None:
            verifier = Verifier.parse((key or folder / VERIFIER_FILE).read_text().strip())
            older = open_checkpoint(since.read_bytes().decode(), verifier)
            consistency = prove_consistency(books, older.size, inclusion.size if inclusion.size >= older.size else None)
            good = good and consistency.first_root == older.root.hex()
            out["consistency"] = asdict(consistency) | {"checkpoint_root": older.root.hex()}
        return out | {"ok": good}, good
    finally:
        books.close()


def _said(checkpoint: Checkpoint, folder: Path) -> dict[str, Any]:
    return {"origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex(), "folder": str(folder)}


def sign_checkpoint(project: Project, out: Path | None) -> dict[str, Any]:
    """Sign for the log as it is now; ``out``: a copy to keep elsewhere. Raises ``LogError`` where it is not whole."""
    signed, verifier = sign_head(project)
    if out is not None:
        out.write_bytes(signed.path.read_bytes())
    return {
        "checkpoint": str(signed.path),
        "copy": None if out is None else str(out),
        "size": signed.checkpoint.size,
        "root": signed.checkpoint.root.hex(),
        "key": str(verifier),
        "new": signed.new,
        "late": list(signed.reconciled.late),
        "foreign": list(signed.reconciled.foreign),
    }


def _outcome_of(document: Mapping[str, Any] | None) -> str | None:
    claim = document.get("claim") if document else None
    return claim.get("outcome_id") if isinstance(claim, dict) else None


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 160 else text[:157] + "..."
