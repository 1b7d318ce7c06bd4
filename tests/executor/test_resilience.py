"""Retries and the circuit breaker around a target."""

from __future__ import annotations

from typing import Any

import pytest
from executor_cases import Ledgered, Outside
from test_simulated_scheduler import order

from sust_dagster.connectors.resilience import CircuitOpen, Resilient
from sust_dagster.connectors.targets import TargetRefused, TargetUnavailable


class Scripted:
    """Lets calls fail by a list; ``None`` lets one through."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, _name: str, call: Any) -> Any:
        self.calls += 1
        error = self.errors.pop(0) if self.errors else None
        answer = call()  # it took effect: the answer is what is lost
        if error is not None:
            raise error
        return answer


def made(script: Scripted, **changes: Any) -> tuple[Resilient, Outside, list[float]]:
    outside, slept = Outside(), []
    return Resilient(Ledgered(outside, script), sleep=slept.append, **changes), outside, slept


GONE = TargetUnavailable("no answer")


def test_a_lost_answer_is_asked_for_again_and_nothing_is_done_twice() -> None:
    script = Scripted(None, GONE, GONE)
    target, outside, slept = made(script)
    shown = target.preview(order())
    assert target.apply(order(), shown).ref == "i-1"
    assert outside.applied == ["i-1"]
    assert (script.calls, len(slept)) == (4, 2)
    assert 0 <= slept[0] <= 0.5
    assert 0 <= slept[1] <= 1.0


def test_after_the_last_try_the_failure_is_handed_on() -> None:
    script = Scripted(*[GONE] * 9)
    target, _, slept = made(script, tries=3)
    with pytest.raises(TargetUnavailable, match="no answer"):
        target.preview(order())
    assert (script.calls, len(slept)) == (3, 2)


def test_a_refusal_is_an_answer() -> None:
    script = Scripted(*[TargetRefused("conflict", "no")] * 20)
    target, _, slept = made(script, fail_max=2)
    for _ in range(5):
        with pytest.raises(TargetRefused, match="conflict"):
            target.preview(order())
    assert (script.calls, slept, target.open) == (5, [], False)


def test_the_pause_that_the_outside_asks_for_is_kept() -> None:
    script = Scripted(TargetUnavailable("slow down", retry_after_seconds=7.5))
    target, _, slept = made(script)
    target.preview(order())
    assert slept == [7.5]


def test_a_pause_that_is_too_long_is_not_waited_for() -> None:
    script = Scripted(TargetUnavailable("slow down", retry_after_seconds=3600))
    target, _, slept = made(script, max_wait_seconds=30)
    with pytest.raises(TargetUnavailable, match="slow down") as error:
        target.preview(order())
    assert (script.calls, slept, error.value.retry_after_seconds) == (1, [], 3600)


def test_what_failed_too_often_is_left_alone_and_looked_at_later(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Scripted(*[GONE] * 4)
    target, _, _ = made(script, tries=2, fail_max=4, reset_seconds=0.2)
    for _ in range(2):
        with pytest.raises(TargetUnavailable):
            target.preview(order())
    assert target.open
    with pytest.raises(CircuitOpen, match="simulated failed too often"):
        target.preview(order())
    assert script.calls == 4, "it was not asked"
    import time

    time.sleep(0.25)
    assert target.preview(order()).target == "simulated"
    assert not target.open
