"""Recompute an evidence bundle: python3 recompute.py BUNDLE.json

A second implementation of docs/methodology.md with Python's standard library alone (3.11 or newer): this one file, no
installation, no network. It takes nothing from the bundle that it can make itself: the bytes' form and name, the hashes
of plan and baseline, the order of the decisions, the slices from the bill's rows, and every figure of the outcome.

Exit codes: 0 everything is the same; 1 something differs, each difference named by its path in the document with the
stored and the recomputed value; 2 usage; 3 the file cannot be read.

What it cannot see: whether the rows in the bundle are those of the lake and of the books, and whether the bundle is the
one that was committed to. `sust evidence verify` checks that too, and docs/audit.md says how to do it by hand.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from array import array
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

FORMAT, FORMULA, COMPARISON = "sust-evidence/v2", "counterfactual/v2", "sust-comparison/v1"
HOUR = 3_600_000_000
Z = 1.6448536269514722
Z95 = 1.959963984540054
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Two implementations agree to this share of the kg (or USD) that went into a figure.
AGREE = 1e-9

COMPONENTS = ("egress", "retries", "warm_up", "duplicated_storage")
#: Prior standard deviation of ln(usage ratio) by kind of pool, and the least draws on a side that measure anything.
PRIOR_LOG_SD, MIN_CLUSTERS = {"same_size": 0.05, "resized": 0.10}, 4
CATEGORY_HOURS = {"urgent": 0.0, "balanced": 4.0, "sustainable": 24.0}
START_TOLERANCE_HOURS = 5.0 / 60.0
SECTIONS = frozenset((
    "baseline", "books", "claim", "factors", "format", "formula", "grid", "inputs", "leakage_zero", "moves", "outputs",
    "places", "plan", "portfolio", "prices", "promises", "requests", "usage", "usage_ratio",
))  # fmt: skip
PLAN_FIELDS = ("action_type", "objective", "planned_for", "policy_version", "proposed_config", "workload_id")
TRANSITIONS = {
    (None, "proposed"): "planner", ("proposed", "approved"): "governance", ("approved", "executing"): "executor",
    ("executing", "executed"): "executor", ("executed", "verified"): "verifier",
}  # fmt: skip
USAGE = (
    "activity_id", "cloud_provider", "cost_usd", "ended_at", "energy_kwh", "instance_type", "job_id", "kg_location",
    "power_factor_key", "provider_pue_factor_key", "pue", "quality", "region", "region_pue_factor_key", "resource_type",
    "started_at", "usage_hours", "vcpus", "workload_id",
)  # fmt: skip
GATES = (
    "no_frozen_baseline", "late_baseline", "missing_runs", "ambiguous_runs", "unsettled_data", "restated_inputs",
    "mixed_signals", "missing_energy", "missing_pue", "missing_intensity", "missing_factor", "constant_series",
    "estimated_series", "leakage_unstated", "actual_not_reproduced",
)  # fmt: skip


class Difference(NamedTuple):
    """One thing that is not as it should be: where, what the document says, what it should say."""

    path: str
    stored: Any
    computed: Any

    def __str__(self) -> str:
        return f"{self.path}: stored {_short(self.stored)}, recomputed {_short(self.computed)}"


class Report(NamedTuple):
    """What a check of one bundle found."""

    sha256: str
    outcome_id: str | None
    differences: list[Difference]
    notes: list[str]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 200 else text[:197] + "..."


# -- canonical JSON (RFC 8785) ------------------------------------------------------------------------------


def canonical(value: Any) -> str:
    """The one text of a document."""
    if value is None or isinstance(value, (bool, str)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        if abs(value) >= 2**53:
            raise ValueError(f"{value} is not exact in every reader of JSON")
        return str(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    names = sorted(value, key=lambda name: name.encode("utf-16-be"))
    return "{" + ",".join(f"{canonical(n)}:{canonical(value[n])}" for n in names) + "}"


def number(value: float) -> str:
    """A number as ECMAScript writes it: the shortest digits that read back the same."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is no number of JSON")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    point = len(whole) + int(exponent or 0)
    digits = whole + fraction
    point -= len(digits) - len(digits.lstrip("0"))
    digits = digits.strip("0")
    k = len(digits)
    if k <= point <= 21:
        return sign + digits + "0" * (point - k)
    if 0 < point <= 21:
        return sign + digits[:point] + "." + digits[point:]
    if -6 < point <= 0:
        return sign + "0." + "0" * -point + digits
    tail = f"e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return sign + digits[0] + ("." + digits[1:] if k > 1 else "") + tail


def sha256(value: Any) -> str:
    """SHA-256 of a document's canonical text."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


# -- the draws ----------------------------------------------------------------------------------------------


class Normals:
    """The standard normals of each factor's stream (section 5): the same for every outcome."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int, str], array] = {}

    def of(self, seed: int, draws: int, key: str) -> array:
        """``draws`` standard normals."""
        found = self._kept.get((seed, draws, key))
        if found is None:
            inverse = NormalDist().inv_cdf
            words = _philox(hashlib.sha256(f"{seed}\x1f{key}".encode()).digest(), draws)
            found = array("d", [inverse(((w >> 11) + 0.5) / 9007199254740992.0) for w in words])
            if len(self._kept) < 8_000:
                self._kept[seed, draws, key] = found
        return found


