"""Hidden worlds: the true error of every named factor, and what moves truly saved under them.

Belongs here: how errors are drawn from their bounds, and the plain sum over hours that is the truth. It shares no
code with the verifier's saving: a mistake there must not repeat itself here. Does not belong here: what is stated
(``fleets``), scores.

Every bound ``b`` is read as 95 % log-normal: the true factor is the stated one times ``exp(sigma x normal)``,
``sigma = ln(b) / 1.96``. A factor is drawn once per world and shared by all jobs that use it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sust_dagster.agents.accountant.columns import Floats
from sust_dagster.agents.verifier.arrays import Bools
from sust_dagster.agents.verifier.calibration.fleets import HOURS, PUE, REGIONS, Fleet
from sust_dagster.agents.verifier.calibration.streams import normals, uniforms

_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Bounds:
    """95 % bounds of every factor; of a region's grid error that its hours share, and of each hour's own.

    The simulated cloud's figures. ``estimated_share`` of the hours is flagged as estimated, with a wider bound.
    """

    power: float = 1.42
    provider: float = 1.06
    site: float = 1.04
    system: float = 1.15
    hour: float = 1.10
    hour_estimated: float = 1.20
    estimated_share: float = 0.02


#: 95 % bound of a grid figure as a whole, where it is shared out between the region's and the hours' own error.
GRID_BOUND = 1.2


def shared_out(systematic: float) -> Bounds:
    """Bounds with this share (0 to 1) of the grid's variance common to all hours of a region, the rest of each hour."""
    spread = math.log(GRID_BOUND)
    # A bound of exactly 1 is a factor without error.
    return Bounds(system=math.exp(spread * math.sqrt(systematic)), hour=math.exp(spread * math.sqrt(1.0 - systematic)))


def drawn_errors(seed: int, name: str, bounds: Bounds, first: int, worlds: int) -> Floats:
    """True over stated emissions of a kWh in each (region, hour, world), worlds ``first`` to ``first + worlds``.

    The product of the errors of power, provider PUE, site PUE, region's grid and hour's grid. World ``w`` of a name is
    the same whichever stretch it is drawn in.
    """

    def draw(what: str, bound: float, per_world: int = 1) -> Floats:
        z = normals(seed, f"{name}/{what}", worlds * per_world, first * per_world)
        return np.exp(math.log(bound) / _Z95 * z).reshape(worlds, per_world).T

    everywhere = draw("power", bounds.power) * draw("provider", bounds.provider)
    out = np.empty((len(REGIONS), HOURS, worlds))
    for r, region in enumerate(REGIONS):
        place = everywhere * draw(f"site/{region}", bounds.site) * draw(f"system/{region}", bounds.system)
        out[r] = place * draw(f"hour/{region}", bounds.hour, HOURS)
    return out


def true_savings(fleet: Fleet, intensity: Floats, errors: Floats) -> Floats:
    """What each job truly saved in each world, kg, shape (jobs, worlds).

    ``intensity``: kgCO2e/kWh, shape (regions, hours); ``errors``: true over that, shape (regions, hours, worlds). The
    kg that each job is stated to have emitted in each region and hour where it would have run, less where it ran, times
    the error of that place and hour, summed.
    """
    job, hour = fleet.hours_run()
    kg = fleet.kw[job] * PUE
    before, after, earlier = fleet.before[job], fleet.after[job], hour - fleet.shift[job]
    stated = np.zeros((fleet.jobs, *intensity.shape))
    np.add.at(stated, (job, before, earlier), kg * intensity[before, earlier])
    np.subtract.at(stated, (job, after, hour), kg * intensity[after, hour])
    return stated.reshape(fleet.jobs, -1) @ errors.reshape(intensity.size, -1)


@dataclass(frozen=True)
class Observed:
    """Errors of worlds whose signal is observed with an error, the truth being given; worlds first.

    ``place`` (worlds, regions): true over stated emissions of a kWh, but for the grid: power, provider and site.
    ``signal`` (worlds, regions, hours): observed over true intensity; ``estimated``: hours flagged as such.
    """

    place: Floats
    signal: Floats
    estimated: Bools


def observed_errors(seed: int, name: str, bounds: Bounds, first: int, worlds: int) -> Observed:
    """Worlds ``first`` to ``first + worlds`` as the simulated cloud draws its own (``simulator.truth``)."""
    cells = len(REGIONS) * HOURS
    shape = (worlds, len(REGIONS), HOURS)

    def draw(what: str, bound: float, per_world: int) -> Floats:
        z = normals(seed, f"{name}/{what}", worlds * per_world, first * per_world)
        return np.exp(math.log(bound) / _Z95 * z).reshape(worlds, per_world)

    estimated = uniforms(seed, f"{name}/estimated", worlds * cells, first * cells) < bounds.estimated_share
    spread = np.where(estimated, math.log(bounds.hour_estimated), math.log(bounds.hour)) / _Z95
    hour = np.exp(spread * normals(seed, f"{name}/hour", worlds * cells, first * cells))
    place = draw("power", bounds.power, 1) * draw("provider", bounds.provider, 1)
    return Observed(
        place=place * draw("site", bounds.site, len(REGIONS)),
        signal=draw("system", bounds.system, len(REGIONS))[:, :, None] * hour.reshape(shape),
        estimated=estimated.reshape(shape),
    )
