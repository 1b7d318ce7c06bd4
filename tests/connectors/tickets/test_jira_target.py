"""Jira tickets: the contract of a target, the search that lags, and what people do to tickets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from jira_double import GOOD, Jira, adf_fault
from target_contract import FACTS, Case, Contract, an_order

from sust_dagster.connectors.targets import TargetRefused, TargetUnavailable
from sust_dagster.connectors.tickets.jira import JiraTarget

TOKEN = "jira-token-77"


@pytest.fixture
def jira(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Jira, JiraTarget]]:
    monkeypatch.setenv("SUST_JIRA_USER", "dana@example.org")
    monkeypatch.setenv("SUST_JIRA_TOKEN", TOKEN)
    double = Jira()
    with double.serve() as url:
        yield double, JiraTarget(url, "OPS")


def tamper(double: Jira) -> None:
    double.issues["OPS-1"]["fields"]["summary"] = "something else"


@pytest.fixture
def case(jira: tuple[Jira, JiraTarget]) -> Case:
    double, target = jira
    return Case(
        target, double, (double.basic.removeprefix("Basic "),), lambda: tamper(double), lambda: len(double.issues)
    )


class TestContract(Contract):
    pass


class TestContractWithStatus(Contract):
    @pytest.fixture
    def case(self, case: Case) -> Case:
        return replace(case, target=replace(case.target, withdrawn_status="Declined"))  # type: ignore[type-var]


def made(target: JiraTarget, number: int = 1) -> tuple[Any, Any, Any]:
    order = an_order(number)
    preview = target.preview(order)
    return order, preview, target.apply(order, preview)


def test_what_the_ticket_says(jira: tuple[Jira, JiraTarget]) -> None:
    double, target = jira
    order, _, applied = made(target)
    assert applied.ref == f"{target.base_url}/browse/OPS-1"
    fields = double.issues["OPS-1"]["fields"]
    assert fields["summary"] == "nightly-train: start 3 h later"
    assert fields["labels"] == ["sust", f"sust-{order.intent_id.replace('-', '')[:12]}"]
    bold = fields["description"]["content"][0]["content"][0]
    assert bold["text"] == ("nightly-train: −41.2 kg CO₂e (likely −52.0 to −29.0), cost +3.20 USD, risk low.")
    assert bold["marks"] == [{"type": "strong"}]
    assert f"sust approve {order.recommendation_id}" in str(fields["description"])


def test_what_is_not_estimated_is_said_so(jira: tuple[Jira, JiraTarget]) -> None:
    _, target = jira
    facts = {"est_carbon_delta_kg": float("nan"), "risk_level": None}
    text = target.preview(replace(an_order(), facts=facts)).text
    assert "nightly-train: carbon not estimated, cost not estimated, risk not assessed." in text


def test_the_document_is_checked_by_the_double() -> None:
    """Negative control."""
    assert adf_fault({"type": "doc", "version": 1, "content": [{"type": "paragraph", "content": []}]})
    assert adf_fault({"type": "paragraph", "content": [{"type": "text", "text": "x"}]})
    assert adf_fault(GOOD) is None


def test_an_older_text_of_our_own_is_renewed_in_place(jira: tuple[Jira, JiraTarget]) -> None:
    double, target = jira
    order, _, _ = made(target)
    newer = replace(order, facts=FACTS | {"est_cost_delta_usd": 9.0})
    preview = target.preview(newer)
    applied = target.apply(newer, preview)
    assert len(double.issues) == 1
    assert "9.00 USD" in str(double.issues["OPS-1"]["fields"]["description"])
    assert target.read_back(newer, preview, applied) == ()


def test_status_comments_and_labels_are_the_peoples(jira: tuple[Jira, JiraTarget]) -> None:
    double, target = jira
    order, preview, applied = made(target)
    double.issues["OPS-1"]["fields"] |= {
        "status": {"name": "Done"},
        "labels": [*double.issues["OPS-1"]["fields"]["labels"], "x"],
    }
    assert target.read_back(order, preview, applied) == ()
    target.rollback(order, preview)
    assert "sust-withdrawn" in double.issues["OPS-1"]["fields"]["labels"]


def test_a_clone_is_not_taken_for_ours(jira: tuple[Jira, JiraTarget]) -> None:
    double, target = jira
    order, preview, applied = made(target)
    double.issues["OPS-2"] = double.issues["OPS-1"] | {"id": "9000", "key": "OPS-2", "properties": {}}
    assert target.find(order, preview) == applied
    assert target.read_back(order, preview, applied) == ()


def test_a_second_ticket_made_while_the_search_lagged_is_withdrawn(jira: tuple[Jira, JiraTarget]) -> None:
    double, target = jira
    order, preview, first = made(target)
    double.young["OPS-1"] = 1
    second = target.apply(order, preview)
    assert second.ref.endswith("OPS-2"), "this is what Jira cannot rule out"
    assert target.read_back(order, preview, first) == ("OPS-2 is a second ticket of it",)
    assert target.read_back(order, preview, second) == ("OPS-1 is a second ticket of it",)
    assert target.apply(order, preview) == first
    assert target.read_back(order, preview, first) == ()
    assert "OPS-1" in double.comments["OPS-2"][0]


def test_the_search_is_waited_for(jira: tuple[Jira, JiraTarget]) -> None:
    double, target = jira
    double.lag = 3
    order, preview, applied = made(replace(target, waits=(0.0,) * 5))
    assert target.find(order, preview) == applied
    double.lag = 100
    other, second, applied = made(replace(target, waits=(0.0,) * 5), 2)
    assert target.find(other, second) is None, "negative control: the index does not have it"
    assert target.read_back(other, second, applied) == ()


def test_withdrawn_stays_withdrawn(jira: tuple[Jira, JiraTarget]) -> None:
    _, target = jira
    order, preview, _ = made(target)
    target.rollback(order, preview)
    with pytest.raises(TargetRefused, match="withdrawn"):
        target.apply(order, preview)


def test_a_status_that_cannot_be_reached_is_named(jira: tuple[Jira, JiraTarget]) -> None:
    _, target = jira
    target = replace(target, withdrawn_status="Archived")
    order, preview, _ = made(target)
    with pytest.raises(TargetRefused, match=r"no_transition.*only to: Done, Declined"):
        target.rollback(order, preview)


def test_refusals(jira: tuple[Jira, JiraTarget], monkeypatch: pytest.MonkeyPatch) -> None:
    _, target = jira
    with pytest.raises(TargetRefused, match="unknown_project"):
        replace(target, project="NOPE").preview(an_order())
    wrong = replace(target, issue_type="Saga")
    with pytest.raises(TargetRefused, match=r"invalid.*issuetype: Specify a valid issue type"):
        wrong.apply(an_order(), wrong.preview(an_order()))
    with pytest.raises(ValueError, match="no project key"):
        JiraTarget(target.base_url, 'OPS" OR 1')
    monkeypatch.delenv("SUST_JIRA_TOKEN")
    with pytest.raises(TargetRefused, match="no_credentials: SUST_JIRA_TOKEN is not set"):
        target.preview(an_order())


def test_a_date_in_retry_after(jira: tuple[Jira, JiraTarget]) -> None:
    double, target = jira
    double.faults = [
        (429, {}, {"Date": "Wed, 07 Jan 2026 10:00:00 GMT", "Retry-After": "Wed, 07 Jan 2026 10:01:30 GMT"})
    ]
    with pytest.raises(TargetUnavailable) as caught:
        target.preview(an_order())
    assert caught.value.retry_after_seconds == 90.0
