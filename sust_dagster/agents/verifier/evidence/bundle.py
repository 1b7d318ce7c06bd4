"""Evidence bundles: one canonical JSON document per outcome with everything its figures are made from.

Belongs here: what a bundle holds and its exact bytes. Does not belong here: reading the world, files, the transparency
log, or any formula (``recompute`` states them a second time; ``docs/methodology.md`` is the page both follow).

A bundle is RFC 8785 text, so equal content is equal bytes, and its SHA-256 is its name. Nothing in it depends on when
or in how many commits the lake was written: files are named by the slot they hold and the SHA-256 of their bytes.
Tables are objects of columns; instants inside them are microseconds since 1970 UTC, elsewhere ISO 8601 texts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.columns import floats
from sust_dagster.agents.accountant.factors import Factor, FactorSet, NamedFactor
from sust_dagster.agents.accountant.lookups import HOUR_US
from sust_dagster.agents.accountant.methods import named_factor
from sust_dagster.agents.verifier.arrays import Ints
from sust_dagster.agents.verifier.causal.comparison import Comparison
from sust_dagster.agents.verifier.evidence.comparison import Compared, ratio_text
from sust_dagster.agents.verifier.evidence.text import (
    as_texts,
    canonical,
    canonical_numbers,
    listed,
    member_order,
    obj,
    quoted,
)
from sust_dagster.agents.verifier.outcome import VERIFICATION_METHOD, Verified
from sust_dagster.agents.verifier.runs import EMISSIONS_COLUMNS, LEDGER_COLUMNS, ZERO_LEAKAGE, Moved, places_of
from sust_dagster.agents.verifier.signal import HourlySignal, signal_matrix
from sust_dagster.agents.verifier.uncertainty import DRAWS

#: Name and version of the document's form.
BUNDLE_FORMAT = "sust-evidence/v2"

#: The fields of a proposal that a plan's hash is taken over.
PLAN_FIELDS = ("action_type", "objective", "planned_for", "policy_version", "proposed_config", "workload_id")

#: Columns of a factor version that are evidence (when it was written down is none).
FACTOR_COLUMNS = (
    "factor_id", "factor_type", "provider", "region", "name", "version", "value", "value_lower", "value_upper", "unit",
    "bound_reading", "source", "source_url", "source_year", "licence", "valid_from", "valid_to",
)  # fmt: skip

_DAY_HOURS = 24
_DAY_US = _DAY_HOURS * HOUR_US
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Case(Protocol):
    """One executed recommendation: its events, and the intents that carried it out, as the books hold them."""

    @property
    def outcome_id(self) -> str: ...
    @property
    def history(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def intents(self) -> Sequence[Mapping[str, Any]]: ...


@dataclass(frozen=True)
class Record:
    """A verification and the rows it was made from; tables as the lake, the scheduler and the price list have them.

    ``emissions`` (EMISSIONS_COLUMNS) and ``ledger`` (LEDGER_COLUMNS): every row of the runs, in the lake's order.
    ``grid``: GRID_INTENSITY of the hours around them. ``homes``: home region by (recommendation, group) of the frozen
    placements. ``register``: workload_id, max_delay_hours, sla_latency_ms. ``latency``: from_region, to_region, rtt_ms.
    ``needs``: run_id, needs_run_id, needs_ended_at. ``comparisons``: the document of each pool. ``slots``: by table of
    the lake, slot and SHA-256 of the file that was written for it.
    """

    cases: Sequence[Case]
    moved: Moved
    claims: pa.Table
    grid: pa.Table
    factors: Mapping[str, NamedFactor]
    factor_set: FactorSet
    verified: Verified
    outcomes: pa.Table
    emissions: pa.Table
    ledger: pa.Table
    prices: pa.Table
    register: pa.Table
    latency: pa.Table | None
    needs: pa.Table
    comparison: Comparison
    comparisons: Sequence[Compared]
    homes: Mapping[tuple[str, str], str]
    approvals: Sequence[Mapping[str, Any]]
    slots: Mapping[str, Mapping[str, str]]
    accounting_method: str
    code_version: str
    seed: int


@dataclass(frozen=True)
class Bundle:
    """The document of one outcome: its bytes and their SHA-256, which is its name."""

    outcome_id: str
    sha256: str
    data: bytes


def bundles(record: Record) -> Iterator[Bundle]:
    """The bundle of each outcome, in the order of the cases. Same record, same bytes.

    Raises ``ValueError`` for an outcome without a case, or where rows do not belong to the verification: a slice whose
    activity is not among ``emissions``, a file of the lake that nobody named.
    """
    made = _Making(record)
    for case in record.cases:
        data = made.document(case).encode()
        yield Bundle(case.outcome_id, hashlib.sha256(data).hexdigest(), data)


class _Making:
    """Columns as texts, made once for all outcomes; a document is then joined from slices of them."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._outcomes = _rows(record.outcomes, without=("evidence_chain",))
        self._claims = _rows(record.claims)
        self._usage = _Usage(record)
        self._grid = _Grid(signal_matrix(record.grid))
        self._factors = _Factors(record)
        self._portfolios = _Portfolios(record.verified)
        self._prices = _Prices(record.prices)
        self._register = {
            r["workload_id"]: {k: r[k] for k in ("max_delay_hours", "sla_latency_ms")}
            for r in record.register.select(["workload_id", "max_delay_hours", "sla_latency_ms"]).to_pylist()
        }
        latency = [] if record.latency is None else record.latency.to_pylist()
        self._latency = {(r["from_region"], r["to_region"]): r["rtt_ms"] for r in latency}
        self._needs: dict[str, list[list[Any]]] = {}
        for run, need, at in zip(*record.needs.to_pydict().values(), strict=True):
            self._needs.setdefault(run, []).append([run, need, None if at is None else _micros(at)])
        self._approvals: dict[str, list[str]] = {}
        for row in record.approvals:
            self._approvals.setdefault(row["recommendation_id"], []).append(_book_row(row))
        self._formula = obj(
            {
                "accounting_method": quoted(record.accounting_method),
                "code_version": quoted(record.code_version),
                "draws": str(DRAWS),
                "id": quoted(VERIFICATION_METHOD),
                "seed": str(record.seed),
            }
        )
        self._zero = canonical(ZERO_LEAKAGE)
        ratios = {r["pool"]: r for r in record.comparison.ratios.to_pylist()}
        pools = zip(*record.comparison.pools.to_pydict().values(), strict=True)
        self._ratio = {outcome: (ratios[pool]["factor_key"], pool) for outcome, pool in pools}
        self._ratio_text = {c.pool: ratio_text(ratios[c.pool], c.sha256) for c in record.comparisons}

    def document(self, case: Case) -> str:
        """The bundle's text."""
        outcome, history = case.outcome_id, case.history
        if outcome not in self._outcomes:
            raise ValueError(f"outcome {outcome}: the verification has no row for it; build bundles of its own cases")
        proposal = json.loads(history[0]["payload"])
        usage = self._usage.of(outcome)
        moves = self._moves(case)
        *ratio_key, pool = self._ratio.get(outcome, ("",))
        sections = {
            "baseline": self._baseline(case),
            "books": obj(
                {
                    "approvals": listed(self._approvals.get(history[0]["recommendation_id"], [])),
                    "decision_events": listed([_book_row(e) for e in history]),
                    "outbox": listed([_book_row(i["row"]) for i in case.intents]),
                }
            ),
            "claim": self._claims[outcome],
            "factors": self._factors.of(sorted({*usage.keys, *self._factors.keys_of(usage.places), *ratio_key})),
            "format": quoted(BUNDLE_FORMAT),
            "formula": self._formula,
            "grid": self._grid.of(usage.regions, usage.first_hour, usage.end_hour),
            "inputs": self._inputs(usage, proposal),
            "leakage_zero": self._zero,
            "moves": moves,
            "outputs": self._outcomes[outcome],
            "places": self._factors.places(usage.places),
            "plan": self._plan(history[0], proposal),
            "portfolio": self._portfolios.of(outcome),
            "prices": self._prices.of(usage, proposal),
            "promises": self._promises(usage, proposal),
            "requests": usage.requests,
            "usage": usage.rows,
            "usage_ratio": self._ratio_text.get(pool, "null"),
        }
        digests = {name: quoted(hashlib.sha256(text.encode()).hexdigest()) for name, text in sections.items()}
        return obj(sections | {"digests": obj(digests)})

    def _baseline(self, case: Case) -> str:
        """What was frozen before acting, once per intent."""
        payloads = [i["payload"] for i in case.intents]
        return listed(
            obj(
                {
                    "baseline": canonical(said["baseline"]),
                    "baseline_hash": quoted(said["baseline_hash"]),
                    "change_hash": quoted(said["change_hash"]),
                    "intent_id": quoted(intent["row"]["intent_id"]),
                }
            )
            for intent, said in zip(case.intents, payloads, strict=True)
        )

    @staticmethod
    def _plan(proposed: Mapping[str, Any], proposal: Mapping[str, Any]) -> str:
        fields = {name: proposal.get(name) for name in PLAN_FIELDS}
        fields["planned_for"] = datetime.fromisoformat(str(fields["planned_for"])).astimezone(UTC).isoformat()
        if isinstance(fields["proposed_config"], str):
            fields["proposed_config"] = json.loads(fields["proposed_config"])
        return obj({"fields": canonical(fields), "hash": canonical(proposed["plan_hash"])})

    def _moves(self, case: Case) -> str:
        """The groups that the done intents placed, in the order of the intents."""
        recommendation = case.history[0]["recommendation_id"]
        placed = [p for i in case.intents for p in i["payload"]["change"].get("placements", ())]
        groups = [p["groups"][0] for p in placed]
        hours = [datetime.fromisoformat(p["requested_hour"]) for p in placed]
        return obj(
            {
                "group": listed(map(quoted, groups)),
                "home_region": listed(
                    quoted(self._record.homes.get((recommendation, group), "unknown")) for group in groups
                ),
                "requested_hour": listed(str(_micros(at)) for at in hours),
                "vcpus_scale": listed(canonical_numbers([float(p["vcpus_scale"]) for p in placed])),
                "workload_id": listed(quoted(p["workload_id"]) for p in placed),
            }
        )

    def _inputs(self, usage: _Own, proposal: Mapping[str, Any]) -> str:
        """The files that hold the rows, by table, as the lake wrote them for each slot."""
        hours = dict.fromkeys(("activity_ledger", "emissions"), usage.slots)
        hours["grid_intensity"] = self._grid.slots(usage.first_hour, usage.end_hour)
        planned = datetime.fromisoformat(str(proposal["planned_for"])).astimezone(UTC)
        hours["placements"] = [f"{planned:%Y-%m-%d}"]
        return obj({table: listed(self._files(table, slots)) for table, slots in hours.items()})

    def _files(self, table: str, slots: Iterable[str]) -> Iterator[str]:
        held = self._record.slots.get(table, {})
        for slot in slots:
            if slot in held:  # a slot without rows has no file
                yield f'"date={slot[:10]}/{slot}-{held[slot]}.parquet"'

    def _promises(self, usage: _Own, proposal: Mapping[str, Any]) -> str:
        """What was promised of these workloads, what their runs waited for, how far their regions are from home."""
        pairs = [(a, b, self._latency.get((a, b))) for a, b in usage.routes]
        return canonical(
            {
                "category": proposal.get("workload_category"),
                "needs": [need for run in usage.runs for need in self._needs.get(run, ())],
                "register": {w: self._register[w] for w in usage.workloads if w in self._register},
                "round_trip_ms": [list(pair) for pair in pairs],
            }
        )


