"""The policy: every knob people decide about, typed, bounded, in one document with one hash.

Belongs here: the fields with their meaning and bounds, reading a document strictly, the shipped default. Does not
belong here: what contradicts itself across fields (``contradictions``), the file people edit (``policy_file``), which
version is in force (``versions``), what follows from it for one proposal (``risk``, ``decide``).

No field has a default in a document: a document that lacks one is refused, so that leaving something out can never
loosen anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sust_dagster.world.canonical import canonical_json, content_hash

Role = Literal["team-lead", "platform"]
Risk = Literal["low", "medium", "high"]
Category = Literal["urgent", "balanced", "sustainable"]

#: A region id, a prefix of region ids ending in ``*``, or ``*`` for every region.
Pattern = Annotated[str, Field(pattern=r"^(\*|[a-z0-9][a-z0-9-]{0,62}\*?)$")]
#: Lower case, so that one person has one spelling.
Account = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._@+-]{0,99}$")]
Name = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]
Tier = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9 ._-]{0,62}$")]


class PolicyError(ValueError):
    """A policy cannot be used; ``problems`` names each field or contradiction."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("the policy cannot be used:\n" + "\n".join(f"- {p}" for p in problems))


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Planning(_Part):
    """What the planner plans for, and within which limits."""

    carbon_price_usd_per_t: float = Field(ge=0, le=10_000, description="internal carbon price, USD per tCO2e")
    objective: Literal["effective-cost", "min-carbon"] = Field(
        description="effective-cost: bill + carbon price x kg; min-carbon: kg, within the budgets below"
    )
    max_cost_increase_percent: float = Field(
        ge=0, le=100, description="a plan that costs more than this above the status quo is high risk, %"
    )
    egress_budget_usd_per_day: float = Field(ge=0, le=1_000_000, description="most that moved data may cost, USD a day")
    share_cap: float = Field(gt=0, le=1, description="largest share of movable vCPU-hours moved into one region, 0-1")
    robust: Literal["mean", "worst-case"] = Field(
        description="mean: the forecast's point; worst-case: p95 of the target against p5 of the origin"
    )
    ci_level: float = Field(ge=0.5, le=0.999, description="level of confidence intervals, 0-1")
    max_forecast_age_hours: float = Field(
        gt=0,
        le=168,
        description="an older forecast is stale; a plan made earlier than this before its day is high risk, h",
    )


class Residency(_Part):
    """Work that must stay in some regions."""

    applies_to: Literal["team", "workload", "data_class"]
    name: Name
    regions: tuple[Pattern, ...]
    reason: Name


class Places(_Part):
    """Where work may run. Patterns: a region, a prefix like 'eu-*', or '*'."""

    allowed_regions: tuple[Pattern, ...] = Field(
        description="regions work may be moved to, '*' for every region; what stays in its only region is not moved"
    )
    denied_regions: tuple[Pattern, ...] = Field(description="regions work is never moved to; wins over allowed_regions")
    residency: tuple[Residency, ...] = Field(
        description="rules: applies_to (team, workload, data_class), name, regions, reason; all that apply must hold"
    )


class Windows(_Part):
    """How long work of a category may be deferred; never longer than the category itself allows."""

    urgent_hours: float = Field(ge=0, le=24, description="deferral of urgent work, h; the category allows 0")
    balanced_hours: float = Field(ge=0, le=24, description="deferral of balanced work, h; the category allows 4")
    sustainable_hours: float = Field(ge=0, le=24, description="deferral of sustainable work, h; the category allows 24")

    def of(self, category: str) -> float:
        """Longest deferral of a category, h; ``KeyError`` for an unknown one."""
        by_name: Mapping[str, float] = {
            "urgent": self.urgent_hours,
            "balanced": self.balanced_hours,
            "sustainable": self.sustainable_hours,
        }
        return by_name[category]


