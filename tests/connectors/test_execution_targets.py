"""A project's settings become targets: each with its options, none without them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sust_dagster.connectors.execution import OPTIONS, closed_target, targets_of
from sust_dagster.settings import Project, ProjectError, load_project, simulated_project

NOW = datetime(2026, 2, 2, tzinfo=UTC)
GIVEN = {
    "kubernetes": {"base_url": "https://cluster.example", "namespace": "batch", "region": "eu-west-1"},
    "pull request": {"repository": "owner/name"},
    "jira": {"base_url": "https://jira.example", "project": "OPS"},
    "linear": {"team_id": "team"},
    "slack": {"channel": "C0123456789"},
    "teams": {},
}


def project(root: Path, target: str, options: dict[str, str]) -> Project:
    made = Project(root=root, source="files", billing=["bill.csv"], execution_target=target, target_options=options)
    made.save()
    return load_project(root)


@pytest.mark.parametrize("target", OPTIONS)
def test_each_target_is_made_from_its_options(tmp_path, monkeypatch, target):
    monkeypatch.setenv("SUST_GITHUB_TOKEN", "token-of-a-test")
    made = targets_of(project(tmp_path, target, GIVEN[target]), lambda: NOW)
    assert list(made) == [target] and made[target].name == target
    assert closed_target(project(tmp_path, target, GIVEN[target])) is None


@pytest.mark.parametrize("target", [t for t, (needed, _) in OPTIONS.items() if needed])
def test_an_option_that_lacks_or_is_not_known_is_named(tmp_path, target):
    needed = OPTIONS[target][0][0]
    options = {k: v for k, v in GIVEN[target].items() if k != needed} | {"colour": "green"}
    with pytest.raises(ProjectError, match=re.escape(f"lacks {needed} and does not know colour")):
        targets_of(project(tmp_path, target, options), lambda: NOW)


def test_nothing_is_carried_out_where_nothing_is_named(tmp_path):
    assert targets_of(project(tmp_path, "none", {}), lambda: NOW) == {}
    assert "none" in closed_target(project(tmp_path, "none", {}))
    assert "cloud is not" in closed_target(project(tmp_path, "simulated", {}))
    assert list(targets_of(simulated_project(tmp_path, days=1, seed=1), lambda: NOW)) == ["simulated"]
