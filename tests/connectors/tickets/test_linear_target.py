"""Linear issues: the contract of a target, ids taken once, errors in bodies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from linear_double import Linear, fault
from target_contract import FACTS, Case, Contract, an_order

from sust_dagster.connectors.targets import TargetRefused, TargetUnavailable
from sust_dagster.connectors.tickets.linear import LinearTarget


@pytest.fixture
def linear(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Linear, LinearTarget]]:
    double = Linear()
    monkeypatch.setenv("SUST_LINEAR_KEY", double.authorization)
    with double.serve() as url:
        yield double, LinearTarget("team-1", label_ids=("l-1",), base_url=url)


def only(double: Linear) -> dict[str, Any]:
    (issue,) = double.issues.values()
    return issue


def tamper(double: Linear) -> None:
    only(double)["description"] += "\nand also the other one"


@pytest.fixture
def case(linear: tuple[Linear, LinearTarget]) -> Case:
    double, target = linear
    return Case(target, double, (double.authorization,), lambda: tamper(double), lambda: len(double.issues))


class TestContract(Contract):
    pass


def test_what_the_issue_says(linear: tuple[Linear, LinearTarget]) -> None:
    double, target = linear
    order = an_order()
    preview = target.preview(order)
    assert target.apply(order, preview).ref == "https://linear.app/x/issue/ML-1"
    assert only(double)["title"] == "nightly-train: start 3 h later"
    text = only(double)["description"]
    assert text.startswith("**nightly-train: −41.2 kg CO₂e (likely −52.0 to −29.0), cost +3.20 USD, risk low.**")
    assert f"Approve with `sust approve {order.recommendation_id}`" in text
    assert order.intent_id in text
    assert "<then>" not in text.replace("\\<then\\>", "")


def test_two_workers_make_one_issue(linear: tuple[Linear, LinearTarget], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second asked before the first one's issue was there."""
    double, target = linear
    order = an_order()
    preview = target.preview(order)
    first = target.apply(order, preview)
    look, answers = LinearTarget._issue, [None]
    monkeypatch.setattr(LinearTarget, "_issue", lambda self, o: answers.pop() if answers else look(self, o))
    assert target.apply(order, preview) == first
    assert not answers
    assert len(double.issues) == 1


def test_an_older_text_of_our_own_is_renewed_in_place(linear: tuple[Linear, LinearTarget]) -> None:
    double, target = linear
    order = an_order()
    target.apply(order, target.preview(order))
    newer = replace(order, facts=FACTS | {"est_cost_delta_usd": 9.0})
    preview = target.preview(newer)
    applied = target.apply(newer, preview)
    assert "9.00 USD" in only(double)["description"]
    assert target.read_back(newer, preview, applied) == ()


def test_read_back_names_each_difference(linear: tuple[Linear, LinearTarget]) -> None:
    double, target = linear
    order = an_order()
    preview = target.preview(order)
    applied = target.apply(order, preview)
    only(double).update(title="other", labels={"nodes": []}, archivedAt="2026-01-08T00:00:00Z")
    assert target.read_back(order, preview, applied) == (
        "title is 'other', not 'nightly-train: start 3 h later'", "label l-1 is missing", "ML-1 was archived",
    )  # fmt: skip
    double.issues.clear()
    assert target.read_back(order, preview, applied) == (f"{applied.ref} is gone",)


def test_withdrawn_goes_to_the_first_canceled_state_and_stays(linear: tuple[Linear, LinearTarget]) -> None:
    double, target = linear
    order = an_order()
    preview = target.preview(order)
    target.apply(order, preview)
    target.rollback(order, preview)
    assert only(double)["stateId"] == "s-no"
    assert len(double.comments) == 1
    with pytest.raises(TargetRefused, match="withdrawn"):
        target.apply(order, preview)
    double.states = tuple(s for s in double.states if s[0] == "s-todo")
    other = an_order(2)
    second = target.preview(other)
    target.apply(other, second)
    with pytest.raises(TargetRefused, match="no_transition"):
        target.rollback(other, second)


LATER = {"Date": "Wed, 07 Jan 2026 10:00:00 GMT", "X-RateLimit-Requests-Remaining": "0",
         "X-RateLimit-Requests-Reset": "1767780042000", "X-RateLimit-Complexity-Remaining": "4000",
         "X-RateLimit-Complexity-Reset": "1767790000000"}  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "kind", "says"),
    [
        (fault("RATELIMITED", "ratelimited", "Rate limit exceeded", 400, LATER), TargetUnavailable, 42.0),
        (fault("RATELIMITED", "ratelimited", "Rate limit exceeded", 400), TargetUnavailable, None),
        (fault("INTERNAL_SERVER_ERROR", "internal error", "oh"), TargetUnavailable, None),
        ((200, {"data": None}, {}), TargetUnavailable, None),
        (fault("FORBIDDEN", "forbidden", "no access"), TargetRefused, "forbidden"),
        (fault("AUTHENTICATION_ERROR", "authentication error", "who"), TargetRefused, "unauthorized"),
        (fault("INPUT_ERROR", "invalid input", "Entity not found: Team"), TargetRefused, "invalid"),
    ],
)
def test_errors_in_the_body(linear: tuple[Linear, LinearTarget], reply: Any, kind: type[Exception], says: Any) -> None:
    double, target = linear
    double.faults = [reply]
    with pytest.raises(kind) as caught:
        target.preview(an_order())
    assert getattr(caught.value, "reason", getattr(caught.value, "retry_after_seconds", None)) == says


def test_keys_of_applications_are_bearers(linear: tuple[Linear, LinearTarget], monkeypatch: pytest.MonkeyPatch) -> None:
    double, target = linear
    monkeypatch.setenv("SUST_LINEAR_KEY", "lin_oauth_x")
    double.authorization = "Bearer lin_oauth_x"
    assert target.preview(an_order())
