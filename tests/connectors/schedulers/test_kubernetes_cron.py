"""Cron arithmetic: the shifted schedule fires at the old times plus the delay, by counting every firing."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.connectors.schedulers.kubernetes_cron import Cron, CronError

START, END = datetime(2026, 1, 28), datetime(2026, 2, 11)  # noqa: DTZ001 - over the end of a month
WIDE = timedelta(days=15)


def fires(cron: Cron, at: datetime) -> bool:
    """The definition, minute by minute; knows nothing of the arithmetic."""
    minute, hour, day, month, weekday = cron.texts

    def among(text: str, value: int, low: int, high: int) -> bool:
        for item in text.split(","):
            span, _, by = item.partition("/")
            first, _, last = span.partition("-")
            start, stop = (low, high) if first == "*" else (int(first), int(last or (high if by else first)))
            if start <= value <= stop and (value - start) % int(by or 1) == 0:
                return True
        return False

    in_month, in_week = among(day, at.day, 1, 31), among(weekday, at.isoweekday() % 7, 0, 6)
    days = (in_month or in_week) if not day.startswith("*") and not weekday.startswith("*") else in_month and in_week
    return days and among(minute, at.minute, 0, 59) and among(hour, at.hour, 0, 23) and among(month, at.month, 1, 12)


def expanded(cron: Cron, start: datetime, end: datetime) -> set[datetime]:
    return {
        at for n in range(int((end - start).total_seconds() // 60)) if fires(cron, at := start + timedelta(minutes=n))
    }


def items(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    span = st.tuples(number, number).map(lambda p: f"{min(p)}-{max(p)}")
    step = st.integers(1, high - low)
    stepped = st.one_of(st.tuples(span, step), st.tuples(number, step)).map(lambda p: f"{p[0]}/{p[1]}")
    return st.one_of(number.map(str), span, stepped)


def fields(low: int, high: int, star: bool = True) -> st.SearchStrategy[str]:
    listed = st.lists(items(low, high), min_size=1, max_size=3).map(",".join)
    return st.one_of(*([st.just("*")] if star else []), listed, st.integers(2, high).map(lambda n: f"*/{n}"))


schedules = st.tuples(
    st.one_of(fields(0, 59), st.integers(0, 59).map(str)), st.one_of(fields(0, 23), st.integers(0, 23).map(str)),
    st.one_of(st.just("*"), st.just("*"), st.lists(st.integers(1, 31).map(str), min_size=1, max_size=3).map(",".join)),
    st.one_of(st.just("*"), st.just("*"), st.sampled_from(["1", "2", "1-2", "1/2"])),
    st.one_of(st.just("*"), fields(0, 6)),
).map(" ".join)  # fmt: skip
delays = st.one_of(st.integers(0, 24).map(lambda h: h * 60), st.integers(-2000, 4000), st.sampled_from([1440, 10080]))


@settings(max_examples=250, deadline=None)
@given(schedules, delays)
def test_shifted_firings_are_the_firings_shifted(text: str, minutes: int) -> None:
    cron = Cron.parse(text)
    try:
        moved = cron.shifted(minutes)
    except CronError as error:
        assert error.reason in ("crosses_midnight", "not_one_line")
        return
    by = timedelta(minutes=minutes)
    assert set(moved.firings(START, END)) == {at + by for at in cron.firings(START - by, END - by)}


@settings(max_examples=40, deadline=None)
@given(schedules)
def test_firings_are_what_the_definition_says(text: str) -> None:
    """So that the test above does not believe the code under test."""
    if "1/2" in text.split()[3]:
        text = "0 2 * * *"
    cron = Cron.parse(text)
    end = START + timedelta(days=8)
    if any(part.startswith("*/") for part in (cron.texts[2], cron.texts[4])):
        return  # a star with a step counts as restricted: see below
    assert set(cron.firings(START, end)) == expanded(cron, START, end)


@settings(max_examples=200, deadline=None)
@given(schedules, st.integers(1, 1439))
def test_one_minute_more_is_found(text: str, minutes: int) -> None:
    """Negative control: the count tells a schedule that is a minute off."""
    cron = Cron.parse(text)
    try:
        moved = cron.shifted(minutes)
    except CronError:
        return
    wrong = timedelta(minutes=minutes + 1)
    there = set(moved.firings(START, END))
    if there and len(cron.minutes) < 60:
        assert there != {at + wrong for at in cron.firings(START - wrong, END - wrong)}


@pytest.mark.parametrize(
    ("text", "minutes", "expected"),
    [
        ("0 2 * * *", 180, "0 5 * * *"),
        ("0 22 * * *", 240, "0 2 * * *"),
        ("0 22 * * 5", 240, "0 2 * * 6"),
        ("0 22 * * 6", 240, "0 2 * * 0"),
        ("0 22 * * MON-FRI", 240, "0 2 * * 2-6"),
        ("30 1 * * *", 90, "0 3 * * *"),
        ("15 */6 * * *", 60, "15 1,7,13,19 * * *"),
        ("*/20 * * * *", 60, "*/20 * * * *"),
        ("*/20 * * * *", 10, "10,30,50 * * * *"),
        ("0 9-17 * * 1-5", 120, "0 11-19 * * 1-5"),
        ("0 2 1 * *", 180, "0 5 1 * *"),
        ("0 2 1 6 *", 180, "0 5 1 6 *"),
        ("@daily", 180, "0 3 * * *"),
        ("@hourly", 30, "30 * * * *"),
        ("0 20,22 * * *", 180, "0 1,23 * * *"),
        ("0 2 * * 3", 10080, "0 2 * * 3"),
        ("0 2 * * 3", 2880, "0 2 * * 5"),
        ("0 2 1 * 1", 180, "0 5 1 * 1"),
        ("7 2 * * *", 0, "7 2 * * *"),
    ],
)
def test_examples(text: str, minutes: int, expected: str) -> None:
    assert str(Cron.parse(text).shifted(minutes)) == expected


def test_a_star_with_a_step_is_a_restriction_of_days() -> None:
    """As Kubernetes reads it: ``*/2`` in one field of days and a list in the other mean either."""
    cron = Cron.parse("0 2 */2 * 1")
    days = {at.day for at in cron.firings(datetime(2026, 1, 1), datetime(2026, 1, 8))}  # noqa: DTZ001
    assert days == {1, 3, 5, 7}
    assert {at.day for at in Cron.parse("0 2 * * 1").firings(datetime(2026, 1, 1), datetime(2026, 1, 8))} == {5}  # noqa: DTZ001


@pytest.mark.parametrize("text", ["", "* * * *", "60 * * * *", "0 24 * * *", "0 0 0 * *", "0 0 * 13 *", "0 0 * * 7",
                                  "5-1 * * * *", "*/0 * * * *", "a * * * *", "1,, * * * *",
                                  "٣ * * * *", "H 2 * * *"])  # fmt: skip
def test_what_is_no_schedule(text: str) -> None:
    with pytest.raises(CronError) as caught:
        Cron.parse(text)
    assert caught.value.reason == "unreadable_schedule"
