"""Books in which no action is news, made once and copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from governance_cases import SINCE, policy
from governance_world import make_precedents, open_world, policies

from sust_dagster.world.access import World


@pytest.fixture(scope="session")
def precedents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("precedents") / "books.db"
    with open_world(path) as world:
        make_precedents(world)
    return path


@pytest.fixture
def ready_world(tmp_path: Path, precedents: Path) -> Iterator[Callable[..., World]]:
    """Opens a world with a policy in force; its books are ``books.db`` of the test's folder."""
    with ExitStack() as stack:

        def make(**policy_changes: Any) -> World:
            shutil.copy(precedents, tmp_path / "books.db")
            world = stack.enter_context(open_world(tmp_path / "books.db"))
            policies(world).seed(policy(**policy_changes), SINCE)
            return world

        yield make


@pytest.fixture
def world(ready_world: Callable[..., World]) -> World:
    return ready_world()
