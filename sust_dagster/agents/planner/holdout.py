"""The hold-out arm: groups that stay as they are, by lot, so that there is something to compare a move with.

Belongs here: leaving the drawn groups out of a day's plan. Does not belong here: the draw (``world.holdout``), what is
learned from it (the verifier).
"""

from __future__ import annotations

import pyarrow as pa

from sust_dagster.world.holdout import held_out


def planned_and_held_out(groups: pa.Table, seed: int, share: float) -> tuple[pa.Table, int]:
    """The groups (UPCOMING_JOBS) a plan may move, and how many it may not.

    What nobody plans runs where and when it is asked for, as it is: the do-nothing arm. Whether a group is in it
    follows from its workload and hour alone, before anything is known of what a move would save.
    """
    if share <= 0 or not groups.num_rows:
        return groups, 0
    stays = held_out(seed, groups.column("workload_id"), groups.column("requested_start"), share)
    return groups.filter(pa.array(~stays)), int(stays.sum())
