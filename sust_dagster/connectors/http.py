"""JSON over HTTP, as every target that has an API talks to it.

Belongs here: credentials from the environment, timeouts, what an answer's status means for the one who asked
(:class:`TargetRefused`, :class:`TargetUnavailable`), and that no secret gets into a message or a log. Does not belong
here: what any one API calls its things, and whether a call is made again (the execution desk).

A call is made once. Redirects are not followed, ``.netrc`` is not read. A message names the service and the path,
never a header, a query or a secret; where the address itself is the secret (a webhook) the path is left out too.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from sust_dagster.connectors.targets import TargetRefused, TargetUnavailable

#: Seconds to connect, seconds of silence, and seconds for the whole answer.
CONNECT_SECONDS, SILENCE_SECONDS, TOTAL_SECONDS = 5.0, 20.0, 60.0
#: An answer longer than this is no answer to anything asked here.
MAX_ANSWER_BYTES = 16 * 2**20

_TRY_LATER = frozenset({408, 423, 425, 429})
_REASONS = {400: "invalid", 401: "unauthorized", 403: "forbidden", 404: "not_found", 409: "conflict", 410: "gone",
            413: "too_large", 422: "invalid"}  # fmt: skip
_HIDDEN = "***"
_NOT_JSON = object()


@dataclass(frozen=True)
class Secret:
    """Where a credential is; it is read at every call, so that a renewed one is used, and it is never kept."""

    variable: str
    """Environment variable."""
    path: str | None = None
    """File to read when the variable is not set, such as a mounted service account token."""

    def read(self) -> str:
        """The credential; refuses (``no_credentials``) when there is none."""
        value = os.environ.get(self.variable, "").strip()
        if not value and self.path is not None and Path(self.path).is_file():
            value = Path(self.path).read_text().strip()
        if not value:
            where = f"{self.variable} is not set" + (f" and {self.path} is not there" if self.path else "")
            raise TargetRefused("no_credentials", f"{where}; set {self.variable} in the environment of the worker")
        if not value.isprintable() or not value.isascii():
            raise TargetRefused("no_credentials", f"{self.variable} holds something that is no credential; set it anew")
        return value


@dataclass(frozen=True)
class Answer:
    """A status, the JSON of the body (None when empty) and the headers."""

    status: int
    body: Any
    headers: Mapping[str, str]

    def retry_after(self) -> float | None:
        """Seconds to wait, as ``Retry-After`` says: a number, or a date against the answer's own ``Date``."""
        said = self.headers.get("Retry-After", "").strip()
        try:
            return max(0.0, float(said))
        except ValueError:
            pass
        try:
            until, now = parsedate_to_datetime(said), parsedate_to_datetime(self.headers.get("Date", ""))
            return max(0.0, (until - now).total_seconds())
        except (TypeError, ValueError):
            return None


