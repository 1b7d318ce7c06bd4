"""The plan of a day: from job groups, forecast, market and rules to recommendations.

Belongs here: the order of the steps and what each is handed, so that the asset, a test and a notebook make the same
plan. Does not belong here: any of the steps (each has its module), reading and storing.

forecast usable? -> what the jobs meet (``candidates``) -> the plan (``choose``) -> what survives the worst case
(``robust``) -> right-size or spot instead (``options``) -> recommendations (``recommend``), replayed (``checker``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.factors import FactorSet
from sust_dagster.agents.accountant.methods import region_pue
from sust_dagster.agents.planner import tables
from sust_dagster.agents.planner.awaited import not_put_off
from sust_dagster.agents.planner.baselines import period_means, static_table
from sust_dagster.agents.planner.candidates import Candidates, Power, World, candidates
from sust_dagster.agents.planner.checker import SCHEMA as CHECKED
from sust_dagster.agents.planner.checker import violations
from sust_dagster.agents.planner.choose import plan as choose_plan
from sust_dagster.agents.planner.forecast import NO_TIME_SHIFT
from sust_dagster.agents.planner.jobs import read_jobs
from sust_dagster.agents.planner.options import OptionRules, SpotMarket, best_action
from sust_dagster.agents.planner.outcome import WORDS, Choice, reasons, word
from sust_dagster.agents.planner.problem import (
    REASONS,
    TIE,
    Figures,
    Floats,
    Limits,
    Objective,
    Plan,
    Problem,
    evaluate,
)
from sust_dagster.agents.planner.recommend import Z90, Change, Outlook, Recommended, recommend
from sust_dagster.agents.planner.robust import Quantiles, Robust, gains, survives
from sust_dagster.agents.planner.rules import status_quo
from sust_dagster.agents.planner.windows import Pairs, Regions, Rules
from sust_dagster.agents.planner.withdraw import settle, withdraw
from sust_dagster.world.schemas import GRID_FORECAST, PLACEMENTS, RECOMMENDATIONS, UPCOMING_JOBS

#: An outage under way at the moment of planning is taken to last this long, hours.
OUTAGE_HOURS = 6
#: What a stale forecast's interval is widened by, for each day of its age.
STALE_WIDENING_PER_DAY = 0.5


@dataclass(frozen=True)
class DayRules:
    """What policy says, in the planner's terms."""

    objective: Objective
    carbon_price_usd_per_t: float
    policy_version: int
    limits: Limits = field(default_factory=Limits)
    windows: Rules = field(default_factory=Rules)
    options: OptionRules = field(default_factory=OptionRules)
    worst_case: bool = False
    max_forecast_age_hours: float = 36.0
    formulation: str = "auto"
    effort: str = "normal"
    least_saving_kg: float = 0.0
    shrink: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Surroundings:
    """What the jobs meet beside carbon; tables as ``tables`` reads them, None = nobody said."""

    regions: pa.Table
    """region, provider, continent"""
    factors: FactorSet
    method: str
    prices: pa.Table | None = None
    prices_are_levels: bool = False
    spot: pa.Table | None = None
    egress: pa.Table | None = None
    latency: pa.Table | None = None
    capacity: pa.Table | None = None
    closed: tuple[str, ...] = ()
    awaited: frozenset[str] = frozenset()
    """Workloads that others wait for (``awaited``): they start when asked for, as they are."""


@dataclass(frozen=True)
class DayPlan:
    """What a day's planning gave, and its account of itself."""

    recommended: Recommended
    summary: dict[str, float | int | str | None]
    """Objective, bound, gap, kg and USD before and after, baselines; plain values."""
    reasons: dict[str, int]
    """Groups by the reason they stay."""
    violations: pa.Table
    """Hard limits that the plan breaks on replay; empty unless something is wrong."""


def usable_forecast(forecasts: pa.Table, issued_at: datetime, max_age_hours: float) -> pa.Table:
    """Rows of the latest forecast of each region that is not older than ``max_age_hours`` at ``issued_at``.

    One older than a day is stale: its interval is widened by half its width for each day of age and its method says so.
    Regions without one have no rows: nothing is moved there.
    """
    known = forecasts.filter(
        pc.and_(
            pc.less_equal(forecasts.column("issued_at"), pa.scalar(issued_at, pa.timestamp("us", tz="UTC"))),
            pc.greater_equal(
                forecasts.column("issued_at"),
                pa.scalar(issued_at - timedelta(hours=max_age_hours), pa.timestamp("us", tz="UTC")),
            ),
        )
    )
    latest = known.group_by("region", use_threads=False).aggregate([("issued_at", "max")])
    joined = known.join(latest.rename_columns(["region", "latest"]), "region")
    rows = joined.filter(pc.equal(joined.column("issued_at"), joined.column("latest"))).drop_columns("latest")
    rows = rows.sort_by([("region", "ascending"), ("ts", "ascending")]).select(GRID_FORECAST.column_names)
    return _widened(rows.cast(GRID_FORECAST.arrow), issued_at)


