"""Teams cards: what of a target's contract a webhook can keep, and what it cannot."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
from chat_doubles import Teams
from target_contract import FACTS, Case, Contract, an_order

from sust_dagster.connectors.chat.teams import TeamsTarget
from sust_dagster.connectors.targets import TargetRefused, TargetUnavailable


@pytest.fixture
def teams(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Teams, TeamsTarget]]:
    double = Teams()
    with double.serve() as url:
        monkeypatch.setenv("SUST_TEAMS_WEBHOOK", url + double.path)
        yield double, TeamsTarget()


def test_the_preview_asks_nothing(teams: tuple[Teams, TeamsTarget]) -> None:
    double, target = teams
    order = an_order()
    assert target.preview(order) == target.preview(order)
    assert target.preview(order).text
    assert double.calls == []


def test_what_the_card_says(teams: tuple[Teams, TeamsTarget]) -> None:
    double, target = teams
    order = an_order()
    preview = target.preview(order)
    applied = target.apply(order, preview)
    (card,) = double.cards
    assert card == preview.change["attachments"][0]["content"]
    assert card["body"][0]["weight"] == "Bolder"
    assert card["body"][0]["text"].startswith("nightly-train: −41.2 kg CO₂e (likely")
    said = json.dumps(card, ensure_ascii=False)
    assert order.intent_id in said
    assert f"sust approve {order.recommendation_id}" in said
    assert applied.detail == {"verifiable": False, "delivery": "at least once"}
    assert target.read_back(order, preview, applied) == ()


def test_at_least_once_and_why(teams: tuple[Teams, TeamsTarget]) -> None:
    """A lost answer cannot be told from a lost request, so the card is posted again; both name one intent."""
    double, target = teams
    order = an_order()
    preview = target.preview(order)
    double.faults = ["lost"]
    with pytest.raises(TargetUnavailable):
        target.apply(order, preview)
    assert target.find(order, preview) is None
    assert target.apply(order, preview) == target.apply(order, preview)
    assert len(double.cards) == 3
    assert all(order.intent_id in json.dumps(card) for card in double.cards)
    assert all("it is one change" in json.dumps(card) for card in double.cards)


def test_rollback_withdraws_by_another_card(teams: tuple[Teams, TeamsTarget]) -> None:
    double, target = teams
    order = an_order()
    target.rollback(order, target.preview(order))
    (card,) = double.cards
    assert "Withdrawn: nightly-train" in card["body"][0]["text"]
    assert order.intent_id in json.dumps(card)


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        ((429, {"message": "slow down"}, {"Retry-After": "17"}), TargetUnavailable, 17.0),
        ((502, "", {}), TargetUnavailable, None),
        ("before", TargetUnavailable, None),
        ("garbage", TargetUnavailable, None),
        ((400, {"error": {"message": "bad card"}}, {}), TargetRefused, "invalid"),
        ((410, None, {}), TargetRefused, "unknown_webhook"),
    ],
)
def test_faults_are_named(teams: tuple[Teams, TeamsTarget], fault: object, kind: type[Exception], says: object) -> None:
    double, target = teams
    order = an_order()
    double.faults = [fault]
    with pytest.raises(kind) as caught:
        target.apply(order, target.preview(order))
    assert getattr(caught.value, "reason", getattr(caught.value, "retry_after_seconds", None)) == says


def test_the_address_is_nowhere(teams: tuple[Teams, TeamsTarget], caplog: pytest.LogCaptureFixture) -> None:
    """The path and the signature are the credential; the HTTP library logs them unless kept from it."""
    double, target = teams
    case = Case(target, double, ("teams-signature-9d", "/workflows/triggers"), lambda: None)
    caplog.set_level(logging.DEBUG)
    seen = [repr(target), repr(target.preview(case.order)), repr(target.apply(case.order, target.preview(case.order)))]
    for fault in ("before", "lost", "garbage", *((s, {"message": double.path}, {}) for s in (401, 500, 302))):
        double.faults = [fault]
        with pytest.raises((TargetRefused, TargetUnavailable)) as caught:
            target.rollback(case.order, target.preview(case.order))
        error: BaseException | None = caught.value
        while error is not None:
            seen.append(repr(error))
            error = error.__cause__ or error.__context__
    assert "POST ***" in caplog.text, "negative control: the library did log the call"
    assert not any(secret in text for secret in case.secrets for text in [*seen, caplog.text])


def test_a_webhook_that_is_none(teams: tuple[Teams, TeamsTarget], monkeypatch: pytest.MonkeyPatch) -> None:
    _, target = teams
    order = an_order()
    monkeypatch.setenv("SUST_TEAMS_WEBHOOK", "http://example.org/hook-secret")
    with pytest.raises(TargetRefused, match="no_credentials: SUST_TEAMS_WEBHOOK is no https") as caught:
        target.apply(order, target.preview(order))
    assert caught.value.__context__ is None
    assert "hook-secret" not in str(caught.value)


def test_a_card_too_large_is_refused_in_the_preview(teams: tuple[Teams, TeamsTarget]) -> None:
    _, target = teams
    with pytest.raises(TargetRefused, match="too_large"):
        target.preview(replace(an_order(), facts=FACTS | {"rationale_text": "x" * 30000}))


def test_the_rest_of_the_contract_is_not_for_webhooks() -> None:
    """Which statements a webhook cannot keep; if this list changes, so does the documentation."""
    kept = {"preview_changes_nothing_and_says_it_twice_alike", "nothing_is_found_before", "faults_are_named",
            "secrets_are_nowhere", "request_that_never_arrives_leaves_nothing"}  # fmt: skip
    everything = {name.removeprefix("test_") for name in vars(Contract) if name.startswith("test_")}
    assert everything - kept == {
        "apply_twice_is_once", "a_stored_preview_is_as_good", "lost_reply_then_find_sees_it", "read_back",
        "rollback_twice_is_once", "rollback_with_lost_replies_ends_the_same", "rollback_of_nothing_does_nothing",
        "what_somebody_else_changed_is_not_undone", "any_faults_end_in_one_or_in_none",
    }  # fmt: skip
