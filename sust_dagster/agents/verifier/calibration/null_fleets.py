"""Fleets whose moves save nothing: what they are credited with, world by world.

Belongs here: two regions that are truly alike and differ in the error of their figures only, moves picked blindly or
by those figures, and the verdict. Does not belong here: fleets that save (``coverage``).

The unit of counting is the world. A rule that pays for noise pays here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri

from sust_dagster.agents.accountant.columns import Floats
from sust_dagster.agents.verifier.calibration.bands import ALPHA
from sust_dagster.agents.verifier.calibration.coverage import Tick, by_world, verified_worlds
from sust_dagster.agents.verifier.calibration.fleets import HOURS, Fleet, signal_of, tables
from sust_dagster.agents.verifier.calibration.streams import normals, uniforms
from sust_dagster.agents.verifier.calibration.worlds import Bounds

#: Moves that look good are picked by the figures' error; any moves are picked blindly.
ANY_MOVES, LOOKING_GOOD = "any moves", "moves that look good"
NULL_FLEETS: tuple[str, ...] = (ANY_MOVES, LOOKING_GOOD)

#: Jobs of a world, each of two hours at 1 kW.
JOBS, LENGTH = 8, 2

#: Founding rule: this share of every point above zero, nothing taken back.
FOUNDING_SHARE = 0.5

_WORLDS_PER_BLOCK = 250
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class NullLine:
    """Mean over worlds of what a fleet that saves nothing gets, in kg and in % of its counterfactual; se: of the mean.

    ``founding_*``: the negative control, a rule without uncertainty and without taking back.
    """

    fleet: str
    worlds: int
    jobs: int
    counterfactual_kg: float
    credited_kg: float
    credited_se_kg: float
    credited_percent: float
    credited_se_percent: float
    founding_kg: float
    founding_percent: float
    reasons: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.reasons


def score_null(kind: str, worlds: int, seed: int, tick: Tick = lambda _: None) -> NullLine:
    """Verify a fleet that saves nothing in each of ``worlds`` worlds. ``kind``: one of :data:`NULL_FLEETS`."""
    if kind not in NULL_FLEETS:
        raise ValueError(f"null fleet {kind!r} is none of {', '.join(NULL_FLEETS)}")
    rows = []
    for first in range(0, worlds, _WORLDS_PER_BLOCK):
        size = min(_WORLDS_PER_BLOCK, worlds - first)
        rows.append(_block(kind, seed, first, size))
        tick(size)
    credit, founding, emitted = np.concatenate(rows, axis=1)
    error = float(credit.std(ddof=1)) / math.sqrt(worlds)
    mean, size, paid = float(credit.mean()), float(emitted.mean()), float(founding.mean())
    line = NullLine(
        kind, worlds, JOBS, size, mean, error, 100 * mean / size, 100 * error / size, paid, 100 * paid / size
    )
    z = float(ndtri(1 - ALPHA))
    reasons = []
    if not mean + z * error <= 0:
        reasons.append(f"credited {line.credited_percent:+.2f} % for nothing (se {line.credited_se_percent:.2f})")
    if not paid - z * float(founding.std(ddof=1)) / math.sqrt(worlds) > 0:
        reasons.append("negative control: the founding rule pays nothing here")
    return replace(line, reasons=tuple(reasons))


def _block(kind: str, seed: int, first: int, worlds: int) -> Floats:
    """Credit, what the founding rule pays, and counterfactual of each world, kg: shape (3, worlds)."""
    bounds, name = Bounds(), f"null/{kind}"

    def log_error(what: str, bound: float, per_world: int) -> Floats:
        return math.log(bound) / _Z95 * normals(seed, f"{name}/{what}", worlds * per_world, first * per_world)

    def chance(what: str) -> Floats:
        return uniforms(seed, f"{name}/{what}", worlds * JOBS, first * JOBS).reshape(worlds, JOBS)

    # Both regions have this intensity in truth; it varies a little, since a constant series closes a gate.
    level = 0.3 + 0.001 * np.tile([-1.0, 1.0], HOURS // 2)
    shared = log_error("system", bounds.system, 2).reshape(worlds, 2, 1)
    reported = level * np.exp(shared + log_error("hour", bounds.hour, 2 * HOURS).reshape(worlds, 2, HOURS))
    start = np.floor(chance("start") * (HOURS - LENGTH)).astype(np.int64)
    summed = np.concatenate([np.zeros((worlds, 2, 1)), reported.cumsum(axis=2)], axis=2)
    look = np.take_along_axis(summed, start[:, None] + LENGTH, 2) - np.take_along_axis(summed, start[:, None], 2)
    back = chance("direction") < 0.5 if kind == ANY_MOVES else look[:, 0] < look[:, 1]
    jobs = worlds * JOBS
    moves = Fleet(
        kind,
        back.astype(np.int64).reshape(jobs), 1 - back.astype(np.int64).reshape(jobs), start.reshape(jobs),
        np.full(jobs, LENGTH), np.zeros(jobs, np.int64), np.ones(jobs),
    )  # fmt: skip
    signal = signal_of(reported, system_bound=bounds.system, hour_bound=bounds.hour)
    # Credit is made of sensitivities alone: the draws of an outcome's own interval do not enter it.
    result = verified_worlds(tables(moves, worlds), signal, bounds, seed=seed, draws=8)
    points = -by_world(result, "measured_carbon_delta_kg", worlds)
    return np.stack(
        [
            by_world(result, "credited_kg", worlds).sum(axis=0),
            FOUNDING_SHARE * np.maximum(points, 0.0).sum(axis=0),
            by_world(result, "counterfactual_carbon_kg", worlds).sum(axis=0),
        ]
    )
