"""Changes as pull requests: one branch and at most one open pull request per workload.

Belongs here: the target itself, when a pull request is made, updated, left alone or taken back. Does not belong here:
edits (``changes``), git (``git_repo``), the forge's interface (``github``), words (``wording``).

Whoever works in the repository comes first. A conflict with their edit is reported and nothing is pushed; a branch
they committed to is left to them; a pull request they closed is not proposed again. What is pushed is made from the
preview alone, byte for byte, so doing it twice is doing it once.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from sust_dagster.connectors.forges.changes import Changes, Files, plan_changes
from sust_dagster.connectors.forges.git_repo import GitRepo
from sust_dagster.connectors.forges.github import GitHubClient, PullRequest
from sust_dagster.connectors.forges.terraform_guard import check
from sust_dagster.connectors.forges.wording import (
    PROPOSE_AGAIN,
    WITHDRAWN,
    body_of,
    marker,
    message_of,
    title_of,
    withdrawn,
)
from sust_dagster.connectors.targets import Applied, Order, Preview, TargetRefused

BRANCHES = "sust/"


def branch_of(workload_id: str) -> str:
    """The branch of a workload: its name where that is one, else made one, with a hash that keeps it apart."""
    slug = re.sub(r"[^a-z0-9_-]+", "-", workload_id.lower()).strip("-")[:60]
    if slug != workload_id:
        slug = f"{slug}-{hashlib.sha256(workload_id.encode()).hexdigest()[:8]}".strip("-")
    return BRANCHES + slug


class PullRequestTarget:
    """Keeps :class:`~sust_dagster.connectors.targets.Target` for one repository."""

    def __init__(
        self, client: GitHubClient, repository: GitRepo, *, base: str = "main", most_open: int = 3,
        labels: Sequence[str] = ("carbon",), terraform: Callable[[Path], Mapping[str, Any]] | None = None,
        name: str = "pull request",
    ) -> None:  # fmt: skip
        self._client, self._repository, self._base = client, repository, base
        self._most_open, self._labels, self._terraform, self._name = most_open, tuple(labels), terraform, name

    @property
    def name(self) -> str:
        return self._name

    def preview(self, order: Order) -> Preview:
        """The diff, title and body; the edits are made to the base branch as it is now."""
        branch = branch_of(order.workload_id)
        base_sha, branch_sha = self._repository.fetch(self._base, branch)
        files = Files(
            lambda path: self._repository.read(base_sha, path),
            lambda folder: self._repository.listing(base_sha, folder),
        )
        changes = plan_changes(order, files)
        message = message_of(order)
        commit = self._repository.commit(base_sha, changes.files(), message, order.planned_for)
        terraform = self._planned(changes, commit)
        title, body = title_of(order), body_of(order, changes, terraform)
        diff = self._repository.diff(base_sha, commit)
        blobs = {path: self._repository.blob(base_sha, path) for path in changes.files()}
        open_ones = self._client.pull_requests(branch=branch)
        return Preview(
            target=self.name,
            text=f"{diff}\n{title}\n\n{body}\n",
            change={
                "repository": self._client.repository, "base": self._base, "base_sha": base_sha, "branch": branch,
                "commit": commit, "when": order.planned_for.isoformat(), "message": message, "title": title,
                "body": body, "labels": list(self._labels), "files": dict(changes.files()),
            },
            before={
                "base_sha": base_sha, "branch_sha": branch_sha,
                "files": {path: blob.sha for path, blob in blobs.items() if blob is not None},
                "pull_request": open_ones[0].number if open_ones else None,
            },
        )  # fmt: skip

    def find(self, order: Order, preview: Preview) -> Applied | None:
        """The pull request of this intent, in whatever state people left it; None where we took it back."""
        found = self._of_intent(order, self._client.pull_requests(state="all", branch=str(preview.change["branch"])))
        return None if found is None else _applied(found)

    def apply(self, order: Order, preview: Preview) -> Applied:
        """Push the branch and make the pull request, or bring the open one up to date."""
        change = preview.change
        branch = self._own(order, change)
        existing = self._client.pull_requests(state="all", branch=branch)
        mine = self._of_intent(order, existing)
        if mine is not None and mine.merged:
            return _applied(mine)
        _unless_rejected(existing)
        with _named_conflict(self._client.repository):
            opened = next((p for p in existing if p.state == "open"), None)
            if opened is None:
                self._unless_too_many(branch)
            self._pushed(change, branch, {p.head_sha for p in existing if p.merged})
            title, body = str(change["title"]), str(change["body"])
            if opened is None:
                opened = self._client.create(title=title, body=body, branch=branch, base=str(change["base"]))
            if (opened.title, opened.body) != (title, body):
                opened = self._client.update(opened.number, title=title, body=body)
            missing = [label for label in change["labels"] if label not in opened.labels]
            if missing:
                self._client.add_labels(opened.number, missing)
        return _applied(opened)

    def read_back(self, order: Order, preview: Preview, applied: Applied) -> tuple[str, ...]:
        """What differs from an open pull request with our commit that can be merged; a merged one is done."""
        change = preview.change
        branch = str(change["branch"])
        found = self._of_intent(order, self._client.pull_requests(state="all", branch=branch))
        if found is None:
            return ("there is no pull request of this change",)
        if found.merged:
            return ()
        if found.state != "open":
            return (f"pull request {found.number} was closed without merging",)
        base_sha, branch_sha = self._repository.fetch(str(change["base"]), branch)
        differences = []
        if branch_sha != change["commit"]:
            there = branch_sha[:12] if branch_sha else "gone"
            differences.append(f"branch {branch} is {there}, not {str(change['commit'])[:12]}")
        if found.number != applied.detail.get("number", found.number):
            differences.append(f"it is pull request {found.number} now, not {applied.ref}")
        if found.base != change["base"]:
            differences.append(f"pull request {found.number} is against {found.base}, not {change['base']}")
        if found.title != change["title"]:
            differences.append(f"its title is {found.title!r}")
        if branch_sha and (files := self._repository.conflicts(base_sha, branch_sha)):
            differences.append(f"it conflicts with {change['base']} in {', '.join(files)}")
        return tuple(differences)

    def rollback(self, order: Order, preview: Preview) -> None:
        """Close the pull request as taken back, and remove its branch; what people did with either is kept."""
        branch = str(preview.change["branch"])
        requests = self._client.pull_requests(state="all", branch=branch)
        mine = next((p for p in requests if marker(order.intent_id) in p.body), None)
        base_sha, branch_sha = self._repository.fetch(self._base, branch)
        if mine is not None and mine.merged:
            raise TargetRefused("changed_since", f"pull request {mine.number} was merged; revert it by a pull request")
        foreign = self._repository.foreign_commits(base_sha, branch_sha) if branch_sha else ()
        if mine is not None and mine.state == "open":
            if foreign:
                raise TargetRefused(
                    "changed_since", f"{branch} has commits of others ({foreign[0][:12]}); close it by hand"
                )
            self._client.close(mine.number, body=withdrawn(mine.body))
        others = any(p.state == "open" and p is not mine for p in requests)
        if branch_sha and not foreign and not others and self._repository.intent_of(branch_sha) == order.intent_id:
            self._repository.delete(branch, branch_sha)

    # What is behind them

    def _planned(self, changes: Changes, commit: str) -> str | None:
        """What Terraform would do, where it is planned here; refused where it would lose sight of something."""
        if self._terraform is None or not changes.terraform:
            return None
        with tempfile.TemporaryDirectory(prefix="sust-tree-") as temp:
            tree = Path(temp) / "tree"
            self._repository.export(commit, tree)
            sentences = [check(self._terraform(tree / folder)).sentence() for folder in changes.terraform]
        return "; ".join(sentences)

    def _own(self, order: Order, change: Mapping[str, Any]) -> str:
        """The branch, when the preview is this target's and this order's."""
        branch = branch_of(order.workload_id)
        fits = (
            change.get("repository") == self._client.repository
            and change.get("base") == self._base
            and change.get("branch") == branch
            and change.get("when") == order.planned_for.isoformat()
            and change.get("message") == message_of(order)
            and marker(order.intent_id) in str(change.get("body"))
        )
        if not fits:
            raise TargetRefused("not_this_order", "the preview is of another order or repository; make it again")
        return branch

    def _of_intent(self, order: Order, requests: Sequence[PullRequest]) -> PullRequest | None:
        """The intent's pull request, an open one first."""
        mine = [p for p in requests if marker(order.intent_id) in p.body and WITHDRAWN not in p.body]
        return min(mine, key=lambda p: (p.state != "open", not p.merged), default=None)

    def _unless_too_many(self, branch: str) -> None:
        others = [p for p in self._client.pull_requests() if p.head.startswith(BRANCHES) and p.head != branch]
        if len(others) >= self._most_open:
            numbers = ", ".join(str(p.number) for p in others)
            raise TargetRefused(
                "too_many_open", f"{len(others)} pull requests are open ({numbers}); merge or close one"
            )

    def _pushed(self, change: Mapping[str, Any], branch: str, merged: Set[str]) -> None:
        """The branch is at the previewed commit; nothing of anybody else is lost by it, nor what was ``merged``."""
        base_sha, branch_sha = self._repository.fetch(str(change["base"]), branch)
        if not self._repository.has(str(change["base_sha"])):
            raise TargetRefused("changed_since", f"{change['base']} was rewritten since the preview; make it again")
        when = datetime.fromisoformat(str(change["when"]))
        commit = self._repository.commit(str(change["base_sha"]), change["files"], str(change["message"]), when)
        if commit != change["commit"]:
            raise TargetRefused("not_this_order", "the preview's files are not those of its commit; make it again")
        if branch_sha is not None and branch_sha != commit and branch_sha not in merged:
            foreign = self._repository.foreign_commits(base_sha, branch_sha)
            if foreign:
                raise TargetRefused(
                    "edited_by_others", f"{branch} has commits of others ({foreign[0][:12]}): it is theirs"
                )
        files = self._repository.conflicts(base_sha, commit)
        if files:
            raise TargetRefused("conflict", f"{change['base']} was changed meanwhile in {', '.join(files)}; plan again")
        if branch_sha != commit:
            self._repository.push(commit, branch, branch_sha)


def _unless_rejected(requests: Sequence[PullRequest]) -> None:
    """A person closed an earlier one: that is an answer. Merged ones and ones we took back are not."""
    for request in requests:
        if request.state == "closed" and not request.merged and WITHDRAWN not in request.body:
            if PROPOSE_AGAIN in request.labels:
                continue
            raise TargetRefused(
                "rejected_by_person",
                f"pull request {request.number} was closed unmerged; label it {PROPOSE_AGAIN} to hear of it again",
            )


@contextmanager
def _named_conflict(repository: str) -> Generator[None]:
    """The forge's own 404 and 409 in the middle of writing, told as what they mean here."""
    try:
        yield
    except TargetRefused as error:
        if error.reason == "not_found":
            raise TargetRefused("unknown_repository", f"{repository}: {error}") from None
        raise


def _applied(request: PullRequest) -> Applied:
    state = "merged" if request.merged else request.state
    return Applied(request.url, {"number": request.number, "state": state, "branch": request.head})
