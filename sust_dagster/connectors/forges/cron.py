"""Cron lines: the hours one starts at, and the same line some hours later.

Belongs here: the five fields, macros, what can be shifted and what cannot. Does not belong here: where a cron line
stands in a file (``yaml_edits``), by how much it moves (``changes``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_MACROS = {"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0"}
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_PART = re.compile(r"(?P<first>\*|\d{1,2})(?:-(?P<last>\d{1,2}))?(?:/(?P<step>\d{1,2}))?")


class CronError(ValueError):
    """A line that cannot be read, or cannot be moved without changing more than its start; ``reason`` names why."""

    def __init__(self, reason: str, text: str) -> None:
        self.reason = reason
        super().__init__(text)


@dataclass(frozen=True)
class Cron:
    """A line of five fields that starts at one minute of some hours."""

    minute: int
    hours: tuple[int, ...]
    day: str
    month: str
    weekday: str

    @classmethod
    def read(cls, line: str) -> Cron:
        fields = _MACROS.get(line.strip().lower(), line).split()
        if len(fields) != 5:
            raise CronError("unresolvable_value", f"{line!r} is not a cron line of five fields")
        minutes = _values(fields[0], 0, 59)
        if minutes is None or len(minutes) != 1:
            raise CronError("unresolvable_value", f"{line!r} does not start at one fixed minute")
        hours = _values(fields[1], 0, 23)
        if hours is None:
            raise CronError("unresolvable_value", f"{line!r} has no fixed hours")
        if len(hours) == 24:
            raise CronError("no_fixed_hour", f"{line!r} starts every hour: there is no start to move")
        return cls(minutes[0], hours, *fields[2:])

    @property
    def text(self) -> str:
        hours = ",".join(map(str, self.hours))
        return f"{self.minute} {hours} {self.day} {self.month} {self.weekday}"

    def times(self) -> tuple[str, ...]:
        """Starts as people write them in comments, '02:00'."""
        return tuple(f"{hour:02d}:{self.minute:02d}" for hour in self.hours)

    def later(self, minutes: int) -> Cron:
        """The line ``minutes`` later. Over midnight only where every start crosses it and the days can follow."""
        moved = [hour * 60 + self.minute + minutes for hour in self.hours]
        days = {at // 1440 for at in moved}
        weekday = self.weekday
        if days != {0}:
            weekday = self._weekday_later(days)
        hours = tuple(sorted({at % 1440 // 60 for at in moved}))
        return Cron(moved[0] % 60, hours, self.day, self.month, weekday)

    def _weekday_later(self, days: set[int]) -> str:
        if (self.day, self.month, self.weekday) == ("*", "*", "*"):
            return "*"
        names = self.weekday.lower()
        for number, name in enumerate(_DAYS):
            names = names.replace(name, str(number))
        listed = _values(names, 0, 7)
        if (self.day, self.month) != ("*", "*") or listed is None or len(days) > 1:
            raise CronError("crosses_midnight", f"{self.text!r} would start on other days")
        by = days.pop()
        return ",".join(map(str, sorted({(day + by) % 7 for day in listed})))


def _values(field: str, low: int, high: int) -> tuple[int, ...] | None:
    """The numbers a field stands for; None when it cannot be read."""
    found: set[int] = set()
    for part in field.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            return None
        if match["first"] == "*":
            first, last = low, high
        else:
            first = int(match["first"])
            last = int(match["last"]) if match["last"] else (high if match["step"] else first)
        step = int(match["step"] or 1)
        if not (low <= first <= last <= high) or step < 1:
            return None
        found.update(range(first, last + 1, step))
    return tuple(sorted(found))