def _widened(rows: pa.Table, issued_at: datetime) -> pa.Table:
    issued = rows.column("issued_at").cast(pa.int64()).to_numpy()
    age_days = (issued_at.timestamp() * 1e6 - issued) / 8.64e10
    stale = age_days >= 1.0
    if not stale.any():
        return rows
    factor = np.where(stale, 1.0 + STALE_WIDENING_PER_DAY * age_days, 1.0)
    centre = rows.column("intensity_kgco2_kwh").to_numpy()
    for name in (n for n in rows.column_names if n.startswith("intensity_p")):
        wide = np.maximum(centre + (rows.column(name).to_numpy() - centre) * factor, 0.0)
        rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), pa.array(wide))
    said = pc.binary_join_element_wise(pa.scalar("last known good"), rows.column("method"), ", ")
    method = pc.if_else(pa.array(stale), said, rows.column("method"))
    return rows.set_column(rows.column_names.index("method"), rows.schema.field("method"), method)


def plan_day(
    upcoming: pa.Table,
    forecasts: pa.Table,
    around: Surroundings,
    rules: DayRules,
    planned_for: datetime,
    issued_at: datetime,
) -> DayPlan:
    """Recommendations for the groups of ``upcoming`` (UPCOMING_JOBS) from what was known at ``issued_at``.

    Groups without accounted energy are left as they are, ``no_energy``. With no usable forecast nothing is proposed.
    """
    has_energy = pc.is_valid(upcoming.column("it_kw"))
    dark = upcoming.num_rows - (pc.sum(has_energy).as_py() or 0)
    groups = not_put_off(upcoming.filter(has_energy), around.awaited)
    rules = replace(rules, options=replace(rules.options, awaited=around.awaited))
    forecast = usable_forecast(forecasts, issued_at, rules.max_forecast_age_hours)
    if not groups.num_rows or not forecast.num_rows:
        reason = "no_forecast" if groups.num_rows else "no_jobs"
        return _nothing({"no_energy": dark, reason: groups.num_rows}, rules)
    found, sight = _problem(groups, forecast, around, rules, issued_at)
    if not len(found.problem):
        return _nothing({"no_energy": dark, "outside_grid_hours": groups.num_rows}, rules)
    planned = groups.take(pa.array(found.rows))
    problem, objective = found.problem, rules.objective
    plan, choice = _withdrawn(problem, choose_plan(problem, objective, rules.formulation, rules.effort), rules, sight)
    now = status_quo(problem, objective)
    static = static_table(problem, objective, period_means(problem))
    outlook = Outlook(
        planned_for=planned_for,
        issued_at=issued_at,
        objective=objective,
        carbon_price_usd_per_t=rules.carbon_price_usd_per_t,
        policy_version=rules.policy_version,
        carbon_sd=(sight.quantiles.high - sight.quantiles.low) / (2 * Z90),
        methods=sight.methods,
        shrink=rules.shrink,
        least_saving_kg=rules.least_saving_kg,
        static=(static.region, static.delay),
    )
    plan, choice, change, recommended = _recommended(planned, plan, choice, rules, sight, outlook)
    summary = {
        **_plan_summary(plan),
        **_totals("before", now.figures, now.planned),
        **_totals("after", change.after, now.planned),
        **_totals("static_table", static.after, now.planned),
        "groups": len(problem),
        "expected_runs": pc.sum(planned.column("expected_count")).as_py(),
    }
    return DayPlan(
        recommended,
        summary,
        {k: n for k, n in {"no_energy": dark, **_counts(found, choice, change)}.items() if n},
        violations(problem, plan.region, plan.delay),
    )


def _recommended(
    planned: pa.Table, plan: Plan, choice: Choice, rules: DayRules, sight: _Sight, outlook: Outlook
) -> tuple[Plan, Choice, Change, Recommended]:
    """What is proposed, and the plan with everything else at its status quo.

    A workload that is made smaller or put on spot does not move as well, and one whose moves do not pay by themselves
    is not proposed: others may have been given their places. Those moves are taken back, until every limit is kept by
    what is proposed alone.
    """
    problem, objective = choice.problem, rules.objective
    now = status_quo(problem, objective).figures
    while True:
        change = best_action(planned, problem, plan, now, choice.after, objective, rules.options, sight.spot)
        shifts = np.isin(change.action, ("region_shift", "time_shift"))
        made = recommend(planned, problem, plan, change, outlook)
        proposed = pc.is_in(planned.column("job_id"), made.placements.column("job_id").combine_chunks())
        vain = choice.moved & ~(shifts & proposed.to_numpy(zero_copy_only=False))
        if not vain.any():
            return plan, choice, change, made
        gain = np.nan_to_num(choice.before.score(objective) - choice.after.score(objective))
        region, delay, back = withdraw(problem, plan.region, plan.delay, vain, gain, word("no_own_gain"))
        score = float(np.nansum(evaluate(problem, region, delay).score(objective)))
        plan = replace(plan, region=region, delay=delay, objective=score, proven_optimal=False)
        why = np.where(back > 0, back, choice.why).astype(np.uint8)
        choice = Choice(problem, objective, region, delay, why)


