"""How often the verifier's figures hold in hidden worlds: one line per fleet.

Belongs here: counting over worlds, and the verdict on a line. Does not belong here: how worlds come about
(``worlds``), fleets whose moves save nothing (``null_fleets``), plan intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from sust_dagster.agents.accountant.columns import Floats, floats
from sust_dagster.agents.verifier.arrays import Bools
from sust_dagster.agents.verifier.calibration.bands import Band, band, ceiling
from sust_dagster.agents.verifier.calibration.fleets import (
    BOTH_WAYS,
    IN_TIME,
    ONE_ROUTE,
    ONE_WAY,
    WRONG_WAY,
    Tables,
    factors_of,
    fleet,
    joined,
    signal_of,
    stated_grid,
    tables,
)
from sust_dagster.agents.verifier.calibration.worlds import (
    Bounds,
    drawn_errors,
    observed_errors,
    shared_out,
    true_savings,
)
from sust_dagster.agents.verifier.outcome import Verified, verify
from sust_dagster.agents.verifier.signal import HourlySignal
from sust_dagster.agents.verifier.uncertainty import Z90

#: Called with the number of worlds just done.
Tick = Callable[[int], None]

#: Jobs of a fleet that is verified once against many truths.
JOBS = 400

#: Fleets and stated grid are the same whatever the seed, which draws the hidden worlds. Of this one the total both
#: ways is not near zero, where a portfolio's linear interval is a little too narrow (docs/methodology.md, section 10).
FLEET_SEED = 11

#: Fleets of the table, with the systematic share of the grid's variance.
LINES: tuple[tuple[str, float], ...] = (
    (ONE_WAY, 1.0), (ONE_ROUTE, 1.0), (BOTH_WAYS, 1.0), (IN_TIME, 1.0),
    (ONE_WAY, 0.5), (BOTH_WAYS, 0.5), (IN_TIME, 0.5), (ONE_WAY, 0.0), (IN_TIME, 0.0), (WRONG_WAY, 1.0),
)  # fmt: skip

#: The fleet whose signal is observed anew in each world, the truth being given.
OBSERVED = "observed anew"

#: A wrong total (jobs taken as independent) of :data:`JOBS` jobs that all save holds the truth in less than this share.
QUADRATURE_BELOW = 0.2
#: The guaranteed box, read as an interval, holds more than this share and is so many times as wide.
BOX_ABOVE, BOX_WIDER = 0.97, 1.5
#: Claiming the point claims too much in about half of all worlds: between these, and what chance adds.
POINT_OVERCLAIM = Band(0.45, 0.55)

#: By chance every hour a time shift uses may be flagged as estimated: such a job has no number, as it should.
_ESTIMATED = "sufficiency.estimated_series"

_WORLDS_PER_BLOCK, _OBSERVED_PER_BLOCK = 500, 100


@dataclass(frozen=True)
class FleetLine:
    """One fleet. Shares are of worlds (``*_jobs``: of jobs with a number, over all worlds); kg are savings.

    ``quadrature_share``, ``box_*`` and ``point_overclaim_share`` are negative controls: wrong methods that the same
    counting must find out. ``reasons`` say why the line failed; empty where it passed.
    """

    fleet: str
    systematic_share: float | None
    worlds: int
    jobs: int
    disqualified_share: float
    point_kg: float
    half_width_of_point: float
    coverage_jobs: float
    coverage_portfolio: float
    band_lower: float
    band_upper: float
    credited_kg: float
    credited_of_point: float
    overclaim_share: float
    overclaim_limit: float
    point_overclaim_share: float
    quadrature_share: float
    box_jobs_share: float
    box_portfolio_share: float
    box_width_of_interval: float
    reasons: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.reasons


@dataclass(frozen=True)
class _Stated:
    """What a verification says of savings, kg: of jobs (jobs, worlds), and of their totals (worlds).

    ``known``: jobs with a number; what a gate closed on has zeros.
    """

    known: Bools
    point: Floats
    lower: Floats
    upper: Floats
    sd: Floats
    box_lower: Floats
    box_upper: Floats
    credit: Floats
    total_lower: Floats
    total_upper: Floats


def verified_worlds(
    stated: Tables, signal: HourlySignal, bounds: Bounds, *, seed: int, draws: int, may_close: str = ""
) -> Verified:
    """Verify tables of one or many worlds. Raises ``ValueError`` where a gate but ``may_close`` closed."""
    factors = factors_of(bounds.power, bounds.provider, bounds.site)
    result = verify(stated.claims, stated.slices, stated.leakage, signal, factors, seed=seed, draws=draws)
    closed = set(result.gates["gate"].to_pylist()) - {may_close}
    if closed:
        raise ValueError(f"a made-up fleet must pass every gate, but closed {', '.join(sorted(closed))}")
    return result


def by_world(result: Verified, column: str, worlds: int) -> Floats:
    """A column of the outcomes as (jobs, worlds); NaN where an outcome is disqualified."""
    return floats(result.outcomes[column]).reshape(worlds, -1).T


def _stated(result: Verified, worlds: int) -> _Stated:
    def of_jobs(column: str) -> Floats:
        return np.nan_to_num(by_world(result, column, worlds))

    def of_totals(column: str) -> Floats:
        return result.portfolios[column].to_numpy()

    # Columns are deltas: as savings their ends change places and sign.
    known = ~np.isnan(by_world(result, "measured_carbon_delta_kg", worlds))
    return _Stated(
        known,
        -of_jobs("measured_carbon_delta_kg"), -of_jobs("carbon_ci_upper"), -of_jobs("carbon_ci_lower"),
        of_jobs("carbon_sd_kg"), -of_jobs("carbon_bounds_upper"), -of_jobs("carbon_bounds_lower"),
        of_jobs("credited_kg"), of_totals("savings_ci_lower"), of_totals("savings_ci_upper"),
    )  # fmt: skip


def score_fleet(
    mix: str,
    systematic: float,
    worlds: int,
    seed: int,
    tick: Tick = lambda _: None,
    *,
    hidden: Bounds | None = None,
) -> FleetLine:
    """Verify a fleet once and hold it against ``worlds`` hidden truths around what is stated.

    ``hidden``: bounds of the hidden errors, where they are to differ from those stated to the verifier.
    """
    bounds, moves, grid = shared_out(systematic), fleet(mix, JOBS, FLEET_SEED), stated_grid(FLEET_SEED)
    signal = signal_of(grid[None], system_bound=bounds.system, hour_bound=bounds.hour)
    stated = _stated(verified_worlds(tables(moves), signal, bounds, seed=seed, draws=4000), 1)
    name = f"worlds/{mix}/{systematic}"

    def blocks() -> Iterable[tuple[_Stated, Floats]]:
        for first in range(0, worlds, _WORLDS_PER_BLOCK):
            size = min(_WORLDS_PER_BLOCK, worlds - first)
            yield stated, true_savings(moves, grid, drawn_errors(seed, name, hidden or bounds, first, size))
            tick(size)

    return _judged(_counted(mix, systematic, worlds, blocks()), None if mix == BOTH_WAYS else QUADRATURE_BELOW)


def score_observed(worlds: int, seed: int, tick: Tick = lambda _: None) -> FleetLine:
    """Verify a fleet anew in each of ``worlds`` worlds from what is observed there, the truth being given.

    24 jobs, half of them one-way and half in time. The other way round from :func:`score_fleet`: there the stated
    figures stand and the truth varies, here as in the simulated cloud the truth stands and the figures vary.
    """
    bounds, true_grid = Bounds(), stated_grid(FLEET_SEED)
    moves = joined([fleet(ONE_WAY, 12, FLEET_SEED), fleet(IN_TIME, 12, FLEET_SEED)], OBSERVED)

    def blocks() -> Iterable[tuple[_Stated, Floats]]:
        for first in range(0, worlds, _OBSERVED_PER_BLOCK):
            size = min(_OBSERVED_PER_BLOCK, worlds - first)
            seen = observed_errors(seed, f"worlds/{OBSERVED}", bounds, first, size)
            hour_bound = np.where(seen.estimated, bounds.hour_estimated, bounds.hour)
            signal = signal_of(
                true_grid * seen.signal,
                system_bound=bounds.system, hour_bound=hour_bound, estimated=seen.estimated,
            )  # fmt: skip
            everywhere = joined([moves] * size, OBSERVED)
            result = verified_worlds(
                tables(everywhere, size), signal, bounds, seed=seed, draws=400, may_close=_ESTIMATED
            )
            errors = np.broadcast_to(seen.place.T[:, None, :], (*true_grid.shape, size))
            truth = true_savings(moves, true_grid, errors)
            yield _stated(result, size), truth
            tick(size)

    return _judged(_counted(OBSERVED, None, worlds, blocks()), band(worlds).lower)


def _counted(name: str, systematic: float | None, worlds: int, blocks: Iterable[tuple[_Stated, Floats]]) -> FleetLine:
    """Counts over all blocks of (what is stated, truth); kg are means over worlds."""
    sums = np.zeros(_COUNTS + _KG)
    jobs = 0
    for said, truth in blocks:
        jobs = len(truth)
        sums += _sums(said, truth)
    judged, in_jobs, in_total, over, point_over, quadrature, in_box_jobs, in_box = sums[:_COUNTS].tolist()
    point, credit, half, widths, box_widths = sums[_COUNTS:].tolist()
    accepted = band(worlds)
    return FleetLine(
        fleet=name,
        systematic_share=systematic,
        worlds=worlds,
        jobs=jobs,
        disqualified_share=1 - judged / (worlds * jobs),
        point_kg=point / worlds,
        half_width_of_point=half / abs(point),
        coverage_jobs=in_jobs / judged,
        coverage_portfolio=in_total / worlds,
        band_lower=accepted.lower,
        band_upper=accepted.upper,
        credited_kg=credit / worlds,
        credited_of_point=credit / point,
        overclaim_share=over / worlds,
        overclaim_limit=ceiling(worlds),
        point_overclaim_share=point_over / worlds,
        quadrature_share=quadrature / worlds,
        box_jobs_share=in_box_jobs / judged,
        box_portfolio_share=in_box / worlds,
        box_width_of_interval=box_widths / widths,
    )


#: Columns of :func:`_sums`.
_COUNTS, _KG = 8, 5


def _sums(said: _Stated, truth: Floats) -> Floats:
    """What is added up over worlds: counts first, then kg."""
    worlds = truth.shape[1]
    known = np.broadcast_to(said.known, truth.shape)
    total = np.where(known, truth, 0.0).sum(axis=0)
    point, credit = said.point.sum(axis=0), said.credit.sum(axis=0)
    quadrature = Z90 * np.sqrt((said.sd**2).sum(axis=0))

    def inside(lower: Floats, upper: Floats, value: Floats, counted: Bools | bool = True) -> int:
        return int(np.count_nonzero((lower <= value) & (value <= upper) & counted))

    def over_worlds(values: Floats) -> float:
        """The sum over this block's worlds of what was stated once for all, or once for each."""
        return float(values.sum() * worlds / len(values))

    return np.array(
        [
            np.count_nonzero(known),
            inside(said.lower, said.upper, truth, known),
            inside(said.total_lower, said.total_upper, total),
            np.count_nonzero(total < credit),
            np.count_nonzero(total < point),
            inside(point - quadrature, point + quadrature, total),
            inside(said.box_lower, said.box_upper, truth, known),
            inside(said.box_lower.sum(axis=0), said.box_upper.sum(axis=0), total),
            over_worlds(point),
            over_worlds(credit),
            over_worlds((said.total_upper - said.total_lower) / 2),
            over_worlds((said.upper - said.lower).sum(axis=0)),
            over_worlds((said.box_upper - said.box_lower).sum(axis=0)),
        ]
    )


