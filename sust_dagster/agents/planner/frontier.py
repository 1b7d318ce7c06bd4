"""Carbon against money: what more carbon would cost, and what the plan owes to its assumptions.

Belongs here: the Pareto frontier by carbon price and by cost limit, its knee, sensitivities. Does not belong here: the
solvers (one comes in as a function), drawing, files.

The sweep asks for the best plan at each carbon price, and for the least carbon at each cost limit. Where nothing but
money couples the jobs, the second is the first at a price found by bisection, filled up with the jobs that save most
carbon per USD. Points that another one beats on both axes are dropped. The knee is the point furthest from the straight
line between the two ends, both axes scaled to 0 to 1: past it a USD saves less than on average.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from sust_dagster.agents.planner.problem import Flags, Floats, Ints, Objective, Plan, Problem, evaluate
from sust_dagster.agents.planner.rules import plan_rules, status_quo

Solve = Callable[[Problem, Objective], Plan]

#: USD per tonne.
PRICES = (0.0, 5.0, 10.0, 20.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 400.0, 500.0)
#: Cost increases allowed, shares.
INCREASES = (0.0, 0.005, 0.01, 0.02, 0.05, 0.10, 0.20)
#: Carbon price beyond which a plan is as clean as it gets for any cost limit asked here, USD per tonne.
_HIGHEST_PRICE = 1e9
_BISECTIONS = 40

FRONTIER = pa.schema(
    [
        pa.field("method", pa.string(), nullable=False),
        pa.field("carbon_price_usd_per_t", pa.float64()),
        pa.field("max_cost_increase_percent", pa.float64()),
        pa.field("kg", pa.float64(), nullable=False),
        pa.field("cost_usd", pa.float64(), nullable=False),
        pa.field("kg_savings", pa.float64(), nullable=False),
        pa.field("cost_increase_usd", pa.float64(), nullable=False),
        pa.field("jobs_moved", pa.int64(), nullable=False),
        pa.field("usd_per_t_from_previous", pa.float64()),
        pa.field("knee", pa.bool_(), nullable=False),
    ]
)


@dataclass(frozen=True)
class _Point:
    method: str
    price: float | None
    increase: float | None
    kg: float
    usd: float
    moved: int


def frontier(
    problem: Problem,
    solve: Solve,
    *,
    prices: Sequence[float] = PRICES,
    increases: Sequence[float] = INCREASES,
) -> pa.Table:
    """FRONTIER rows by rising cost, dominated points dropped; kg and USD are sums over jobs with figures.

    ``solve`` makes the plan of a problem that something couples; jobs that nothing couples need none. Methods:
    ``run now``, ``carbon price``, ``cost limit``, ``least carbon`` (no cost limit).
    """
    now = status_quo(problem, Objective.min_carbon())
    measure = _Measure(problem, now.planned)
    coupled = problem.coupled
    points = [measure.point("run now", None, None, (now.region, now.delay))]
    for price in prices:
        objective = Objective.effective_cost(price)
        plan = solve(problem, objective) if coupled else plan_rules(problem, objective)
        points.append(measure.point("carbon price", price, None, (plan.region, plan.delay)))
    free = replace(problem, limits=replace(problem.limits, max_cost_increase=None))
    for increase in increases:
        chosen = _within(free, increase, solve if free.coupled else None)
        points.append(measure.point("cost limit", None, increase, chosen))
    if problem.limits.max_cost_increase is None:
        plan = solve(free, Objective.min_carbon()) if free.coupled else plan_rules(free, Objective.min_carbon())
        points.append(measure.point("least carbon", None, None, (plan.region, plan.delay)))
    return _table(_efficient(points), points[0])


@dataclass(frozen=True)
class _Measure:
    problem: Problem
    planned: Flags

    def point(self, method: str, price: float | None, increase: float | None, chosen: tuple[Ints, Ints]) -> _Point:
        region, delay = chosen
        figures = evaluate(self.problem, region, delay)
        kg, usd = (float(np.sum(v, where=self.planned)) for v in (figures.kg, figures.cost_usd))
        return _Point(method, price, increase, kg, usd, int(((region != self.problem.home) | (delay > 0)).sum()))


def _within(problem: Problem, increase: float, solve: Solve | None) -> tuple[Ints, Ints]:
    """Least carbon for at most ``1 + increase`` times the status quo's cost."""
    if solve is not None:
        plan = solve(
            replace(problem, limits=replace(problem.limits, max_cost_increase=increase)), Objective.min_carbon()
        )
        return plan.region, plan.delay
    now = status_quo(problem, Objective.min_carbon())
    budget = float(np.sum(now.figures.cost_usd, where=now.planned)) * (1.0 + increase) * (1.0 + 1e-12)

    def at(price: float) -> tuple[Ints, Ints, float]:
        plan = plan_rules(problem, Objective.effective_cost(price, gamma=0.0))
        usd = float(np.sum(evaluate(problem, plan.region, plan.delay).cost_usd, where=now.planned))
        return plan.region, plan.delay, usd

    dear = at(_HIGHEST_PRICE)
    if dear[2] <= budget:
        return dear[:2]
    cheap = at(0.0)
    low, high = 0.0, _HIGHEST_PRICE
    for _ in range(_BISECTIONS):
        middle = np.sqrt(max(low, 1e-3) * high)
        tried = at(middle)
        if tried[2] <= budget:
            low, cheap = middle, tried
        else:
            high, dear = middle, tried
        if high <= max(low, 1e-3) * (1 + 1e-6):
            break
    return _filled(problem, cheap, dear, budget - cheap[2])