class _Header(AuthBase):
    """Sets the headers that carry credentials; also keeps requests from looking for others in ``.netrc``."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        r.headers.update(self._headers)
        return r


class _Hide(logging.Filter):
    """Takes paths that are secrets out of what the HTTP library logs."""

    def __init__(self) -> None:
        super().__init__()
        self.secrets: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if any(s in text for s in self.secrets):
            for secret in self.secrets:
                text = text.replace(secret, _HIDDEN)
            record.msg, record.args = text, ()
        return True


_HIDE = _Hide()
logging.getLogger("urllib3.connectionpool").addFilter(_HIDE)


@dataclass(frozen=True)
class Api:
    """One service. ``credentials`` gives the headers that carry them and every secret in them, at each call."""

    name: str
    """For messages: ``Jira``, ``Kubernetes``."""
    base_url: str = field(repr=False)
    credentials: Callable[[], tuple[Mapping[str, str], Collection[str]]] = lambda: ({}, ())
    verify: bool | str = True
    """False never: True, or a file of certificate authorities."""
    url_is_secret: bool = False
    seconds: tuple[float, float, float] = (CONNECT_SECONDS, SILENCE_SECONDS, TOTAL_SECONDS)

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        loopback = parts.hostname in ("127.0.0.1", "localhost", "::1")
        if parts.scheme != "https" and not (parts.scheme == "http" and loopback):
            raise ValueError(f"{self.name}: the address must start with https:// (http:// for this machine only)")
        if parts.username or parts.password:
            raise ValueError(f"{self.name}: no credentials in the address; set them in the environment")

    def call(
        self,
        method: str,
        path: str = "",
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        allow: Collection[int] = (),
        reasons: Mapping[int, str] | None = None,
    ) -> Answer:
        """One call. Answers other than 2xx and ``allow`` raise; ``reasons`` names a status as this API means it."""
        headers, secrets = self.credentials()
        hidden = {*secrets}
        if self.url_is_secret:
            hidden |= {self.base_url, _path_of(self.base_url)}
            _HIDE.secrets.add(_path_of(self.base_url))
        what = f"{self.name}: {method}" if self.url_is_secret else f"{self.name}: {method} {path or '/'}"
        fault: str | None = None
        status, raw, answered = 0, b"", {}
        try:
            status, raw, answered = self._exchange(method, path, params, body, content_type, headers)
        except requests.Timeout:
            fault = "no answer in time"
        except (requests.RequestException, OSError) as error:
            fault = f"no answer ({type(error).__name__})"
        if fault is not None:  # outside the handler: the library's error holds the address
            raise TargetUnavailable(f"{what}: {fault}; whether it took effect is not known")
        answer = Answer(status, _json(raw), answered)
        if answer.body is _NOT_JSON and 200 <= status < 300:
            raise TargetUnavailable(f"{what}: {status} with an answer that is not JSON")
        if 200 <= status < 300 or status in allow:
            return answer if answer.body is not _NOT_JSON else Answer(status, None, answered)
        said = self.clean(message_of(answer.body), hidden)
        text = f"{what}: {status}" + (f", {said}" if said else "")
        if status in _TRY_LATER or status >= 500:
            raise TargetUnavailable(text, retry_after_seconds=answer.retry_after())
        if 300 <= status < 400:
            raise TargetRefused("redirected", f"{text}; the address is not the API's own, correct it")
        raise TargetRefused({**_REASONS, **(reasons or {})}.get(status, "refused"), text)

    def _exchange(
        self, method: str, path: str, params: Mapping[str, str] | None, body: Any, content_type: str,
        headers: Mapping[str, str],
    ) -> tuple[int, bytes, Mapping[str, str]]:  # fmt: skip
        connect, silence, total = self.seconds
        until = time.monotonic() + total
        with requests.request(
            method, self.base_url + path, params=params,
            data=None if body is None else json.dumps(body, ensure_ascii=False, allow_nan=False).encode(),
            headers={"Accept": "application/json", **({} if body is None else {"Content-Type": content_type})},
            auth=_Header(headers), timeout=(connect, silence), allow_redirects=False, verify=self.verify, stream=True,
        ) as response:  # fmt: skip
            raw = bytearray()
            for chunk in response.iter_content(65536):
                raw += chunk
                if len(raw) > MAX_ANSWER_BYTES:
                    raise requests.ConnectionError("answer too long")
                if time.monotonic() > until:
                    raise requests.Timeout("answer too slow")
            return response.status_code, bytes(raw), response.headers

    @staticmethod
    def clean(text: str, secrets: Collection[str]) -> str:
        """``text`` without the secrets, in one line of bounded length."""
        for secret in sorted((s for s in secrets if s), key=len, reverse=True):
            text = text.replace(secret, _HIDDEN)
        return " ".join(text.split())[:600]


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw.strip() else None
    except ValueError:
        return _NOT_JSON


def _path_of(url: str) -> str:
    parts = urlsplit(url)
    return parts.path + (f"?{parts.query}" if parts.query else "")


def bearer(secret: Secret) -> Callable[[], tuple[Mapping[str, str], Collection[str]]]:
    """Credentials as ``Authorization: Bearer``."""

    def headers() -> tuple[Mapping[str, str], Collection[str]]:
        token = secret.read()
        return {"Authorization": f"Bearer {token}"}, (token,)

    return headers


def message_of(body: Any) -> str:
    """What an answer says was wrong, in the shapes APIs have for it."""
    if not isinstance(body, dict):
        return ""
    said: list[str] = []
    for key in ("message", "error", "errorMessages", "errors"):
        value = body.get(key)
        if isinstance(value, str):
            said.append(value)
        elif isinstance(value, list):
            said += [v if isinstance(v, str) else message_of(v) for v in value]
        elif isinstance(value, dict):
            said += [f"{k}: {v}" for k, v in value.items()]
    return "; ".join(s for s in said if s)
