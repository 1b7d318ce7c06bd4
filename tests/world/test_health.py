"""When a step of the loop is late, and what mode that makes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sust_dagster.world.health import CADENCES, STEPS, Fault, Step, health, lateness

NOW = datetime(2026, 1, 10, tzinfo=UTC)
ORDER = ("normal", "degraded", "stopped")
DEGRADED, STOPPED = Fault("degraded", "less", "mend it"), Fault("stopped", "nothing", "start it")


def ago(hours: float) -> datetime:
    return NOW - timedelta(hours=hours)


@pytest.mark.parametrize(
    ("step", "age", "mode"),
    [
        ("sense", 0, "normal"),
        ("sense", 2, "normal"),
        ("sense", 2.1, "degraded"),
        ("sense", 25, "stopped"),
        ("model", 3, "degraded"),
        ("decide", 25, "normal"),
        ("decide", 26, "degraded"),
        ("decide", 50, "stopped"),
        ("act", 24.5, "normal"),
        ("act", 26, "degraded"),
    ],
)
def test_a_step_is_late_by_its_cadence(step: Step, age: float, mode: str) -> None:
    found = health(step, ago(age), NOW)
    assert (found.mode, found.age_hours, found.limit_hours) == (mode, age, CADENCES[step].degraded_hours)
    assert bool(found.remedy) == (mode != "normal")
    assert found.reason


def test_a_late_plan_says_what_holds_meanwhile() -> None:
    late = health("decide", datetime(2026, 1, 8, 3, tzinfo=UTC), NOW)
    assert "jobs asked for from 2026-01-09 04:00 on run as they are" in late.reason
    assert "every workload runs as it is" in health("decide", ago(80), NOW).reason


def test_what_never_ran_is_not_missed() -> None:
    found = health("act", None, NOW, [STOPPED])
    assert (found.mode, found.last_success, found.age_hours, found.remedy) == ("not started", None, None, "")


@given(
    st.sampled_from(STEPS),
    st.floats(0, 200),
    st.floats(0, 200),
    st.lists(st.sampled_from([DEGRADED, STOPPED]), max_size=3),
)
def test_more_is_never_better(step: Step, age: float, more: float, faults: list[Fault]) -> None:
    """Neither an older success nor another fault improves a mode, and every fault is in the reason and the remedy."""
    plain, older = health(step, ago(age), NOW), health(step, ago(age + more), NOW)
    faulty = health(step, ago(age), NOW, faults)
    assert ORDER.index(older.mode) >= ORDER.index(plain.mode)
    assert ORDER.index(faulty.mode) >= ORDER.index(plain.mode)
    assert all(f.reason in faulty.reason and f.remedy in faulty.remedy for f in faults)
    assert (plain.mode == "normal") == (lateness(step, ago(age), NOW) is None)


def test_plain_values() -> None:
    tables = {"emissions": ago(1), "grid_intensity": None}
    made = health("model", ago(1), NOW, [DEGRADED], tables).as_dict(NOW)
    assert made == {
        "mode": "degraded",
        "last_success": "2026-01-09T23:00:00Z",
        "age_hours": 1.0,
        "limit_hours": 2,
        "reason": "less",
        "remedy": "mend it",
        "tables": {
            "emissions": {"until": "2026-01-09T23:00:00Z", "age_hours": 1.0},
            "grid_intensity": {"until": None, "age_hours": None},
        },
    }
    assert health("model", ago(-3), NOW).age_hours == 0, "a success that is yet to come is fresh"
