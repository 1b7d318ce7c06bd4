"""Cron schedules as Kubernetes reads them, and the same schedule some minutes later.

Belongs here: the five fields, their firing times, and the shift. Does not belong here: time zones and the object the
schedule stands in (``kubernetes``).

The shifted schedule fires exactly at the old firing times plus the delay, no more and no less, or it is refused by
name. The times of a day are the product of a list of minutes and a list of hours, so a shift is exact where the
moved times are such a product again and all of them move by the same number of days; then the days of the week move
along. Days of the month and months have no such arithmetic (the day after the 31st), so they are left alone only
where no time crosses midnight.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta

MINUTES_PER_DAY = 1440

_MONTHS = {n: i for i, n in enumerate(("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov",
                                       "dec"), start=1)}  # fmt: skip
_DAYS = {n: i for i, n in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_MACROS = {"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
           "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *"}  # fmt: skip
#: Name, lowest, highest, names. Kubernetes (robfig/cron) has no day 7.
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}), ("hour", 0, 23, {}), ("day of month", 1, 31, {}), ("month", 1, 12, _MONTHS),
    ("day of week", 0, 6, _DAYS),
)  # fmt: skip


class CronError(ValueError):
    """A schedule that cannot be read or cannot be shifted exactly. ``reason`` is a named reason in snake_case."""

    def __init__(self, reason: str, text: str) -> None:
        self.reason = reason
        super().__init__(text)


@dataclass(frozen=True)
class Cron:
    """One schedule: the text of its five fields, and what they stand for."""

    texts: tuple[str, str, str, str, str]
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Cron:
        """Read five fields or a macro; raises :class:`CronError` (``unreadable_schedule``, ``zone_in_schedule``)."""
        plain = text.strip()
        if plain.upper().startswith(("TZ=", "CRON_TZ=")):
            raise CronError("zone_in_schedule", f"{text!r} names its zone; write it as spec.timeZone")
        if plain.startswith("@every"):
            raise CronError("interval_schedule", f"{text!r} counts from the controller's start, not from a time of day")
        parts = _MACROS.get(plain.lower(), plain).split()
        if len(parts) != 5:
            raise CronError("unreadable_schedule", f"{text!r} has {len(parts)} fields, not five")
        read = [_field(part, *spec) for part, spec in zip(parts, _FIELDS, strict=True)]
        return cls((parts[0], parts[1], parts[2], parts[3], parts[4]), *read)

    def __str__(self) -> str:
        return " ".join(self.texts)

    @property
    def times(self) -> frozenset[int]:
        """Minutes of the day it fires at."""
        return frozenset(60 * h + m for h in self.hours for m in self.minutes)

    def _on(self, day: date) -> bool:
        in_month, in_week = day.day in self.days, (day.weekday() + 1) % 7 in self.weekdays
        # The rule of cron: when both kinds of day are restricted, either will do.
        either = not _is_star(self.texts[2]) and not _is_star(self.texts[4])
        return day.month in self.months and ((in_month or in_week) if either else (in_month and in_week))

    def firings(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """Every firing time in ``[start, end)``, by going through the days; wall-clock times without a zone."""
        day = datetime(start.year, start.month, start.day)  # noqa: DTZ001 - wall clock on purpose
        while day < end:
            if self._on(day.date()):
                yield from (at for m in sorted(self.times) if start <= (at := day + timedelta(minutes=m)) < end)
            day += timedelta(days=1)

    def shifted(self, minutes: int) -> Cron:
        """The schedule that fires ``minutes`` later; raises :class:`CronError` where there is none in one line."""
        if minutes == 0:
            return self
        moved = sorted(t + minutes for t in self.times)
        turns = {t // MINUTES_PER_DAY for t in moved}
        every_day = _is_star(self.texts[2]) and len(self.months) == 12
        daily = every_day and len(self.weekdays) == 7
        if daily:
            days, turn = self.texts[4], 0
        elif len(turns) > 1:
            raise CronError(
                "crosses_midnight", f"{self} by {minutes} min: some of its times move to the next day, others do not"
            )
        elif (turn := turns.pop()) and not every_day:
            raise CronError(
                "crosses_midnight",
                f"{self} by {minutes} min moves to another day of the month, which has no fixed name",
            )
        else:
            days = self.texts[4] if turn % 7 == 0 else _list({(d + turn) % 7 for d in self.weekdays})
        times = {t % MINUTES_PER_DAY for t in moved}
        hours, of_hour = {t // 60 for t in times}, {t % 60 for t in times}
        if len(hours) * len(of_hour) != len(times):
            raise CronError(
                "not_one_line", f"{self} by {minutes} min: the moved times are no product of minutes and hours"
            )
        texts = (
            self.texts[0] if of_hour == self.minutes else _list(of_hour),
            self.texts[1] if hours == self.hours else _list(hours),
            self.texts[2], self.texts[3], days,
        )  # fmt: skip
        return Cron.parse(" ".join(texts))


def _field(text: str, name: str, low: int, high: int, names: dict[str, int]) -> frozenset[int]:
    values: set[int] = set()
    for item in text.split(","):
        span, slash, by = item.partition("/")
        first, dash, last = span.partition("-")
        if first in ("*", "?") and not dash:
            start, stop = low, high
        else:
            start = _number(first, text, name, names)
            stop = _number(last, text, name, names) if dash else high if slash else start
        step = _number(by, text, name, {}) if slash else 1
        if not low <= start <= stop <= high or step < 1:
            raise CronError("unreadable_schedule", f"{name} {text!r}: {item!r} is not within {low} to {high}")
        values |= set(range(start, stop + 1, step))
    return frozenset(values)


def _number(text: str, whole: str, name: str, names: dict[str, int]) -> int:
    if text.lower() in names:
        return names[text.lower()]
    if not (text.isascii() and text.isdigit() and len(text) <= 4):
        raise CronError("unreadable_schedule", f"{name} {whole!r}: {text!r} is no number")
    return int(text)


def _is_star(text: str) -> bool:
    """Whether the field counts as unrestricted: a star, not a star with a step."""
    return any(item in ("*", "?", "*/1", "?/1") for item in text.split(","))


def _list(values: Iterable[int]) -> str:
    """Numbers as people write them: ``1-5`` for three or more in a row."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ",".join(f"{r[0]}-{r[-1]}" if len(r) > 2 else ",".join(map(str, r)) for r in runs)
