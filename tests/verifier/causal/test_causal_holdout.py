"""The hold-out draw is keyed, known in advance and obeyed."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.agents.verifier.causal.holdout import ARMS, BALANCE, arms, balance
from sust_dagster.world.holdout import draws, held_out
from sust_dagster.world.schemas import TIMESTAMP

START = datetime(2026, 3, 1, tzinfo=UTC)


def keys_of(workloads: int, hours: int) -> tuple[pa.Array, pa.Array]:
    names = [f"job-{w}" for w in range(workloads) for _ in range(hours)]
    times = [START + timedelta(hours=h) for _ in range(workloads) for h in range(hours)]
    return pa.array(names), pa.array(times, TIMESTAMP)


def test_a_draw_is_the_digest_anyone_can_take():
    workload, start = pa.array(["nightly"]), pa.array([START + timedelta(minutes=59)], TIMESTAMP)
    hours = int(START.timestamp()) // 3600
    digest = hashlib.sha256(f"7\x1fholdout\x1fnightly\x1f{hours}".encode()).digest()
    assert draws(7, workload, start)[0] == (int.from_bytes(digest[:8], "big") >> 11) / 2**53


@pytest.mark.parametrize("share", [0.05, 0.10, 0.5])
def test_the_share_converges_and_draws_are_uniform(share: float):
    workload, start = keys_of(200, 200)
    n = len(workload)
    sigma = np.sqrt(share * (1 - share) / n)
    assert abs(held_out(1, workload, start, share).mean() - share) < 4 * sigma
    u = np.sort(draws(1, workload, start))
    # Kolmogorov's bound at about 1e-4.
    assert np.abs(u - (np.arange(n) + 0.5) / n).max() < 2.2 / np.sqrt(n)


def test_neighbours_in_time_and_name_are_not_alike():
    workload, start = keys_of(200, 200)
    u = draws(1, workload, start).reshape(200, 200) - 0.5
    along, across = (u[:, 1:] * u[:, :-1]).mean() * 12, (u[1:] * u[:-1]).mean() * 12
    assert max(abs(along), abs(across)) < 4 / 200


def test_another_seed_is_another_draw():
    workload, start = keys_of(100, 100)
    a, b = draws(1, workload, start), draws(2, workload, start)
    assert not (a == b).any()
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / 100


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(-(2**40), 2**40),
    rows=st.lists(st.tuples(st.text(min_size=1, max_size=6), st.integers(-(10**6), 10**6)), min_size=1, max_size=30),
    order=st.randoms(use_true_random=False),
)
def test_order_and_company_do_not_matter(seed: int, rows: list[tuple[str, int]], order):
    workload = pa.array([w for w, _ in rows])
    start = pa.array([START + timedelta(hours=h) for _, h in rows], TIMESTAMP)
    all_at_once = draws(seed, workload, start)
    shuffled = list(range(len(rows)))
    order.shuffle(shuffled)
    assert (draws(seed, workload.take(shuffled), start.take(shuffled)) == all_at_once[shuffled]).all()
    alone = [draws(seed, workload.slice(i, 1), start.slice(i, 1))[0] for i in range(len(rows))]
    assert alone == all_at_once.tolist()
    assert ((all_at_once >= 0) & (all_at_once < 1)).all()


def test_a_larger_share_only_adds_and_the_ends_are_nobody_and_all():
    workload, start = keys_of(50, 50)
    small, large = held_out(3, workload, start, 0.05), held_out(3, workload, start, 0.10)
    assert (large >= small).all() and large.sum() > small.sum()
    assert not held_out(3, workload, start, 0.0).any() and held_out(3, workload, start, 1.0).all()


def test_what_cannot_be_drawn_is_refused():
    workload, start = keys_of(1, 1)
    with pytest.raises(ValueError, match="no probability"):
        held_out(1, workload, start, 1.5)
    with pytest.raises(ValueError, match="null"):
        draws(1, pa.array([None], pa.string()), start)
    with pytest.raises(ValueError, match="time zone"):
        draws(1, workload, pa.array([datetime(2026, 1, 1)], pa.timestamp("us")))  # noqa: DTZ001
    with pytest.raises(ValueError, match="1 workloads for 2"):
        draws(1, workload, keys_of(1, 2)[1])
    assert len(draws(1, workload.slice(0, 0), start.slice(0, 0))) == 0


def groups_of(share: float, disobey: int = 0, seed: int = 5) -> pa.Table:
    workload, start = keys_of(60, 60)
    out = held_out(seed, workload, start, share)
    eligible = np.arange(len(out)) % 3 != 0
    moved = eligible & ~out
    moved[np.flatnonzero(eligible & out)[:disobey]] = True
    return pa.table(
        {
            "job_id": [f"g{i}" for i in range(len(out))],
            "workload_id": workload,
            "requested_start": start,
            "eligible": eligible,
            "moved": moved,
        }
    )


def test_arms_carry_the_known_propensity():
    table = arms(groups_of(0.1), seed=5, share=0.1)
    assert table.schema == ARMS
    rows = table.to_pylist()
    assert {r["arm"] for r in rows} == {"treat", "holdout", "not_eligible"}
    for r in rows:
        assert r["propensity_holdout"] == (0.1 if r["eligible"] else None)
        assert (r["arm"] == "holdout") == (r["eligible"] and r["draw"] < 0.1)


def test_an_obeyed_draw_is_in_balance_and_a_broken_one_is_named():
    good = balance(groups_of(0.1), seed=5, share=0.1)
    assert good.schema == BALANCE
    assert good["reason"].to_pylist() == [None] and abs(good["sigmas"][0].as_py()) < 4
    bad = balance(groups_of(0.1, disobey=1), seed=5, share=0.1).to_pylist()[0]
    assert bad["reason"] == "holdout_moved" and bad["moved_although_held_out"] == 1
    assert bad["first_moved_although_held_out"].startswith("g")
    # A draw of another seed cannot pass for this one.
    other = balance(groups_of(0.1, seed=6), seed=5, share=0.1).to_pylist()[0]
    assert other["reason"] == "holdout_moved" and other["moved_although_held_out"] > 100
    none = groups_of(0.1).set_column(3, "eligible", pa.array(np.zeros(3600, bool)))
    assert balance(none, seed=5, share=0.1)["reason"][0].as_py() == "no_eligible_groups"
