"""Patience with an outside system: calls are tried again, and left alone once it has failed too often.

Belongs here: retries with growing, jittered pauses, and a circuit breaker, around any target. Does not belong here:
what a call does (the target), what happens after the last failure (the execution desk).

Every call of a target may be repeated (``connectors.targets``), so every call is. A refusal is an answer: it is never
tried again and does not count against the outside.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import pybreaker
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from sust_dagster.connectors.targets import Applied, Order, Preview, Target, TargetRefused, TargetUnavailable

Answer = TypeVar("Answer")


class CircuitOpen(TargetUnavailable):
    """The outside failed too often just now; it was not asked."""


class Resilient:
    """``target`` with up to ``tries`` tries a call, and a breaker that opens after ``fail_max`` failures in a row.

    ``max_wait_seconds`` bounds each pause; where the outside asks for a longer one, the call is given up instead.
    After ``reset_seconds`` one call is let through to see whether the outside is back. Keep one per target and process:
    the breaker's memory is the object's.
    """

    def __init__(
        self,
        target: Target,
        *,
        tries: int = 4,
        first_wait_seconds: float = 0.5,
        max_wait_seconds: float = 30.0,
        fail_max: int = 8,
        reset_seconds: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._target = target
        self._max_wait = max_wait_seconds
        self._jitter = wait_random_exponential(multiplier=first_wait_seconds, max=max_wait_seconds)
        self._stop = stop_after_attempt(tries)
        self._sleep = sleep
        self._reset = reset_seconds
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=fail_max, reset_timeout=reset_seconds, exclude=[TargetRefused], throw_new_error_on_trip=False
        )

    @property
    def name(self) -> str:
        return self._target.name

    @property
    def open(self) -> bool:
        """Whether calls are refused at the moment without asking the outside."""
        return self._breaker.current_state == pybreaker.STATE_OPEN

    def preview(self, order: Order) -> Preview:
        return self._call(lambda: self._target.preview(order))

    def find(self, order: Order, preview: Preview) -> Applied | None:
        return self._call(lambda: self._target.find(order, preview))

    def apply(self, order: Order, preview: Preview) -> Applied:
        return self._call(lambda: self._target.apply(order, preview))

    def read_back(self, order: Order, preview: Preview, applied: Applied) -> tuple[str, ...]:
        return self._call(lambda: self._target.read_back(order, preview, applied))

    def rollback(self, order: Order, preview: Preview) -> None:
        return self._call(lambda: self._target.rollback(order, preview))

    def _call(self, call: Callable[[], Answer]) -> Answer:
        again = Retrying(
            stop=self._stop,
            wait=self._wait,
            retry=retry_if_exception_type(TargetUnavailable) & _worth_waiting(self._max_wait),
            sleep=self._sleep,
            reraise=True,
        )
        return again(self._through, call)

    def _through(self, call: Callable[[], Answer]) -> Answer:
        try:
            return self._breaker.call(call)
        except pybreaker.CircuitBreakerError as error:
            raise CircuitOpen(f"{self.name} failed too often; it is left alone for {self._reset:g} s") from error

    def _wait(self, state: RetryCallState) -> float:
        asked = _retry_after(state)
        pause = float(self._jitter(state))
        return pause if asked is None else min(max(asked, pause), max(asked, self._max_wait))


class _worth_waiting(retry_if_exception_type):  # noqa: N801 - named as tenacity names its conditions
    """Whether another try makes sense now: not with an open breaker, not where a longer pause is asked for."""

    def __init__(self, most_seconds: float) -> None:
        super().__init__(TargetUnavailable)
        self._most = most_seconds

    def __call__(self, retry_state: RetryCallState) -> bool:
        outcome = retry_state.outcome
        error = None if outcome is None else outcome.exception()
        asked = _retry_after(retry_state)
        return not isinstance(error, CircuitOpen) and (asked is None or asked <= self._most)


def _retry_after(state: RetryCallState) -> float | None:
    outcome = state.outcome
    error = None if outcome is None else outcome.exception()
    return error.retry_after_seconds if isinstance(error, TargetUnavailable) else None
