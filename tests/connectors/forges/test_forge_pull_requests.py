"""Pull requests against a forge on loopback with a real git repository."""

from __future__ import annotations

import base64
import difflib
import logging
import random
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from forge_cases import ARGO, CRONJOB, DAY, FILES, MAIN_TF, WORKFLOW, again, moved, order, resized
from forge_server import REPOSITORY, TOKEN, Forge, git, serving, template_repository
from pydantic import SecretStr

from sust_dagster.connectors.forges.git_repo import GitRepo
from sust_dagster.connectors.forges.github import GitHubClient
from sust_dagster.connectors.forges.pull_request import PullRequestTarget, branch_of
from sust_dagster.connectors.forges.wording import PROPOSE_AGAIN, marker
from sust_dagster.connectors.targets import Applied, Order, Preview, Target, TargetRefused, TargetUnavailable

BRANCH = branch_of("ml/nightly-train")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return template_repository(tmp_path_factory.mktemp("forge"), FILES)


@pytest.fixture
def forge(template: Path, tmp_path: Path) -> Iterator[Forge]:
    with serving(template, tmp_path) as server:
        yield server


@pytest.fixture
def make(forge: Forge) -> Iterator[Callable[..., PullRequestTarget]]:
    """Targets of new processes: nothing is shared between two of them."""
    opened: list[GitRepo] = []

    def new(token: str = TOKEN, **options: Any) -> PullRequestTarget:
        secret = SecretStr(token)
        repository = GitRepo(f"{forge.url}/acme/platform.git", token=secret)
        opened.append(repository)
        client = GitHubClient(REPOSITORY, secret, api_url=f"{forge.url}/api", longest_wait_seconds=0.01)
        return PullRequestTarget(client, repository, **options)

    yield new
    for repository in opened:
        repository.close()


@pytest.fixture
def target(make: Callable[..., PullRequestTarget]) -> PullRequestTarget:
    return make()


