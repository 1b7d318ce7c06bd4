"""Production first in part, and what its health says about the rest."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from executor_cases import NOW, group
from hypothesis import given
from hypothesis import strategies as st

from sust_dagster.agents.executor.canary import CanaryRules, Health, has_canary, split, verdict

RULES = CanaryRules()
WELL = Health(p99_ms=100.0, error_rate=0.001, samples=500)
LATER = NOW + timedelta(hours=2)


@pytest.mark.parametrize(("tier", "expected"), [("production", True), (None, True), ("ci", False), ("batch", False)])
def test_whose_work_goes_first_in_part(tier: str | None, expected: bool) -> None:
    assert has_canary(tier, RULES) is expected


@given(st.integers(1, 40), st.floats(0.01, 1.0))
def test_the_canary_is_the_earliest_share_and_at_least_one(count: int, share: float) -> None:
    groups = [group(h) for h in range(count)][::-1]
    first, rest = split(groups, CanaryRules(share=share))
    assert 1 <= len(first) <= max(1, share * count + 1)
    assert sorted([*first, *rest], key=str) == sorted(groups, key=str)
    assert all(a["requested_start"] < b["requested_start"] for a in first for b in rest)


@pytest.mark.parametrize(
    ("before", "after", "hours", "word", "why"),
    [
        (WELL, WELL, 2, "proceed", "p99 100 ms"),
        (WELL, WELL, 0.5, "wait", "watched for 0.5 h of 1 h"),
        (WELL, Health(121.0, 0.001, 500), 0.1, "roll_back", "p99_latency: 121 ms after 100 ms"),
        (WELL, Health(119.0, 0.001, 500), 2, "proceed", ""),
        (WELL, Health(100.0, 0.0061, 500), 2, "roll_back", "error_rate: 0.0061 after 0.001"),
        (WELL, Health(500.0, 0.9, 3), 2, "wait", "too few"),
        (WELL, Health(500.0, 0.9, 3), 6, "roll_back", "health_unknown"),
        (WELL, None, 2, "wait", "missing"),
        (WELL, None, 6, "roll_back", "health_unknown"),
        (None, WELL, 6, "roll_back", "health_unknown"),
        (WELL, Health(float("nan"), 0.0, 500), 6, "roll_back", "health_unknown"),
    ],
)
def test_what_health_says(before: Any, after: Any, hours: float, word: str, why: str) -> None:
    said = verdict(before, after, NOW, NOW + timedelta(hours=hours), RULES)
    assert said.word == word
    assert why in said.why


def test_its_own_limit_is_kept_whatever_it_was_before() -> None:
    rules = CanaryRules(max_p99_ms=90.0)
    assert verdict(WELL, WELL, NOW, LATER, rules).why == "p99_latency: 100 ms, the limit is 90 ms"
    assert verdict(None, WELL, NOW, LATER, rules).word == "roll_back"


def test_latency_that_was_approved_is_no_fault_of_the_canary() -> None:
    """64 ms further away, as the approved plan said: 104 ms after 40 is what was signed; 130 is not."""
    begun, now = NOW, NOW + timedelta(hours=2)
    before, after = Health(40.0, 0.001, 1000), Health(104.0, 0.001, 1000)
    assert verdict(before, after, begun, now, CanaryRules(), approved_ms=64.0).word == "proceed"
    assert verdict(before, after, begun, now, CanaryRules()).word == "roll_back"
    assert verdict(before, Health(130.0, 0.001, 1000), begun, now, CanaryRules(), approved_ms=64.0).word == "roll_back"