def _filled(
    problem: Problem, cheap: tuple[Ints, Ints, float], dear: tuple[Ints, Ints, float], slack: float
) -> tuple[Ints, Ints]:
    """The cheap plan with as many of the dear plan's moves as the budget has room for, most carbon per USD first."""
    region, delay, _ = cheap
    before, after = evaluate(problem, region, delay), evaluate(problem, dear[0], dear[1])
    usd, kg = after.cost_usd - before.cost_usd, before.kg - after.kg
    better = np.flatnonzero((usd > 0) & (kg > 0))
    better = better[np.argsort(-kg[better] / usd[better], kind="stable")]
    take = better[np.cumsum(usd[better]) <= slack]
    region, delay = region.copy(), delay.copy()
    region[take], delay[take] = dear[0][take], dear[1][take]
    return region, delay


def _efficient(points: Sequence[_Point]) -> list[_Point]:
    """Points that no other beats on both axes, by rising cost; of equal ones the first."""
    kept: list[_Point] = []
    for point in sorted(points, key=lambda p: (p.usd, p.kg)):
        if not kept or point.kg < kept[-1].kg - 1e-12 * abs(kept[-1].kg):
            kept.append(point)
    return kept


def knee(usd: Floats, kg: Floats) -> int | None:
    """Position of the point furthest below the chord between the ends of a frontier; None for fewer than three.

    ``usd`` rises and ``kg`` falls. Both are scaled to 0 to 1 first.
    """
    if len(usd) < 3:
        return None
    x = (usd - usd[0]) / (usd[-1] - usd[0])
    y = (kg - kg[-1]) / (kg[0] - kg[-1])
    below = 1.0 - x - y
    at = int(np.argmax(below))
    return at if below[at] > 0 else None


def _table(points: Sequence[_Point], now: _Point) -> pa.Table:
    usd, kg = np.array([p.usd for p in points]), np.array([p.kg for p in points])
    at = knee(usd, kg)
    steps = [None, *(1000.0 * (usd[1:] - usd[:-1]) / (kg[:-1] - kg[1:])).tolist()]
    rows = [
        {
            "method": p.method,
            "carbon_price_usd_per_t": p.price,
            "max_cost_increase_percent": None if p.increase is None else 100.0 * p.increase,
            "kg": p.kg,
            "cost_usd": p.usd,
            "kg_savings": now.kg - p.kg,
            "cost_increase_usd": p.usd - now.usd,
            "jobs_moved": p.moved,
            "usd_per_t_from_previous": step,
            "knee": i == at,
        }
        for i, (p, step) in enumerate(zip(points, steps, strict=True))
    ]
    return pa.Table.from_pylist(rows, FRONTIER)