@dataclass(frozen=True)
class _Own:
    """What one outcome has of the runs' rows, and which hours, places and factors it needs besides."""

    rows: str
    requests: str
    runs: Sequence[str]
    keys: Sequence[str]
    regions: Sequence[str]
    places: Sequence[tuple[str, str]]
    routes: Sequence[tuple[str, str]]
    workloads: Sequence[str]
    skus: Sequence[tuple[str, str]]
    slots: Sequence[str]
    first_hour: int
    end_hour: int
    first_us: int
    end_us: int


#: Columns of ``usage`` that are instants.
_INSTANTS = ("started_at", "ended_at")


class _Usage:
    """The rows of emissions and ledger by outcome."""

    def __init__(self, record: Record) -> None:
        runs = record.moved.runs
        order = pc.sort_indices(runs, sort_keys=[("outcome_id", "ascending"), ("run_id", "ascending")])
        self._runs = runs.take(order).to_pydict()
        owner = self._runs["outcome_id"]
        starts = [i for i in range(len(owner)) if i == 0 or owner[i] != owner[i - 1]]
        self._span = {owner[a]: (a, b) for a, b in zip(starts, [*starts[1:], len(owner)], strict=True)}
        counted: dict[str, list[str]] = {}
        for outcome, run in zip(owner, self._runs["run_id"], strict=True):
            counted.setdefault(run, []).append(outcome)
        self._claimed = counted
        rows = _usage_rows(record)
        wanted = pa.array(self._runs["run_id"], pa.string())
        first, last = _ranges(rows.column("job_id").cast(pa.string()), wanted)
        self._first, self._last = first.tolist(), last.tolist()
        self._values = {name: rows.column(name).to_pylist() for name in _NAMED}
        self._start = _integers(rows.column("started_at"))
        self._end = _integers(rows.column("ended_at"))
        self._texts = {
            name: [str(v) for v in _integers(rows.column(name))] if name in _INSTANTS else as_texts(rows.column(name))
            for name in rows.column_names
        }
        self._names = [(n, quoted(n) + ":") for n in sorted(rows.column_names)]
        self._requested = [_micros(at) for at in self._runs["requested_at"]]
        self._check(record, rows)

    def _check(self, record: Record, rows: pa.Table) -> None:
        """The slices were made from these very rows."""
        known = pc.index_in(record.moved.usage.column("activity_id").cast(pa.string()), rows["activity_id"])
        if known.null_count:
            missing = record.moved.usage.column("activity_id").filter(known.is_null())[0]
            raise ValueError(f"activity {missing} was verified and is not among the emissions of the record")
        # A slice books what the row under its activity says: both tables are in one order.
        booked = floats(rows["kg_location"].take(known))
        if not np.array_equal(booked, floats(record.moved.slices["kg_location"]), equal_nan=True):
            raise ValueError("the emissions changed since they were verified: verify again, then write the evidence")

    def of(self, outcome: str) -> _Own:
        a, b = self._span.get(outcome, (0, 0))
        index = [i for run in range(a, b) for i in range(self._first[run], self._last[run])]
        picked = {name: [values[i] for i in index] for name, values in self._values.items()}
        runs = {name: self._runs[name][a:b] for name in _RUN_COLUMNS}
        texts = ",".join(
            f"{name}[{','.join([column[i] for i in index])}]"
            for name, column in ((text, self._texts[n]) for n, text in self._names)
        )
        homes = dict(zip(runs["run_id"], runs["home_region"], strict=True))
        at_home = [homes[job] for job in picked["job_id"]]
        first_us, end_us = self._clock(index, a, b)
        keys = {k for name in _KEY_COLUMNS for k in picked[name] if k is not None}
        places = sorted({*zip(picked["cloud_provider"], at_home, strict=True)})
        ran = {*picked["region"], *at_home}
        return _Own(
            rows="{" + texts + "}",
            requests=self._requests(runs, outcome, a, b),
            runs=runs["run_id"],
            keys=sorted(keys),
            regions=sorted(r for r in ran if r is not None),
            places=places,
            routes=sorted({*zip(at_home, picked["region"], strict=True)} - {(h, h) for h in homes.values()}),
            workloads=sorted({*runs["workload_id"]}),
            skus=sorted({*zip(at_home, picked["instance_type"], strict=True)}, key=str),
            slots=[_slot(h) for h in sorted({self._start[i] // HOUR_US for i in index})],
            first_hour=first_us // _DAY_US * _DAY_HOURS,
            end_hour=-(-end_us // _DAY_US) * _DAY_HOURS,
            first_us=first_us,
            end_us=end_us,
        )

    def _clock(self, index: Sequence[int], a: int, b: int) -> tuple[int, int]:
        """From the first to the last moment of the runs, as they ran and as they would have run."""
        if not index:
            return (min(self._requested[a:b]), max(self._requested[a:b]) + 1) if b > a else (0, 0)
        began, asked = self._start, self._requested
        first, last = min(began[i] for i in index), max(self._end[i] for i in index)
        longest = last - first
        return min(first, *asked[a:b]), max(last, *(at + longest for at in asked[a:b]))

    def _requests(self, runs: Mapping[str, Sequence[Any]], outcome: str, a: int, b: int) -> str:
        others = [[o for o in self._claimed[r] if o != outcome] for r in runs["run_id"]]
        return obj(
            {
                "also_claimed_by": listed(listed(map(quoted, o)) for o in others),
                "home_region": listed(map(quoted, runs["home_region"])),
                "job_id": listed(map(quoted, runs["run_id"])),
                "requested_at": listed(map(str, self._requested[a:b])),
                "workload_id": listed(map(quoted, runs["workload_id"])),
            }
        )


_RUN_COLUMNS = ("run_id", "workload_id", "home_region")
_KEY_COLUMNS = ("power_factor_key", "provider_pue_factor_key", "region_pue_factor_key")
_NAMED = ("job_id", "cloud_provider", "region", "instance_type", *_KEY_COLUMNS)


def _usage_rows(record: Record) -> pa.Table:
    """Every emissions row of a run with the ledger's columns beside it, by job, the lake's order within."""
    rows = record.emissions.select(list(EMISSIONS_COLUMNS))
    order = np.argsort(_codes(rows.column("job_id").cast(pa.string())), kind="stable")
    rows = rows.take(pa.array(order))
    at = pc.index_in(rows.column("activity_id"), record.ledger.column("activity_id").combine_chunks())
    for name in LEDGER_COLUMNS:
        if name not in rows.column_names:
            rows = rows.append_column(name, record.ledger.column(name).combine_chunks().take(at))
    return rows


def _codes(column: pa.ChunkedArray) -> Ints:
    """The rank of each text: equal texts have equal ranks, and ranks are in order of the texts."""
    values = column.combine_chunks().dictionary_encode()
    names = values.dictionary.to_pylist()
    rank = np.empty(len(names), np.int64)
    rank[np.array(sorted(range(len(names)), key=names.__getitem__), np.int64)] = np.arange(len(names))
    return rank[values.indices.to_numpy(zero_copy_only=False)] if len(names) else np.zeros(0, np.int64)


def _ranges(jobs: pa.ChunkedArray, wanted: pa.Array) -> tuple[Ints, Ints]:
    """First and last (exclusive) row of each wanted job among rows in order of their jobs."""
    codes = _codes(pa.chunked_array([*jobs.chunks, wanted], pa.string()))
    held, asked = codes[: len(jobs)], codes[len(jobs) :]
    return np.searchsorted(held, asked, "left"), np.searchsorted(held, asked, "right")


class _Grid:
    """The hours of a signal as texts, by region."""

    def __init__(self, signal: HourlySignal) -> None:
        self._signal = signal
        self._intensity = [canonical_numbers(row.tolist()) for row in signal.intensity]
        self._estimated = signal.estimated.astype(int).astype(str).tolist()
        boxes = np.stack([signal.system_lower, signal.system_upper, signal.hour_lower, signal.hour_upper], axis=-1)
        different, index = np.unique(boxes.reshape(-1, 4), axis=0, return_inverse=True)
        self._boxes = [listed(canonical_numbers(box)) for box in different.tolist()]
        self._box = index.reshape(signal.intensity.shape).tolist()

    def of(self, regions: Sequence[str], first_hour: int, end_hour: int) -> str:
        """Whole UTC days of these regions; hours the grid does not hold are left out at either end, null within."""
        signal = self._signal
        a = max(first_hour - signal.first_hour, 0)
        b = max(min(end_hour - signal.first_hour, signal.hours), a)
        order: dict[int, int] = {}
        series = {}
        for region in regions:
            if region in signal.regions:
                row = signal.regions.index(region)
                series[region] = obj(
                    {
                        "box": listed([str(order.setdefault(i, len(order))) for i in self._box[row][a:b]]),
                        "estimated": listed(self._estimated[row][a:b]),
                        "kg_per_kwh": listed(self._intensity[row][a:b]),
                    }
                )
        return obj(
            {
                "boxes": listed(self._boxes[i] for i in order),
                "first_hour": str(signal.first_hour + a),
                "method": quoted(signal.method),
                "regions": obj(series),
                "signal": quoted(signal.signal),
            }
        )

    def slots(self, first_hour: int, end_hour: int) -> list[str]:
        return [_slot(hour) for hour in range(first_hour, end_hour)]


class _Factors:
    """Named factors with the factor versions behind them."""

    def __init__(self, record: Record) -> None:
        self._record = record
        chosen = [n for n in FACTOR_COLUMNS if n in record.factor_set.table.column_names]
        rows = _rows(record.factor_set.table.select(chosen), key="factor_id")
        self._rows = rows
        self._estimated = set(record.comparison.ratios["factor_key"].to_pylist())
        self._known: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._place: dict[tuple[str, str], dict[str, Any]] = {}

    def of(self, keys: Sequence[str]) -> str:
        found = {key: self._named(key) for key in keys if key in self._record.factors}
        ids = sorted({i for _, behind in found.values() for i in behind})
        return obj(
            {
                "keys": obj({key: text for key, (text, _) in found.items()}),
                "rows": listed(self._rows[i] for i in ids),
            }
        )

    def _named(self, key: str) -> tuple[str, tuple[str, ...]]:
        if key not in self._known:
            factor, seen = self._record.factors[key], _Witness(self._record.factor_set)
            if key not in self._estimated:
                named_factor(cast("FactorSet", seen), key)
            ids = tuple(dict.fromkeys(f.factor_id for f in seen.seen))
            text = obj(
                {
                    "box": listed(canonical_numbers([factor.rel_lower, factor.rel_upper])),
                    "log_sd": canonical_numbers([factor.log_sd])[0],
                    "reading": quoted(factor.bound_reading),
                    "rows": listed(map(quoted, ids)),
                }
            )
            self._known[key] = text, ids
        return self._known[key]

    def places(self, pairs: Sequence[tuple[str, str]]) -> str:
        """PUE and its factor keys of the home regions."""
        return listed(canonical(row) for row in self._places(pairs))

    def keys_of(self, pairs: Sequence[tuple[str, str]]) -> set[str]:
        """The factor keys of the home regions, where the runs may never have been."""
        keys = ("provider_pue_factor_key_before", "region_pue_factor_key_before")
        return {row[name] for row in self._places(pairs) for name in keys if row[name] is not None}

    def _places(self, pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        missing = [p for p in pairs if p not in self._place]
        if missing:
            table = places_of(self._record.factor_set, self._record.accounting_method, missing)
            for row in table.to_pylist():
                self._place[row["cloud_provider"], row["home_region"]] = row
        return [self._place[p] for p in pairs]


class _Witness:
    """A factor set that notes which factors were asked for."""

    def __init__(self, factors: FactorSet) -> None:
        self._factors = factors
        self.seen: list[Factor] = []

    def get(self, *args: Any, **kwargs: Any) -> Factor:
        found = self._factors.get(*args, **kwargs)
        self.seen.append(found)
        return found

    def find(self, *args: Any, **kwargs: Any) -> Factor | None:
        found = self._factors.find(*args, **kwargs)
        if found is not None:
            self.seen.append(found)
        return found


class _Portfolios:
    """The portfolio of each outcome: its totals, and the signed sums of the factors the outcome carries."""

    def __init__(self, verified: Verified) -> None:
        rows = verified.outcomes.select(["outcome_id", "team_id", "month", "verification_status"]).to_pylist()
        self._of = {r["outcome_id"]: (r["team_id"], r["month"]) for r in rows if r["verification_status"] != _CLOSED}
        members: dict[tuple[str, datetime], list[str]] = {}
        for outcome, place in self._of.items():
            members.setdefault(place, []).append(outcome)
        self._members = {p: hashlib.sha256(canonical(sorted(m)).encode()).hexdigest() for p, m in members.items()}
        self._total = {(r["team_id"], r["month"]): r for r in verified.portfolios.to_pylist()}
        s = verified.sensitivities
        self._keys = s.column("factor_key").to_pylist()
        place_code = {place: i for i, place in enumerate(members)}
        codes = np.array([place_code[self._of[o]] for o in s.column("outcome_id").to_pylist()], np.int64)
        key = _codes(s.column("factor_key"))
        _, cell = np.unique(codes * (int(key.max(initial=0)) + 1) + key, return_inverse=True)
        sums = np.bincount(cell, floats(s.column("scaled_kg")))[cell] if len(cell) else np.zeros(0)
        self._sums = sums.tolist()
        self._at: dict[str, list[int]] = {}
        for i, outcome in enumerate(s.column("outcome_id").to_pylist()):
            self._at.setdefault(outcome, []).append(i)

    def of(self, outcome: str) -> str:
        if outcome not in self._of:
            return "null"
        place = self._of[outcome]
        total = self._total[place]
        own = {self._keys[i]: self._sums[i] for i in self._at.get(outcome, [])}
        rest = max(total["sd_kg"] ** 2 - sum(g * g for g in own.values()), 0.0)
        return obj(
            {
                "credit_bound_kg": canonical_numbers([total["credit_bound_kg"]])[0],
                "g_kg": obj(dict(zip(own, canonical_numbers(list(own.values())), strict=True))),
                "members_sha256": quoted(self._members[place]),
                "month": quoted(_iso(place[1])),
                "other_g_squared": canonical_numbers([rest])[0],
                "outcomes": str(total["outcomes"]),
                "savings_kg": canonical_numbers([total["savings_kg"]])[0],
                "sd_kg": canonical_numbers([total["sd_kg"]])[0],
                "team_id": quoted(place[0]),
            }
        )


_CLOSED = "disqualified"


class _Prices:
    """List prices by region and SKU."""

    def __init__(self, prices: pa.Table) -> None:
        self._rows: dict[tuple[str, str], list[tuple[int, int | None, float | None]]] = {}
        for r in prices.to_pylist():
            span = _micros(r["valid_from"]), None if r["valid_to"] is None else _micros(r["valid_to"])
            self._rows.setdefault((r["region"], r["sku"]), []).append((*span, r["usd_per_unit"]))

    def of(self, usage: _Own, proposal: Mapping[str, Any]) -> str:
        """What was in force while the runs would have run at home, cut to the hours of that time."""
        config = proposal.get("current_config") or {}
        config = json.loads(config) if isinstance(config, str) else config
        chosen = config.get("instance_type")
        items = sorted({(region, chosen or sku) for region, sku in usage.skus if chosen or sku})
        first, end = usage.first_us // HOUR_US * HOUR_US, -(-usage.end_us // HOUR_US) * HOUR_US
        rows = []
        for region, sku in items:
            for begin, until, usd in sorted(self._rows.get((region, sku), []), key=lambda r: r[0]):
                a, b = max(begin, first), end if until is None else min(until, end)
                if a < b:
                    rows.append((region, sku, a, b, usd))
        return obj(
            {
                "region": listed(quoted(r[0]) for r in rows),
                "sku": listed(quoted(r[1]) for r in rows),
                "usd_per_unit": listed(canonical_numbers([r[4] for r in rows])),
                "valid_from": listed(str(r[2]) for r in rows),
                "valid_to": listed(str(r[3]) for r in rows),
            }
        )


# -- texts --------------------------------------------------------------------------------------------------


def _rows(table: pa.Table, *, key: str = "outcome_id", without: Sequence[str] = ()) -> dict[str, str]:
    """The rows of a table as objects, by key; instants as ISO texts, what is no number as null."""
    names = member_order(n for n in table.column_names if n not in without)
    columns = []
    for name in names:
        column = table.column(name)
        if pa.types.is_timestamp(column.type):
            texts = ["null" if v is None else quoted(_iso(v)) for v in column.to_pylist()]
        else:
            texts = as_texts(column)
        label = quoted(name) + ":"
        columns.append([label + text for text in texts])
    ids = table.column(key).to_pylist()
    return {i: "{" + ",".join(cells) + "}" for i, cells in zip(ids, zip(*columns, strict=True), strict=True)}


def _book_row(row: Mapping[str, Any]) -> str:
    """A row of the books in the form the transparency log hashes: what is null is left out, instants as text."""
    return canonical({k: _iso(v) if isinstance(v, datetime) else v for k, v in row.items() if v is not None})


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _slot(hour: int) -> str:
    return f"{_EPOCH + timedelta(hours=hour):%Y-%m-%dT%H}"


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)


def _integers(column: pa.ChunkedArray) -> list[int]:
    return column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_pylist()
