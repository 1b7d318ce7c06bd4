"""Calls to outside systems: what a status means, what is never followed, read or said."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from target_doubles import Call, Double, Reply

from sust_dagster.connectors import http
from sust_dagster.connectors.http import Api, Secret, bearer, message_of
from sust_dagster.connectors.targets import TargetRefused, TargetUnavailable


@dataclass
class Echo(Double):
    reply: Reply = (200, {"ok": 1}, {})
    sleep: float = 0.0

    def answer(self, call: Call) -> Reply:
        time.sleep(self.sleep)
        return self.reply


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Echo, Api]]:
    monkeypatch.setenv("A_TOKEN", "s3cret-value")
    double = Echo()
    with double.serve() as url:
        yield double, Api("Echo", url, bearer(Secret("A_TOKEN")), seconds=(1.0, 0.3, 1.0))


@pytest.mark.parametrize(
    ("status", "says"),
    [(200, 200), (204, 204), (400, "invalid"), (401, "unauthorized"), (403, "forbidden"), (404, "named"), (408, None),
     (409, "conflict"), (410, "gone"), (413, "too_large"), (418, "refused"), (422, "invalid"), (423, None), (425, None),
     (429, None), (500, None), (502, None), (503, None), (504, None), (301, "redirected"), (307, "redirected")],
)  # fmt: skip
def test_what_a_status_means(echo: tuple[Echo, Api], status: int, says: Any) -> None:
    double, api = echo
    double.reply = (
        status,
        None if status in (204, 301, 307) else {"message": "why"},
        {"Location": "http://127.0.0.1:9/"},
    )
    try:
        heard: Any = api.call("GET", "/x", reasons={404: "named"}).status
    except TargetRefused as refused:
        heard = refused.reason
    except TargetUnavailable:
        heard = None
    assert heard == says
    assert len(double.calls) == 1, "made once, not followed, not repeated"


def test_an_answer_that_echoes_the_secret(echo: tuple[Echo, Api]) -> None:
    double, api = echo
    double.reply = (400, {"errors": [{"message": "bad header\nBearer s3cret-value"}]}, {})
    with pytest.raises(TargetRefused) as refused:
        api.call("POST", "/x", body={})
    assert str(refused.value) == "invalid: Echo: POST /x: 400, bad header Bearer ***"


def test_silence_is_no_answer(echo: tuple[Echo, Api]) -> None:
    double, api = echo
    double.sleep = 0.6
    with pytest.raises(TargetUnavailable, match="no answer in time; whether it took effect is not known") as caught:
        api.call("POST", "/x", body={})
    assert caught.value.__context__ is None


def test_an_answer_without_end_is_none(echo: tuple[Echo, Api], monkeypatch: pytest.MonkeyPatch) -> None:
    double, api = echo
    monkeypatch.setattr(http, "MAX_ANSWER_BYTES", 1000)
    double.reply = (200, {"x": "y" * 2000}, {})
    with pytest.raises(TargetUnavailable):
        api.call("GET", "/x")


def test_netrc_is_not_read(echo: tuple[Echo, Api], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    double, api = echo
    (tmp_path / "netrc").write_text("default login dana password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    api.call("GET", "/x")
    Api("Echo", api.base_url).call("GET", "/x")
    assert [c.headers.get("authorization") for c in double.calls] == ["Bearer s3cret-value", None]


@pytest.mark.parametrize("value", ["", "  ", "a\nb", "gehe\u0259im"])
def test_what_is_no_credential(echo: tuple[Echo, Api], monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    double, api = echo
    monkeypatch.setenv("A_TOKEN", value)
    with pytest.raises(TargetRefused, match="no_credentials: A_TOKEN"):
        api.call("GET", "/x")
    assert double.calls == []


@pytest.mark.parametrize("url", ["http://example.org", "ftp://example.org", "example.org", "https://u:p@example.org"])
def test_addresses_that_are_not_taken(url: str) -> None:
    with pytest.raises(ValueError, match="Echo") as caught:
        Api("Echo", url)
    assert "u:p" not in str(caught.value)


def test_messages_of_all_shapes() -> None:
    assert message_of({"errorMessages": ["a"], "errors": {"summary": "b"}}) == "a; summary: b"
    assert message_of({"errors": [{"message": "a"}, "b"]}) == "a; b"
    assert message_of({"error": {"code": "c", "message": "d"}}) == "code: c; message: d"
    assert message_of(["x"]) == message_of(None) == ""


def test_dates_and_numbers_in_retry_after() -> None:
    def wait(**headers: str) -> float | None:
        return http.Answer(429, None, {k.replace("_", "-"): v for k, v in headers.items()}).retry_after()

    assert wait(Retry_After="2.5") == 2.5
    assert wait(Retry_After="-3") == 0.0
    now, later = "Wed, 07 Jan 2026 10:00:00 GMT", "Wed, 07 Jan 2026 10:01:00 GMT"
    assert wait(Retry_After=later, Date=now) == 60.0
    assert wait(Retry_After=now, Date=later) == 0.0
    assert wait(Retry_After="soon") is wait() is None
