"""The files under deploy/ are what the declarations say."""

from __future__ import annotations

import yaml

from sust_dagster.faces.runs import _INSTANCE_CONFIG
from sust_dagster.world.deployment import FOLDER, files


def test_derived_files_are_current() -> None:
    for name, text in files().items():
        assert (FOLDER / name).read_text() == text, f"run `python -m sust_dagster.world.deployment`: {name} is old"


def test_the_shown_instance_file_is_the_one_that_projects_get() -> None:
    shown = yaml.safe_load((FOLDER / "dagster" / "sqlite.yaml").read_text())
    assert shown == yaml.safe_load(_INSTANCE_CONFIG)
