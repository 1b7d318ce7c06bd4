"""What a decision is made from, each part read strictly, and how it is gathered from the rows of the books.

Belongs here: the shapes of proposal, signature and record. Every field must be there with its very type; what a
decision does not look at is not read. Does not belong here: what follows from them (``decide``).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from sust_dagster.agents.governance.policy import Category, Risk, Role
from sust_dagster.world.decisions import Event, proposal_of

Text = Annotated[str, Field(min_length=1)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ActionType = Literal["region_shift", "time_shift", "right_size", "spot_convert", "do_nothing"]
Count = Annotated[int, Field(ge=0)]


class _Given(BaseModel):
    """Strict, finite, frozen. Fields that nobody decides by may be there and are left out."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


class Placement(_Given):
    """Where and how much later one job group runs."""

    region: Text
    delay_hours: float = Field(ge=0)


class Config(_Given):
    """The change, as the planner writes ``proposed_config``."""

    action_type: ActionType
    vcpus_scale: Annotated[str, Field(pattern=r"^(0\.[0-9]{1,12}|1)$")]
    spot: bool
    placements: list[Placement] = Field(min_length=1)

    @property
    def scale(self) -> Decimal:
        """Share of the vCPUs kept."""
        return Decimal(self.vcpus_scale)


class Proposal(_Given):
    """What is proposed, by whom and when. A service tier may be unknown, and then the risk is high."""

    recommendation_id: Text
    plan_hash: Hash
    authors: list[Text] = Field(min_length=1)
    proposed_at: AwareDatetime
    workload_id: Text
    team_id: Text
    workload_category: Category
    action_type: ActionType
    planned_for: AwareDatetime
    issued_at: AwareDatetime
    objective: Text
    policy_version: int
    proposed_config: Config
    est_carbon_delta_kg: float
    est_carbon_delta_kg_lower: float
    est_carbon_delta_kg_upper: float
    est_cost_delta_usd: float
    cost_before_usd: float = Field(ge=0)
    confidence: float = Field(ge=0, le=1)
    risk_level: Risk


class Signature(_Given):
    """One row of ``approvals``."""

    approval_id: Text
    recommendation_id: Text
    plan_hash: Hash
    signer: Text
    role: Role
    verdict: Literal["approve", "reject"]
    policy_version: int
    signed_at: AwareDatetime
    expires_at: AwareDatetime | None


class Precedents(_Given):
    """Recommendations approved so far, by action type."""

    region_shift: Count
    time_shift: Count
    right_size: Count
    spot_convert: Count
    do_nothing: Count


class Record(_Given):
    """What the books say around a proposal."""

    state: Text
    """State of the recommendation."""
    rejections: Count
    """Rejections of this very plan by people, in any recommendation."""
    actions_that_day: Count
    """Recommendations of the team approved for the same day."""
    precedents: Precedents


class PolicyRow(_Given):
    """One row of ``policies``."""

    policy_id: Text
    version: int = Field(ge=1)
    document: str
    document_hash: str
    author: Text
    approved_by: str | None
    valid_from: AwareDatetime
    created_at: AwareDatetime


class PolicyReview(_Given):
    """One row of ``policy_reviews``."""

    review_id: Text
    policy_id: Text
    version: int
    document_hash: str
    signer: Text
    role: str
    verdict: str
    policy_version: int
    signed_at: AwareDatetime


def governed(proposed: Event) -> dict[str, Any]:
    """The proposal in a 'proposed' event, ready to be decided; what cannot be read stays as it is, and fails there."""
    fields = proposal_of([proposed])
    configs = {name: fields.get(name) for name in ("current_config", "proposed_config")}
    authors = [proposed["actor"], *([fields["proposed_by"]] if "proposed_by" in fields else [])]
    return {
        **fields,
        "recommendation_id": proposed["recommendation_id"],
        "plan_hash": proposed["plan_hash"],
        "authors": authors,
        "proposed_at": proposed["occurred_at"],
        "planned_for": _parsed(datetime.fromisoformat, fields.get("planned_for")),
        "issued_at": _parsed(datetime.fromisoformat, fields.get("issued_at")),
        **{name: _parsed(json.loads, c) if isinstance(c, str) else c for name, c in configs.items()},
    }


def _parsed(parse: Callable[[Any], Any], value: Any) -> Any:
    """The value read, or the value itself where it cannot be."""
    try:
        return parse(value)
    except (TypeError, ValueError):
        return value