def changed_lines(before: str, after: str) -> list[tuple[str, str]]:
    """Lines that differ, as (old, new); both texts must have as many lines."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    assert len(old) == len(new), "".join(difflib.unified_diff(old, new))
    return [(a, b) for a, b in zip(old, new, strict=True) if a != b]


def writes(forge: Forge) -> list[tuple[str, str]]:
    return [c for c in forge.calls if c[0] != "GET" and "git-upload-pack" not in c[1]]


def carry_out(target: PullRequestTarget, one: Order) -> tuple[Preview, Applied]:
    preview = target.preview(one)
    return preview, target.apply(one, preview)


def refusal(reason: str, call: Callable[[], object]) -> str:
    with pytest.raises(TargetRefused) as caught:
        call()
    assert caught.value.reason == reason, caught.value
    return str(caught.value)


def test_it_keeps_the_protocol(target: PullRequestTarget) -> None:
    kept: Target = target
    assert kept.name == "pull request"


# Diffs


@pytest.mark.parametrize(
    ("one", "file", "before", "expected"),
    [
        (
            order(),
            "k8s/train.yaml",
            CRONJOB,
            [
                (
                    '  schedule: "0 2 * * *"      # 02:00 UTC, before the reports\n',
                    '  schedule: "0 11 * * *"      # 11:00 UTC, before the reports\n',
                )
            ],
        ),
        (
            order("bi/reports", starts=("04:00",), delay=3.5),
            ".github/workflows/reports.yaml",
            WORKFLOW,
            [
                (
                    "    - cron: '30 4 * * 1-5'   # sust: bi/reports\n",
                    "    - cron: '0 8 * * 1-5'   # sust: bi/reports\n",
                )
            ],
        ),
        (
            resized("ml/nightly-train"),
            "k8s/train.yaml",
            CRONJOB,
            [
                (
                    "              requests: {cpu: 4, memory: 8Gi}\n",
                    "              requests: {cpu: 2, memory: 8Gi}\n",
                ),
                (
                    '                cpu: "8"    # twice the request\n',
                    '                cpu: "4"    # twice the request\n',
                ),
            ],
        ),
        (
            resized("ml/worker"),
            "infra/main.tf",
            MAIN_TF,
            [
                (
                    '  instance_type = "m5.4xlarge"   # was m4.4xlarge until 2024\n',
                    '  instance_type = "m5.2xlarge"   # was m4.4xlarge until 2024\n',
                )
            ],
        ),
        (
            resized("ml/other"),
            "infra/main.tf",
            MAIN_TF,
            [('variable "size" { default = "m5.2xlarge" }\n', 'variable "size" { default = "m5.xlarge" }\n')],
        ),
        (
            moved("ml/batch"),
            "infra/main.tf",
            MAIN_TF,
            [
                (
                    '  default = ["us-east-1"] # home: us-east-1\n',
                    '  default = ["eu-north-1"] # home: eu-north-1\n',
                )
            ],
        ),
        (
            moved("web/api"),
            "argo/api.yaml",
            ARGO,
            [("    name: cluster-us   # us-east-1\n", "    name: cluster-eu   # us-east-1\n")],
        ),
    ],
    ids=["cronjob", "workflow", "cpu", "instance", "variable", "regions", "argo"],
)
def test_only_the_values_change_and_comments_stay(
    forge: Forge, target: PullRequestTarget, one: Order, file: str, before: str, expected: list[tuple[str, str]]
) -> None:
    preview, applied = carry_out(target, one)
    branch = branch_of(one.workload_id)
    assert changed_lines(before, forge.text(branch, file)) == expected
    touched = git(forge.bare, "diff", "--name-only", f"main..{branch}").split()
    assert touched == [file]
    assert forge.text("main", file) == before, "the base is people's"
    for old, new in expected:
        assert f"-{old}" in preview.text and f"+{new}" in preview.text
    assert target.read_back(one, preview, applied) == ()


def test_the_body_says_number_table_why_plan_receipt(forge: Forge, target: PullRequestTarget) -> None:
    one = resized("ml/worker")
    preview, applied = carry_out(target, one)
    pull = forge.pulls[1]
    body = pull["body"]
    wanted = [
        marker(one.intent_id),
        "**−41.2 kgCO₂e for 2026-11-23 (−38 %, likely −52 to −29.5) · cost +0.03 USD · risk: low**",
        "| `infra/main.tf` line 17 | `m5.4xlarge` | `m5.2xlarge` |",
        "**Why** Start 1 of 1",
        "**Plan** terraform: not planned here",
        "**Comments to look at**",
        "was m4.4xlarge until 2024",
        "<details><summary>Receipt</summary>",
        one.plan_hash,
        "Close this pull request",
    ]
    places = [body.find(text) for text in wanted]
    assert -1 not in places, body
    assert places == sorted(places)
    assert (pull["title"], pull["labels"]) == ("ml/worker: 50% of the vCPUs", ["carbon"])
    assert applied.ref == f"https://forge.example/{REPOSITORY}/pull/1"
    assert body in preview.text


def test_what_was_not_estimated_is_said_so_and_names_are_harmless(target: PullRequestTarget) -> None:
    evil = {"rationale_text": "ping @everyone --> <img src=x> | a\n# b", "est_carbon_delta_kg": float("nan")}
    body = str(target.preview(order(facts=evil)).change["body"])
    assert "Carbon not estimated" in body and "cost not estimated" in body
    assert "@everyone" not in body and "<img" not in body and body.count("-->") == 1
    assert "+0 " not in body and "0.00" not in body and "nan" not in body


# Doing it again


def test_a_second_run_makes_no_second_pull_request(forge: Forge, make: Callable[..., PullRequestTarget]) -> None:
    one = order()
    first = make()
    preview, applied = carry_out(first, one)
    done = len(writes(forge))
    second = make()
    assert second.preview(one) == Preview(preview.target, preview.text, preview.change, {
        **preview.before, "branch_sha": preview.change["commit"], "pull_request": 1})  # fmt: skip
    assert second.find(one, preview) == applied
    assert second.apply(one, preview) == applied
    assert len(writes(forge)) == done, "nothing was left to do"
    assert len(forge.pulls) == 1


def test_a_later_plan_updates_the_same_pull_request(forge: Forge, target: PullRequestTarget) -> None:
    carry_out(target, order())
    later = order(delay=5, day=DAY.replace(day=24))
    preview = target.preview(later)
    assert target.find(later, preview) is None
    applied = target.apply(later, preview)
    assert applied.detail["number"] == 1 and len(forge.pulls) == 1
    assert '"0 7 * * *"' in forge.text(BRANCH, "k8s/train.yaml")
    assert marker(later.intent_id) in forge.pulls[1]["body"]
    assert target.read_back(later, preview, applied) == ()


def test_previews_are_the_same_and_change_nothing(forge: Forge, make: Callable[..., PullRequestTarget]) -> None:
    previews = [make().preview(order()) for _ in range(2)]
    assert previews[0] == previews[1]
    assert not writes(forge) and forge.branches() == {"main"}


def lose(forge: Forge, method: str, part: str, kind: str, call: Callable[[], object]) -> None:
    """The call with a lost answer. Git asks once more on a connection of its own, so it loses several."""
    git_itself = "git-" in part
    for _ in range(4 if git_itself and kind == "before" else 1):
        forge.fault(method, part, kind)
    there = len(forge.faults)
    try:
        call()
    except TargetUnavailable:
        pass
    else:
        assert git_itself and kind == "after", "nobody heard of the lost answer"
    assert len(forge.faults) < there, "the fault was never met"
    forge.faults.clear()


LOST: Sequence[tuple[str, str]] = (("POST", "git-receive-pack"), ("POST", "/pulls"), ("POST", "/labels"))


@pytest.mark.parametrize("kind", ["before", "after"])
@pytest.mark.parametrize(("method", "part"), LOST)
def test_a_lost_answer_then_again_is_one_pull_request(
    forge: Forge, make: Callable[..., PullRequestTarget], method: str, part: str, kind: str
) -> None:
    one = order()
    preview = make().preview(one)
    lose(forge, method, part, kind, lambda: make().apply(one, preview))
    target = make()
    found = target.find(one, preview)
    applied = target.apply(one, preview)
    assert found is None or found == applied
    assert len(forge.pulls) == 1 and forge.branches() == {"main", BRANCH}
    assert target.read_back(one, preview, applied) == ()


@pytest.mark.parametrize("kind", ["before", "after"])
@pytest.mark.parametrize(("method", "part"), [("PATCH", "/pulls/1"), ("POST", "git-receive-pack")])
def test_a_lost_answer_while_taking_back(
    forge: Forge, make: Callable[..., PullRequestTarget], method: str, part: str, kind: str
) -> None:
    one = order()
    preview, _ = carry_out(make(), one)
    lose(forge, method, part, kind, lambda: make().rollback(one, preview))
    make().rollback(one, preview)
    assert forge.branches() == {"main"} and not forge.open_pulls()
    assert make().find(one, preview) is None


@pytest.mark.parametrize("kind", ["before", "after"])
def test_a_lost_answer_while_updating(forge: Forge, make: Callable[..., PullRequestTarget], kind: str) -> None:
    carry_out(make(), order())
    later = order(delay=5, day=DAY.replace(day=24))
    preview = make().preview(later)
    forge.fault("PATCH", "/pulls/1", kind)
    with pytest.raises(TargetUnavailable):
        make().apply(later, preview)
    target = make()
    assert target.read_back(later, preview, target.apply(later, preview)) == ()
    assert len(forge.pulls) == 1


def test_a_pull_request_that_somebody_opened_meanwhile_is_found(forge: Forge, target: PullRequestTarget) -> None:
    """422: the list was asked before, the creation comes second."""
    one = order()
    preview = target.preview(one)
    client = target._client
    asked = client.pull_requests

    def stale(**query: Any) -> tuple[Any, ...]:
        answer = asked(**query)
        if query.get("state") == "all" and not forge.pulls:
            git(forge.bare, "update-ref", f"refs/heads/{BRANCH}", "refs/heads/main")
            forge.add(BRANCH, "x", "y")
        return answer

    client.pull_requests = stale  # type: ignore[method-assign]
    applied = target.apply(one, preview)
    assert applied.detail["number"] == 1 and len(forge.pulls) == 1
    assert marker(one.intent_id) in forge.pulls[1]["body"]


# People


def test_a_conflict_with_a_developers_edit_is_reported_not_overwritten(forge: Forge, target: PullRequestTarget) -> None:
    one = order()
    preview = target.preview(one)
    theirs = CRONJOB.replace('schedule: "0 2 * * *"      # 02:00', 'schedule: "0 3 * * *"      # 03:00', 1)
    forge.commit("main", {"k8s/train.yaml": theirs})
    text = refusal("conflict", lambda: target.apply(one, preview))
    assert "k8s/train.yaml" in text
    assert forge.text("main", "k8s/train.yaml") == theirs
    assert not forge.pulls and forge.branches() == {"main"}
    refusal("differs_from_plan", lambda: target.preview(one))


def test_an_edit_elsewhere_is_no_conflict(forge: Forge, target: PullRequestTarget) -> None:
    """Negative control of the conflict: the same file, far away from the value."""
    one = order()
    preview = target.preview(one)
    forge.commit("main", {"k8s/train.yaml": CRONJOB.replace("memory: 8Gi\n---", "memory: 9Gi\n---")})
    applied = target.apply(one, preview)
    assert target.read_back(one, preview, applied) == ()


def test_a_conflict_that_comes_later_is_read_back(forge: Forge, target: PullRequestTarget) -> None:
    one = order()
    preview, applied = carry_out(target, one)
    assert target.read_back(one, preview, applied) == ()
    forge.commit("main", {"k8s/train.yaml": CRONJOB.replace('"0 2 * * *"', '"0 3 * * *"')})
    (difference,) = target.read_back(one, preview, applied)
    assert "conflicts with main in k8s/train.yaml" in difference


def test_a_branch_with_a_persons_commit_is_left_to_them(forge: Forge, target: PullRequestTarget) -> None:
    carry_out(target, order())
    theirs = forge.commit(BRANCH, {"README.md": "mine now\n"})
    later = order(delay=5, day=DAY.replace(day=24))
    refusal("edited_by_others", lambda: carry_out(target, later))
    one = order()
    preview = Preview("pull request", "", target.preview(one).change, {})
    refusal("edited_by_others", lambda: target.apply(one, preview))
    assert "branch" in target.read_back(one, preview, Applied("", {}))[0]
    refusal("changed_since", lambda: target.rollback(one, preview))
    assert forge.sha(BRANCH) == theirs and len(forge.open_pulls()) == 1


def test_a_push_between_look_and_push_is_not_overwritten(forge: Forge, target: PullRequestTarget) -> None:
    """The lease: somebody pushes after we looked."""
    carry_out(target, order())
    later = order(delay=5, day=DAY.replace(day=24))
    preview = target.preview(later)
    push = target._repository.push
    theirs: list[str] = []

    def late(*arguments: Any) -> None:
        theirs.append(forge.commit(BRANCH, {"README.md": "mine now\n"}))
        push(*arguments)

    target._repository.push = late  # type: ignore[method-assign]
    with pytest.raises(TargetUnavailable):
        target.apply(later, preview)
    assert [forge.sha(BRANCH)] == theirs
    target._repository.push = push  # type: ignore[method-assign]
    refusal("edited_by_others", lambda: target.apply(later, preview))


def test_a_closed_pull_request_is_a_rejection_and_stays_one(
    forge: Forge, make: Callable[..., PullRequestTarget]
) -> None:
    one = order()
    preview, applied = carry_out(make(), one)
    forge.close(1)
    assert "closed without merging" in make().read_back(one, preview, applied)[0]
    done = len(writes(forge))
    later = order(delay=5, day=DAY.replace(day=24))
    for again_ in (one, later):
        text = refusal("rejected_by_person", lambda o=again_: carry_out(make(), o))
        assert "pull request 1" in text
    assert len(writes(forge)) == done and forge.pulls[1]["state"] == "closed"
    forge.pulls[1]["labels"].append(PROPOSE_AGAIN)
    assert carry_out(make(), later)[1].detail["number"] == 2


def test_what_we_took_back_is_nobodys_rejection(forge: Forge, target: PullRequestTarget) -> None:
    one = order()
    preview, _ = carry_out(target, one)
    target.rollback(one, preview)
    target.rollback(one, preview)
    assert forge.branches() == {"main"} and forge.pulls[1]["state"] == "closed"
    assert target.find(one, preview) is None
    assert target.apply(one, preview).detail["number"] == 2


def test_a_merged_one_is_done_and_not_undone(forge: Forge, target: PullRequestTarget) -> None:
    one = order()
    preview, applied = carry_out(target, one)
    forge.merge(1)
    assert target.read_back(one, preview, applied) == ()
    assert target.apply(one, preview).detail["state"] == "merged"
    assert "revert it" in refusal("changed_since", lambda: target.rollback(one, preview))
    later = order(starts=("11:00",), delay=3, day=DAY.replace(day=24))
    assert carry_out(target, later)[1].detail["number"] == 2, "a merged one is no rejection"


def test_taking_back_where_nothing_is_does_nothing(forge: Forge, target: PullRequestTarget) -> None:
    one = order()
    preview = target.preview(one)
    target.rollback(one, preview)
    assert not writes(forge)


def test_taking_back_an_older_intent_leaves_the_newer(forge: Forge, target: PullRequestTarget) -> None:
    one = order()
    preview, _ = carry_out(target, one)
    carry_out(target, order(delay=5, day=DAY.replace(day=24)))
    target.rollback(one, preview)
    assert len(forge.open_pulls()) == 1 and BRANCH in forge.branches()


def test_at_most_three_are_open(forge: Forge, make: Callable[..., PullRequestTarget]) -> None:
    for number in range(3):
        forge.commit(f"sust/other-{number}", {"README.md": str(number)}, start="main")
        forge.add(f"sust/other-{number}", "t", "b")
    forge.add("sust/fork", "t", "b", source="stranger/platform")
    assert "(3, 2, 1)" in refusal("too_many_open", lambda: carry_out(make(), order()))
    assert BRANCH not in forge.branches()
    assert carry_out(make(most_open=4), order())[1].detail["number"] == 5
    assert carry_out(make(), order(delay=5))[1].detail["number"] == 5, "an open one of ours is brought up to date"


# What goes wrong


def test_rate_limits_say_when_to_come_back(forge: Forge, target: PullRequestTarget) -> None:
    one = order()
    preview = target.preview(one)
    forge.fault("POST", "/pulls", "429")
    with pytest.raises(TargetUnavailable) as caught:
        target.apply(one, preview)
    assert caught.value.retry_after_seconds == 7
    forge.fault("GET", "/pulls", "403")
    with pytest.raises(TargetUnavailable) as caught:
        target.apply(one, preview)
    assert caught.value.retry_after_seconds == 0
    assert target.apply(one, preview).detail["number"] == 1


def test_reads_are_repeated_and_writes_are_not(forge: Forge, target: PullRequestTarget) -> None:
    one = order()
    forge.fault("GET", "/pulls", "502")
    forge.fault("GET", "/pulls", "before")
    preview = target.preview(one)
    forge.fault("POST", "/pulls", "500")
    with pytest.raises(TargetUnavailable):
        target.apply(one, preview)
    assert [c for c in writes(forge) if c[1].endswith("/pulls")] == [("POST", f"/api/repos/{REPOSITORY}/pulls")]


def test_a_preview_of_another_order_is_not_carried_out(forge: Forge, target: PullRequestTarget) -> None:
    one = order()
    preview = target.preview(one)
    refusal("not_this_order", lambda: target.apply(order(delay=5), preview))
    files = {"k8s/train.yaml": str(preview.change["files"]["k8s/train.yaml"]).replace("11", "12")}
    tampered = Preview(preview.target, preview.text, {**preview.change, "files": files}, preview.before)
    refusal("not_this_order", lambda: target.apply(one, tampered))
    assert not writes(forge) and forge.branches() == {"main"}


@pytest.mark.parametrize("kind", ["before", "after", "500", "403"])
def test_the_token_is_nowhere(
    forge: Forge, make: Callable[..., PullRequestTarget], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, kind: str,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    started: list[str] = []
    run = subprocess.run

    def spy(command: Any, **options: Any) -> Any:
        started.append(repr(command))
        return run(command, **options)

    monkeypatch.setattr("sust_dagster.connectors.forges.git_repo.subprocess.run", spy)
    one = order()
    target = make()
    preview = target.preview(one)
    said = [preview.text, repr(preview), repr(target), repr(vars(target._client)), repr(vars(target._repository))]
    for method, part in (("POST", "git-receive-pack"), ("POST", "/pulls"), ("POST", "/labels")):
        for _ in range(4 if kind == "before" else 1):
            forge.fault(method, part, kind)
        if (part, kind) == ("git-receive-pack", "after"):
            continue  # git asks again by itself and finds that it is done; REST never does
        with pytest.raises((TargetUnavailable, TargetRefused)) as caught:
            target.apply(one, preview)
        forge.faults.clear()
        chain: BaseException | None = caught.value
        while chain is not None:
            said.append(repr(chain) + str(chain))
            chain = chain.__cause__ or chain.__context__
    assert len(started) > 10 and any("push" in s for s in started)
    pair = base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
    seen = "\n".join([*said, *started, caplog.text, *forge.log])
    assert len(caplog.text) > 100, "nothing was logged: the search is idle"
    assert TOKEN not in seen and pair not in seen
    inside = b"".join(p.read_bytes() for p in target._repository.folder.parent.rglob("*") if p.is_file())
    assert TOKEN.encode() not in inside and pair.encode() not in inside


def test_a_wrong_token_is_named_but_not_shown(make: Callable[..., PullRequestTarget]) -> None:
    wrong = "ghp_wrongTokenOfSomebody"
    for call in (lambda t: t.preview(order()), lambda t: t._client.pull_requests()):
        with pytest.raises(TargetRefused) as caught:
            call(make(token=wrong))
        assert caught.value.reason in ("no_permission", "bad_credentials")
        assert "SUST_GITHUB_TOKEN" in str(caught.value) and wrong not in str(caught.value)


def test_credentials_do_not_go_over_plain_http_or_in_addresses() -> None:
    secret = SecretStr(TOKEN)
    with pytest.raises(ValueError, match="https"):
        GitHubClient(REPOSITORY, secret, api_url="http://forge.example")
    with pytest.raises(ValueError, match="https"):
        GitRepo("http://forge.example/acme/platform.git", token=secret)
    with pytest.raises(ValueError, match="credentials") as caught:
        GitRepo(f"https://x:{TOKEN}@forge.example/acme/platform.git")
    assert TOKEN not in str(caught.value)


def test_no_token_is_a_named_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUST_GITHUB_TOKEN", raising=False)
    assert "SUST_GITHUB_TOKEN is not set" in refusal(
        "no_credentials", lambda: GitHubClient.from_environment(REPOSITORY)
    )


def test_branches_of_workloads_are_kept_apart() -> None:
    names = ["a", "A", "a/b", "a-b", "a b", "..", "a.lock", "é", "x" * 300, "-x", "a/", "@{", "sust/a"]
    branches = [branch_of(name) for name in names]
    assert len(set(branches)) == len(names)
    for branch in branches:
        assert subprocess.run(["git", "check-ref-format", "--branch", branch], capture_output=True).returncode == 0
    assert branch_of("a") == "sust/a"


def test_nothing_to_do_is_said(forge: Forge, target: PullRequestTarget) -> None:
    one = again(order(delay=0))
    refusal("nothing_to_change", lambda: target.preview(one))
    refusal("unknown_workload", lambda: target.preview(order("no/such")))
    forge.commit("main", {".sust/workloads.yaml": "version: 2\n"})
    assert ".sust/workloads.yaml" in refusal("bad_mapping", lambda: target.preview(order()))


def test_a_branch_whose_pull_request_was_merged_is_used_again(forge: Forge, target: PullRequestTarget) -> None:
    """Somebody brought the branch up to date by a merge of their own, then merged it: nothing of theirs is lost."""
    carry_out(target, order())
    forge.commit(BRANCH, {"README.md": "brought up to date\n"})
    forge.merge(1)
    later = order(starts=("11:00",), delay=3, day=DAY.replace(day=24))
    assert carry_out(target, later)[1].detail["number"] == 2
    forge.commit(BRANCH, {"README.md": "mine\n"})
    refusal("edited_by_others", lambda: carry_out(target, order(starts=("11:00",), delay=4)))


@pytest.mark.parametrize(
    ("status", "reason"), [("401", "bad_credentials"), ("404", "unknown_repository"), ("409", "conflict"),
                           ("422", "unprocessable"), ("301", "moved"), ("418", "unexpected_answer")]
)  # fmt: skip
def test_answers_of_the_forge_are_named(forge: Forge, target: PullRequestTarget, status: str, reason: str) -> None:
    one = order()
    preview = target.preview(one)
    forge.fault("POST", "/pulls", status)
    refusal(reason, lambda: target.apply(one, preview))
    assert target.apply(one, preview).detail["number"] == 1, "what was begun is finished"


def test_what_was_begun_can_be_taken_back(forge: Forge, target: PullRequestTarget) -> None:
    """The branch was pushed, the pull request refused."""
    one = order()
    preview = target.preview(one)
    forge.fault("POST", "/pulls", "409")
    refusal("conflict", lambda: target.apply(one, preview))
    assert BRANCH in forge.branches() and target.find(one, preview) is None
    target.rollback(one, preview)
    assert forge.branches() == {"main"}


@pytest.mark.parametrize("orphans", [False, True])
def test_terraform_is_planned_before_anything_is_pushed(
    forge: Forge, make: Callable[..., PullRequestTarget], orphans: bool
) -> None:
    planned: list[str] = []

    def planner(folder: Path) -> dict[str, Any]:
        planned.append((folder / "main.tf").read_text())
        change = {"address": "module.a", "type": "aws_instance", "change": {"actions": ["create"]}}
        gone = {"address": "module.a", "change": {"actions": ["delete"]}}
        return {"format_version": "1.2", "resource_changes": [change], "resource_drift": [gone] if orphans else []}

    target = make(terraform=planner)
    if orphans:
        refusal("orphans_resource", lambda: target.preview(moved("ml/batch")))
    else:
        body = str(target.preview(moved("ml/batch")).change["body"])
        assert "**Plan** terraform: 1 add · 0 change · 0 destroy — no replacement, no orphan." in body
    assert planned == [MAIN_TF.replace('["us-east-1"] # home: us-east-1', '["eu-north-1"] # home: eu-north-1')]
    target.preview(order())
    assert len(planned) == 1, "no Terraform changes, none is planned"


def test_files_at_the_root_and_odd_bytes(forge: Forge, target: PullRequestTarget) -> None:
    mapping = FILES[".sust/workloads.yaml"].replace("infra/main.tf", "main.tf")
    text = "\ufeff" + MAIN_TF.replace("\n", "\r\n").replace("hardened", "gehärtet")
    forge.commit(
        "main", {".sust/workloads.yaml": mapping, "main.tf": text, "live.auto.tfvars": 'size = "m5.2xlarge"\n'}
    )
    carry_out(target, resized("ml/worker"))
    branch = branch_of("ml/worker")
    raw = subprocess.run(
        ["git", "--git-dir", str(forge.bare), "show", f"{branch}:main.tf"], capture_output=True, check=True
    ).stdout
    assert raw == text.replace('= "m5.4xlarge"', '= "m5.2xlarge"').encode()
    carry_out(target, resized("ml/other"))
    assert forge.text(branch_of("ml/other"), "live.auto.tfvars") == 'size = "m5.xlarge"\n'


def test_links_are_not_followed(forge: Forge, target: PullRequestTarget) -> None:
    index = {"GIT_INDEX_FILE": str(forge.bare.parent / "link.index")}
    git(forge.bare, "read-tree", "main", **index)
    blob = git(forge.bare, "hash-object", "-w", "--stdin", given=b"../../etc/passwd").strip()
    git(forge.bare, "update-index", "--cacheinfo", f"120000,{blob},k8s/train.yaml", **index)
    tree = git(forge.bare, "write-tree", **index).strip()
    commit = git(forge.bare, "commit-tree", tree, "-p", "main", "-m", "link").strip()
    git(forge.bare, "update-ref", "refs/heads/main", commit)
    refusal("not_a_file", lambda: target.preview(order()))


def test_comments_are_listed_and_added(forge: Forge, target: PullRequestTarget) -> None:
    carry_out(target, order())
    client = target._client
    client.comment(1, "promised −41, measured −36")
    assert client.comments(1) == ("promised −41, measured −36",)
    assert client.pull_request(1).labels == ("carbon",)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_lost_it_is_there_once_or_not_at_all(
    forge: Forge, make: Callable[..., PullRequestTarget], seed: int
) -> None:
    """Random faults at every kind of call, a new process each time; then people see one pull request, or none."""
    dice = random.Random(seed)
    one = order()
    preview = make().preview(one)
    kinds, parts = ("before", "after", "500", "429"), ("git-receive-pack", "/pulls", "/labels", "info/refs")

    def insisting(call: Callable[[PullRequestTarget], object]) -> None:
        for left in (3, 2, 1, 0):
            for _ in range(dice.randint(0, left)):
                forge.fault(dice.choice(("GET", "POST", "PATCH")), dice.choice(parts), dice.choice(kinds))
            try:
                call(make())
            except TargetUnavailable:
                continue
            break
        else:
            pytest.fail("without a fault it must work")
        forge.faults.clear()

    insisting(lambda t: t.find(one, preview) or t.apply(one, preview))
    target = make()
    found = target.find(one, preview)
    assert found is not None and target.read_back(one, preview, found) == ()
    assert len(forge.pulls) == 1 and forge.branches() == {"main", BRANCH}
    insisting(lambda t: t.rollback(one, preview))
    assert not forge.open_pulls() and forge.branches() == {"main"} and target.find(one, preview) is None
