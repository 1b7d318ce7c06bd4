"""A forge on loopback: a bare repository behind ``git http-backend`` and the REST calls a pull request needs.

It behaves as the real one does where that matters: a second pull request for a branch is 422, so is one without a
head; tokens are checked on both doors; answers can be lost before or after they took effect; a branch that goes
closes its pull requests; mergeability is what ``git merge-tree`` says.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "ghp_" + "s3cretTokenThatMustNotShow" + "0123456789"
REPOSITORY = "acme/platform"
PERSON = ("Dev", "dev@example.com")


def git(folder: Path, *arguments: str, given: bytes | None = None, **extra: str) -> str:
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder.parent), "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C",
        "GIT_AUTHOR_NAME": PERSON[0], "GIT_AUTHOR_EMAIL": PERSON[1],
        "GIT_COMMITTER_NAME": PERSON[0], "GIT_COMMITTER_EMAIL": PERSON[1], **extra,
    }  # fmt: skip
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, input=given or b"", capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@dataclass
class Forge:
    """The state of the forge; tests read and change it as people would."""

    bare: Path
    pulls: dict[int, dict[str, Any]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    """Every request, its headers and its body: what an eavesdropping log of the server would hold."""
    calls: list[tuple[str, str]] = field(default_factory=list)
    faults: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, part of the path, kind): 'before' and 'after' lose the connection, a number answers with it."""
    url: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)

    # What people do

    def commit(
        self, branch: str, files: Mapping[str, str], message: str = "by a person", start: str | None = None
    ) -> str:
        """A person's commit on a branch, made beside the server."""
        with self.lock:
            parent = self.sha(start or branch)
            index = {"GIT_INDEX_FILE": str(self.bare.parent / "person.index")}
            git(self.bare, "read-tree", parent, **index) if parent else git(self.bare, "read-tree", "--empty", **index)
            for path, text in files.items():
                blob = git(self.bare, "hash-object", "-w", "--stdin", given=text.encode()).strip()
                git(self.bare, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", **index)
            tree = git(self.bare, "write-tree", **index).strip()
            parents = ("-p", parent) if parent else ()
            sha = git(self.bare, "commit-tree", tree, *parents, "-m", message).strip()
            git(self.bare, "update-ref", f"refs/heads/{branch}", sha)
            return sha

    def sha(self, branch: str) -> str | None:
        done = subprocess.run(
            ["git", "--git-dir", str(self.bare), "rev-parse", "--verify", "-q", f"refs/heads/{branch}"],
            capture_output=True, check=False,
        )  # fmt: skip
        return done.stdout.decode().strip() or None

    def text(self, branch: str, path: str) -> str:
        return git(self.bare, "show", f"refs/heads/{branch}:{path}")

    def branches(self) -> set[str]:
        return set(git(self.bare, "for-each-ref", "--format=%(refname:short)", "refs/heads").split())

    def close(self, number: int) -> None:
        self.pulls[number]["state"] = "closed"

    def merge(self, number: int) -> None:
        """Squash: one new commit on the base with the branch's files."""
        pull = self.pulls[number]
        done = subprocess.run(
            ["git", "--git-dir", str(self.bare), "merge-tree", "--write-tree", pull["base"], pull["head"]],
            capture_output=True, check=True,
        )  # fmt: skip
        base = self.sha(pull["base"])
        assert base
        commit = git(self.bare, "commit-tree", done.stdout.decode().split()[0], "-p", base, "-m", pull["title"]).strip()
        git(self.bare, "update-ref", f"refs/heads/{pull['base']}", commit)
        pull.update(state="closed", merged_at="2026-11-22T00:00:00Z", sha=self.sha(pull["head"]))

    def open_pulls(self) -> list[dict[str, Any]]:
        return [p for p in self.pulls.values() if p["state"] == "open"]

    def fault(self, method: str, part: str, kind: str) -> None:
        self.faults.append((method, part, kind))

    # What it answers

    def shown(self, pull: dict[str, Any]) -> dict[str, Any]:
        if pull["state"] == "open":
            pull["sha"] = self.sha(pull["head"]) or pull["sha"]
        sha = pull["sha"]
        merged = subprocess.run(
            ["git", "--git-dir", str(self.bare), "merge-tree", "--write-tree", pull["base"], sha],
            capture_output=True, check=False,
        )  # fmt: skip
        return {
            "number": pull["number"], "html_url": f"https://forge.example/{REPOSITORY}/pull/{pull['number']}",
            "title": pull["title"], "body": pull["body"].replace("\n", "\r\n"), "state": pull["state"],
            "merged_at": pull["merged_at"], "mergeable": merged.returncode == 0,
            "head": {"ref": pull["head"], "sha": sha, "repo": {"full_name": pull["from"]}},
            "base": {"ref": pull["base"], "sha": self.sha(pull["base"])},
            "labels": [{"name": name} for name in pull["labels"]],
        }  # fmt: skip

    def rest(
        self, method: str, path: str, query: Mapping[str, list[str]], content: Any
    ) -> tuple[int, Any, dict[str, str]]:
        prefix = f"/api/repos/{REPOSITORY}/"
        if not path.startswith(prefix):
            return 404, {"message": "Not Found"}, {}
        rest = path.removeprefix(prefix)
        if rest == "pulls":
            return self.list(query) if method == "GET" else self.create(content)
        found = re.fullmatch(r"(pulls|issues)/(\d+)(/labels|/comments)?", rest)
        pull = self.pulls.get(int(found[2])) if found else None
        if found is None or pull is None:
            return 404, {"message": "Not Found"}, {}
        if found[3] == "/labels" and method == "POST":
            pull["labels"] += [name for name in content["labels"] if name not in pull["labels"]]
            return 200, [{"name": name} for name in pull["labels"]], {}
        if found[3] == "/comments":
            if method == "POST":
                pull["comments"].append(content["body"])
                return 201, {"id": len(pull["comments"]), "body": content["body"]}, {}
            return 200, [{"body": body} for body in pull["comments"]], {}
        if method == "PATCH":
            return self.patch(pull, content)
        return 200, self.shown(pull), {}

    def patch(self, pull: dict[str, Any], content: Mapping[str, str]) -> tuple[int, Any, dict[str, str]]:
        if content.get("state") == "open" and pull["merged_at"]:
            return 422, {"message": "Validation Failed", "errors": [{"message": "cannot be reopened"}]}, {}
        pull.update({k: v for k, v in content.items() if k in ("title", "body", "state", "base")})
        return 200, self.shown(pull), {}

    def list(self, query: Mapping[str, list[str]]) -> tuple[int, Any, dict[str, str]]:
        state, head = query.get("state", ["open"])[0], query.get("head", [None])[0]
        size, page = int(query.get("per_page", ["30"])[0]), int(query.get("page", ["1"])[0])
        size = min(size, 2)  # several pages even for few
        found = [
            p
            for p in sorted(self.pulls.values(), key=lambda p: -p["number"])
            if state in ("all", p["state"]) and (head is None or head == f"{p['from'].split('/')[0]}:{p['head']}")
        ]
        headers = {}
        if len(found) > page * size:
            tail = f"&head={head}" if head else ""
            url = f"{self.url}/api/repos/{REPOSITORY}/pulls?state={state}&per_page={size}&page={page + 1}{tail}"
            headers["Link"] = f'<{url}>; rel="next"'
        return 200, [self.shown(p) for p in found[(page - 1) * size : page * size]], headers

    def create(self, content: Mapping[str, str]) -> tuple[int, Any, dict[str, str]]:
        head, base = content["head"], content["base"]
        errors: list[dict[str, str]] = []
        if self.sha(head) is None:
            errors.append({"resource": "PullRequest", "field": "head", "code": "invalid"})
        if self.sha(base) is None:
            errors.append({"resource": "PullRequest", "field": "base", "code": "invalid"})
        if any(p["head"] == head and p["state"] == "open" for p in self.pulls.values()):
            text = f"A pull request already exists for acme:{head}."
            errors.append({"resource": "PullRequest", "code": "custom", "message": text})
        if len(content["body"]) > 65536:
            errors.append({"resource": "PullRequest", "field": "body", "code": "custom", "message": "body is too long"})
        if errors:
            return 422, {"message": "Validation Failed", "errors": errors}, {}
        return 201, self.shown(self.add(head, content["title"], content["body"], base)), {}

    def add(self, head: str, title: str, body: str, base: str = "main", source: str = REPOSITORY) -> dict[str, Any]:
        number = len(self.pulls) + 1
        self.pulls[number] = {
            "number": number, "head": head, "base": base, "title": title, "body": body, "state": "open",
            "merged_at": None, "labels": [], "comments": [], "sha": self.sha(head) or self.sha(base), "from": source,
        }  # fmt: skip
        return self.pulls[number]

    def branch_gone(self) -> None:
        for pull in self.open_pulls():
            if self.sha(pull["head"]) is None and pull["from"] == REPOSITORY:
                pull["state"] = "closed"


class Handler(BaseHTTPRequestHandler):
    """One request; ``server.forge`` is the state."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    @property
    def forge(self) -> Forge:
        return self.server.forge  # type: ignore[attr-defined]

    def log_message(self, *args: Any) -> None:
        """Requests are in ``forge.log``, not on stderr."""

    def do_GET(self) -> None:
        self.serve()

    do_POST = do_PATCH = do_DELETE = do_GET

    def serve(self) -> None:
        content = self.content()
        with self.forge.lock:
            self.forge.calls.append((self.command, self.path))
            self.forge.log.append(f"{self.command} {self.path} {content[:2000]!r}")
            kind = self.fault()
            if kind == "before":
                self.drop()
                return
            if kind in ("403", "429"):
                headers = (
                    {"retry-after": "7"} if kind == "429" else {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1"}
                )
                self.answer(int(kind), {"message": "You have exceeded a secondary rate limit"}, headers)
                return
            if kind.isdigit():
                self.answer(int(kind), {"message": "fault"}, {})
                return
            if ".git/" in self.path:
                status, headers, body = self.http_backend(content)
                self.forge.branch_gone()
            else:
                status, headers, body = self.rest(content)
            if kind == "after":
                self.drop()
                return
            self.send(status, headers, body)

    def fault(self) -> str:
        for fault in self.forge.faults:
            if fault[0] == self.command and fault[1] in self.path:
                self.forge.faults.remove(fault)
                return fault[2]
        return ""

    def content(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def drop(self) -> None:
        self.close_connection = True
        self.connection.close()

    def rest(self, content: bytes) -> tuple[int, dict[str, str], bytes]:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {}, b'{"message": "Bad credentials"}'
        parts = urlsplit(self.path)
        status, answer, headers = self.forge.rest(
            self.command, parts.path, parse_qs(parts.query), json.loads(content) if content else None
        )
        return status, headers, json.dumps(answer).encode()

    def http_backend(self, content: bytes) -> tuple[int, dict[str, str], bytes]:
        pair = base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {pair}":
            return 401, {"WWW-Authenticate": 'Basic realm="forge"'}, b""
        parts = urlsplit(self.path)
        environment = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(self.forge.bare.parent), "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": parts.path.removeprefix("/acme"), "QUERY_STRING": parts.query, "REMOTE_USER": "person",
            "REQUEST_METHOD": self.command, "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(content)), "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""), "GIT_CONFIG_NOSYSTEM": "1",
            "HOME": str(self.forge.bare.parent),
        }  # fmt: skip
        done = subprocess.run(["git", "http-backend"], input=content, env=environment, capture_output=True, check=True)
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        return int(headers.pop("Status", "200").split()[0]), headers, body

    def answer(self, status: int, content: Any, headers: Mapping[str, str]) -> None:
        self.send(status, headers, json.dumps(content).encode())

    def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was dropped on purpose is not told on stderr."""


def template_repository(folder: Path, files: Mapping[str, str]) -> Path:
    """A bare repository with one commit, to be copied for each test."""
    bare = folder / "platform.git"
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q", "--bare", "-b", "main", str(bare))
    git(bare, "config", "http.receivepack", "true")
    Forge(bare).commit("main", files, "first")
    return bare


@contextmanager
def serving(template: Path, folder: Path) -> Iterator[Forge]:
    """A forge with a copy of the template."""
    bare = folder / "server" / "platform.git"
    shutil.copytree(template, bare)
    forge = Forge(bare)
    server = Server(("127.0.0.1", 0), Handler)
    server.forge = forge  # type: ignore[attr-defined]
    forge.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield forge
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
