"""Whether a job has any place at all: a compiled count that stops at two.

Belongs here: places within a job's window, in open hours, with room enough for that job alone. Does not belong here:
which of them is best (``kernels``), several jobs at once (``moves``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np

from sust_dagster.agents.planner.kernels import in_chunks
from sust_dagster.agents.planner.problem import HOUR_TOLERANCE, Flags, Floats, Ints, Problem

#: Room that rounding may take from a job that fits exactly, vCPU-hours.
FIT_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Openings:
    """Per job: how many places there are, counted to two, and the first one found."""

    count: Ints
    region: Ints
    delay: Ints


def openings(problem: Problem) -> Openings:
    """Places each job could take if it were alone beside the problem's capacity."""
    n = len(problem)
    found = Openings(np.zeros(n, np.int64), np.full(n, -1), np.zeros(n, np.int64))
    limited = bool(np.isfinite(problem.capacity).any())

    def chunk(low: int, high: int) -> None:
        _count(
            low, high, problem.place, problem.start_hours, problem.duration_hours, problem.vcpus, problem.max_delay,
            np.ascontiguousarray(problem.places.allowed), problem.open_hours, problem.capacity, limited,
            found.count, found.region, found.delay,
        )  # fmt: skip

    in_chunks(n, chunk)
    return found


@nb.njit(nogil=True, cache=True)
def fits(room: Floats, region: int, start: float, end: float, vcpus: float) -> bool:  # pragma: no cover
    """Whether a run finds ``vcpus`` in every hour it touches."""
    hour = int(np.floor(start))
    while hour < end - HOUR_TOLERANCE:
        if vcpus * (min(end, hour + 1.0) - max(start, float(hour))) > room[region, hour] + FIT_TOLERANCE:
            return False
        hour += 1
    return True


@nb.njit(nogil=True, cache=True)
def _count(
    low: int, high: int, place: Ints, start_hours: Floats, duration_hours: Floats, vcpus: Floats, max_delay: Ints,
    allowed: Flags, is_open: Flags, room: Floats, limited: bool, out_count: Ints, out_region: Ints, out_delay: Ints,
) -> None:  # fmt: skip  # pragma: no cover
    regions, hours = is_open.shape
    for j in range(low, high):
        for r in range(regions):
            if not allowed[place[j], r] or out_count[j] > 1:
                continue
            for s in range(max_delay[j] + 1):
                start = start_hours[j] + s
                end = start + duration_hours[j]
                if end > hours + HOUR_TOLERANCE:
                    break
                good = True
                hour = int(np.floor(start))
                while good and hour < end - HOUR_TOLERANCE:
                    good = is_open[r, hour]
                    hour += 1
                if good and limited:
                    good = fits(room, r, start, end, vcpus[j])
                if good:
                    if out_count[j] == 0:
                        out_region[j], out_delay[j] = r, s
                    out_count[j] += 1
                    if out_count[j] > 1:
                        break