class Action(_Part):
    """Whether an action may be taken, and its risk before anything else is known."""

    enabled: bool = Field(description="whether this action may be taken at all")
    risk: Risk = Field(description="its risk before anything else is known")


class RightSize(Action):
    """Fewer vCPUs for what does not use them."""

    max_peak_utilisation: float = Field(
        gt=0, lt=1, description="only what uses less than this at its 95 % quantile, 0-1"
    )
    target_peak_utilisation: float = Field(
        gt=0, lt=1, description="and would use no more than this of what it keeps, 0-1"
    )
    min_vcpus_scale: float = Field(gt=0, le=1, description="least share of its vCPUs a workload keeps, 0-1")


class SpotConvert(Action):
    """Capacity that may be taken back."""

    categories: tuple[Category, ...] = Field(description="categories whose work may run on spot capacity")


class Actions(_Part):
    """Switches of the actions."""

    region_shift: Action
    time_shift: Action
    right_size: RightSize
    spot_convert: SpotConvert
    do_nothing: Action

    def of(self, action_type: str) -> Action:
        """The switch of an action; ``KeyError`` for an unknown one."""
        if action_type not in type(self).model_fields:
            raise KeyError(action_type)
        return getattr(self, action_type)


class RiskRules(_Part):
    """What makes a proposal riskier than its action."""

    high_cost_delta_usd_per_day: float = Field(
        ge=0, le=1_000_000, description="a change of cost beyond this, up or down, is high risk, USD a day"
    )
    medium_cost_delta_usd_per_day: float = Field(
        ge=0, le=1_000_000, description="and beyond this medium risk, USD a day"
    )
    low_needs_confidence: float = Field(ge=0, le=1, description="below this confidence nothing is low risk, 0-1")
    medium_needs_confidence: float = Field(ge=0, le=1, description="and below this everything is high risk, 0-1")
    production_tiers: tuple[Tier, ...] = Field(description="service tiers whose changes are always high risk")
    other_tiers: tuple[Tier, ...] = Field(description="the other tiers; a tier in neither list is high risk")
    reviewed_first: int = Field(
        ge=0, le=10_000, description="so many first approvals of an action type each need a person"
    )


class Approval(_Part):
    """Who signs what, and what silence means."""

    medium_any_of: tuple[Role, ...] = Field(description="medium risk: one signature in any of these roles")
    high_all_of: tuple[Role, ...] = Field(description="high risk: a signature in each, by different people")
    medium_default: Literal["expire", "approve"] = Field(description="what silence on a medium risk means")
    medium_silence_hours: float = Field(gt=0, le=168, description="how long silence lasts, h")
    approval_ttl_hours: float = Field(gt=0, le=168, description="how long a signature or an approval counts, h")


class Limits(_Part):
    """Brakes on how much happens at once."""

    max_actions_per_team_per_day: int = Field(ge=0, le=10_000, description="approved actions of a team for one day")


class Roles(_Part):
    """Which account may sign in which role."""

    platform: tuple[Account, ...] = Field(description="accounts that sign as platform")
    members: tuple[Account, ...] = Field(description="accounts that may propose a policy and sign nothing")
    team_leads: dict[Name, tuple[Account, ...]] = Field(description="team = accounts that sign as its lead")

    def held_by(self, account: str, team_id: str | None = None) -> tuple[Role, ...]:
        """Roles of an account towards a team; ``None``: as the lead of any team."""
        leads = [a for t, names in self.team_leads.items() if team_id in (None, t) for a in names]
        held: list[Role] = ["team-lead"] if account in leads else []
        return (*held, "platform") if account in self.platform else tuple(held)

    @property
    def accounts(self) -> frozenset[str]:
        """Every account there is."""
        return frozenset({*self.platform, *self.members, *(a for names in self.team_leads.values() for a in names)})


