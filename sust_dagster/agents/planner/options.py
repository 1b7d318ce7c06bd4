"""Right-sizing and spot: what may be done with a workload where it stands, and which action is best for it.

Belongs here: the figures of a smaller size and of spot capacity, and the choice of one action per workload and day,
because people approve one change to a workload at a time. Does not belong here: region and start (the plan has
chosen them), prices and observations (they come in), approval.

- Right-size: a workload whose observed 95 % CPU quantile, on the smaller size, stays under a limit keeps ``scale`` of
  its vCPUs: energy and cost scale with them, run time stays. Only workloads without GPUs, whose power is their vCPUs'.
- Spot: runs that are taken back start again. With hazard a per hour, a run of d hours takes
  ``(exp(a d) - 1) / a`` hours on average (renewal argument for restart from scratch): energy and hours grow by that
  over d, cost is that times the spot share of the price. Never for urgent work.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.planner.awaited import among
from sust_dagster.agents.planner.problem import Figures, Flags, Floats, Objective, Plan, Problem, integral
from sust_dagster.agents.planner.recommend import Change, placement_change

#: Spot hazards that would more than double a run are not worth looking at, and overflow.
MOST_HAZARD = 1.0


@dataclass(frozen=True)
class OptionRules:
    """What policy allows of the two."""

    right_size: bool = True
    spot: bool = True
    scale: float = 0.5
    """Share of the vCPUs that a right-sized workload keeps: the next smaller size."""
    most_utilisation: float = 0.9
    """Largest 95 % quantile of CPU utilisation allowed on the smaller size."""
    spot_categories: Set[str] = frozenset({"balanced", "sustainable"})
    halvable: Set[str] = frozenset()
    """Instance types with a sibling of ``scale`` times their vCPUs."""
    awaited: Set[str] = frozenset()
    """Workloads that others wait for: nothing that may make their runs longer."""


@dataclass(frozen=True)
class SpotMarket:
    """Spot price over on-demand and chance of interruption per hour, by region and hour (R x H; NaN = unknown)."""

    price_share: Floats
    interruption_per_hour: Floats


def overhead(hazard_per_hour: Floats, duration_hours: Floats) -> Floats:
    """Mean run time over ``duration_hours`` when an interrupted run starts again: ``(exp(a d) - 1) / (a d)``."""
    exposure = np.clip(hazard_per_hour, 0.0, MOST_HAZARD) * duration_hours
    return np.where(exposure > 1e-12, np.expm1(exposure) / np.maximum(exposure, 1e-12), 1.0)


def best_action(
    upcoming: pa.Table,
    problem: Problem,
    plan: Plan,
    before: Figures,
    after: Figures,
    objective: Objective,
    rules: OptionRules,
    spot: SpotMarket | None,
) -> Change:
    """The plan's change, with right-sizing or spot in its place for workloads that they serve better by the score.

    A workload gets one action for all its groups; ties stay with the plan. ``upcoming`` is aligned with the problem.
    """
    change = placement_change(problem, plan, before, after)
    names = pc.dictionary_encode(upcoming.column("workload_id").combine_chunks())
    owner = names.indices.to_numpy(zero_copy_only=False)
    total = len(names.dictionary)

    def gain(figures: Figures, possible: Flags) -> Floats:
        """Score saved by workload; nothing where some group of it may not change so."""
        saved = np.nan_to_num(before.score(objective) - figures.score(objective))
        whole = np.bincount(owner, ~possible, minlength=total) == 0
        return np.where(whole, np.bincount(owner, saved, minlength=total), 0.0)

    held = among(upcoming, rules.awaited)
    best = gain(after, np.ones(len(problem), bool))
    for name, figures, possible, scale in (
        ("right_size", *_right_sized(upcoming, before, rules), rules.scale),
        ("spot_convert", *_on_spot(upcoming, problem, before, rules, spot), 1.0),
    ):
        found = gain(figures, possible & ~held)
        better = (found > best * (1 + 1e-12)) & (found > 0)
        best = np.where(better, found, best)
        change = _with(change, name, figures, better[owner], scale)
    return change


def _with(change: Change, name: str, figures: Figures, chosen: Flags, scale: float) -> Change:
    def pick(new: Floats, old: Floats) -> Floats:
        return np.where(chosen, new, old)

    merged = Figures(
        kg=pick(figures.kg, change.after.kg),
        compute_usd=pick(figures.compute_usd, change.after.compute_usd),
        egress_usd=pick(figures.egress_usd, change.after.egress_usd),
        penalty_usd=pick(figures.penalty_usd, change.after.penalty_usd),
    )
    return replace(
        change,
        after=merged,
        vcpus_scale=np.where(chosen, scale, change.vcpus_scale),
        spot=np.where(chosen, name == "spot_convert", change.spot),
        action=np.where(chosen, name, change.action),
    )


def _column(upcoming: pa.Table, name: str) -> Floats:
    return upcoming.column(name).to_numpy().astype(np.float64)


def _right_sized(upcoming: pa.Table, before: Figures, rules: OptionRules) -> tuple[Figures, Flags]:
    peak = _column(upcoming, "utilisation_p95")
    sizes = pc.is_in(upcoming.column("instance_type"), pa.array(sorted(rules.halvable), pa.string()))
    fits = peak / rules.scale <= rules.most_utilisation
    possible = rules.right_size & fits & (_column(upcoming, "gpus") == 0) & sizes.to_numpy(zero_copy_only=False)
    return replace(before, kg=before.kg * rules.scale, compute_usd=before.compute_usd * rules.scale), possible


def _on_spot(
    upcoming: pa.Table, problem: Problem, before: Figures, rules: OptionRules, spot: SpotMarket | None
) -> tuple[Figures, Flags]:
    nobody = np.zeros(len(problem), bool)
    if spot is None or not rules.spot:
        return before, nobody
    tolerant = pc.fill_null(upcoming.column("spot_tolerant"), False).to_numpy(zero_copy_only=False)
    wanted = pa.array(sorted(rules.spot_categories - {"urgent"}), pa.string())
    patient = pc.is_in(upcoming.column("category"), wanted).to_numpy(zero_copy_only=False)
    duration, home = problem.duration_hours, problem.home
    share = integral(spot.price_share, home, problem.start_hours, duration) / np.maximum(duration, 1e-12)
    hazard = integral(spot.interruption_per_hour, home, problem.start_hours, duration) / np.maximum(duration, 1e-12)
    known = (np.isfinite(spot.price_share) & np.isfinite(spot.interruption_per_hour)).all(axis=1)
    longer = overhead(hazard, duration)
    figures = replace(before, kg=before.kg * longer, compute_usd=before.compute_usd * share * longer)
    return figures, tolerant & patient & known[home] & (hazard < MOST_HAZARD)
