"""Jobs that are the same in all that matters, taken together.

Belongs here: finding equal jobs, and the core whose jobs are whole classes. Does not belong here: how many of a class
go where (``scale``).

A class of k equal jobs is a job of k times the power, vCPUs, money and data that may be split: prices and bounds are
the same, found on a thousand classes instead of a million jobs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sust_dagster.agents.planner.core import Core, some_jobs
from sust_dagster.agents.planner.problem import Floats, Ints, Places

_FIELDS = ("place", "home", "start_hours", "duration_hours", "kw", "vcpus", "money", "data_gb", "max_delay")
#: Odd 64-bit multipliers that mix a job's fields into one word.
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Classes:
    """Class of each job (m), one job of each class (c), and how many it has (c)."""

    of: Ints
    first: Ints
    count: Ints

    def __len__(self) -> int:
        return len(self.first)

    def phase(self, step: float) -> Floats:
        """M numbers in [0, 1): the members of a class evenly spread, each class begun ``step`` further."""
        order = np.argsort(self.of, kind="stable")
        rank = np.empty(len(self.of))
        rank[order] = np.arange(len(self.of)) - np.repeat(np.cumsum(self.count) - self.count, self.count)
        begin = np.arange(len(self)) * step % 1.0
        return (rank + begin[self.of]) / self.count[self.of] % 1.0


def classes_of(core: Core) -> Classes:
    """Equal jobs; a job that must keep an order with others is a class of its own."""
    problem = core.problem
    word = np.zeros(len(core), np.uint64)
    for name in _FIELDS:
        word = _mixed(word, getattr(problem, name))
    alone = np.zeros(len(core), np.int64)
    alone[core.pairs.ravel()] = core.pairs.ravel() + 1
    word = _mixed(word, alone)
    _, first, of, count = np.unique(word, return_index=True, return_inverse=True, return_counts=True)
    for values in (*(getattr(problem, name) for name in _FIELDS), alone):
        if (values != values[first][of]).any():  # two different jobs of one word
            every = np.arange(len(core))
            return Classes(every, every, np.ones(len(core), np.int64))
    return Classes(of, first, count)


def bundled(core: Core, classes: Classes) -> Core:
    """The core whose jobs are the classes. Its room is the same; its order is that of the classes' own pairs."""
    one, count = some_jobs(core.problem, classes.first), classes.count.astype(np.float64)
    problem = replace(
        one,
        kw=one.kw * count,
        vcpus=one.vcpus * count,
        money=one.money * count,
        data_gb=one.data_gb * count,
        places=_penalties(one.places, one.place, count),
        place=np.arange(len(classes)) if one.places.penalty_usd.any() else one.place,
    )
    first = classes.first
    return replace(
        core, problem=problem, jobs=core.jobs[first], usd=core.usd[first] * count, score=core.score[first] * count
    )


def _penalties(places: Places, place: Ints, count: Floats) -> Places:
    """A penalty is paid by each run: rows of their own where there is any."""
    if not places.penalty_usd.any():
        return places
    return Places(
        places.allowed[place],
        places.egress_usd_per_gb[place],
        places.penalty_usd[place] * count[:, None],
        places.latency_delta_ms[place],
    )


def _mixed(word: np.ndarray, values: np.ndarray) -> np.ndarray:
    bits = values.astype(np.float64).view(np.uint64) if values.dtype.kind == "f" else values.astype(np.uint64)
    word = (word ^ bits) * _MIX
    return word ^ (word >> np.uint64(29))
