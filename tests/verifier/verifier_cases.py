"""Small worlds to verify: signals from plain numbers, runs from a few words, and their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from sust_dagster.agents.accountant import NamedFactor
from sust_dagster.agents.verifier import CLAIM_SCHEMA, LEAKAGE_COMPONENTS, LEAKAGE_SCHEMA, SLICE_SCHEMA, HourlySignal
from sust_dagster.agents.verifier.outcome import Verified, verify

HOUR_US = 3_600_000_000
START = datetime(2026, 3, 2, tzinfo=UTC)
FIRST_HOUR = int(START.timestamp()) // 3600
POWER, PROVIDER = "power/simple/v1", "pue/simple/v1/aws"


def site(region: str) -> str:
    return f"pue/simple/v1/aws/{region}"


def signal_of(
    grams: Mapping[str, Sequence[float] | np.ndarray],
    *,
    signal: str = "average",
    method: str = "lifecycle",
    estimated: Mapping[str, Sequence[bool]] | None = None,
    system: float = 1.15,
    hour: float = 1.10,
) -> HourlySignal:
    """A signal from g/kWh by region from START on; boxes are the same everywhere, as bounds 1/b and b."""
    values = np.array([grams[r] for r in grams], dtype=np.float64) / 1000
    flags = np.zeros(values.shape, bool)
    for region, given in (estimated or {}).items():
        flags[list(grams).index(region)] = given
    full = np.ones(values.shape)
    return HourlySignal(
        signal, method, tuple(grams), FIRST_HOUR, values, flags, full / system, full * system, full / hour, full * hour
    )


def factors_of(
    *regions: str, power: float = 1.42, provider: float = 1.06, region: float = 1.04
) -> dict[str, NamedFactor]:
    """Named factors with log-normal 95 % bounds, as the simulated truth has them."""
    bounds = {POWER: power, PROVIDER: provider} | {site(r): region for r in regions}
    return {key: NamedFactor(key, 1 / b, b, "95% lognormal") for key, b in bounds.items()}


@dataclass(frozen=True)
class Run:
    """One run of an outcome: ``start`` and ``hours`` on the actual clock, in hours after START."""

    outcome: str
    before: str
    after: str
    start: float
    hours: float
    shift_hours: float = 0.0
    kw: float = 1.0
    ratio: float = 1.0
    pue_before: float = 1.1
    pue_after: float = 1.1
    extra: Mapping[str, object] = field(default_factory=dict)


def slice_table(runs: Sequence[Run]) -> pa.Table:
    """Each run cut at its clock hours, as a ledger has it."""
    rows = []
    for number, run in enumerate(runs):
        at, end = run.start, run.start + run.hours
        while at < end:
            until = min(np.floor(at) + 1, end)
            rows.append(
                {
                    "outcome_id": run.outcome,
                    "run_id": f"run-{number}",
                    "started_at": round((FIRST_HOUR + at) * HOUR_US),
                    "ended_at": round((FIRST_HOUR + until) * HOUR_US),
                    "energy_kwh": run.kw * (until - at),
                    "region_before": run.before,
                    "region_after": run.after,
                    "shift_us": round(run.shift_hours * HOUR_US),
                    "pue_before": run.pue_before,
                    "pue_after": run.pue_after,
                    "power_factor_key": POWER,
                    "provider_pue_factor_key": PROVIDER,
                    "region_pue_factor_key": site(run.after),
                    "power_factor_key_before": None,
                    "provider_pue_factor_key_before": PROVIDER,
                    "region_pue_factor_key_before": site(run.before),
                    "energy_ratio": run.ratio,
                    "ratio_factor_key": None,
                    "kg_location": None,
                }
                | dict(run.extra)
            )
            at = until
    return _table(rows, SLICE_SCHEMA)


def claim_table(outcomes: Sequence[str], **changes: object) -> pa.Table:
    """Claims that pass every gate; ``changes`` replace columns of all rows (a list: one value per row)."""
    rows = []
    for i, outcome in enumerate(outcomes):
        row: dict[str, object] = {
            "outcome_id": outcome,
            "decision_id": f"decision-{outcome}",
            "recommendation_id": f"recommendation-{outcome}",
            "team_id": "data",
            "executed_on": START,
            "executed_at": START,
            "baseline_frozen_at": START,
            "baseline_signal": "average",
            "baseline_method": "lifecycle",
            "settled": True,
            "restated": False,
            "runs_ambiguous": 0,
        }
        row |= {k: v[i] if isinstance(v, list) else v for k, v in changes.items()}
        rows.append(row)
    return _table(rows, CLAIM_SCHEMA)


def leakage_table(outcomes: Sequence[str], **numbers: Mapping[str, object]) -> pa.Table:
    """Every component with a reason for zero, but those given as ``component={column: value}``."""
    rows = []
    for outcome in outcomes:
        for component in LEAKAGE_COMPONENTS:
            stated = numbers.get(component, {"reason": "none in this case"})
            rows.append({"outcome_id": outcome, "component": component, **stated})
    return _table(rows, LEAKAGE_SCHEMA)


def _table(rows: Sequence[Mapping[str, object]], schema: pa.Schema) -> pa.Table:
    columns = {}
    for f in schema:
        values = [r.get(f.name) for r in rows]
        columns[f.name] = pa.array(values, f.type)
    return pa.table(columns, schema=schema)


def verified(
    runs: Sequence[Run], signal: HourlySignal, factors: Mapping[str, NamedFactor] | None = None, **options
) -> Verified:
    """Verify these runs with everything else in order; one outcome per name, in order of first sight."""
    outcomes = list(dict.fromkeys(r.outcome for r in runs))
    claims = options.pop("claims", None)
    leakage = options.pop("leakage", None)
    slices = options.pop("slices", None)
    return verify(
        claims if claims is not None else claim_table(outcomes),
        slices if slices is not None else slice_table(runs),
        leakage if leakage is not None else leakage_table(outcomes),
        signal,
        factors if factors is not None else factors_of(*signal.regions),
        **options,
    )


def row(result: Verified, outcome: str | None = None) -> dict[str, Any]:
    """One outcome of a result as a dict: the only one, or the named one."""
    rows = result.outcomes.to_pylist()
    return rows[0] if outcome is None else next(r for r in rows if r["outcome_id"] == outcome)
