"""Processes of their own for the tests."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext


def process_context() -> ForkServerContext:
    """Processes that share nothing with this one, begun by a server that has imported the world once for all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sust_dagster.world.access", "sust_dagster.world.lake", "pytest"])
    return context
