"""Which outside system carries out a project's approved changes: its settings turned into targets.

Belongs here: the choice, with retries and a breaker around each target. Does not belong here: the targets themselves,
when they are called (the execution desk). Credentials come from the environment, never from settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache

from sust_dagster.connectors.chat.slack import SlackTarget
from sust_dagster.connectors.chat.teams import TeamsTarget
from sust_dagster.connectors.resilience import Resilient
from sust_dagster.connectors.schedulers.kubernetes import KubernetesTarget
from sust_dagster.connectors.schedulers.placement_file import placements_path
from sust_dagster.connectors.schedulers.simulated import SimulatedScheduler
from sust_dagster.connectors.sources import untouched_cloud
from sust_dagster.connectors.targets import Target
from sust_dagster.connectors.tickets.jira import JiraTarget
from sust_dagster.connectors.tickets.linear import LinearTarget
from sust_dagster.settings import Project, ProjectError

Options = Mapping[str, str]

#: Target → its options: those it needs, and those it may have.
OPTIONS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "kubernetes": (("base_url", "namespace", "region"), ("time_zone", "ca_file")),
    "pull request": (("repository",), ("url", "base")),
    "jira": (("base_url", "project"), ("issue_type", "withdrawn_status")),
    "linear": (("team_id",), ("withdrawn_state_id", "base_url")),
    "slack": (("channel",), ("base_url",)),
    "teams": ((), ()),
}


def targets_of(project: Project, now: Callable[[], datetime]) -> Mapping[str, Target]:
    """Targets of a project by name; ``now`` is the present of a simulated cloud. None where nothing is carried out.

    Raises :class:`ProjectError` for options that a target lacks or does not have, by name.
    """
    name = project.execution_target
    if name == "none":
        return {}
    if name == "simulated":
        scheduler = SimulatedScheduler(placements_path(project.root), untouched_cloud(project), now)
        return {scheduler.name: Resilient(scheduler)}
    needed, possible = OPTIONS[name]
    given = project.target_options
    missing = [o for o in needed if not given.get(o, "").strip()]
    unknown = sorted(set(given) - {*needed, *possible})
    if missing or unknown:
        said = [f"lacks {', '.join(missing)}"] if missing else []
        said += [f"does not know {', '.join(unknown)}"] if unknown else []
        knows = ", ".join((*needed, *possible)) or "none"
        raise ProjectError(f"target_options of '{name}' {' and '.join(said)}; in sust.toml it takes: {knows}")
    return {name: _kept(name, tuple(sorted(given.items())))}


@lru_cache(maxsize=8)
def _kept(name: str, options: tuple[tuple[str, str], ...]) -> Resilient:
    """One target per process: its breaker remembers what the outside last did."""
    return Resilient(_MADE[name](dict(options)))


def _pull_request(options: Options) -> Target:
    from sust_dagster.connectors.forges.git_repo import GitRepo
    from sust_dagster.connectors.forges.github import GitHubClient, token_from_environment
    from sust_dagster.connectors.forges.pull_request import PullRequestTarget

    repository = options["repository"]
    address = options.get("url") or f"https://github.com/{repository}.git"
    git = GitRepo(address, token=token_from_environment())
    return PullRequestTarget(GitHubClient.from_environment(repository), git, base=options.get("base", "main"))


def _kubernetes(options: Options) -> Target:
    return KubernetesTarget(
        options["base_url"],
        options["namespace"],
        options["region"],
        time_zone=options.get("time_zone"),
        ca_file=options.get("ca_file"),
    )


def _jira(options: Options) -> Target:
    return JiraTarget(
        options["base_url"],
        options["project"],
        options.get("issue_type", "Task"),
        withdrawn_status=options.get("withdrawn_status"),
    )


def _linear(options: Options) -> Target:
    address = options.get("base_url", "https://api.linear.app")
    return LinearTarget(options["team_id"], (), options.get("withdrawn_state_id"), address)


def _slack(options: Options) -> Target:
    return SlackTarget(options["channel"], options.get("base_url", "https://slack.com"))


_MADE: Mapping[str, Callable[[Options], Target]] = {
    "kubernetes": _kubernetes,
    "pull request": _pull_request,
    "jira": _jira,
    "linear": _linear,
    "slack": _slack,
    "teams": lambda _: TeamsTarget(),
}


def closed_target(project: Project) -> str | None:
    """Why a project's changes cannot be carried out at all; None where they can."""
    if project.execution_target == "none":
        return "execution_target is none: set it in sust.toml to where changes are carried out"
    if project.execution_target == "simulated" and project.source != "simulated":
        return "execution_target is simulated, and this project's cloud is not: set another one in sust.toml"
    return None
