"""What the policy asks of the planner, in the planner's own terms.

Belongs here: the one translation of a policy version into rules, limits and regions for a day's plan, so that the
planner proposes only what the checks of ``decide`` can allow. Does not belong here: those checks, which look again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set

import pyarrow as pa

from sust_dagster.agents.governance.contradictions import matches
from sust_dagster.agents.governance.policy import Policy
from sust_dagster.agents.governance.versions import PolicyVersion
from sust_dagster.agents.planner.daily import DayRules
from sust_dagster.agents.planner.options import OptionRules
from sust_dagster.agents.planner.problem import Limits, Objective
from sust_dagster.agents.planner.windows import WINDOWS, Rules, Window, listed_regions


def day_rules(version: PolicyVersion, halvable: Set[str] = frozenset()) -> DayRules:
    """The rules of a day under a policy version; ``halvable``: instance types that have a size half as large."""
    policy = version.policy
    planning = policy.planning
    minimal = planning.objective == "min-carbon"
    price = planning.carbon_price_usd_per_t
    moving = {name: policy.actions.of(name).enabled for name in ("region_shift", "time_shift")}
    windows = {
        category: Window(
            int(min(window.hours, policy.windows.of(category))) if moving["time_shift"] else 0,
            window.scope if moving["region_shift"] else "home",
        )
        for category, window in WINDOWS.items()
    }
    return DayRules(
        objective=Objective.min_carbon() if minimal else Objective.effective_cost(price),
        carbon_price_usd_per_t=price,
        policy_version=version.version,
        limits=Limits(
            max_cost_increase=planning.max_cost_increase_percent / 100.0,
            egress_budget_usd=planning.egress_budget_usd_per_day,
            share_cap=planning.share_cap if planning.share_cap < 1 else None,
        ),
        windows=Rules(windows=windows, strict_latency=minimal),
        options=_options(policy, halvable),
        worst_case=planning.robust == "worst-case",
        max_forecast_age_hours=planning.max_forecast_age_hours,
    )


def _options(policy: Policy, halvable: Set[str]) -> OptionRules:
    size, spot = policy.actions.right_size, policy.actions.spot_convert
    return OptionRules(
        right_size=size.enabled and size.min_vcpus_scale <= OptionRules.scale,
        spot=spot.enabled,
        most_utilisation=min(size.target_peak_utilisation, size.max_peak_utilisation / OptionRules.scale),
        spot_categories=frozenset(spot.categories),
        halvable=halvable,
    )


def within_policy(upcoming: pa.Table, policy: Policy, regions: Collection[str]) -> pa.Table:
    """``upcoming`` (UPCOMING_JOBS) with ``allowed_regions`` narrowed to what the policy allows each team and workload.

    ``regions``: those there are. A group left with none keeps its home, where it is already: home is no move.
    A residency rule about a data class binds every workload, for the class of none is known here.
    """
    column = upcoming.column("allowed_regions").to_pylist()
    keys = list(
        zip(upcoming.column("team_id").to_pylist(), upcoming.column("workload_id").to_pylist(), column, strict=True)
    )
    narrowed = {key: ",".join(_allowed(policy, *key, regions)) for key in dict.fromkeys(keys)}
    homes = upcoming.column("region").to_pylist()
    values = [narrowed[key] or home for key, home in zip(keys, homes, strict=True)]
    place = upcoming.column_names.index("allowed_regions")
    return upcoming.set_column(place, upcoming.schema.field("allowed_regions"), pa.array(values, pa.string()))


def _allowed(
    policy: Policy, team_id: str, workload_id: str, listed: str | None, regions: Collection[str]
) -> Sequence[str]:
    places = policy.places
    own = set(listed_regions(listed or "")) or set(regions)
    binding = [
        rule.regions
        for rule in places.residency
        if rule.applies_to == "data_class" or rule.name == (team_id if rule.applies_to == "team" else workload_id)
    ]
    return sorted(
        region
        for region in regions
        if region in own
        and matches(region, places.allowed_regions)
        and not matches(region, places.denied_regions)
        and all(matches(region, patterns) for patterns in binding)
    )
