"""Fleets of moved jobs and the grid they meet: what is stated, as the verifier is told it.

Belongs here: made-up moves, made-up intensities, their tables in the verifier's input contracts. Does not belong
here: what is true (``worlds``), verification, scores.

All runs begin and end on whole hours, so that the truth is a plain sum over hours. A table may hold the same fleet in
many worlds at once: each world is a team (a portfolio of its own) with regions of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant import NamedFactor
from sust_dagster.agents.accountant.columns import Floats
from sust_dagster.agents.verifier.arrays import Bools, Ints
from sust_dagster.agents.verifier.calibration.streams import integers, uniforms
from sust_dagster.agents.verifier.inputs import LEAKAGE_COMPONENTS
from sust_dagster.agents.verifier.signal import HourlySignal
from sust_dagster.world.schemas import TIMESTAMP

#: First hour of every made-up grid, and how many there are.
START = datetime(2026, 3, 2, tzinfo=UTC)
HOURS = 120

#: Dirty regions first, then clean ones.
REGIONS: tuple[str, ...] = ("us-east-1", "us-west-2", "ap-south-1", "eu-north-1", "eu-west-1")
DIRTY, CLEAN = (0, 1, 2), (3, 4)

ONE_WAY, ONE_ROUTE, BOTH_WAYS, IN_TIME, WRONG_WAY = (
    "one-way", "one route", "both ways", "in time", "in time, the wrong way",
)  # fmt: skip
MIXES: tuple[str, ...] = (ONE_WAY, ONE_ROUTE, BOTH_WAYS, IN_TIME, WRONG_WAY)

#: PUE as stated, the same everywhere.
PUE = 1.1

_COLUMNS = ("before", "after", "start", "length", "shift", "kw")
_HOUR_US = 3_600_000_000
_FIRST_HOUR = int(START.timestamp()) // 3600


@dataclass(frozen=True)
class Fleet:
    """Moved jobs (n): rows of the grid's regions, whole hours since :data:`START`, IT power in kW.

    A job runs in ``[start, start + length)`` in ``after``; it would have run ``shift`` hours earlier in ``before``.
    """

    name: str
    before: Ints
    after: Ints
    start: Ints
    length: Ints
    shift: Ints
    kw: Floats

    @property
    def jobs(self) -> int:
        return len(self.start)

    def hours_run(self) -> tuple[Ints, Ints]:
        """Every hour of every run: the job, and the hour since :data:`START` on the actual clock."""
        job = np.repeat(np.arange(self.jobs), self.length)
        first = np.repeat(np.cumsum(self.length) - self.length, self.length)
        return job, self.start[job] + np.arange(len(job)) - first


def fleet(mix: str, jobs: int, seed: int) -> Fleet:
    """Jobs of one to five hours and 0.5 to 2 kW, moved in space and time as the mix (one of :data:`MIXES`) says.

    One-way: from a dirty region to a clean one; one route: always the same two; both ways: half of them back. In time:
    twelve hours within a dirty region, from the wave's top to its bottom, or the wrong way.
    """
    if mix not in MIXES:
        raise ValueError(f"fleet {mix!r} is none of {', '.join(MIXES)}")

    def whole(what: str, low: int, high: int) -> Ints:
        return integers(seed, f"fleet/{mix}/{what}", jobs, low, high)

    dirty, clean = np.array(DIRTY)[whole("dirty", 0, len(DIRTY))], np.array(CLEAN)[whole("clean", 0, len(CLEAN))]
    length, start, shift = whole("length", 1, 6), whole("start", 24, 96), whole("shift", 0, 20)
    before, after = dirty, clean
    if mix == ONE_ROUTE:
        before, after = np.full(jobs, DIRTY[0]), np.full(jobs, CLEAN[0])
    elif mix == BOTH_WAYS:
        back = uniforms(seed, f"fleet/{mix}/back", jobs) < 0.5
        before, after = np.where(back, clean, dirty), np.where(back, dirty, clean)
    elif mix in (IN_TIME, WRONG_WAY):
        # The wave is highest at 06:00 and lowest at 18:00.
        after, shift = dirty, np.full(jobs, 12)
        start = 24 * whole("day", 1, 4) + whole("evening", 15, 18) - (12 if mix == WRONG_WAY else 0)
    kw = 0.5 + 1.5 * uniforms(seed, f"fleet/{mix}/kw", jobs)
    return Fleet(mix, before, after, start, length, shift, kw)


def stated_grid(seed: int) -> Floats:
    """Intensities in kgCO2e/kWh, shape (regions, hours): a daily wave and noise; dirty near 0.56, clean near 0.17."""
    wave = 1 + 0.25 * np.sin(2 * np.pi * np.arange(HOURS) / 24)
    level = np.array([0.50, 0.56, 0.62, 0.15, 0.19])
    noise = 0.9 + 0.2 * uniforms(seed, "grid/noise", len(REGIONS) * HOURS)
    return level[:, None] * wave * noise.reshape(len(REGIONS), HOURS)


def signal_of(
    intensity: Floats, *, system_bound: float, hour_bound: float | Floats, estimated: Bools | None = None
) -> HourlySignal:
    """Intensities of one or many worlds, shape (worlds, regions, hours), with boxes ``[1/bound, bound]``.

    Region ``r`` of world ``w`` is named ``<region>/<w>``.
    """
    worlds, regions, hours = intensity.shape
    flat = intensity.reshape(worlds * regions, hours)
    names = tuple(f"{REGIONS[r]}/{w}" for w in range(worlds) for r in range(regions))
    system = np.full(flat.shape, system_bound)
    hour = np.broadcast_to(np.asarray(hour_bound, np.float64), intensity.shape).reshape(flat.shape)
    flags = np.zeros(flat.shape, bool) if estimated is None else estimated.reshape(flat.shape)
    return HourlySignal(
        "average", "lifecycle", names, _FIRST_HOUR, flat, flags, 1 / system, system, 1 / hour, hour
    )  # fmt: skip


def factors_of(power: float, provider: float, site: float) -> Mapping[str, NamedFactor]:
    """The named factors of every fleet, from their bounds, read as 95 % log-normal."""
    bounds = {"power": power, "pue/provider": provider} | {f"pue/{r}": site for r in REGIONS}
    return {key: NamedFactor(key, 1 / b, b, "95% lognormal") for key, b in bounds.items()}


@dataclass(frozen=True)
class Tables:
    """What a verification reads; outcomes are in order of world, then job."""

    claims: pa.Table
    slices: pa.Table
    leakage: pa.Table


def tables(moves: Fleet, worlds: int = 1) -> Tables:
    """Claims, slices (one per hour run) and leakage (none) of the jobs of ``worlds`` worlds; no gate closes.

    ``moves`` holds the jobs of the first world, then those of the second, and so on: as many in each.
    """
    total = moves.jobs
    world = np.repeat(np.arange(worlds), total // worlds)
    names = pc.binary_join_element_wise("o", pc.cast(pa.array(np.arange(total)), pa.string()), "")
    # Zeros in front keep the order of the portfolios, which is that of the text, the order of the worlds.
    team = pc.utf8_lpad(pc.cast(pa.array(world), pa.string()), 9, "0")
    when = pa.repeat(pa.scalar(START, TIMESTAMP), total)
    claims = pa.table(
        {
            "outcome_id": names, "decision_id": names, "recommendation_id": names, "team_id": team,
            "executed_on": when, "executed_at": when, "baseline_frozen_at": when,
            "settled": pa.repeat(True, total), "restated": pa.repeat(False, total),
            "runs_ambiguous": pa.array(np.zeros(total, np.int64)),
        }
    )  # fmt: skip
    job, hour = moves.hours_run()
    rows = len(job)
    region_names = pa.array([f"{r}/{w}" for w in range(worlds) for r in REGIONS])
    site_names = pa.array([f"pue/{r}" for r in REGIONS])
    before, after = moves.before[job], moves.after[job]
    offset = world[job] * len(REGIONS)
    stamp = (_FIRST_HOUR + hour) * _HOUR_US
    power, provider, pue = pa.repeat("power", rows), pa.repeat("pue/provider", rows), pa.array(np.full(rows, PUE))
    slices = pa.table(
        {
            "outcome_id": names.take(pa.array(job)), "run_id": names.take(pa.array(job)),
            "started_at": pa.array(stamp).cast(TIMESTAMP), "ended_at": pa.array(stamp + _HOUR_US).cast(TIMESTAMP),
            "energy_kwh": pa.array(moves.kw[job]),
            "region_before": region_names.take(pa.array(offset + before)),
            "region_after": region_names.take(pa.array(offset + after)),
            "shift_us": pa.array(moves.shift[job] * _HOUR_US),
            "pue_before": pue, "pue_after": pue, "power_factor_key": power,
            "provider_pue_factor_key": provider, "provider_pue_factor_key_before": provider,
            "region_pue_factor_key": site_names.take(pa.array(after)),
            "region_pue_factor_key_before": site_names.take(pa.array(before)),
        }
    )  # fmt: skip
    components = np.tile(np.arange(len(LEAKAGE_COMPONENTS)), total)
    leakage = pa.table(
        {
            "outcome_id": names.take(pa.array(np.repeat(np.arange(total), len(LEAKAGE_COMPONENTS)))),
            "component": pa.array(LEAKAGE_COMPONENTS).take(pa.array(components)),
            "reason": pa.repeat("none in this fleet", len(components)),
        }
    )
    return Tables(claims, slices, leakage)


def joined(fleets: Sequence[Fleet], name: str) -> Fleet:
    """All jobs of some fleets as one fleet, in order."""
    return Fleet(name, *(np.concatenate([getattr(f, c) for f in fleets]) for c in _COLUMNS))
