"""A remote git repository, through the git program: files at a commit, commits made without a checkout, guarded pushes.

Belongs here: fetching, reading, committing, merging in memory, pushing with a lease, and how the token reaches git.
Does not belong here: pull requests (``github``), what is committed (``changes``).

The token goes to git in its environment, as configuration for this one address; never in an argument, an address, a
file or a message. No configuration, hook or filter of this computer's user or of the repository takes part.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from sust_dagster.connectors.targets import TargetRefused, TargetUnavailable

INTENT_TRAILER = "Sust-Intent"

_KEPT_VARIABLES = (
    "PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "http_proxy", "https_proxy", "no_proxy",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SYSTEMROOT",
)  # fmt: skip
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_REGULAR = ("100644", "100755")


class BranchMoved(TargetUnavailable):
    """Somebody pushed to the branch between our look and our push: look again."""


@dataclass(frozen=True)
class Author:
    """Who our commits are by; commits by anybody else on a branch of ours are people's."""

    name: str = "Sust"
    email: str = "sust@users.noreply.github.com"


@dataclass(frozen=True)
class Blob:
    """A file at a commit."""

    mode: str
    sha: str


class GitRepo:
    """A remote repository and a bare copy of it in a temporary folder, gone with the object."""

    def __init__(
        self, url: str, *, token: SecretStr | None = None, author: Author | None = None, timeout_seconds: float = 120
    ) -> None:
        parts = urlsplit(url)
        if parts.username or parts.password:
            raise ValueError("the address of the repository holds credentials; set SUST_GITHUB_TOKEN instead")
        if token is not None and parts.scheme != "https" and (parts.hostname or "localhost") not in _LOOPBACK:
            raise ValueError(f"a token is not sent over {parts.scheme or 'a path'}; use an https address")
        self.url = url
        self.author = author or Author()
        self._timeout = timeout_seconds
        self._token = token
        self._temp = tempfile.TemporaryDirectory(prefix="sust-git-", ignore_cleanup_errors=True)
        self.folder = Path(self._temp.name) / "repository.git"
        self._git("init", "--quiet", "--bare", str(self.folder), inside=False)

    def close(self) -> None:
        """Remove the copy."""
        self._temp.cleanup()

    # Looking

    def fetch(self, base: str, branch: str) -> tuple[str, str | None]:
        """Heads of the base and of a branch as they are now, with their history; None where there is no branch."""
        remote = self._remote_heads(base, branch)
        if base not in remote:
            raise TargetRefused("unknown_base", f"the repository has no branch {base}; correct the base branch")
        if not all(self.has(sha) for sha in remote.values()):
            specs = [f"+refs/heads/{name}:refs/remotes/origin/{name}" for name in remote]
            self._git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", self.url, *specs)
            if missing := [name for name, sha in remote.items() if not self.has(sha)]:
                raise BranchMoved(f"{', '.join(missing)} moved while it was fetched; looking again will tell")
        return remote[base], remote.get(branch)

    def head(self, branch: str) -> str | None:
        """The commit a branch of the remote is at now."""
        return self._remote_heads(branch).get(branch)

    def read(self, commit: str, path: str) -> bytes | None:
        """A file's bytes at a commit; None where it is not there."""
        blob = self.blob(commit, path)
        return None if blob is None else self._git_bytes("cat-file", "blob", blob.sha)

    def blob(self, commit: str, path: str) -> Blob | None:
        """A file's mode and object at a commit. Links and submodules are refused: what they lead to is elsewhere."""
        line = self._git("ls-tree", "-z", commit, "--", path).strip("\0")
        if not line:
            return None
        mode, kind, sha = line.split("\t")[0].split(" ")
        if kind == "tree":
            return None
        if mode not in _REGULAR:
            raise TargetRefused("not_a_file", f"{path} is a link or a submodule; map the file it leads to")
        return Blob(mode, sha)

    def listing(self, commit: str, folder: str) -> tuple[str, ...]:
        """Paths of the files directly in a folder."""
        where = f"{folder}/" if folder else "."
        out = self._git("ls-tree", "-z", "--name-only", commit, "--", where)
        return tuple(name for name in out.split("\0") if name)

    def has(self, commit: str) -> bool:
        """Whether the copy holds a commit."""
        return self._try("cat-file", "-e", f"{commit}^{{commit}}").returncode == 0

    def diff(self, before: str, after: str) -> str:
        """The unified diff between two commits."""
        return self._git("diff", "--no-ext-diff", "--no-textconv", "--no-color", before, after)

    def foreign_commits(self, base: str, tip: str) -> tuple[str, ...]:
        """Commits of a branch that are not ours: another author or committer, or no intent."""
        pattern = f"%H%x00%ae%x00%ce%x00%(trailers:key={INTENT_TRAILER},valueonly)%x01"
        out = self._git("log", f"--format={pattern}", f"{base}..{tip}")
        foreign = []
        for record in filter(None, (r.strip() for r in out.split("\x01"))):
            sha, author, committer, intent = record.split("\0")
            if (author, committer) != (self.author.email, self.author.email) or not intent.strip():
                foreign.append(sha)
        return tuple(foreign)

    def intent_of(self, commit: str) -> str | None:
        """The intent a commit of ours carries."""
        out = self._git("log", "-1", f"--format=%(trailers:key={INTENT_TRAILER},valueonly)", commit).strip()
        return out or None

    def conflicts(self, base: str, tip: str) -> tuple[str, ...]:
        """Files in which merging ``tip`` into ``base`` conflicts."""
        done = self._try("merge-tree", "--write-tree", "--name-only", "--no-messages", "-z", base, tip)
        if done.returncode == 0:
            return ()
        if done.returncode != 1:
            raise TargetUnavailable(f"git merge-tree: {self._said(done.stderr)}")
        return tuple(sorted(name for name in done.stdout.decode().split("\0")[1:] if name))

    def export(self, commit: str, folder: Path) -> None:
        """The files of a commit, written to a folder."""
        index = {"GIT_INDEX_FILE": str(folder.with_name(f"{folder.name}.index"))}
        folder.mkdir(parents=True, exist_ok=True)
        self._git("read-tree", commit, extra=index)
        self._git("--work-tree", str(folder), "checkout-index", "--all", extra=index)

    # Making

    def commit(self, parent: str, files: Mapping[str, str], message: str, when: datetime) -> str:
        """A commit of ``parent`` with new texts for some of its files; the same input gives the same commit."""
        with tempfile.TemporaryDirectory(prefix="sust-index-") as temp:
            index = {"GIT_INDEX_FILE": str(Path(temp) / "index")}
            self._git("read-tree", parent, extra=index)
            for path, text in sorted(files.items()):
                old = self.blob(parent, path)
                if old is None:
                    raise TargetRefused("missing_file", f"{path} is not in the repository any more; plan again")
                sha = self._git("hash-object", "-w", "--stdin", "--no-filters", given=text.encode()).strip()
                self._git("update-index", "--cacheinfo", f"{old.mode},{sha},{path}", extra=index)
            tree = self._git("write-tree", extra=index).strip()
        date = f"{int(when.astimezone(UTC).timestamp())} +0000"
        who = {
            "GIT_AUTHOR_NAME": self.author.name, "GIT_AUTHOR_EMAIL": self.author.email, "GIT_AUTHOR_DATE": date,
            "GIT_COMMITTER_NAME": self.author.name, "GIT_COMMITTER_EMAIL": self.author.email,
            "GIT_COMMITTER_DATE": date,
        }  # fmt: skip
        return self._git("commit-tree", tree, "-p", parent, "-F", "-", given=message.encode(), extra=who).strip()

    def push(self, commit: str, branch: str, expected: str | None) -> None:
        """Set a branch of the remote, if it is still where it was seen; :class:`BranchMoved` where it is not."""
        self._push(f"{commit}:refs/heads/{branch}", branch, expected)

    def delete(self, branch: str, expected: str) -> None:
        """Remove a branch of the remote, if it is still where it was seen. One that is gone is done."""
        if self.head(branch) is not None:
            self._push(f":refs/heads/{branch}", branch, expected)

    def _push(self, spec: str, branch: str, expected: str | None) -> None:
        lease = f"--force-with-lease=refs/heads/{branch}:{expected or ''}"
        done = self._try("push", "--porcelain", "--no-verify", lease, self.url, spec)
        if done.returncode == 0:
            return
        said = done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
        if self.head(branch) == (spec.split(":")[0] or None):
            return  # git asks again by itself when a connection breaks, and is then told it cannot be done twice
        if re.search(r"stale info|already exists|fetch first|(lock|update) ref|does not exist", said):
            raise BranchMoved(f"{branch} was moved by somebody else meanwhile; looking again will tell")
        if "[remote rejected]" in said:
            line = next(line for line in said.splitlines() if "[remote rejected]" in line)
            raise TargetRefused("push_refused", f"{branch}: {self._said(line.encode())}; check the branch rules")
        raise self._fault("push", done.stderr)

    # Running git

    def _remote_heads(self, *branches: str) -> dict[str, str]:
        out = self._git("ls-remote", "--heads", self.url, *(f"refs/heads/{b}" for b in branches))
        pairs = (line.split("\t") for line in out.splitlines() if "\t" in line)
        return {name.removeprefix("refs/heads/"): sha for sha, name in pairs}

    def _git(
        self, *arguments: str, given: bytes | None = None, extra: Mapping[str, str] | None = None, inside: bool = True
    ) -> str:
        return self._git_bytes(*arguments, given=given, extra=extra, inside=inside).decode(errors="surrogateescape")

    def _git_bytes(
        self, *arguments: str, given: bytes | None = None, extra: Mapping[str, str] | None = None, inside: bool = True
    ) -> bytes:
        done = self._try(*arguments, given=given, extra=extra, inside=inside)
        if done.returncode:
            raise self._fault(arguments[0], done.stderr)
        return done.stdout

    def _try(
        self, *arguments: str, given: bytes | None = None, extra: Mapping[str, str] | None = None, inside: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        where: Sequence[str] = ("--git-dir", str(self.folder)) if inside else ()
        try:
            return subprocess.run(
                ["git", *where, *arguments], input=given if given is not None else b"", capture_output=True,
                env={**self._environment(), **(extra or {})}, timeout=self._timeout, check=False,
            )  # fmt: skip
        except FileNotFoundError:
            raise TargetRefused("no_git", "git is not installed; install it") from None
        except subprocess.TimeoutExpired:
            raise TargetUnavailable(f"git {arguments[0]} took more than {self._timeout:g} s") from None

    def _environment(self) -> dict[str, str]:
        settings = {
            "core.hooksPath": os.devnull, "core.autocrlf": "false", "core.attributesFile": os.devnull,
            "core.quotePath": "false", "credential.helper": "", "gc.auto": "0", "http.followRedirects": "false",
            "protocol.ext.allow": "never", "core.logAllRefUpdates": "false",
        }  # fmt: skip
        if self._token is not None:
            pair = base64.b64encode(f"x-access-token:{self._token.get_secret_value()}".encode()).decode()
            settings[f"http.{self.url}.extraHeader"] = f"Authorization: Basic {pair}"
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        environment |= {
            "HOME": self._temp.name, "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "GIT_OPTIONAL_LOCKS": "0",
            "GIT_ALLOW_PROTOCOL": "https:http:file", "GIT_CONFIG_COUNT": str(len(settings)),
        }  # fmt: skip
        for number, (key, value) in enumerate(settings.items()):
            environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        return environment

    def _fault(self, command: str, stderr: bytes) -> Exception:
        said = self._said(stderr)
        if re.search(r"Authentication failed|could not read (Username|Password)|error: 40[13]\b|HTTP 40[13]\b", said):
            return TargetRefused("no_permission", f"git {command}: the forge does not let us; check SUST_GITHUB_TOKEN")
        if re.search(r"not found|does not appear to be a git repository|error: 404\b", said) and command != "cat-file":
            return TargetRefused("unknown_repository", f"git {command}: {said}; correct the repository's address")
        return TargetUnavailable(f"git {command}: {said}")

    def _said(self, stderr: bytes) -> str:
        """What git said, on one line, without the token in any form."""
        text = " ".join(stderr.decode(errors="replace").split())[-400:]
        if self._token is not None:
            plain = self._token.get_secret_value()
            pair = base64.b64encode(f"x-access-token:{plain}".encode()).decode()
            for secret in (plain, pair):
                text = text.replace(secret, "***")
        return text.replace(str(self.folder), "the copy")