def _judged(line: FleetLine, quadrature_below: float | None) -> FleetLine:
    """The line with its verdict. Quadrature must hold in less than this share, where all errors point one way."""
    accepted = Band(line.band_lower, line.band_upper)
    reasons = []
    for what, share in (("per job", line.coverage_jobs), ("per portfolio", line.coverage_portfolio)):
        if not accepted.holds(share):
            side, width = ("below", "narrow") if share < accepted.lower else ("above", "wide")
            reasons.append(f"coverage {what} {share:.3f} is {side} the band: the interval is too {width}")
    if line.overclaim_share > line.overclaim_limit:
        reasons.append(f"credit above the truth in {line.overclaim_share:.3f} of worlds")
    low, high = band(line.worlds, POINT_OVERCLAIM.lower).lower, band(line.worlds, POINT_OVERCLAIM.upper).upper
    if not low <= line.point_overclaim_share <= high:
        reasons.append(f"negative control: the point claims too much in {line.point_overclaim_share:.3f}, not in half")
    if quadrature_below is not None and not line.quadrature_share < quadrature_below:
        reasons.append(f"negative control: quadrature over jobs holds in {line.quadrature_share:.3f}, not found out")
    if min(line.box_jobs_share, line.box_portfolio_share) <= BOX_ABOVE or line.box_width_of_interval <= BOX_WIDER:
        reasons.append("negative control: the box can not be told from an interval of 90 %")
    return replace(line, reasons=tuple(reasons))