@dataclass(frozen=True)
class _Sight:
    """The forecast's spread and the spot market on the problem's axes."""

    quantiles: Quantiles
    methods: tuple[str, ...]
    spot: SpotMarket | None


def _problem(
    groups: pa.Table, forecast: pa.Table, around: Surroundings, rules: DayRules, issued_at: datetime
) -> tuple[Candidates, _Sight]:
    jobs = read_jobs(groups, priced=False)
    names = tuple(sorted({*jobs.homes, *forecast.column("region").to_pylist()}))
    regions = Regions.of(names, around.regions)
    hours = forecast.column("ts").cast(pa.int64()).to_numpy() // tables.HOUR_US
    first = min(int(hours.min()), int(issued_at.timestamp()) // 3600)
    axes = tables.Axes(names, first, int(hours.max()) + 1 - first)
    pue = pue_by_region(around.factors, around.method, regions)
    intensity = _without_time_shift(tables.hourly(forecast, "intensity_kgco2_kwh", axes), forecast, axes)
    world = World(
        regions,
        axes.first_hour,
        intensity * pue[:, None],
        Pairs(tables.egress(around.egress, names), tables.latency(around.latency, names)),
        capacity=None if around.capacity is None else tables.capacity(around.capacity, axes),
        available=_available(around.closed, axes, int(issued_at.timestamp()) // 3600),
    )
    power = replace(Power.simple(around.factors), pue=1.0)  # the intensities hold each region's own PUE
    found = candidates(jobs, world, power, rules=rules.windows, limits=rules.limits)
    problem = _own_power(found, groups)
    problem = _own_prices(problem, groups.take(pa.array(found.rows)), around)
    found = replace(found, problem=problem)
    return found, _sight(problem, forecast, around, rules, regions, pue)


def _without_time_shift(intensity: Floats, forecast: pa.Table, axes: tables.Axes) -> Floats:
    """The forecast, flat where the grid's hours are constant or all estimated: a later start saves nothing there."""
    flags = {
        r: set(q.split(";"))
        for r, q in zip(*(forecast.column(c).to_pylist() for c in ("region", "quality")), strict=True)
    }
    flat = np.array([bool(flags.get(r, set()) & set(NO_TIME_SHIFT)) for r in axes.regions])
    known = ~np.isnan(intensity)
    mean = np.where(known, intensity, 0.0).sum(1) / np.maximum(known.sum(1), 1)
    return np.where(flat[:, None] & known, mean[:, None], intensity)


def _own_power(found: Candidates, groups: pa.Table) -> Problem:
    """The problem with the power that was accounted for these workloads, in place of the simple method's."""
    kw = groups.column("it_kw").to_numpy() * groups.column("expected_count").to_numpy()
    return replace(found.problem, kw=np.ascontiguousarray(kw[found.rows]))


def _own_prices(problem: Problem, planned: pa.Table, around: Surroundings) -> Problem:
    """Price levels scale each job's own cost: USD per hour at home over the home's level, times the region's level."""
    if around.prices is None:
        return problem
    axes = tables.Axes(problem.regions, problem.first_hour, problem.hours)
    price = tables.prices(around.prices, axes)
    if not around.prices_are_levels:
        return replace(problem, price=price, money=problem.vcpus)
    level = price[:, 0] if price.shape[1] == 1 else np.nanmean(price, 1)
    cost = planned.column("cost_usd").to_numpy() * planned.column("expected_count").to_numpy()
    per_hour = cost / np.where(problem.duration_hours > 0, problem.duration_hours, np.inf) / level[problem.home]
    return replace(problem, price=level[:, None], money=np.nan_to_num(per_hour))


def _sight(
    problem: Problem, forecast: pa.Table, around: Surroundings, rules: DayRules, regions: Regions, pue: Floats
) -> _Sight:
    axes = tables.Axes(problem.regions, problem.first_hour, problem.hours)
    position = {name: i for i, name in enumerate(regions.names)}
    own_pue = pue[[position[r] for r in problem.regions]][:, None]
    low, high = (tables.hourly(forecast, f"intensity_p{q}", axes) * own_pue for q in ("05", "95"))
    methods = dict(zip(forecast.column("region").to_pylist(), forecast.column("method").to_pylist(), strict=True))
    spot = None
    if around.spot is not None and rules.options.spot:
        rows = {r["region"]: r for r in around.spot.to_pylist()}

        def wide(name: str) -> Floats:
            column = [rows[r][name] if r in rows else np.nan for r in problem.regions]
            return np.repeat(np.array(column, np.float64)[:, None], problem.hours, 1)

        spot = SpotMarket(wide("price_share"), wide("interruption_per_hour"))
    return _Sight(Quantiles(low, high), tuple(methods.get(r, "none") for r in problem.regions), spot)


def pue_by_region(factors: FactorSet, method: str, regions: Regions) -> Floats:
    """PUE of each region as the accounting method has it; NaN where it has none, so that nothing is moved there."""
    if method == "simple/v1":
        return np.full(len(regions.names), factors.get("pue", "simple/v1").value)
    found = [region_pue(factors, p, r) for p, r in zip(regions.provider, regions.names, strict=True)]
    return np.array([np.nan if f is None else f.value for f in found])


def _available(closed: tuple[str, ...], axes: tables.Axes, now_hour: int) -> np.ndarray:
    open_hours = np.ones(axes.shape, bool)
    rows = [i for i, name in enumerate(axes.regions) if name in closed]
    open_hours[rows, : max(0, now_hour + OUTAGE_HOURS - axes.first_hour)] = False
    return open_hours


def _withdrawn(problem: Problem, plan: Plan, rules: DayRules, sight: _Sight) -> tuple[Plan, Choice]:
    """The plan without moves whose saving does not survive the worst case, where policy asks for that."""
    why = np.array([word(r) if r else 0 for r in REASONS], np.uint8)[plan.reason]
    if rules.worst_case:
        robust = Robust(sight.quantiles, rules.shrink)
        keeps, kg = survives(problem, rules.objective, robust, plan.region, plan.delay)
        moved = (plan.region != problem.home) | (plan.delay > 0)
        gain = gains(problem, rules.objective, robust, plan.region, plan.delay, kg)
        region, delay, back = withdraw(problem, plan.region, plan.delay, moved & ~keeps, gain, word("not_robust"))
        score = float(np.nansum(evaluate(problem, region, delay).score(rules.objective)))
        plan = replace(plan, region=region, delay=delay, objective=score, proven_optimal=False)
        why = np.where(back > 0, back, why)
    # A move that gains nothing and makes room for nobody is no change to ask people for.
    quo = status_quo(problem, rules.objective).score
    gained = quo - evaluate(problem, plan.region, plan.delay).score(rules.objective)
    idle = ((plan.region != problem.home) | (plan.delay > 0)) & (gained <= TIE * np.abs(quo))
    region, delay, _ = settle(problem, plan.region, plan.delay, idle)
    plan = replace(plan, region=region, delay=delay)
    return plan, Choice(problem, rules.objective, plan.region, plan.delay, why)


def _totals(name: str, figures: Figures, planned: np.ndarray) -> dict[str, float]:
    return {
        f"kg_{name}": float(np.sum(figures.kg, where=planned)),
        f"cost_usd_{name}": float(np.sum(figures.cost_usd, where=planned)),
    }


def _plan_summary(plan: Plan) -> dict[str, float | int | str | None]:
    return {
        "formulation": plan.formulation,
        "why": plan.why,
        "objective": plan.objective,
        "lower_bound": plan.lower_bound,
        "gap": plan.gap,
        "relaxed": "; ".join(plan.relaxed),
    }


def _counts(found: Candidates, choice: Choice, change: Change) -> dict[str, int]:
    """Groups by the reason they stay as they are, in words; those that change are not among them."""
    codes = reasons(found, choice)
    codes[found.rows[change.action != "do_nothing"]] = 0
    counted = np.bincount(codes, minlength=len(WORDS))
    return {name: int(n) for name, n in zip(WORDS, counted, strict=True) if name and n}


def _nothing(reasons: Mapping[str, int], rules: DayRules) -> DayPlan:
    empty = Recommended(RECOMMENDATIONS.empty(), PLACEMENTS.empty(), {})
    kept = {k: n for k, n in reasons.items() if n}
    summary: dict[str, float | int | str | None] = {"formulation": "none", "objective": None, "gap": None}
    return DayPlan(empty, {**summary, "policy_version": rules.policy_version}, kept, CHECKED.empty_table())


#: Columns of UPCOMING_JOBS that the plan reads beside those of a table of jobs.
assert {"it_kw", "expected_count", "instance_type", "utilisation_p95", "spot_tolerant"} <= set(
    UPCOMING_JOBS.column_names
)
