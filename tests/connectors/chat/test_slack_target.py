"""Slack messages: the contract of a target, errors with status 200, long channels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from chat_doubles import Slack, no
from target_contract import FACTS, Case, Contract, an_order

from sust_dagster.connectors.chat.slack import SlackTarget
from sust_dagster.connectors.targets import TargetRefused, TargetUnavailable


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Slack, SlackTarget]]:
    double = Slack()
    double.chatter(3)
    monkeypatch.setenv("SUST_SLACK_TOKEN", double.token)
    with double.serve() as url:
        yield double, SlackTarget(double.channel, base_url=url)


def tamper(double: Slack) -> None:
    double.messages[-1]["blocks"][0]["text"]["text"] = "*Free lunch*"


@pytest.fixture
def case(slack: tuple[Slack, SlackTarget]) -> Case:
    double, target = slack
    return Case(target, double, (double.token,), lambda: tamper(double), lambda: len(double.messages))


class TestContract(Contract):
    pass


def test_what_the_message_says(slack: tuple[Slack, SlackTarget]) -> None:
    double, target = slack
    order = an_order()
    target.apply(order, target.preview(order))
    texts = [b["text"]["text"] for b in double.messages[-1]["blocks"]]
    assert texts[0] == "*nightly-train: −41.2 kg CO₂e (likely −52.0 to −29.0), cost +3.20 USD, risk low.*"
    assert "• May approve: whom the policy names for low risk in team ml" in texts[1]
    assert texts[2] == "The grid is cleaner &lt;then&gt; &amp; cheaper."
    assert texts[3] == f"Approve with `sust approve {order.recommendation_id}`"
    assert double.messages[-1]["metadata"]["event_payload"]["intent"] == order.intent_id


def test_a_message_is_found_under_many_others(slack: tuple[Slack, SlackTarget]) -> None:
    double, target = slack
    order = an_order()
    preview = target.preview(order)
    applied = target.apply(order, preview)
    double.chatter(7)
    other = an_order(2)
    target.apply(other, target.preview(other))
    assert target.find(order, preview) == applied
    assert target.find(order, target.preview(order)) == applied, "a later preview starts where the message is"


def test_only_the_history_since_the_preview_is_read(slack: tuple[Slack, SlackTarget]) -> None:
    double, target = slack
    double.chatter(40)
    order = an_order()
    preview = target.preview(order)
    double.calls.clear()
    assert target.find(order, preview) is None
    assert len(double.calls) == 1


def test_a_history_without_end_is_no_proof(slack: tuple[Slack, SlackTarget]) -> None:
    double, target = slack
    order = an_order()
    preview = target.preview(order)
    double.page = 1
    double.chatter(60)
    with pytest.raises(TargetRefused, match="history_too_long"):
        target.find(order, preview)


def test_an_older_text_of_our_own_is_renewed_in_place(slack: tuple[Slack, SlackTarget]) -> None:
    double, target = slack
    order = an_order()
    target.apply(order, target.preview(order))
    newer = replace(order, facts=FACTS | {"est_cost_delta_usd": 9.0})
    preview = target.preview(newer)
    applied = target.apply(newer, preview)
    assert len(double.messages) == 4
    assert "9.00 USD" in double.messages[-1]["text"]
    assert target.read_back(newer, preview, applied) == ()


def test_withdrawn_is_said_and_stays(slack: tuple[Slack, SlackTarget]) -> None:
    double, target = slack
    order = an_order()
    preview = target.preview(order)
    applied = target.apply(order, preview)
    target.rollback(order, preview)
    assert double.messages[-1]["text"].startswith("Withdrawn: nightly-train")
    assert target.read_back(order, preview, applied) == (f"{applied.ref} was withdrawn",)
    with pytest.raises(TargetRefused, match="withdrawn"):
        target.apply(order, preview)


@pytest.mark.parametrize(
    ("reply", "kind", "says"),
    [
        ((200, {"ok": False, "error": "ratelimited"}, {"Retry-After": "30"}), TargetUnavailable, 30.0),
        (no("internal_error"), TargetUnavailable, None),
        ((200, [1], {}), TargetUnavailable, None),
        (no("token_revoked"), TargetRefused, "unauthorized"),
        (no("missing_scope", needed="channels:history"), TargetRefused, "forbidden"),
        (no("not_in_channel"), TargetRefused, "forbidden"),
        (no("is_archived"), TargetRefused, "unknown_channel"),
        (no("something_new"), TargetRefused, "invalid"),
    ],
)
def test_errors_with_status_200(
    slack: tuple[Slack, SlackTarget], reply: object, kind: type[Exception], says: object
) -> None:
    double, target = slack
    double.faults = [reply]
    with pytest.raises(kind) as caught:
        target.preview(an_order())
    assert getattr(caught.value, "reason", getattr(caught.value, "retry_after_seconds", None)) == says
    for remedy in ("channels:history",) if says == "forbidden" and "missing" in str(reply) else ():
        assert remedy in str(caught.value)


def test_a_long_rationale_is_cut(slack: tuple[Slack, SlackTarget]) -> None:
    double, target = slack
    order = replace(an_order(), facts=FACTS | {"rationale_text": "because " * 1000})
    preview = target.preview(order)
    applied = target.apply(order, preview)
    assert double.messages[-1]["blocks"][2]["text"]["text"].endswith("…")
    assert target.read_back(order, preview, applied) == ()


def test_a_channel_is_named_by_its_id() -> None:
    with pytest.raises(ValueError, match="no channel id"):
        SlackTarget("#carbon")
