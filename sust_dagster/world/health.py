"""How each step of the loop is: its cadence, when it counts as late, and what is used instead of what is missing.

Belongs here: the rules, from plain facts to a mode. Does not belong here: gathering the facts (heartbeats, tables,
books), doing anything about them.

Modes: ``normal``; ``degraded``: the loop goes on with something in place of what is missing, and the reason says with
what; ``stopped``: the step does nothing, and the reason says what that leaves; ``not started``: it never ran, and
nothing is missing. The step's own last success and its cadence say whether it is late; faults are what was found beside
that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

Step = Literal["sense", "model", "decide", "act", "verify"]
Mode = Literal["normal", "degraded", "stopped", "not started"]
STEPS: tuple[Step, ...] = ("sense", "model", "decide", "act", "verify")


@dataclass(frozen=True)
class Cadence:
    """How often a step runs, and from which age of its last success on it counts as late, hours."""

    every_hours: float
    degraded_hours: float
    stopped_hours: float
    degraded: str
    """What holds meanwhile; ``{last}`` is the last success, ``{over}`` the hour its plan ends."""
    stopped: str
    remedy: str


#: A day's plan is made at 03:00 for the jobs asked for from 04:00 until 04:00 of the next day.
PLAN_ENDS_HOURS = 25.0
#: Two hours without activity are one too many (founding design, section 7, row 9). A plan is missed when the one before
#: it has ended, and nothing of that is left a day, its longest delay, later.
CADENCES: Mapping[Step, Cadence] = {
    "sense": Cadence(
        1, 2, 24,
        "plans rest on the ledger up to {last}",
        "nothing newer than {last} is in the ledger; plans rest on what ran until then",
        "look at the billing source and the last run of hourly_sense_and_model; `sust backfill` catches up",
    ),
    "model": Cadence(
        1, 2, 24,
        "figures end at {last}; plans take the power of runs accounted for until then",
        "nothing after {last} is accounted for; plans take the power of runs accounted for until then",
        "look at the grid source and the last run of hourly_sense_and_model; `sust backfill` catches up",
    ),
    "decide": Cadence(
        24, PLAN_ENDS_HOURS, PLAN_ENDS_HOURS + 24,
        "what was placed stays; jobs asked for from {over} on run as they are",
        "no placement is left: every workload runs as it is",
        "materialise the job daily_plan for today and look at its last run",
    ),
    "act": Cadence(
        24, 25, 49,
        "what was carried out stays; what was approved since waits",
        "what was carried out stays; nothing approved is begun",
        "materialise the job execute_approved for today, or `sust execute --yes`",
    ),
    "verify": Cadence(
        24, 25, 24 * 7,
        "what was executed and has settled since {last} has no outcome yet; none is guessed",
        "nothing that was executed is verified any more: no saving is credited",
        "materialise the job daily_verify and look at its last run",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """Something a step has to do without, or cannot do."""

    mode: Literal["degraded", "stopped"]
    reason: str
    """What is missing and what is used instead."""
    remedy: str


@dataclass(frozen=True)
class StepHealth:
    """One step at one moment."""

    step: Step
    mode: Mode
    last_success: datetime | None
    age_hours: float | None
    limit_hours: float
    """Age of the last success from which on the step is late."""
    reason: str
    remedy: str
    tables: Mapping[str, datetime | None] = field(default_factory=dict)
    """Until when each table of the step holds something; None: nothing."""

    def as_dict(self, now: datetime) -> dict[str, Any]:
        """Plain values; times as ISO 8601, ages against ``now``."""
        return {
            "mode": self.mode,
            "last_success": None if self.last_success is None else _iso(self.last_success),
            "age_hours": self.age_hours,
            "limit_hours": self.limit_hours,
            "reason": self.reason,
            "remedy": self.remedy,
            "tables": {
                name: {"until": None if t is None else _iso(t), "age_hours": None if t is None else age_hours(t, now)}
                for name, t in self.tables.items()
            },
        }


def age_hours(moment: datetime, now: datetime) -> float:
    """Hours since ``moment``; 0 for one that is yet to come."""
    return max(0.0, (now - moment) / timedelta(hours=1))


def lateness(step: Step, last_success: datetime, now: datetime) -> Fault | None:
    """The fault of a step that has not succeeded for too long."""
    cadence, age = CADENCES[step], age_hours(last_success, now)
    if age <= cadence.degraded_hours:
        return None
    stopped = age > cadence.stopped_hours
    over = last_success + timedelta(hours=PLAN_ENDS_HOURS)
    said = (cadence.stopped if stopped else cadence.degraded).format(last=_said(last_success), over=_said(over))
    reason = f"its last success is {age:.0f} h old, due every {cadence.every_hours:g} h: {said}"
    return Fault("stopped" if stopped else "degraded", reason, cadence.remedy)


def health(
    step: Step,
    last_success: datetime | None,
    now: datetime,
    faults: Sequence[Fault] = (),
    tables: Mapping[str, datetime | None] | None = None,
) -> StepHealth:
    """The mode of a step: the worst of its lateness and its faults, with every reason and remedy.

    A step that never ran is ``not started``, whatever else is the matter.
    """
    limit, held = CADENCES[step].degraded_hours, tables or {}
    if last_success is None:
        return StepHealth(step, "not started", None, None, limit, "it never ran", "", held)
    late = lateness(step, last_success, now)
    found = [*([late] if late else []), *faults]
    worst: Mode = "stopped" if any(f.mode == "stopped" for f in found) else "degraded" if found else "normal"
    age = age_hours(last_success, now)
    reason = "; ".join(dict.fromkeys(f.reason for f in found)) or f"its last success is {age:.0f} h old"
    remedy = "; ".join(dict.fromkeys(f.remedy for f in found))
    return StepHealth(step, worst, last_success, age, limit, reason, remedy, held)


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _said(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M")
