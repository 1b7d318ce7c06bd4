"""What a policy must not say: fields that are each in order and together forbid everything, or allow too much.

Belongs here: the contradictions, each with a name. Does not belong here: types and bounds of single fields
(``policy``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import combinations

from sust_dagster.agents.governance.policy import Policy, PolicyError, Roles
from sust_dagster.world.schemas import AGENTS

#: Longest deferral by category, h: what the categories mean (founding design, section 4).
CATEGORY_HOURS = {"urgent": 0.0, "balanced": 4.0, "sustainable": 24.0}

#: Names that are no person's.
RELEASE = "release"


def matches(region: str, patterns: Collection[str]) -> bool:
    """Whether one of the patterns covers a region, or all that another pattern covers."""
    return any(_covers(p, region) for p in patterns)


def _covers(pattern: str, other: str) -> bool:
    """Whether everything ``other`` (a region or a pattern) means is in ``pattern``."""
    if pattern.endswith("*"):
        return other.startswith(pattern[:-1])
    return pattern == other


def _meet(one: Collection[str], two: Collection[str]) -> list[str]:
    """Patterns for what both lists cover."""
    return sorted({p if _covers(q, p) else q for p in one for q in two if _covers(q, p) or _covers(p, q)})


def contradictions(policy: Policy, regions: Collection[str] | None = None) -> list[str]:
    """Everything in a policy that cannot be meant, as ``name: why``; empty when it is in order.

    ``regions``: the regions there are. With them a pattern that names none is found too, and whether any is left is
    counted instead of derived.
    """
    return [
        *_of_places(policy, regions),
        *_of_windows(policy),
        *_of_thresholds(policy),
        *_of_signatures(policy),
        *_of_roles(policy.roles),
    ]


def check_policy(policy: Policy, regions: Collection[str] | None = None) -> None:
    """Raise :class:`PolicyError` with every contradiction of a policy; see :func:`contradictions`."""
    if found := contradictions(policy, regions):
        raise PolicyError(found)


def _left(patterns: Sequence[str], denied: Sequence[str], regions: Collection[str] | None) -> bool:
    """Whether a denial leaves any region of the patterns."""
    if regions is None:
        return any(not matches(p, denied) for p in patterns)
    return any(matches(r, patterns) and not matches(r, denied) for r in regions)


def _of_places(policy: Policy, regions: Collection[str] | None) -> Iterator[str]:
    places = policy.places
    allowed, denied = places.allowed_regions, places.denied_regions
    if not _left(allowed, denied, regions):
        yield f"no_region_left: allowed_regions {list(allowed)} without denied_regions {list(denied)} is nothing"
    for rule in places.residency:
        if not _left(_meet(rule.regions, allowed), denied, regions):
            yield f"residency_no_region_left: {rule.applies_to} {rule.name} may be in none of {list(rule.regions)}"
    for one, two in combinations(places.residency, 2):
        if (one.applies_to, one.name) == (two.applies_to, two.name) and not _meet(one.regions, two.regions):
            yield f"residency_contradicts: two rules of {one.applies_to} {one.name} have no region in common"
    if regions is not None:
        named = {*allowed, *denied, *(r for rule in places.residency for r in rule.regions)}
        for pattern in sorted(p for p in named if not any(_covers(p, r) for r in regions)):
            yield f"unknown_region: '{pattern}' is no region there is"


def _of_windows(policy: Policy) -> Iterator[str]:
    for category, limit in CATEGORY_HOURS.items():
        hours = policy.windows.of(category)
        if hours > limit:
            yield f"window_too_long: {category}_hours is {hours:g}, the category allows {limit:g}"


def _of_thresholds(policy: Policy) -> Iterator[str]:
    risk, right_size = policy.risk, policy.actions.right_size
    for part, low, high in (
        (risk, "medium_cost_delta_usd_per_day", "high_cost_delta_usd_per_day"),
        (risk, "medium_needs_confidence", "low_needs_confidence"),
        (right_size, "max_peak_utilisation", "target_peak_utilisation"),
    ):
        small, large = getattr(part, low), getattr(part, high)
        if small > large:
            yield f"min_above_max: {low} is {small:g}, above {high} {large:g}"
    if not risk.production_tiers:
        yield "no_production_tier: production_tiers is empty, so nothing would be production"
    if both := sorted({*risk.production_tiers} & {*risk.other_tiers}):
        yield f"tier_twice: {', '.join(both)} stands under production_tiers and under other_tiers"


def _of_signatures(policy: Policy) -> Iterator[str]:
    approval = policy.approval
    if len(set(approval.high_all_of)) < 2 or len(set(approval.high_all_of)) < len(approval.high_all_of):
        yield f"high_needs_two_roles: high_all_of is {list(approval.high_all_of)}; high risk needs two different roles"
    if not {*approval.medium_any_of} & {*approval.high_all_of}:
        yield "medium_above_high: no role of medium_any_of is in high_all_of, so high risk would be easier to sign"


def _of_roles(roles: Roles) -> Iterator[str]:
    leads = {a for names in roles.team_leads.values() for a in names}
    if wrong := sorted(roles.accounts & {*AGENTS, RELEASE}):
        yield f"account_is_no_person: {', '.join(wrong)}"
    if not leads and not roles.platform:
        if roles.members:
            yield "nobody_signs: there are members, but no team lead and no platform account"
        return
    if not roles.platform:
        yield "nobody_signs: platform names no account, so high risk could never be approved"
    for team, names in sorted(roles.team_leads.items()):
        if len({*names, *roles.platform}) < 2 or not names:
            yield f"nobody_signs: team {team} and platform name fewer than two people, high risk needs two"
    if not _can_change(roles, leads):
        yield "nobody_can_change: no author leaves a platform account and another team lead to sign a new policy"


def _can_change(roles: Roles, leads: set[str]) -> bool:
    """Whether for some author a team lead and another platform account remain."""
    for author in roles.accounts:
        platform, others = {*roles.platform} - {author}, leads - {author}
        if platform and others and len(platform | others) > 1:
            return True
    return False
