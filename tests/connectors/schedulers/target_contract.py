"""What every target keeps (``connectors.targets``), as tests over a target and the double it talks to.

A test module makes a fixture ``case`` of a :class:`Case` and subclasses :class:`Contract`.
"""

from __future__ import annotations

import json
import logging
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import pytest
from target_doubles import Double

from sust_dagster.connectors.targets import Order, Preview, Target, TargetRefused, TargetUnavailable

FACTS = {
    "est_carbon_delta_kg": -41.25, "est_carbon_delta_kg_lower": -52.0, "est_carbon_delta_kg_upper": -29.0,
    "est_cost_delta_usd": 3.2, "confidence": 0.93, "risk_level": "low",
    "rationale_text": "The grid is cleaner <then> & cheaper.",
}  # fmt: skip


def an_order(number: int = 1, *, delay: float = 3, region: str = "eu-west-1", **proposed: Any) -> Order:
    group = {"job_id": "g1", "requested_start": "2026-01-07T02:00:00Z", "region": region, "delay_hours": delay}
    action = proposed.pop("action_type", "time_shift")
    return Order(
        intent_id=str(uuid5(NAMESPACE_URL, f"intent {number}")),
        recommendation_id=str(uuid5(NAMESPACE_URL, f"r {number}")),
        plan_hash=f"{number:064x}", workload_id="nightly-train", team_id="ml", service_tier="batch", action_type=action,
        planned_for=datetime(2026, 1, 7, tzinfo=UTC),
        current={"regions": ["eu-west-1"], "start": "as requested", "vcpus_scale": "1", "spot": False, "groups": 1},
        proposed={"action_type": action, "vcpus_scale": "1", "spot": False, "placements": [group]} | proposed,
        facts=FACTS,
    )  # fmt: skip


@dataclass
class Case:
    target: Target
    double: Double
    secrets: tuple[str, ...]
    tamper: Callable[[], None]
    """Somebody else changes what was made."""
    count: Callable[[], int] = lambda: 0
    """How many things were made."""
    order: Order = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.order = self.order or an_order()