def _philox(digest: bytes, count: int) -> list[int]:
    """The first words of Philox4x64-10 keyed by the first 16 bytes of a digest, counters 1, 2, ..."""
    mask = (1 << 64) - 1
    a, b = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")
    keys = [((a + i * 0x9E3779B97F4A7C15) & mask, (b + i * 0xBB67AE8584CAA73B) & mask) for i in range(10)]
    words: list[int] = []
    for block in range(1, -(-count // 4) + 1):
        c0, c1, c2, c3 = block, 0, 0, 0
        for k0, k1 in keys:
            p, q = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
            c0, c1, c2, c3 = (q >> 64) ^ c1 ^ k0, q & mask, (p >> 64) ^ c3 ^ k1, p & mask
        words += (c0, c1, c2, c3)
    return words[:count]


def quantile(ordered: list[float], q: float) -> float:
    """Linear between order statistics, position ``q (n - 1)`` from 0."""
    at = q * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


# -- the runs behind a usage ratio --------------------------------------------------------------------------


class Compared(NamedTuple):
    """A comparison that was read: its runs with their rows, what they estimate, and what is wrong with it."""

    pool: str
    inputs: list[str]
    runs: dict[str, tuple[int, dict[str, Any]]]
    estimate: dict[str, Any]
    differences: list[Difference]


class Comparisons:
    """Comparisons in some folders, each read and estimated once."""

    def __init__(self, *folders: Path) -> None:
        self._folders = folders
        self._kept: dict[str, Compared | None] = {}

    def of(self, sha256: str) -> Compared | None:
        """The comparison of this hash, None where no folder has it."""
        if sha256 not in self._kept:
            files = [folder / f"{sha256}.json" for folder in self._folders if re.fullmatch(r"[0-9a-f]{64}", sha256)]
            data = next((file.read_bytes() for file in files if file.is_file()), None)
            self._kept[sha256] = None if data is None else _compared(data, sha256)
        return self._kept[sha256]


def energy_by_run(rows: Iterable[dict[str, Any]]) -> dict[str, float | None]:
    """IT energy of each job of a bill's rows; None where a row that counts has none."""
    found: dict[str, float | None] = {}
    for row in rows:
        if row["resource_type"] != "network" and "memory_in_vcpu" not in row["quality"]:
            own, so_far = row["energy_kwh"], found.get(row["job_id"], 0.0)
            found[row["job_id"]] = None if own is None or so_far is None else so_far + own
    return found


def _compared(data: bytes, sha256: str) -> Compared:
    made = hashlib.sha256(data).hexdigest()
    found = [] if made == sha256 else [Difference("usage_ratio.comparison_sha256", sha256, made)]
    document = json.loads(data.decode())
    if document["format"] != COMPARISON:
        found.append(Difference("(comparison).format", document["format"], COMPARISON))
    runs = _table(document["runs"], "(comparison).runs")
    seed, share = document["draw"]["seed"], document["draw"]["share"]
    for i, run in enumerate(runs):
        text = "\x1f".join((str(seed), "holdout", run["workload_id"], str(run["requested_hour"])))
        drawn = (int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 11) * 2.0**-53
        if not run["moved"] and drawn >= share:
            found.append(Difference(f"(comparison).runs.moved[{i}]", False, f"not left alone by lot: {drawn}"))
    kind = document["pool"].split("/")[0]
    by_run = {run["run_id"]: (i, run) for i, run in enumerate(runs)}
    return Compared(
        document["pool"], document["inputs"]["emissions"], by_run, compared(runs, PRIOR_LOG_SD[kind]), found
    )


# -- the check ----------------------------------------------------------------------------------------------


def check(
    data: bytes, name: str = "", normals: Normals | None = None, comparisons: Comparisons | None = None
) -> Report:
    """Check the bytes of a bundle; ``name``: the SHA-256 it is called by, empty where it has no such name.

    ``normals`` and ``comparisons`` keep what many bundles share. Raises ``ValueError`` for bytes that are no bundle and
    are called by no hash that would show it.
    """
    made = hashlib.sha256(data).hexdigest()
    found: list[Difference] = []
    notes: list[str] = []
    if name and name != made:
        found.append(Difference("(file name)", name, made))
    if not name:
        notes.append(f"the file is not named by a hash; its SHA-256 is {made}")
    try:
        document = json.loads(data.decode())
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f"it is no {FORMAT} document")
    except (ValueError, RecursionError) as error:
        if not name or name == made:
            raise ValueError(f"no evidence bundle: {error}") from error
        return Report(made, None, [_unreadable(data, error), *found], notes)
    checks = _Checks(document, data, found, normals or Normals(), notes, comparisons or Comparisons())
    checks.run()
    claim = document.get("claim")
    outcome = claim.get("outcome_id") if isinstance(claim, dict) else None
    # What a hash alone shows comes last: a path into the document says more.
    found.sort(key=lambda d: 2 if d.path.startswith("(") else 1 if d.path.startswith("digests") else 0)
    return Report(made, outcome, found, notes)


def _unreadable(data: bytes, error: Exception) -> Difference:
    """Where a document stops being one: the section and the member before that byte."""
    at = len(data)
    if isinstance(error, UnicodeDecodeError):
        at = error.start
    elif isinstance(error, json.JSONDecodeError):
        at = len(data.decode()[: error.pos].encode())
    before = data[:at].decode("utf-8", "replace")
    places = [(before.rfind(f'"{name}":'), name) for name in SECTIONS]
    section = max(((i, name) for i, name in places if i >= 0), default=(0, "(document)"))[1]
    members = re.findall(r'"([^"\\]{1,80})":', before)
    path = section if not members or members[-1] == section else f"{section}.{members[-1]}"
    return Difference(
        path, data[max(at - 20, 0) : at + 20].decode("utf-8", "replace"), f"no document, byte {at}: {error}"
    )


class _Checks:
    """One bundle's checks, in the order of its making; a check that cannot be made is a difference."""

    def __init__(
        self,
        document: dict[str, Any],
        data: bytes,
        found: list[Difference],
        normals: Normals,
        notes: list[str],
        comparisons: Comparisons,
    ) -> None:
        self.doc, self.data, self.found, self.normals = document, data, found, normals
        self.notes, self.comparisons = notes, comparisons

    def run(self) -> None:
        for part, does in (
            ("(bytes)", self.form), ("plan", self.plan), ("books.decision_events", self.events),
            ("books.approvals", self.approvals), ("baseline", self.baseline), ("claim", self.claim),
            ("moves", self.moves), ("requests", self.requests), ("inputs", self.inputs),
            ("usage_ratio", self.usage_ratio), ("factors", self.factors), ("outputs", self.outputs),
            ("portfolio", self.portfolio),
        ):  # fmt: skip
            try:
                does()
            except (KeyError, IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError) as e:
                self.found.append(Difference(part, "what cannot be recomputed", f"{type(e).__name__}: {e}"))

    def same(self, path: str, stored: Any, computed: Any) -> None:
        """Note a difference between two values that must be equal; 1 and 1.0 are, 1 and true are not."""
        if type(stored) is not type(computed) and bool in (type(stored), type(computed)):
            self.found.append(Difference(path, stored, computed))
        elif stored != computed:
            self.found.append(_first_inside(path, stored, computed))

    def near(self, path: str, stored: Any, computed: float | None, size: float) -> None:
        """Note a difference between two figures beyond what rounding makes."""
        if stored is None or computed is None or isinstance(stored, (bool, str)):
            if stored != computed:
                self.found.append(Difference(path, stored, computed))
        elif not abs(stored - computed) <= AGREE * size + 1e-300:
            self.found.append(Difference(path, stored, computed))

    # -- form ---------------------------------------------------------------------------------------

    def form(self) -> None:
        text = canonical(self.doc).encode()
        if text != self.data:
            at = next((i for i, (a, b) in enumerate(zip(text, self.data, strict=False)) if a != b), len(text))
            self.found.append(
                Difference(f"(byte {at})", self.data[at : at + 40].decode("utf-8", "replace"), "canonical JSON")
            )
        digests = self.doc["digests"]
        self.same("(sections)", sorted(self.doc), sorted({*SECTIONS, "digests"}))
        self.same("digests", sorted(digests), sorted(SECTIONS))
        for section in sorted(SECTIONS & set(self.doc)):
            self.same(f"digests.{section}", digests.get(section), sha256(self.doc[section]))
        self.same("formula.id", self.doc["formula"]["id"], FORMULA)

    # -- decisions ----------------------------------------------------------------------------------

    @property
    def history(self) -> list[dict[str, Any]]:
        return self.doc["books"]["decision_events"]

    @property
    def proposal(self) -> dict[str, Any]:
        return json.loads(self.history[0]["payload"])

    def plan(self) -> None:
        plan, proposal = self.doc["plan"], self.proposal
        fields = {name: proposal[name] for name in PLAN_FIELDS}
        fields["planned_for"] = _iso(fields["planned_for"]).isoformat()
        if isinstance(fields["proposed_config"], str):
            fields["proposed_config"] = json.loads(fields["proposed_config"])
        self.same("plan.fields", plan["fields"], fields)
        self.same("plan.hash", plan["hash"], sha256(fields))

    def events(self) -> None:
        state: str | None = None
        plan, before = self.doc["plan"]["hash"], ""
        ids = {e["recommendation_id"] for e in self.history}
        self.same("books.decision_events[*].recommendation_id", sorted(ids), [self.doc["claim"]["recommendation_id"]])
        for i, event in enumerate(self.history):
            path = f"books.decision_events[{i}]"
            self.same(f"{path}.sequence", event["sequence"], i)
            self.same(f"{path}.from_status", event.get("from_status"), state)
            owner = TRANSITIONS.get((state, event["to_status"]))
            self.same(f"{path}.agent", event["agent"], owner)
            self.same(f"{path}.plan_hash", event.get("plan_hash"), plan)
            if not event["occurred_at"] >= before:
                self.found.append(Difference(f"{path}.occurred_at", event["occurred_at"], f"not before {before}"))
            state, before = event["to_status"], event["occurred_at"]

    def approvals(self) -> None:
        rows, plan = self.doc["books"]["approvals"], self.doc["plan"]["hash"]
        approved = next((e for e in self.history if e["to_status"] == "approved"), None)
        signers = set()
        for i, row in enumerate(rows):
            self.same(
                f"books.approvals[{i}].recommendation_id",
                row["recommendation_id"],
                self.history[0]["recommendation_id"],
            )
            # A signature on another plan counts for nothing; it is in the record all the same.
            counts = row["plan_hash"] == plan and row["verdict"] == "approve"
            if counts and (approved is None or row["signed_at"] <= approved["occurred_at"]):
                signers.add(row["signer"])
        if approved is not None and self.proposal.get("risk_level") not in ("low", "medium") and len(signers) < 2:
            self.found.append(Difference("books.approvals", sorted(signers), "two signers of this plan"))

    def intents(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        return [(row, json.loads(row["payload"])) for row in self.doc["books"]["outbox"]]

    def baseline(self) -> None:
        made, proposal = [], self.proposal
        for row, said in self.intents():
            made.append(
                {
                    "baseline": said["baseline"],
                    "baseline_hash": sha256(said["baseline"]),
                    "change_hash": sha256({"before": said["before"], "change": said["change"]}),
                    "intent_id": row["intent_id"],
                }
            )
        self.same("baseline", self.doc["baseline"], made)
        begun = [json.loads(e["payload"]) for e in self.history if e["to_status"] == "executing"]
        for i, (row, said) in enumerate(self.intents()):
            path = f"books.outbox[{i}]"
            self.same(f"{path}.payload.baseline_hash", said["baseline_hash"], made[i]["baseline_hash"])
            self.same(f"{path}.payload.change_hash", said["change_hash"], made[i]["change_hash"])
            self.same(f"{path}.state", row["state"], "intended")
            self.same(f"{path}.sequence", row["sequence"], 0)
            self.same(f"{path}.recommendation_id", row["recommendation_id"], self.doc["claim"]["recommendation_id"])
            for name, value in said["baseline"].items():
                held = proposal.get(name)
                held = json.loads(held) if name == "current_config" and isinstance(held, str) else held
                self.same(f"{path}.payload.baseline.{name}", value, held)
            for payload in begun:
                if payload.get("intent_id") == row["intent_id"]:
                    self.same(f"{path}.payload.baseline_hash", said["baseline_hash"], payload["baseline_hash"])

    def claim(self) -> None:
        claim, proposal = self.doc["claim"], self.proposal
        event = {e["to_status"]: e for e in self.history}
        executed, begun = event["executed"], event.get("executing")
        day = executed["occurred_at"][:10] + "T00:00:00.000000Z"
        runs = len(self.doc["requests"]["job_id"])
        expected = {
            "decision_id": executed["event_id"],
            "recommendation_id": executed["recommendation_id"],
            "team_id": proposal["team_id"],
            "executed_on": day,
            "executed_at": executed["occurred_at"],
            "claimed_delta_kg": proposal["est_carbon_delta_kg"],
            "claimed_delta_kg_lower": proposal["est_carbon_delta_kg_lower"],
            "claimed_delta_kg_upper": proposal["est_carbon_delta_kg_upper"],
            "baseline_frozen_at": begun["occurred_at"] if begun and self.doc["books"]["outbox"] else None,
            "runs_expected": runs,
            "runs_ambiguous": sum(self.ambiguous()),
        }
        for name, value in expected.items():
            self.same(f"claim.{name}", claim[name], value)

    # -- rows ---------------------------------------------------------------------------------------

    def moves(self) -> None:
        """The groups that the intents placed, as the intents say."""
        placed = [p for _, said in self.intents() for p in said["change"].get("placements", ())]
        expected = {
            "group": [p["groups"][0] for p in placed],
            "requested_hour": [_micros(p["requested_hour"]) for p in placed],
            "vcpus_scale": [p["vcpus_scale"] for p in placed],
            "workload_id": [p["workload_id"] for p in placed],
        }
        for name, values in expected.items():
            self.same(f"moves.{name}", self.doc["moves"][name], [_number(v) for v in values])
        _table(self.doc["moves"], "moves")

    def runs(self) -> list[dict[str, Any]]:
        """The runs asked for in the hours of the moves, with what the move says of them."""
        moves, out = _table(self.doc["moves"], "moves"), []
        for request in _table(self.doc["requests"], "requests"):
            hour = request["requested_at"] // HOUR * HOUR
            at = [m for m in moves if (m["workload_id"], m["requested_hour"]) == (request["workload_id"], hour)]
            out.append({**request, "move": at[0] if at else None})
        return out

    def ambiguous(self) -> list[bool]:
        return [
            bool(r["also_claimed_by"]) or r["move"] is None or r["home_region"] != r["move"]["home_region"]
            for r in self.runs()
        ]

    def requests(self) -> None:
        runs = self.runs()
        for i, run in enumerate(runs):
            if run["move"] is None:
                asked = f"{run['workload_id']} at {run['requested_at']}"
                self.found.append(Difference(f"requests.requested_at[{i}]", asked, "an hour of one of the moves"))
        jobs = [r["job_id"] for r in runs]
        self.same("requests.job_id", jobs, sorted(set(jobs)))
        work = {r["job_id"]: r["workload_id"] for r in runs}
        usage = _table(self.doc["usage"], "usage", USAGE)
        rows = [(r["job_id"], r["started_at"] // HOUR, r["activity_id"]) for r in usage]
        self.same("usage.activity_id", [r[2] for r in rows], [r[2] for r in sorted(set(rows))])
        for i, row in enumerate(usage):
            if row["job_id"] not in work:
                self.found.append(Difference(f"usage.job_id[{i}]", row["job_id"], "one of requests.job_id"))
            else:
                self.same(f"usage.workload_id[{i}]", row["workload_id"], work[row["job_id"]])
            if row["ended_at"] < row["started_at"]:
                self.found.append(Difference(f"usage.ended_at[{i}]", row["ended_at"], "not before it started"))

    def inputs(self) -> None:
        """Every row lies in a slot whose file is named."""
        files = self.doc["inputs"]
        self.same("inputs", sorted(files), ["activity_ledger", "emissions", "grid_intensity", "placements"])
        for table, paths in files.items():
            for i, path in enumerate(paths):
                shape = r"date=(\d{4}-\d\d-\d\d)/(\1(?:T\d\d)?)-[0-9a-f]{64}\.parquet"
                if not re.fullmatch(shape, path):
                    self.found.append(Difference(f"inputs.{table}[{i}]", path, "date=<day>/<slot>-<sha256>.parquet"))
        used = {_slot(row["started_at"]) for row in _table(self.doc["usage"], "usage")}
        for table in ("activity_ledger", "emissions"):
            held = [path.rsplit("/", 1)[1][:13] for path in files[table]]
            self.same(f"inputs.{table}", held, sorted(used))

    # -- the usage ratio ----------------------------------------------------------------------------

    def usage_ratio(self) -> None:
        """What the runs left alone by lot say of the moved ones: from its own numbers, and from the runs if at hand."""
        said = self.doc["usage_ratio"]
        self.same("usage_ratio (stated)", said is not None, bool(self.doc["moves"]["workload_id"]))
        if said is None:
            return
        kind, month = said["pool"].split("/")
        self.same("usage_ratio.pool", month, self.doc["claim"]["executed_on"][:7])
        self.same("usage_ratio.factor_key", said["factor_key"], f"usage_ratio:energy_kwh:{said['pool']}")
        self.same("usage_ratio.prior_log_sd", said["prior_log_sd"], PRIOR_LOG_SD[kind])
        if any(scale != 1.0 for scale in self.doc["moves"]["vcpus_scale"]):
            self.same("usage_ratio.pool", kind, "resized")
        made = shrunk(said["log_ratio"], said["log_se"], said["reason"], said)
        for name, value in zip(("ratio", "log_sd", "weight"), made, strict=True):
            self.near(f"usage_ratio.{name}", said[name], value, 1.0)
        comparison = self.comparisons.of(said["comparison_sha256"])
        if comparison is None:
            self.notes.append(f"comparison {said['comparison_sha256']} is not at hand: its usage ratio is as stated")
            return
        self.found += comparison.differences
        self.same("(comparison).pool", comparison.pool, said["pool"])
        for name, value in comparison.estimate.items():
            if isinstance(value, float):
                self.near(f"usage_ratio.{name}", said[name], value, max(1.0, abs(value)))
            else:
                self.same(f"usage_ratio.{name}", said[name], value)
        # The bundle's own runs are among the moved ones, with the energy of their bill.
        for job, own in energy_by_run(_table(self.doc["usage"], "usage", USAGE)).items():
            i, run = comparison.runs.get(job, (0, None))
            if run is not None:
                self.same(f"(comparison).runs.moved[{i}]", run["moved"], True)
                if run["energy_kwh"] is not None:
                    self.near(f"(comparison).runs.energy_kwh[{i}]", run["energy_kwh"], own, own or 0.0)

    # -- factors ------------------------------------------------------------------------------------

    def factors(self) -> None:
        rows = {r["factor_id"]: r for r in self.doc["factors"]["rows"]}
        self.same("factors.rows", [r["factor_id"] for r in self.doc["factors"]["rows"]], sorted(rows))
        for key, stated in self.doc["factors"]["keys"].items():
            path, box = f"factors.keys.{key}", stated["box"]
            if self.doc["usage_ratio"] and key == self.doc["usage_ratio"]["factor_key"]:
                upper, reading = math.exp(Z95 * self.doc["usage_ratio"]["log_sd"]), "95% lognormal"
                lower = 1 / upper
            else:
                lower, upper, reading = _named_box(key, [rows[i] for i in stated["rows"]])
            self.near(f"{path}.box[0]", box[0], lower, lower)
            self.near(f"{path}.box[1]", box[1], upper, upper)
            self.same(f"{path}.reading", stated["reading"], reading)
            spread = _log_sd(box[0], box[1], stated["reading"])
            self.near(f"{path}.log_sd", stated["log_sd"], spread, spread)
        for i, place in enumerate(self.doc["places"]):
            pue = [
                rows[r]["value"]
                for r in (self.doc["factors"]["keys"].get(place["region_pue_factor_key_before"]) or {"rows": []})[
                    "rows"
                ]
            ]
            if pue and place["pue_before"] not in pue:
                self.found.append(Difference(f"places[{i}].pue_before", place["pue_before"], pue[0]))

    # -- figures ------------------------------------------------------------------------------------

    def outputs(self) -> None:
        stored, made = self.doc["outputs"], _Outcome(self.doc, self.runs(), self.ambiguous(), self.normals)
        for name in made.columns:
            if name not in stored:
                self.found.append(Difference(f"outputs.{name}", "nothing", made.columns[name][0]))
        for name in stored:
            path = f"outputs.{name}"
            if name == "credited_kg":
                continue  # with the portfolio
            if name not in made.columns:
                self.found.append(Difference(path, stored[name], "a column that this program does not know"))
                continue
            value, size = made.columns[name]
            if name in ("measured_cost_delta_usd", "sla_compliant", "sla_detail"):
                self.same(f"claim.{name}", self.doc["claim"][name], stored[name])
            if isinstance(value, dict):
                self.members(path, _loaded(stored[name]), value, size)
            elif isinstance(value, float) and not isinstance(value, bool):
                self.near(path, stored[name], value, size)
            else:
                self.same(path, stored[name], value)
        self.made = made

    def members(self, path: str, stored: Any, computed: Any, size: float) -> None:
        """Compare two JSON documents, figures with tolerance; a member that is 0 may be left out."""
        if isinstance(computed, dict) and isinstance(stored, dict):
            for name in [*computed, *(n for n in stored if n not in computed)]:
                here = f"{path}.{name}"
                one, other = stored.get(name), computed.get(name)
                absent = name not in stored or name not in computed
                if absent and isinstance(one if name in stored else other, float | int):
                    self.near(here, one or 0.0, other or 0.0, size)
                elif absent:
                    self.found.append(Difference(here, one, other))
                else:
                    self.members(here, one, other, size)
        elif isinstance(computed, float) and not isinstance(stored, dict):
            self.near(path, stored, computed, size)
        else:
            self.same(path, stored, computed)

    def portfolio(self) -> None:
        """The credit: by_saving * S + by_sd * sum(s_jk sigma_k G_k) / sd of the portfolio."""
        stored, made, total = self.doc["outputs"], self.made, self.doc["portfolio"]
        if made.disqualified:
            self.same("portfolio", total, None)
            self.same("outputs.credited_kg", stored["credited_kg"], None)
            return
        self.same("portfolio.team_id", total["team_id"], self.doc["claim"]["team_id"])
        self.same("portfolio.month", total["month"], made.columns["month"][0])
        g = total["g_kg"]
        for key, scaled in made.scaled.items():
            if key not in g and abs(scaled) > AGREE * made.size:
                self.found.append(Difference(f"portfolio.g_kg.{key}", None, "the portfolio's sum of this factor"))
        for key in g:
            if key not in made.scaled:
                self.found.append(Difference(f"portfolio.g_kg.{key}", g[key], "a factor that the outcome carries"))
        square = sum(v * v for v in g.values())
        sd = math.sqrt(square + total["other_g_squared"])
        size = abs(total["savings_kg"]) + sd + made.size
        self.near("portfolio.sd_kg", total["sd_kg"], sd, sd)
        bound, by_saving, by_sd = lower_bound(total["savings_kg"], sd)
        self.near("portfolio.credit_bound_kg", total["credit_bound_kg"], bound, size)
        if total["outcomes"] == 1:
            self.near("portfolio.savings_kg", total["savings_kg"], made.saving, made.size)
            self.same("portfolio.members_sha256", total["members_sha256"], sha256([self.doc["claim"]["outcome_id"]]))
            for key, value in g.items():
                self.near(f"portfolio.g_kg.{key}", value, made.scaled.get(key, 0.0), made.size)
        dot = sum(scaled * g.get(key, 0.0) for key, scaled in made.scaled.items())
        credit = by_saving * made.saving + (by_sd * dot / sd if sd > 0 else 0.0)
        self.near("outputs.credited_kg", stored["credited_kg"], credit, made.size + sum(map(abs, made.scaled.values())))


def shrunk(b: float | None, se: float | None, reason: str | None, n: dict[str, Any]) -> tuple[float, float, float]:
    """Ratio, standard deviation of its logarithm and weight of the runs, after the prior."""
    prior = n["prior_log_sd"]
    if reason == "zero_variance":
        return math.exp(b or 0.0), prior, 1.0
    if reason is not None or b is None or se is None:
        return 1.0, prior, 0.0
    df = min(n["treated_clusters"], n["control_clusters"]) - 1.0
    spread = se * se * df / (df - 2.0)
    weight = prior * prior / (prior * prior + spread)
    return math.exp(weight * b), math.sqrt(weight * spread), weight


def compared(runs: list[dict[str, Any]], prior: float) -> dict[str, Any]:
    """The usage ratio of a pool from its runs: ln(energy per vCPU) regressed on being moved, within workloads."""
    arms: dict[str, set[bool]] = defaultdict(set)
    for run in runs:
        if run["energy_kwh"] is not None and run["energy_kwh"] > 0:
            arms[run["workload_id"]].add(run["moved"])
    used = [
        (run["workload_id"], run["requested_hour"], run["moved"], math.log(run["energy_kwh"] / run["vcpus_scale"]))
        for run in runs
        if len(arms[run["workload_id"]]) == 2 and run["energy_kwh"] is not None and run["energy_kwh"] > 0
    ]
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for workload, _, moved, log in used:
        for at, value in enumerate((1.0, float(moved), log)):
            sums[workload][at] += value
    rows = []
    for workload, hour, moved, log in used:
        n, treated, total = sums[workload]
        rows.append((workload, hour, moved - treated / n, log - total / n))
    sxx = math.fsum(t * t for *_, t, _ in rows)
    b = math.fsum(t * y for *_, t, y in rows) / sxx if sxx > 0 else 0.0
    scores: dict[tuple[str, int], float] = defaultdict(float)
    for workload, hour, treated, y in rows:
        scores[workload, hour] += treated * (y - b * treated)
    n, g, strata = len(rows), len(scores), len(sums)
    variance = math.fsum(s * s for s in scores.values()) / (sxx * sxx) if sxx > 0 else 0.0
    variance *= g / max(g - 1.0, 1.0) * max(n - 1.0, 1.0) / max(n - strata - 1.0, 1.0)
    sides = {side: len({(w, h) for w, h, moved, _ in used if moved is side}) for side in (True, False)}
    least = min(sides.values())
    scale = max((abs(log) for *_, log in used), default=0.0)
    reason = None
    if least < MIN_CLUSTERS:
        if not any(run["moved"] for run in runs):
            reason = "no_moved_runs"
        elif all(run["moved"] for run in runs):
            reason = "no_unmoved_runs"
        else:
            side = "unmoved" if sides[False] <= sides[True] else "moved"
            reason = f"too_few_clusters: {side} has {least}, needs {MIN_CLUSTERS}"
    elif not variance > (1e-12 * max(scale, 1.0)) ** 2:
        reason = "zero_variance"
    counts = {
        "n_treated": sum(moved for *_, moved, _ in used), "n_control": sum(not moved for *_, moved, _ in used),
        "treated_clusters": sides[True], "control_clusters": sides[False], "runs_left_out": len(runs) - len(used),
    }  # fmt: skip
    se = math.sqrt(variance) if reason is None else None
    ratio, log_sd, weight = shrunk(b, se, reason, {**counts, "prior_log_sd": prior})
    return {
        **counts, "reason": reason, "log_ratio": b if least else None, "log_se": se, "ratio": ratio, "log_sd": log_sd,
        "weight": weight,
    }  # fmt: skip


def lower_bound(saving: float, sd: float) -> tuple[float, float, float]:
    """One-sided 5 % bound of a portfolio's saving; its derivatives by the saving and by the standard deviation."""
    straight = saving - Z * sd
    ratio = sd / -saving if saving < 0 else 0.0
    if 1e-12 < ratio < 1e12:
        spread = math.sqrt(math.log1p(ratio * ratio))
        growth = math.exp(Z * spread)
        if saving * growth < straight:
            slope = growth * Z * ratio / ((1 + ratio * ratio) * spread)
            return saving * growth, growth - ratio * slope, -slope
    return straight, 1.0, -Z


def _first_inside(path: str, stored: Any, computed: Any) -> Difference:
    """The innermost place where two documents differ."""
    if isinstance(stored, dict) and isinstance(computed, dict):
        for name in [*computed, *(n for n in stored if n not in computed)]:
            if name not in stored or name not in computed or stored[name] != computed[name]:
                return _first_inside(f"{path}.{name}", stored.get(name), computed.get(name))
    if isinstance(stored, list) and isinstance(computed, list):
        for i, (one, other) in enumerate(zip(stored, computed, strict=False)):
            if one != other:
                return _first_inside(f"{path}[{i}]", one, other)
        if len(stored) != len(computed):
            return Difference(path, f"{len(stored)} entries", f"{len(computed)} entries")
    return Difference(path, stored, computed)


# -- one outcome --------------------------------------------------------------------------------------------


class _Piece(NamedTuple):
    row: int
    h0: int
    h1: int
    cf: float
    act: float
    before: tuple
    after: tuple
    u0: float
    u1: float
    p0: float
    p1: float
    ga0: float
    ga1: float
    gb0: float
    gb1: float


class _Outcome:
    """Sections 2 to 8 of the methodology for one outcome. ``columns``: name → (value, size of its rounding)."""

    def __init__(
        self, doc: dict[str, Any], runs: list[dict[str, Any]], ambiguous: list[bool], normals: Normals
    ) -> None:
        self.doc, self.runs, self.ambiguous, self.normals = doc, runs, ambiguous, normals
        self.grid = _Signal(doc["grid"])
        self.named = doc["factors"]["keys"]
        self.boxes = {k: (f["box"][0], f["box"][1]) for k, f in self.named.items()}
        self.spread = {k: _log_sd(f["box"][0], f["box"][1], f["reading"]) for k, f in self.named.items()}
        usage = [r for r in _table(doc["usage"], "usage", USAGE) if "memory_in_vcpu" not in r["quality"]]
        self.compute = [r for r in usage if r["resource_type"] != "network"]
        self.network = [r for r in usage if r["resource_type"] == "network"]
        self._start_runs()
        self.compute.sort(key=lambda r: (r["job_id"], r["started_at"], r["activity_id"]))
        self.slices = [self._slice(r) for r in self.compute]
        self.columns: dict[str, tuple[Any, float]] = {}
        self.scaled: dict[str, float] = {}
        self.saving, self.size = 0.0, 0.0
        self._facts()
        self._make_pieces()
        self._make_leakage()
        closed = self._gates()
        self.disqualified = bool(closed)
        self._put("reason", ";".join(f"sufficiency.{g}" for g in closed) or None)
        if closed:
            self._put("verification_status", "disqualified")
            for name in FIGURES:
                self._put(name, None)
        else:
            self._figures()

    def _put(self, name: str, value: Any, size: float = 0.0) -> None:
        self.columns[name] = (value, size)

    def _start_runs(self) -> None:
        """When and where each run ran: from its first slice to its last."""
        for run in self.runs:
            mine = [r for r in self.compute if r["job_id"] == run["job_id"]]
            first = min(mine, key=lambda r: (r["started_at"] // HOUR, r["activity_id"]), default=None)
            began = run["started_at"] = min((r["started_at"] for r in mine), default=None)
            run["ended_at"] = max((r["ended_at"] for r in mine), default=None)
            run["region"] = first["region"] if first else None
            asked = run["requested_at"]
            if began is not None and began % HOUR == 0:  # a bill by the hour is compared by the hour
                asked -= asked % HOUR
            run["shift"] = 0 if began is None else began - asked
        self.run_of = {run["job_id"]: run for run in self.runs}

    def _slice(self, row: dict[str, Any]) -> dict[str, Any]:
        run = self.run_of[row["job_id"]]
        place = next(
            (
                p
                for p in self.doc["places"]
                if (p["cloud_provider"], p["home_region"]) == (row["cloud_provider"], run["home_region"])
            ),
            {},
        )
        scale = run["move"]["vcpus_scale"] if run["move"] else 1.0
        usage = self.doc["usage_ratio"]
        return {
            **row,
            "home": run["home_region"],
            "shift": run["shift"],
            "ratio": 1.0 / scale / (usage["ratio"] if usage else 1.0),
            "pue_before": place.get("pue_before"),
            "keys_before": (
                row["power_factor_key"], place.get("provider_pue_factor_key_before"),
                place.get("region_pue_factor_key_before"), usage["factor_key"] if usage else None,
            ),
            "keys_after": (
                row["power_factor_key"], row["provider_pue_factor_key"], row["region_pue_factor_key"], None,
            ),
        }  # fmt: skip

    # -- what is stated, and what is no carbon ---------------------------------------------------------

    def _facts(self) -> None:
        claim, grid = self.doc["claim"], self.doc["grid"]
        for name in ("outcome_id", "decision_id", "recommendation_id", "executed_on", "team_id", "claimed_delta_kg"):
            self._put(name, claim[name])
        self._put("plan_ci_lower", claim["claimed_delta_kg_lower"])
        self._put("plan_ci_upper", claim["claimed_delta_kg_upper"])
        self._put("month", claim["executed_on"][:8] + "01T00:00:00.000000Z")
        self._put("verification_method", FORMULA)
        self._put("signal", grid["signal"])
        self._put("signal_method", grid["method"])
        self._put("consequential_delta_kg", None)
        self._put("consequential_signal", None)
        self._put("runs", len({s["job_id"] for s in self.slices}))
        cost, size, cost_reason = self._cost()
        self._put("measured_cost_delta_usd", cost, size)
        compliant, detail, reason = self._promises()
        self._put("sla_compliant", compliant)
        self._put("sla_detail", {"cost_reason": cost_reason, "promises": detail, "reason": reason}, 10.0)

    def _cost(self) -> tuple[float | None, float, str | None]:
        """The bill as it came less the bill as it would have come at home, at the original time."""
        config = json.loads(self.doc["books"]["decision_events"][0]["payload"]).get("current_config") or {}
        config = json.loads(config) if isinstance(config, str) else config
        prices = _table(self.doc["prices"], "prices")
        home, missing, unbilled = 0.0, [], 0
        actual = 0.0
        for s in self.slices:
            sku, at = config.get("instance_type") or s["instance_type"], s["started_at"] - s["shift"]
            price = [
                p["usd_per_unit"]
                for p in prices
                if (p["region"], p["sku"]) == (s["home"], sku) and p["valid_from"] <= at < p["valid_to"]
            ]
            if s["usage_hours"] is None or not price or price[0] is None:
                missing.append(f"{s['home']}, {sku} at {_minute(at)}")
            else:
                home += s["usage_hours"] * price[0]
            for_run = s["cost_usd"]
            unbilled += for_run is None
            actual += for_run or 0.0
        for row in self.network:
            unbilled += row["cost_usd"] is None
            actual += row["cost_usd"] or 0.0
        if not self.slices:
            return None, 0.0, "no_usage"
        if missing:
            return None, 0.0, f"price_missing: {missing[0]} ({len(missing)} of {len(self.slices)} slices)"
        if unbilled:
            return None, 0.0, f"bill_missing: {unbilled} of {len(self.slices) + len(self.network)} charges"
        return actual - home, abs(actual) + abs(home), None

    def _promises(self) -> tuple[bool | None, dict[str, Any], str | None]:
        """Which promises of service the runs kept, broke, or were not seen to keep."""
        said = self.doc["promises"]
        trip = {(a, b): ms for a, b, ms in said["round_trip_ms"]}
        counts = {}
        for name, unit in (
            ("start_delay", "hours"),
            ("deadline", "hours"),
            ("latency", "ms"),
            ("dependencies", "hours"),
        ):
            counts[name] = {
                "promised": 0, "kept": 0, "broken": 0, "unknown": 0, f"worst_{unit}": None, "first_broken": None,
            }  # fmt: skip
        for run in sorted(self.runs, key=lambda r: r["job_id"]):
            known = said["register"].get(run["workload_id"], {})
            limits = [CATEGORY_HOURS.get(said["category"]), known.get("max_delay_hours")]
            limit = min((v for v in limits if v is not None), default=None)
            delay = None
            if limit is not None and run["started_at"] is not None:
                delay = (run["started_at"] - run["requested_at"]) / HOUR - limit - START_TOLERANCE_HOURS
            _count(counts["start_delay"], "worst_hours", delay, run["job_id"])
            if known.get("sla_latency_ms") is not None:
                same = run["region"] == run["home_region"]
                measured = 0.0 if same else trip.get((run["home_region"], run["region"]))
                over = None if measured is None else measured - known["sla_latency_ms"]
                _count(counts["latency"], "worst_ms", over, run["job_id"])
            ends = [end for job, _, end in said.get("needs", ()) if job == run["job_id"]]
            if ends:
                _count(counts["dependencies"], "worst_hours", _too_early(run, ends), run["job_id"])
        unknown = [f"{name} {c['unknown']}" for name, c in counts.items() if c["unknown"]]
        reason = "no_runs" if not self.runs else f"not_observed: {', '.join(unknown)}" if unknown else None
        broken = any(c["broken"] for c in counts.values())
        compliant = False if broken else None if reason else True
        return compliant, {"promises": counts, "runs": len(self.runs)}, reason

    # -- pieces -------------------------------------------------------------------------------------

    def _make_pieces(self) -> None:
        self.pieces: list[_Piece] = []
        self.unmeasured = self.cut = 0
        self.cells: list[tuple[str, int, int, str]] = []
        for i, s in enumerate(self.slices):
            start, end, d = s["started_at"], s["ended_at"], s["shift"]
            cuts = {start} | {h * HOUR for h in range(start // HOUR, end // HOUR + 1) if start < h * HOUR < end}
            cuts |= {
                h * HOUR + d for h in range((start - d) // HOUR, (end - d) // HOUR + 1) if start < h * HOUR + d < end
            }
            for a, b in pairwise([*sorted(cuts), end]):
                h0, h1 = (a - d) // HOUR, a // HOUR
                self.cut += 1
                if d:
                    self.cells.append((s["home"], h0, h1, s["region"]))
                g = [
                    self.grid.at(r, h)
                    for r, h in ((s["home"], h0), (s["home"], h1), (s["region"], h0), (s["region"], h1))
                ]
                known = [v for v in g if v is not None]
                if len(known) < len(g):
                    self.unmeasured += 1
                elif None not in (s["energy_kwh"], s["pue"], s["pue_before"]):
                    w = (b - a) / (end - start) if end > start else 1.0
                    u1 = s["energy_kwh"] * w
                    u0 = u1 * s["ratio"]
                    p0, p1 = s["pue_before"], s["pue"]
                    before = (*s["keys_before"], f"grid/{s['home']}", _hour_key(s["home"], h0))
                    after = (*s["keys_after"], f"grid/{s['region']}", _hour_key(s["region"], h1))
                    self.pieces.append(
                        _Piece(i, h0, h1, u0 * p0 * known[0], u1 * p1 * known[3], before, after, u0, u1, p0, p1, *known)
                    )

    def _make_leakage(self) -> None:
        """Energy that left because of the move, at the meter of where it left; the rest with its reason."""
        self.leaks: list[tuple[float, tuple]] = []
        self.leak_rows = self.leaks_unmeasured = self.leaks_unnamed = 0
        for row in self.network:
            if row["energy_kwh"] is None or row["pue"] is None:
                continue
            self.leak_rows += 1
            hour = row["started_at"] // HOUR
            intensity, key = self.grid.at(row["region"], hour), row["power_factor_key"]
            self.leaks_unnamed += key not in self.named
            if intensity is None:
                self.leaks_unmeasured += 1
            else:
                kg = row["energy_kwh"] * row["pue"] * intensity
                keys = (key, f"grid/{row['region']}", _hour_key(row["region"], hour))
                self.leaks.append((kg, keys))

    # -- gates --------------------------------------------------------------------------------------

    def _gates(self) -> list[str]:
        claim, slices = self.doc["claim"], self.slices
        frozen, signal = claim["baseline_frozen_at"], self.doc["grid"]
        expected = max(1, claim["runs_expected"] if claim["runs_expected"] is not None else 1)
        actual: dict[int, float] = defaultdict(float)
        for p in self.pieces:
            actual[p.row] += p.act
        whole = {p.row for p in self.pieces} if not self.unmeasured else set()
        nameless = sum(
            any(k not in self.named for keys in (s["keys_before"], s["keys_after"]) for k in keys[:3]) for s in slices
        )
        stated = set(self.doc["leakage_zero"]) if self.doc["moves"]["group"] else set()
        stated |= {"egress"} if self.leak_rows else set()
        counts = {
            "no_frozen_baseline": frozen is None,
            "late_baseline": bool(frozen and claim["executed_at"] and frozen > claim["executed_at"]),
            "missing_runs": max(0, expected - len({s["job_id"] for s in slices})),
            "ambiguous_runs": sum(self.ambiguous),
            "unsettled_data": not claim["settled"],
            "restated_inputs": claim["restated"],
            "mixed_signals": claim["baseline_signal"] not in (None, signal["signal"])
            or claim["baseline_method"] not in (None, signal["method"]),
            "missing_energy": sum(s["energy_kwh"] is None for s in slices),
            "missing_pue": sum(s["pue"] is None or s["pue_before"] is None for s in slices),
            "missing_intensity": self.unmeasured + self.leaks_unmeasured,
            "missing_factor": nameless + self.leaks_unnamed,
            "constant_series": self._flagged(self.grid.constant),
            "estimated_series": self._flagged(self.grid.estimated),
            "leakage_unstated": len(set(COMPONENTS) - stated),
            "actual_not_reproduced": sum(
                slices[i]["kg_location"] is not None
                and abs(actual[i] - slices[i]["kg_location"]) > 1e-9 * abs(slices[i]["kg_location"])
                for i in whole
            ),
        }
        return [name for name in GATES if counts[name]]

    def _flagged(self, flag: Any) -> bool:
        """A time shift in whose regions one shows the flag in every hour that it uses."""
        if not self.cells:
            return False
        sides = [[(a, h0, h1) for a, h0, h1, _ in self.cells], [(b, h0, h1) for _, h0, h1, b in self.cells]]
        return any(all(flag(r, h0) and flag(r, h1) for r, h0, h1 in side) for side in sides)

    # -- figures ------------------------------------------------------------------------------------

    def _figures(self) -> None:
        total = _parts(self.pieces)
        cf, act = total["counterfactual_carbon_kg"], total["actual_carbon_kg"]
        leak = sum(kg for kg, _ in self.leaks)
        saving = self.saving = cf - (act + leak)
        size = self.size = cf + act + abs(leak)
        for name in (*FIGURES[:2], *PARTS):
            self._put(name, total[name], size)
        self._put("measured_carbon_delta_kg", -saving, size)
        self._put("leakage_kg", float(leak), size)
        self._put("decomposition_method", "shapley;shapley (lmdi guard)" if total["guarded"] else "shapley;lmdi")
        reasons: dict[str, Any] = {c: self.doc["leakage_zero"][c] for c in COMPONENTS if c in self.doc["leakage_zero"]}
        if self.leaks:
            reasons["egress"] = float(leak)
        self._put("leakage_detail", reasons, size)
        self._region_boxes()
        plus, minus, s = self._sensitivities()
        self._put("sensitivities", s, size)
        self.scaled = {k: v * self.spread[k] for k, v in s.items()}
        self._put("scaled_sensitivities", self.scaled, size)
        sd = math.sqrt(sum(v * v for v in self.scaled.values()))
        self._put("carbon_sd_kg", sd, size)
        sides = ((plus, cf), (minus, act + leak))
        variance = max(
            sum((part / whole * self.spread[k]) ** 2 for k, part in parts.items()) if whole else 0.0
            for parts, whole in sides
        )
        low, high, method = saving - Z * sd, saving + Z * sd, "linear"
        if sd > 0 and (abs(saving) < 2 * sd or variance > 0.1):
            low, high = self._draw()
            method = "monte_carlo"
        self._put("uncertainty_method", method)
        self._put("carbon_ci_lower", -high, size + abs(high))
        self._put("carbon_ci_upper", -low, size + abs(low))
        half = (high - low) / 2
        scale = (size + half) / abs(saving) * (1 + half / abs(saving)) if saving else 1.0
        self._put("fractional_uncertainty", half / saving if saving > 0 else None, scale)
        lower, upper = self._bounds()
        self._put("carbon_bounds_lower", -upper, size + abs(upper))
        self._put("carbon_bounds_upper", -lower, size + abs(lower))
        claimed = self.doc["claim"]["claimed_delta_kg"]
        if not all(map(math.isfinite, (saving, low, high))):
            status = "disqualified"
        elif high < 0:
            status = "refuted"
        elif low <= 0 or saving <= 0:
            status = "inconclusive"
        elif (claimed is not None and saving < -claimed) or half > saving:
            status = "partial"
        else:
            status = "confirmed"
        self._put("verification_status", status)

    def _region_boxes(self) -> None:
        """Boxes of the grid factors: of each hour used, and of each region the hull over them."""
        used = {(p.before[4], p.before[5], p.h0) for p in self.pieces}
        used |= {(p.after[4], p.after[5], p.h1) for p in self.pieces}
        for row in self.network:
            if row["energy_kwh"] is not None and row["pue"] is not None:
                hour = row["started_at"] // HOUR
                used.add((f"grid/{row['region']}", _hour_key(row["region"], hour), hour))
        for region_key, hour_key, hour in used:
            slo, shi, hlo, hhi = self.grid.box(region_key[5:], hour)
            lo, hi = self.boxes.get(region_key, (1.0, 1.0))
            self.boxes[region_key] = (min(lo, slo), max(hi, shi))
            self.boxes[hour_key] = (hlo, hhi)
        for key in {k for region_key, hour_key, _ in used for k in (region_key, hour_key)}:
            self.spread[key] = _log_sd(*self.boxes[key], "95% lognormal")

    def _sensitivities(self) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        plus: dict[str, float] = defaultdict(float)
        minus: dict[str, float] = defaultdict(float)
        for p in self.pieces:
            for k in p.before:
                if k is not None:
                    plus[k] += p.cf
            for k in p.after:
                if k is not None:
                    minus[k] += p.act
        for kg, keys in self.leaks:
            for k in keys:
                minus[k] += kg
        return plus, minus, {k: plus.get(k, 0.0) - minus.get(k, 0.0) for k in {**plus, **minus}}

    def _draw(self) -> tuple[float, float]:
        """The 5 % and 95 % quantiles of the draws; terms with the same factors are drawn once."""
        formula = self.doc["formula"]
        seed, draws = formula["seed"], formula["draws"]
        terms: dict[tuple, float] = defaultdict(float)
        for p in self.pieces:
            terms[p.before] += p.cf
            terms[p.after] -= p.act
        for kg, keys in self.leaks:
            terms[keys] -= kg
        factor: dict[str, list[float]] = {}
        for k in {k for keys in terms for k in keys if k is not None}:
            sd = self.spread[k]
            factor[k] = [math.exp(sd * z) for z in self.normals.of(seed, draws, k)]
        shared: dict[tuple, list[float]] = {}
        out = [0.0] * draws
        for keys, kg in terms.items():
            common = keys[:-1]
            if common not in shared:
                product = [1.0] * draws
                for k in common:
                    if k is not None:
                        product = [a * b for a, b in zip(product, factor[k])]  # noqa: B905 - equal lengths, in a hot loop
                shared[common] = product
            out = [o + kg * a * b for o, a, b in zip(out, shared[common], factor[keys[-1]])]  # noqa: B905
        out.sort()
        return quantile(out, 0.05), quantile(out, 0.95)

    def _bounds(self) -> tuple[float, float]:
        groups: dict[tuple, list[float]] = {}
        for p in self.pieces:
            shared = tuple(b if b is not None and b == a else None for b, a in zip(p.before, p.after, strict=True))
            group = groups.setdefault(shared, [0.0, 0.0])
            for kg, keys in ((p.cf, p.before), (-p.act, p.after)):
                own = [self.boxes[k] for k, both in zip(keys, shared, strict=True) if k is not None and both is None]
                ends = [kg * math.prod(box[i] for box in own) for i in (0, 1)]
                group[0] += min(ends)
                group[1] += max(ends)
        lower = upper = 0.0
        for shared, ends in groups.items():
            common = [math.prod(self.boxes[k][i] for k in shared if k is not None) for i in (0, 1)]
            corners = [d * k for d in ends for k in common]
            lower, upper = lower + min(corners), upper + max(corners)
        for kg, keys in self.leaks:
            ends = [-kg * math.prod(self.boxes[k][i] for k in keys) for i in (0, 1)]
            lower, upper = lower + min(ends), upper + max(ends)
        return lower, upper


PARTS = (
    "seed_savings_kg", "spatial_savings_kg", "temporal_savings_kg", "energy_savings_kg", "usage_savings_kg",
    "pue_savings_kg", "intensity_savings_kg",
)  # fmt: skip
#: Columns that a disqualified outcome has not.
FIGURES = (
    "counterfactual_carbon_kg", "actual_carbon_kg", "measured_carbon_delta_kg", "carbon_ci_lower", "carbon_ci_upper",
    "sensitivities", "scaled_sensitivities", "leakage_kg", "leakage_detail", *PARTS, "decomposition_method",
    "carbon_sd_kg", "uncertainty_method", "carbon_bounds_lower", "carbon_bounds_upper", "fractional_uncertainty",
)  # fmt: skip


def _parts(pieces: list[_Piece]) -> dict[str, float]:
    """Sections 2 and 3: the sums over the pieces."""
    out: dict[str, float] = dict.fromkeys((*FIGURES[:2], *PARTS, "guarded"), 0.0)
    for p in pieces:
        e0, e1 = p.u0 * p.p0, p.u1 * p.p1
        out["counterfactual_carbon_kg"] += p.cf
        out["actual_carbon_kg"] += p.act
        out["seed_savings_kg"] += e1 * (p.ga1 - p.gb1)
        x, y = e0 / 3 + e1 / 6, e0 / 6 + e1 / 3
        out["spatial_savings_kg"] += x * (p.ga0 - p.gb0) + y * (p.ga1 - p.gb1)
        out["temporal_savings_kg"] += x * (p.ga0 - p.ga1) + y * (p.gb0 - p.gb1)
        out["energy_savings_kg"] += (e0 - e1) * ((p.ga0 + p.gb1) / 3 + (p.ga1 + p.gb0) / 6)
        before, after = (p.u0, p.p0, p.ga0), (p.u1, p.p1, p.gb1)
        if min(*before, *after) > 0:
            logs = [math.log(a / b) for a, b in zip(before, after, strict=True)]
            first, last = math.prod(before), math.prod(after)
            mean = (first + last) / 2 if abs(sum(logs)) < 1e-6 else (first - last) / sum(logs)
            parts = [mean * log for log in logs]
        else:
            out["guarded"] = 1.0
            parts = _shapley_product(before, after)
        for name, part in zip(PARTS[4:], parts, strict=True):
            out[name] += part
    return out


def _shapley_product(before: tuple, after: tuple) -> list[float]:
    """Shapley split of a product of three: the mean over the six orders of changing them."""
    out = []
    for i in range(3):
        j, k = (n for n in range(3) if n != i)
        rest = before[j] * before[k] / 3 + after[j] * after[k] / 3
        rest += (before[j] * after[k] + after[j] * before[k]) / 6
        out.append(rest * (before[i] - after[i]))
    return out


class _Signal:
    """The hours of the grid that a bundle holds."""

    def __init__(self, grid: dict[str, Any]) -> None:
        self.first, self.boxes, self.regions = grid["first_hour"], grid["boxes"], grid["regions"]
        for region, series in self.regions.items():
            _table(series, f"grid.regions.{region}")

    def _cell(self, region: str, hour: int, column: str) -> Any:
        series, at = self.regions.get(region), hour - self.first
        if series is None or not 0 <= at < len(series[column]):
            return None
        return series[column][at]

    def at(self, region: str, hour: int) -> float | None:
        """Intensity in kgCO2e/kWh, None where nobody knows."""
        return self._cell(region, hour, "kg_per_kwh")

    def box(self, region: str, hour: int) -> list[float]:
        return self.boxes[self._cell(region, hour, "box")]

    def estimated(self, region: str, hour: int) -> bool:
        return bool(self._cell(region, hour, "estimated"))

    def constant(self, region: str, hour: int) -> bool:
        """Whether the hour's day has 24 known, equal hours."""
        day = [self.at(region, hour // 24 * 24 + i) for i in range(24)]
        return None not in day and len(set(day)) == 1


def _named_box(key: str, rows: list[dict[str, Any]]) -> tuple[float, float, str]:
    """Box and reading of a power or PUE factor from the factor versions behind it."""

    def box(row: dict[str, Any]) -> tuple[float, float]:
        value = row["value"]
        if not value:
            return 1.0, 1.0
        return min(1.0, row["value_lower"] / value), max(1.0, row["value_upper"] / value)

    kinds = {(r["factor_type"], r["name"]): r for r in rows}
    boxes = [box(r) for r in rows]
    parts = key.split("/")
    if parts[:3] == ["pue", "simple", "v1"]:
        lower, upper = boxes[-1]
        return math.sqrt(lower), math.sqrt(upper), rows[-1]["bound_reading"]
    if key == "power/simple/v1":
        return min(b[0] for b in boxes), max(b[1] for b in boxes), rows[0]["bound_reading"]
    if parts[:3] == ["power", "instance-power", "v1"]:
        hulls = [box(kinds["power", f"{parts[3]}/box"]), box(kinds["memory", "dram"])]
        if parts[4] == "unmetered":
            load = box(kinds["power", "utilisation not metered"])
            hulls[0] = hulls[0][0] * load[0], hulls[0][1] * load[1]
        if len(parts) == 6:
            hulls.append(box(kinds["gpu", f"{parts[5]}/box"]))
        return min(b[0] for b in hulls), max(b[1] for b in hulls), "declared box"
    if parts[:2] == ["power", "storage"]:
        return math.prod(b[0] for b in boxes), math.prod(b[1] for b in boxes), rows[0]["bound_reading"]
    return *boxes[-1], rows[-1]["bound_reading"]


def _log_sd(lower: float, upper: float, reading: str) -> float:
    """Section 4: spread of a factor's logarithm."""
    width = math.log(upper / lower)
    if reading == "95% lognormal":
        return width / (2 * Z95)
    if reading in ("uniform", "declared box"):
        return width / math.sqrt(12)
    raise ValueError(f"a bound of the unknown reading {reading!r}")


def _too_early(run: dict[str, Any], ends: list[int | None]) -> float | None:
    """Hours from the start of a run to the last end of what it needs; None where nobody can tell whether it waited."""
    began, known = run["started_at"], [end for end in ends if end is not None]
    if began is None or not known:
        return None
    if began % HOUR == 0:  # a bill by the hour: the run kept the minute that it was asked for at
        began += run["requested_at"] % HOUR
    late = any(end - (HOUR - 1 if end % HOUR == 0 else 0) > began for end in known)
    kept = len(known) == len(ends) and max(known) <= began
    return (max(known) - began) / HOUR if late or kept else None


def _count(count: dict[str, Any], worst: str, over: float | None, run: str) -> None:
    count["promised"] += 1
    if over is None:
        count["unknown"] += 1
        return
    count["broken" if over > 0 else "kept"] += 1
    if over > 0 and count["first_broken"] is None:
        count["first_broken"] = run
    rounded = round(float(over), 9)
    count[worst] = rounded if count[worst] is None else max(count[worst], rounded)


# -- small things -------------------------------------------------------------------------------------------


def _table(columns: dict[str, list[Any]], name: str, wanted: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Rows of columns of one length."""
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise ValueError(f"the columns of {name} have different lengths: {sorted(lengths)}")
    missing = set(wanted) - set(columns)
    if missing:
        raise ValueError(f"{name} lacks the columns {', '.join(sorted(missing))}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _loaded(text: Any) -> Any:
    """A document in a text; the text itself where there is none in it."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text


def _iso(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _micros(text: str) -> int:
    return (_iso(text) - EPOCH) // timedelta(microseconds=1)


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) and re.fullmatch(r"[0-9.eE+-]+", value) else value


def _hour_key(region: str, hour: int) -> str:
    return f"grid/{region}/{EPOCH + timedelta(hours=hour):%Y-%m-%dT%H}Z"


def _slot(micros: int) -> str:
    return f"{EPOCH + timedelta(microseconds=micros):%Y-%m-%dT%H}"


def _minute(micros: int) -> str:
    return f"{EPOCH + timedelta(microseconds=micros):%Y-%m-%dT%H:%MZ}"


def named_by_hash(path: Path) -> str:
    """The hash in a file's name; empty where it is called otherwise."""
    return path.stem if re.fullmatch(r"[0-9a-f]{64}", path.stem) else ""


def comparisons_beside(path: Path) -> Comparisons:
    """Comparisons in the folder of that name beside a bundle, or in the bundle's own."""
    return Comparisons(path.parent / "comparisons", path.parent)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python3 recompute.py BUNDLE.json", file=sys.stderr)  # noqa: T201
        return 2
    path = Path(arguments[0])
    try:
        report = check(path.read_bytes(), named_by_hash(path), comparisons=comparisons_beside(path))
    except (OSError, ValueError) as error:
        print(f"error: {path}: {error}", file=sys.stderr)  # noqa: T201
        return 3
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)  # noqa: T201
    for difference in report.differences:
        print(f"differs: {difference}")  # noqa: T201
    if not report.differences:
        print(f"same: {report.sha256} (outcome {report.outcome_id}) recomputes")  # noqa: T201
    return 1 if report.differences else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