class Policy(_Part):
    """One policy document. Read it with :func:`read_policy`, never field by field."""

    format: Literal["sust-policy/1"] = Field(description="format of this document")
    planning: Planning
    places: Places
    windows: Windows
    actions: Actions
    risk: RiskRules
    approval: Approval
    limits: Limits
    roles: Roles

    @property
    def document(self) -> str:
        """Canonical JSON (RFC 8785)."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def document_hash(self) -> str:
        """SHA-256 of :attr:`document`."""
        return content_hash(self.model_dump(mode="json"))


def read_policy(document: str) -> Policy:
    """The policy of a JSON document. Raises :class:`PolicyError` naming every field that is missing or wrong."""
    try:
        return Policy.model_validate_json(document)
    except ValidationError as error:
        raise PolicyError([_said(dict(e)) for e in error.errors(include_url=False)]) from error


def _said(error: Mapping[str, Any]) -> str:
    where = ".".join(map(str, error["loc"])) or "the document"
    given = "" if error["type"] in ("missing", "json_invalid") else f"; it is {error['input']!r}"
    return f"{where}: {error['msg']}{given}"


@lru_cache(maxsize=64)
def intact_policy(document: str, document_hash: str) -> Policy:
    """The policy of a stored document that is what its hash says, to the byte.

    Raises :class:`PolicyError` when it is not, cannot be read or contradicts itself.
    """
    from sust_dagster.agents.governance.contradictions import check_policy

    policy = read_policy(document)
    if policy.document != document or policy.document_hash != document_hash:
        raise PolicyError([f"its document is not the one of hash {document_hash}"])
    check_policy(policy)
    return policy


def default_policy() -> Policy:
    """The policy that ships. It names no accounts: low risk runs by itself, and nobody can sign for anything else."""
    return Policy(
        format="sust-policy/1",
        planning=Planning(
            carbon_price_usd_per_t=75.0,
            objective="min-carbon",
            max_cost_increase_percent=2.0,
            egress_budget_usd_per_day=50.0,
            share_cap=0.6,
            robust="mean",
            ci_level=0.9,
            max_forecast_age_hours=36.0,
        ),
        places=Places(allowed_regions=("*",), denied_regions=(), residency=()),
        windows=Windows(urgent_hours=0.0, balanced_hours=4.0, sustainable_hours=24.0),
        actions=Actions(
            region_shift=Action(enabled=True, risk="low"),
            time_shift=Action(enabled=True, risk="low"),
            right_size=RightSize(
                enabled=True,
                risk="medium",
                max_peak_utilisation=0.4,
                target_peak_utilisation=0.7,
                min_vcpus_scale=0.5,
            ),
            spot_convert=SpotConvert(enabled=True, risk="medium", categories=("balanced", "sustainable")),
            do_nothing=Action(enabled=True, risk="low"),
        ),
        risk=RiskRules(
            high_cost_delta_usd_per_day=100.0,
            medium_cost_delta_usd_per_day=10.0,
            low_needs_confidence=0.8,
            medium_needs_confidence=0.5,
            production_tiers=(
                "production", "prod", "critical", "mission-critical", "realtime", "real-time", "interactive", "online",
                "tier-0", "tier-1", "gold", "p0", "p1",
            ),
            other_tiers=(
                "standard", "business", "ci", "ci-blocking", "ci-nightly", "staging", "batch", "batch-reporting",
                "reporting", "nightly", "training", "dev-test", "dev", "test", "sandbox", "best-effort", "flexible",
                "deferrable", "offline", "tier-2", "tier-3", "silver", "bronze", "p2", "p3", "high", "medium", "low",
            ),
            reviewed_first=20,
        ),
        approval=Approval(
            medium_any_of=("team-lead", "platform"),
            high_all_of=("team-lead", "platform"),
            medium_default="expire",
            medium_silence_hours=24.0,
            approval_ttl_hours=24.0,
        ),
        limits=Limits(max_actions_per_team_per_day=20),
        roles=Roles(platform=(), members=(), team_leads={}),
    )  # fmt: skip