class Contract:
    """Subclass it; override what one target cannot do, and say why there."""

    def preview(self, case: Case) -> Preview:
        return case.target.preview(case.order)

    def test_preview_changes_nothing_and_says_it_twice_alike(self, case: Case) -> None:
        before = case.double.snapshot()
        one, two = self.preview(case), self.preview(case)
        assert case.double.snapshot() == before
        assert one == two
        assert one.text
        assert json.loads(json.dumps([one.change, one.before])) == [one.change, one.before]
        assert one.target == case.target.name

    def test_nothing_is_found_before(self, case: Case) -> None:
        assert case.target.find(case.order, self.preview(case)) is None

    def test_apply_twice_is_once(self, case: Case) -> None:
        preview = self.preview(case)
        before = case.double.snapshot()
        first = case.target.apply(case.order, preview)
        after = case.double.snapshot()
        assert after != before, "negative control: it does something"
        assert case.target.apply(case.order, preview) == first
        assert case.double.snapshot() == after
        assert case.target.find(case.order, preview) == first

    def test_a_stored_preview_is_as_good(self, case: Case) -> None:
        """The desk keeps previews as JSON; tuples become lists."""
        made = self.preview(case)
        stored = replace(made, **json.loads(json.dumps({"change": made.change, "before": made.before})))
        applied = case.target.apply(case.order, stored)
        assert case.target.read_back(case.order, stored, applied) == ()
        case.target.rollback(case.order, stored)
        assert case.target.find(case.order, stored) is None

    def test_lost_reply_then_find_sees_it(self, case: Case) -> None:
        preview = self.preview(case)
        case.double.writes_only, case.double.faults = True, ["lost"]
        with pytest.raises(TargetUnavailable):
            case.target.apply(case.order, preview)
        found = case.target.find(case.order, preview)
        assert found is not None
        after = case.double.snapshot()
        assert case.target.apply(case.order, preview) == found
        assert case.double.snapshot() == after
        assert case.target.read_back(case.order, preview, found) == ()

    def test_request_that_never_arrives_leaves_nothing(self, case: Case) -> None:
        preview = self.preview(case)
        before = case.double.snapshot()
        case.double.writes_only, case.double.faults = True, ["before"]
        with pytest.raises(TargetUnavailable):
            case.target.apply(case.order, preview)
        assert case.target.find(case.order, preview) is None
        assert case.double.snapshot() == before

    def test_any_faults_end_in_one_or_in_none(self, case: Case) -> None:
        """As the desk does it: look, else apply, then look at it; again after every answer that did not come."""
        chance = random.Random(7)
        faults = ["before", "lost", "garbage", (429, {}, {"Retry-After": "1"}), (503, "", {}), None, None]

        def until_done(step: Callable[[], Any]) -> Any:
            for _ in range(60):
                case.double.faults = [f for f in chance.choices(faults, k=3) if f is not None]
                case.double.writes_only = chance.random() < 0.5
                try:
                    return step()
                except TargetUnavailable:
                    continue
                finally:
                    case.double.faults = []
            raise AssertionError("no way through")

        start = case.count()
        for number in range(12):
            order = an_order(100 + number)
            preview = until_done(lambda order=order: case.target.preview(order))
            applied = until_done(
                lambda o=order, p=preview: case.target.find(o, p) or case.target.apply(o, p),
            )
            assert until_done(lambda o=order, p=preview, a=applied: case.target.read_back(o, p, a)) == ()
            assert case.count() == start + number + 1 or start == case.count() == 0
            after = case.double.snapshot()
            assert case.target.apply(order, preview).ref == applied.ref
            assert case.double.snapshot() == after
            until_done(lambda o=order, p=preview: case.target.rollback(o, p))
            assert case.target.find(order, preview) is None

    def test_read_back(self, case: Case) -> None:
        preview = self.preview(case)
        applied = case.target.apply(case.order, preview)
        assert case.target.read_back(case.order, preview, applied) == ()
        case.tamper()
        assert case.target.read_back(case.order, preview, applied)

    def test_rollback_twice_is_once(self, case: Case) -> None:
        preview = self.preview(case)
        case.target.apply(case.order, preview)
        case.target.rollback(case.order, preview)
        after = case.double.snapshot()
        case.target.rollback(case.order, preview)
        assert case.double.snapshot() == after
        assert case.target.find(case.order, preview) is None

    def test_rollback_with_lost_replies_ends_the_same(self, case: Case) -> None:
        preview = self.preview(case)
        case.target.apply(case.order, preview)
        case.double.writes_only = True
        for _ in range(6):
            case.double.faults = ["lost"]
            try:
                case.target.rollback(case.order, preview)
            except TargetUnavailable:
                continue
            break
        case.double.faults = []
        assert case.target.find(case.order, preview) is None
        after = case.double.snapshot()
        case.target.rollback(case.order, preview)
        assert case.double.snapshot() == after

    def test_rollback_of_nothing_does_nothing(self, case: Case) -> None:
        preview = self.preview(case)
        before = case.double.snapshot()
        case.target.rollback(case.order, preview)
        assert case.double.snapshot() == before

    def test_what_somebody_else_changed_is_not_undone(self, case: Case) -> None:
        preview = self.preview(case)
        case.target.apply(case.order, preview)
        case.tamper()
        theirs = case.double.snapshot()
        for again in (case.target.rollback, case.target.apply):
            with pytest.raises(TargetRefused) as refused:
                again(case.order, preview)
            assert refused.value.reason == "changed_since"
        assert case.double.snapshot() == theirs

    @pytest.mark.parametrize(
        ("fault", "kind", "reason"),
        [
            ((429, {"message": "slow down"}, {"Retry-After": "17"}), TargetUnavailable, None),
            ((503, "upstream", {}), TargetUnavailable, None),
            ("before", TargetUnavailable, None),
            ("garbage", TargetUnavailable, None),
            ((401, {"message": "who are you"}, {}), TargetRefused, "unauthorized"),
            ((403, {"message": "you may not"}, {}), TargetRefused, "forbidden"),
            ((302, "", {"Location": "http://127.0.0.1:9/login"}), TargetRefused, "redirected"),
        ],
    )
    def test_faults_are_named(self, case: Case, fault: Any, kind: type[Exception], reason: str | None) -> None:
        preview = self.preview(case)
        for call in (case.target.preview, lambda o: case.target.apply(o, preview)):
            case.double.faults = [fault]
            with pytest.raises(kind) as caught:
                call(case.order)
            assert getattr(caught.value, "reason", None) == reason
            if isinstance(fault, tuple) and fault[0] == 429:
                assert caught.value.retry_after_seconds == 17  # type: ignore[attr-defined]

    def test_secrets_are_nowhere(self, case: Case, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        preview = self.preview(case)
        applied = case.target.apply(case.order, preview)
        seen = [repr(case.target), repr(preview), repr(applied)]
        for fault in (
            "before",
            "lost",
            "garbage",
            *((s, {"message": " ".join(case.secrets)}, {}) for s in (401, 500, 302)),
        ):
            case.double.faults = [fault]
            try:
                case.target.rollback(case.order, preview)
            except (TargetRefused, TargetUnavailable) as error:
                seen += [str(error), *traceback.format_exception(error), *_chain(error)]
        seen.append(caplog.text)
        assert len(seen) > 5
        sent = json.dumps([c.headers for c in case.double.calls]) + "".join(c.path for c in case.double.calls)
        for secret in case.secrets:
            assert secret in sent, "negative control: it was used"
            assert not any(secret in text for text in seen)


def _chain(error: BaseException | None) -> list[str]:
    said = []
    while error is not None:
        said.append(repr(error))
        error = error.__cause__ or error.__context__
    return said
