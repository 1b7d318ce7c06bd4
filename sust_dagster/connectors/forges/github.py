"""The part of GitHub's REST interface that pull requests need; GitHub Enterprise and other compatible forges alike.

Belongs here: the calls, their errors as refusals or as 'try later', pages, rate limits. Does not belong here: what a
pull request says (``pull_request``), git itself (``git_repo``).

Reads are repeated here when the connection fails; writes never are, since one without an answer may have taken
effect: whoever asked looks first. The token is sent in a header, and shown nowhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from pydantic import SecretStr
from requests.auth import AuthBase
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from sust_dagster.connectors.targets import TargetRefused, TargetUnavailable

TOKEN_VARIABLE = "SUST_GITHUB_TOKEN"  # noqa: S105 - the name of a variable
API_VARIABLE = "SUST_GITHUB_API_URL"
PUBLIC_API = "https://api.github.com"

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_MOST_PAGES = 20


class Unprocessable(TargetRefused):
    """422: the forge understood and will not. ``messages`` are its own words."""

    def __init__(self, text: str, messages: Sequence[str]) -> None:
        self.messages = tuple(messages)
        super().__init__("unprocessable", text)


class _Bearer(AuthBase):
    """Sets the header itself, so that no netrc file is asked."""

    def __init__(self, token: SecretStr) -> None:
        self._token = token

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        r.headers["Authorization"] = f"Bearer {self._token.get_secret_value()}"
        return r


@dataclass(frozen=True)
class PullRequest:
    """A pull request as the forge has it."""

    number: int
    url: str
    title: str
    body: str
    state: str
    """open or closed."""
    merged: bool
    head: str
    head_sha: str
    base: str
    labels: tuple[str, ...] = ()
    head_repository: str = ""
    """owner/name of the repository the branch is in: another one for a fork, empty where the forge does not say."""


def token_from_environment() -> SecretStr:
    """The token. Refused (``no_credentials``) where it is not set."""
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token:
        raise TargetRefused(
            "no_credentials", f"{TOKEN_VARIABLE} is not set; set it to a token that may write pull requests"
        )
    if re.search(r"[\s\x00-\x1f\x7f]", token):
        raise TargetRefused("no_credentials", f"{TOKEN_VARIABLE} holds white space; set it to the token alone")
    return SecretStr(token)


class GitHubClient:
    """One repository of a forge, over its REST interface."""

    def __init__(
        self, repository: str, token: SecretStr, *, api_url: str = PUBLIC_API, timeout_seconds: float = 30,
        read_attempts: int = 3, longest_wait_seconds: float = 2.0,
    ) -> None:  # fmt: skip
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
            raise ValueError(f"repository {repository!r}: write it as owner/name")
        parts = urlsplit(api_url)
        if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
            raise ValueError(f"{API_VARIABLE}: a token is only sent over https")
        self.repository, self.api_url = repository, api_url.rstrip("/")
        self._timeout = timeout_seconds
        self._session = requests.Session()
        self._session.auth = _Bearer(token)
        self._session.headers.update(
            {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28", "User-Agent": "sust"}
        )
        self._attempts, self._longest_wait = read_attempts, longest_wait_seconds

    @classmethod
    def from_environment(cls, repository: str) -> GitHubClient:
        """With ``SUST_GITHUB_TOKEN``, at ``SUST_GITHUB_API_URL`` (GitHub itself by default)."""
        return cls(repository, token_from_environment(), api_url=os.environ.get(API_VARIABLE) or PUBLIC_API)

    @property
    def owner(self) -> str:
        return self.repository.split("/")[0]

    # Pull requests

    def pull_requests(self, *, state: str = "open", branch: str | None = None) -> tuple[PullRequest, ...]:
        """Pull requests from branches of the repository itself, newest first; of one branch where it is named."""
        query = {"state": state, "per_page": "100", "sort": "created", "direction": "desc"}
        if branch is not None:
            query["head"] = f"{self.owner}:{branch}"
        found = (_pull_request(item) for item in self._pages("pulls", query))
        # A forge that does not know the filter answers with everything.
        ours = (p for p in found if p.head_repository.lower() in ("", self.repository.lower()))
        return tuple(p for p in ours if branch is None or p.head == branch)

    def pull_request(self, number: int) -> PullRequest:
        return _pull_request(self._read(f"pulls/{number}"))

    def create(self, *, title: str, body: str, branch: str, base: str) -> PullRequest:
        """A new pull request; where there already is an open one for the branch, that one."""
        try:
            made = self._write("POST", "pulls", {"title": title, "body": body, "head": branch, "base": base})
        except Unprocessable as error:
            if not any("already exists" in message for message in error.messages):
                raise
            open_ones = self.pull_requests(branch=branch)
            if not open_ones:
                raise
            return open_ones[0]
        return _pull_request(made)

    def update(self, number: int, **fields: str) -> PullRequest:
        """Set title, body or state of a pull request."""
        return _pull_request(self._write("PATCH", f"pulls/{number}", fields))

    def close(self, number: int, *, body: str) -> PullRequest:
        """Close a pull request and say so in its body, in one call."""
        return self.update(number, state="closed", body=body)

    def add_labels(self, number: int, labels: Sequence[str]) -> None:
        """Labels a pull request has from now on; those it already has stay."""
        self._write("POST", f"issues/{number}/labels", {"labels": list(labels)})

    def comments(self, number: int) -> tuple[str, ...]:
        """Bodies of a pull request's comments, oldest first."""
        return tuple(str(c.get("body") or "") for c in self._pages(f"issues/{number}/comments", {"per_page": "100"}))

    def comment(self, number: int, body: str) -> None:
        """Add a comment."""
        self._write("POST", f"issues/{number}/comments", {"body": body})

    # Calls

    def _pages(self, path: str, query: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
        address: str | None = path
        given: Mapping[str, str] | None = query
        for _ in range(_MOST_PAGES):
            if address is None:
                return
            response = self._repeated(address, given)
            items = self._json(response)
            if not isinstance(items, list):
                raise TargetUnavailable(f"GET {path}: the forge's answer is not a list")
            yield from items
            following = response.links.get("next", {}).get("url")
            if following and urlsplit(following)[:2] != urlsplit(self.api_url)[:2]:
                raise TargetRefused("moved", "the next page is on another server; correct the API address")
            address, given = following, None
        raise TargetRefused("too_much", f"GET {path}: more than {_MOST_PAGES} pages")

    def _read(self, path: str) -> Mapping[str, Any]:
        return self._object(self._repeated(path, None), f"GET {path}")

    def _write(self, method: str, path: str, content: Mapping[str, Any]) -> Mapping[str, Any]:
        response = self._once(method, path, json=content)
        if isinstance(self._json(response), list):
            return {}
        return self._object(response, f"{method} {path}")

    def _repeated(self, path: str, query: Mapping[str, str] | None) -> requests.Response:
        retrying = Retrying(
            stop=stop_after_attempt(self._attempts), retry=retry_if_exception_type(_Failed),
            wait=wait_random_exponential(multiplier=0.2, max=self._longest_wait), reraise=True,
        )  # fmt: skip
        return retrying(self._once, "GET", path, params=query)

    def _once(self, method: str, path: str, **arguments: Any) -> requests.Response:
        base = f"{self.api_url}/repos/{self.repository}"
        address = path if path.startswith("http") else f"{base}/{quote(path)}"
        shown = f"{method} {urlsplit(address).path}"
        try:
            response = self._session.request(method, address, timeout=self._timeout, allow_redirects=False, **arguments)
        except requests.RequestException as error:
            raise _Failed(f"{shown}: no answer ({type(error).__name__})") from None
        self._judge(response, shown)
        return response

    def _judge(self, response: requests.Response, shown: str) -> None:
        status = response.status_code
        if status < 300:
            return
        if status in (403, 429) and _is_limit(response):
            raise TargetUnavailable(f"{shown}: rate limit", retry_after_seconds=_retry_after(response))
        if status >= 500 or status in (408, 425):
            raise _Failed(f"{shown}: {status}", retry_after_seconds=_retry_after(response))
        messages = _messages(response)
        said = "; ".join(messages)[:300]
        if status == 422:
            raise Unprocessable(f"{shown}: {said}", messages)
        if status < 400:
            raise TargetRefused("moved", f"{shown}: the repository has moved; correct its name")
        reasons = {401: "bad_credentials", 403: "no_permission", 404: "not_found", 409: "conflict", 410: "not_found"}
        fixes = {401: f"check {TOKEN_VARIABLE}", 403: f"check what {TOKEN_VARIABLE} may do"}
        fix = fixes.get(status, "check the repository's name and that the token may see it")
        raise TargetRefused(reasons.get(status, "unexpected_answer"), f"{shown}: {status} {said}; {fix}")

    def _json(self, response: requests.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            raise TargetUnavailable(f"{response.request.method}: the forge's answer is not JSON") from None

    def _object(self, response: requests.Response, shown: str) -> Mapping[str, Any]:
        content = self._json(response)
        if not isinstance(content, dict):
            raise TargetUnavailable(f"{shown}: the forge's answer is not an object")
        return content


class _Failed(TargetUnavailable):
    """No connection, a broken one, or a fault of the server."""


def _pull_request(item: Mapping[str, Any]) -> PullRequest:
    try:
        return PullRequest(
            number=int(item["number"]), url=str(item["html_url"]), title=str(item["title"]),
            body=str(item.get("body") or "").replace("\r\n", "\n"), state=str(item["state"]),
            merged=bool(item.get("merged_at")), head=str(item["head"]["ref"]), head_sha=str(item["head"]["sha"]),
            base=str(item["base"]["ref"]), labels=tuple(str(label["name"]) for label in item.get("labels") or ()),
            head_repository=str((item["head"].get("repo") or {}).get("full_name") or ""),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise TargetUnavailable(f"the forge's pull request lacks {error}") from None


def _messages(response: requests.Response) -> list[str]:
    try:
        content = response.json()
    except ValueError:
        return []
    if not isinstance(content, dict):
        return []
    errors = content.get("errors") or ()
    inner = (
        str(e.get("message") or f"{e.get('field')} {e.get('code')}") if isinstance(e, dict) else str(e) for e in errors
    )
    return [str(content.get("message", "")), *inner]


def _is_limit(response: requests.Response) -> bool:
    if response.status_code == 429 or "retry-after" in response.headers:
        return True
    if response.headers.get("x-ratelimit-remaining") == "0":
        return True
    return bool(re.search(r"rate limit|abuse", " ".join(_messages(response)), re.IGNORECASE))


def _retry_after(response: requests.Response) -> float | None:
    """Seconds to wait, by the forge's own clock."""
    given = response.headers.get("retry-after")
    try:
        if given is not None:
            return max(float(given), 0.0)
        reset, date = response.headers.get("x-ratelimit-reset"), response.headers.get("date")
        if reset and date and response.headers.get("x-ratelimit-remaining") == "0":
            return max(float(reset) - parsedate_to_datetime(date).timestamp(), 0.0)
    except (TypeError, ValueError):
        return None
    return None
