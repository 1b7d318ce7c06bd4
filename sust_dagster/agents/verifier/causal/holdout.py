"""The hold-out arm as the verifier sees it: who was drawn, with what probability, and whether the draw was obeyed.

Belongs here: arms with their propensity, and the check of what was carried out against the draw. Does not belong
here: the draw (``world.holdout``, shared with the one who plans) or any estimate of an effect.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.verifier.causal.inputs import flags, require
from sust_dagster.world.holdout import draws, held_out
from sust_dagster.world.schemas import BOOL, FLOAT, INT, STRING

#: One row per job group. ``arm``: 'treat' (may move), 'holdout' (stays) or 'not_eligible' (never drawn).
ARMS = pa.schema(
    [
        ("job_id", STRING),
        ("workload_id", STRING),
        ("eligible", BOOL),
        ("draw", FLOAT),
        ("arm", STRING),
        ("propensity_holdout", FLOAT),
    ]
)

#: One row: what was drawn and whether it was obeyed.
BALANCE = pa.schema(
    [
        ("share", FLOAT),
        ("eligible_groups", INT),
        ("keys", INT),
        ("held_out_groups", INT),
        ("held_out_share", FLOAT),
        ("sigmas", FLOAT),
        ("moved_although_held_out", INT),
        ("first_moved_although_held_out", STRING),
        ("reason", STRING),
    ]
)

#: Beyond this many standard deviations the draw that was used was not this one.
MAX_SIGMAS = 4.0


def arms(groups: pa.Table, *, seed: int, share: float) -> pa.Table:
    """The arm of each job group: schema :data:`ARMS`, rows in order of ``groups``.

    ``groups``: job_id, workload_id, requested_start (UTC), eligible (bool: some move was open to it, decided before
    and without regard to the draw). Raises :class:`CheckInputError` for missing columns, ``ValueError`` as
    :func:`sust_dagster.world.holdout.draws` does.
    """
    require(groups, ("job_id", "workload_id", "requested_start", "eligible"), "hold-out groups")
    eligible = flags(groups, "eligible", "hold-out groups")
    out = held_out(seed, groups["workload_id"], groups["requested_start"], share)
    arm = np.where(~eligible, "not_eligible", np.where(out, "holdout", "treat"))
    return pa.table(
        {
            "job_id": pc.cast(groups["job_id"], STRING),
            "workload_id": pc.cast(groups["workload_id"], STRING),
            "eligible": eligible,
            "draw": draws(seed, groups["workload_id"], groups["requested_start"]),
            "arm": pa.array(arm.astype(str), STRING),
            "propensity_holdout": pa.array(np.full(len(eligible), share), mask=~eligible),
        },
        schema=ARMS,
    )


def balance(groups: pa.Table, *, seed: int, share: float) -> pa.Table:
    """Whether the draw was obeyed and came out near its share: one row, schema :data:`BALANCE`.

    ``groups``: the columns of :func:`arms` and moved (bool: it was carried out elsewhere or at another time).
    ``sigmas`` is (held-out keys - share x keys) / sqrt(keys x share x (1 - share)) over the distinct draws, since
    groups of one workload and hour share one. ``reason`` is null, or names what is wrong: 'holdout_moved' (a group
    that was to stay was moved: its runs are no comparison), 'share_off', 'no_eligible_groups', 'no_draw' (share 0
    or 1).
    """
    require(groups, ("moved",), "hold-out groups")
    table = arms(groups, seed=seed, share=share)
    moved = flags(groups, "moved", "hold-out groups")
    eligible = table["eligible"].to_numpy()
    out = pc.equal(table["arm"], "holdout").to_numpy()
    unique = np.unique(table["draw"].to_numpy()[eligible])
    n, broken = len(unique), np.flatnonzero(out & moved)
    spread = np.sqrt(n * share * (1.0 - share))
    sigmas = (np.count_nonzero(unique < share) - n * share) / spread if spread > 0 else None
    if not eligible.any():
        reason = "no_eligible_groups"
    elif len(broken):
        reason = "holdout_moved"
    elif sigmas is None:
        reason = "no_draw"
    else:
        reason = "share_off" if abs(sigmas) > MAX_SIGMAS else None
    row = {
        "share": share,
        "eligible_groups": int(eligible.sum()),
        "keys": n,
        "held_out_groups": int(out.sum()),
        "held_out_share": float(out.sum() / eligible.sum()) if eligible.any() else None,
        "sigmas": None if sigmas is None else float(sigmas),
        "moved_although_held_out": len(broken),
        "first_moved_although_held_out": table["job_id"][int(broken[0])].as_py() if len(broken) else None,
        "reason": reason,
    }
    return pa.Table.from_pylist([row], schema=BALANCE)
