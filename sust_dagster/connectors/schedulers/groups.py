"""A refusal that says which job groups it is about, so that the others may still be placed.

Belongs here: that one refusal. Does not belong here: what is done about it (the execution desk).
"""

from __future__ import annotations

from collections.abc import Mapping

from sust_dagster.connectors.targets import TargetRefused

#: The reason that is about a place at an hour, not about a group: it may find room elsewhere.
REGION_OUTAGE = "region_outage"
#: The group's hour has passed: it runs as it is, and the others may still be placed.
ALREADY_STARTED = "already_started"


class GroupsRefused(TargetRefused):
    """Some groups of an order are refused, and so the whole order; ``refused`` maps their job ids to reasons."""

    def __init__(self, refused: Mapping[str, str]) -> None:
        self.refused = dict(refused)
        reasons = sorted(set(refused.values()))
        text = ", ".join(f"{job}: {why}" for job, why in sorted(refused.items()))
        super().__init__(reasons[0] if len(reasons) == 1 else "groups_refused", text)
