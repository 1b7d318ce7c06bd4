"""Intervals, portfolios, credits and statuses: what shares an error shares it, what cancels cancels."""

from __future__ import annotations

import hashlib
import json
import math
import statistics

import duckdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from verifier_cases import (
    POWER,
    PROVIDER,
    START,
    Run,
    claim_table,
    factors_of,
    leakage_table,
    row,
    signal_of,
    site,
    slice_table,
    verified,
)

from sust_dagster.agents.verifier import aggregate, lognormal_factor
from sust_dagster.agents.verifier.counterfactual import cut
from sust_dagster.agents.verifier.credit import euler_credits, lower_bound
from sust_dagster.agents.verifier.inputs import read
from sust_dagster.agents.verifier.sensitivity import terms
from sust_dagster.agents.verifier.status import STATUSES, statuses
from sust_dagster.agents.verifier.uncertainty import Z90, portfolios, standard_normals

HOURS = 72
_random = np.random.default_rng(11)
DAYS = {
    "A": (400 + 80 * _random.random(HOURS)).tolist(),
    "B": (90 + 40 * _random.random(HOURS)).tolist(),
    "C": (300 + 90 * _random.random(HOURS)).tolist(),
}
SIGNAL = signal_of(DAYS)


def sigma(bound: float) -> float:
    return math.log(bound) / 1.959963984540054


def vector(result, outcome: str = "o") -> dict[str, float]:
    return json.loads(row(result, outcome)["sensitivities"])


def test_the_quantile_is_the_exact_one():
    assert pytest.approx(statistics.NormalDist().inv_cdf(0.95), abs=1e-15) == Z90


def test_sensitivities_of_a_move():
    result = verified([Run("o", "A", "B", 12, 1)], SIGNAL)
    o, s = row(result), vector(result)
    cf, act, net = o["counterfactual_carbon_kg"], o["actual_carbon_kg"], -o["measured_carbon_delta_kg"]
    expected = {POWER: net, PROVIDER: net, site("A"): cf, site("B"): -act, "grid/A": cf, "grid/B": -act}
    expected |= {"grid/A/2026-03-02T12Z": cf, "grid/B/2026-03-02T12Z": -act}
    assert s == pytest.approx(expected)
    variance = (net * sigma(1.42)) ** 2 + (net * sigma(1.06)) ** 2
    variance += (cf**2 + act**2) * (sigma(1.04) ** 2 + sigma(1.15) ** 2 + sigma(1.10) ** 2)
    assert o["carbon_sd_kg"] == pytest.approx(math.sqrt(variance))
    assert o["uncertainty_method"] == "linear"
    assert o["carbon_ci_lower"] == pytest.approx(-net - Z90 * o["carbon_sd_kg"])
    assert o["carbon_ci_upper"] == pytest.approx(-net + Z90 * o["carbon_sd_kg"])


@given(st.integers(0, 40), st.floats(-6, 6), st.floats(0.3, 4))
def test_sensitivities_are_derivatives(start, shift, ratio):
    """Against finite differences: every factor in turn is 1 % larger, and the saving is computed anew."""
    runs = [Run("o", "A", "B", start + 6.25, 1.5, shift, ratio=ratio), Run("o", "C", "C", start + 7, 1.0, -2)]
    base = verified(runs, SIGNAL, draws=10)
    s = vector(base)
    inputs = read(claim_table(["o"]), slice_table(runs), leakage_table(["o"]), SIGNAL)
    t = terms(cut(inputs.slices, SIGNAL), inputs.slices, inputs.leakage.terms, SIGNAL, factors_of(*DAYS))
    for name in s:
        carries = np.array([name in t.key_names(keys[keys >= 0]) for keys in t.keys])
        difference = (t.kg * np.where(carries, 1.01, 1.0)).sum() - t.kg.sum()
        assert difference / 0.01 == pytest.approx(s[name], abs=1e-9 * np.abs(t.kg).sum())


def test_move_and_move_back_cancel_what_both_share():
    there, back = Run("o", "A", "B", 12, 2), Run("p", "B", "A", 12, 2)
    result = verified([there, back], SIGNAL, draws=10)
    total = aggregate(result.sensitivities, {"o": 1.0, "p": -1.0}, ["o", "p"])
    assert total.sd[0] == pytest.approx(0.0, abs=1e-15)
    assert row(result, "o")["carbon_sd_kg"] > 0.1
    # A day later: only the hours' own errors remain, the regions' shared ones still cancel.
    flat = signal_of({"A": [400.0] * 71 + [1], "B": [100.0] * 71 + [1]})
    later = verified([there, Run("p", "B", "A", 36, 2)], flat, draws=10)
    o, n = row(later, "o"), 2
    left = aggregate(later.sensitivities, {"o": 1.0, "p": -1.0}, ["o", "p"]).sd[0]
    hours = 2 * (o["counterfactual_carbon_kg"] ** 2 + o["actual_carbon_kg"] ** 2) / n * sigma(1.10) ** 2
    assert left == pytest.approx(math.sqrt(hours))


def test_equal_jobs_scale_the_spread_by_their_number():
    names = [f"o{i}" for i in range(7)]
    result = verified([Run(n, "A", "B", 12, 3, 5) for n in names], SIGNAL)
    one = row(result, "o0")["carbon_sd_kg"]
    assert result.portfolios["sd_kg"].to_pylist() == pytest.approx([7 * one])
    in_quadrature = math.sqrt(7) * one
    assert in_quadrature < 0.4 * result.portfolios["sd_kg"][0].as_py()


def test_a_usage_ratio_is_one_more_named_factor():
    factors = factors_of(*DAYS) | {"usage/m5": lognormal_factor("usage/m5", 0.05)}
    plain = verified([Run("o", "A", "B", 12, 1, ratio=1.2)], SIGNAL)
    estimated = verified(
        [Run("o", "A", "B", 12, 1, ratio=1.2, extra={"ratio_factor_key": "usage/m5"})], SIGNAL, factors
    )
    cf = row(plain)["counterfactual_carbon_kg"]
    assert vector(estimated)["usage/m5"] == pytest.approx(cf)
    more = row(estimated)["carbon_sd_kg"] ** 2 - row(plain)["carbon_sd_kg"] ** 2
    assert more == pytest.approx((0.05 * cf) ** 2)


def test_another_power_factor_on_the_other_side_does_not_cancel():
    same = verified([Run("o", "A", "C", 12, 1)], SIGNAL)
    other = "power/other"
    factors = factors_of(*DAYS) | {other: lognormal_factor(other, sigma(1.42))}
    moved = verified([Run("o", "A", "C", 12, 1, extra={"power_factor_key_before": other})], SIGNAL, factors)
    assert row(moved)["carbon_sd_kg"] > 1.5 * row(same)["carbon_sd_kg"]


def test_several_boxes_of_one_region_become_one_factor():
    signal = signal_of(DAYS)
    signal.system_upper[0, 13] = 1.5
    o = row(verified([Run("o", "A", "B", 12, 2)], signal))
    plain = row(verified([Run("o", "A", "B", 12, 2)], SIGNAL))
    cf, wide = o["counterfactual_carbon_kg"], math.log(1.5 * 1.15) / (2 * 1.959963984540054)
    more = o["carbon_sd_kg"] ** 2 - plain["carbon_sd_kg"] ** 2
    assert more == pytest.approx(cf**2 * (wide**2 - sigma(1.15) ** 2))


# Monte Carlo ------------------------------------------------------------------------------------------------------


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 as its paper states it, in plain integers."""
    mask = (1 << 64) - 1
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(p1 >> 64) ^ c[1] ^ k[0], p1 & mask, (p0 >> 64) ^ c[3] ^ k[1], p0 & mask]
        k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
    return c


def replayed(key: str, seed: int, draws: int) -> list[float]:
    digest = hashlib.sha256(f"{seed}\x1f{key}".encode()).digest()
    words = [int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")]
    stream = (w for block in range(1, draws // 4 + 2) for w in philox([block, 0, 0, 0], words))
    normal = statistics.NormalDist()
    return [normal.inv_cdf(((next(stream) >> 11) + 0.5) / 2**53) for _ in range(draws)]


def test_an_auditor_replays_the_draws_with_the_standard_library():
    ours = standard_normals("grid/A/2026-03-02T12Z", 7, 10)
    assert ours == pytest.approx(replayed("grid/A/2026-03-02T12Z", 7, 10), abs=1e-12)
    assert standard_normals("grid/A", 7, 4000).std() == pytest.approx(1, abs=0.05)
    assert abs(np.corrcoef(standard_normals("grid/A", 7, 4000), standard_normals("grid/B", 7, 4000))[0, 1]) < 0.06


def test_a_saving_near_zero_is_drawn_and_replays():
    # 1 % dirtier to cleaner: the sign is open.
    signal = signal_of({"A": [400.0] * 23 + [1], "B": [396.0] * 23 + [1]})
    result = verified([Run("o", "A", "B", 12, 1)], signal, seed=5, draws=400)
    o = row(result)
    assert o["uncertainty_method"] == "monte_carlo"
    factors = {POWER: 1.42, PROVIDER: 1.06}
    z = {k: np.array(replayed(k, 5, 400)) for k in [*factors, *vector(result)]}
    shared = np.exp(sum(sigma(b) * z[k] for k, b in factors.items()))
    savings = 0.0
    for region, kg in (("A", o["counterfactual_carbon_kg"]), ("B", -o["actual_carbon_kg"])):
        own = {site(region): 1.04, f"grid/{region}": 1.15, f"grid/{region}/2026-03-02T12Z": 1.10}
        savings = savings + kg * shared * np.exp(sum(sigma(b) * z[k] for k, b in own.items()))
    # The 5 % and 95 % points between order statistics, as the methodology states them.
    ordered = sorted(savings)
    at = 0.05 * 399
    low = ordered[int(at)] + (at - int(at)) * (ordered[int(at) + 1] - ordered[int(at)])
    assert -o["carbon_ci_upper"] == pytest.approx(low, rel=1e-9)
    again = verified([Run("o", "A", "B", 12, 1)], signal, seed=5, draws=400)
    assert again.outcomes.equals(result.outcomes)
    assert not verified([Run("o", "A", "B", 12, 1)], signal, seed=6, draws=400).outcomes.equals(result.outcomes)


def test_a_wide_factor_is_drawn_and_its_interval_is_skew():
    wide, narrow = (factors_of(*DAYS, power=b) for b in (2.5, 1.42))
    o = row(verified([Run("o", "A", "B", 12, 1)], SIGNAL, wide))
    assert o["uncertainty_method"] == "monte_carlo"
    net = -o["measured_carbon_delta_kg"]
    assert -o["carbon_ci_lower"] - net > 1.5 * (net + o["carbon_ci_upper"])
    assert row(verified([Run("o", "A", "B", 12, 1)], SIGNAL, narrow))["uncertainty_method"] == "linear"


def test_draws_do_not_depend_on_who_else_is_drawn():
    """The same factor errors for every outcome: blocks of outcomes or terms change nothing."""
    runs = [Run(f"o{i}", "A", "C", 1 + i % 40, 3, (i % 5) / 2) for i in range(300)]
    many = verified(runs, SIGNAL, draws=50)
    drawn = [i for i, m in enumerate(many.outcomes["uncertainty_method"].to_pylist()) if m == "monte_carlo"]
    assert len(drawn) > 130
    for i in (drawn[0], drawn[len(drawn) // 2], drawn[-1]):
        alone = row(verified([runs[i]], SIGNAL, draws=50))
        ours = row(many, f"o{i}")
        assert ours["carbon_ci_lower"] == pytest.approx(alone["carbon_ci_lower"], rel=1e-12)
        assert ours["carbon_ci_upper"] == pytest.approx(alone["carbon_ci_upper"], rel=1e-12)


# Bounds -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.floats(-5, 5), st.sampled_from(["A", "B", "C"]))
def test_no_world_inside_the_boxes_leaves_the_bounds(seed, shift, after):
    runs = [Run("o", "A", after, 12.5, 2, shift), Run("o", "C", "B", 20, 1, ratio=1.1)]
    leak = leakage_table(["o"], retries={"kg": 0.02, "factor_key": POWER})
    result = verified(runs, SIGNAL, leakage=leak, draws=10)
    inputs = read(claim_table(["o"]), slice_table(runs), leak, SIGNAL)
    t = terms(cut(inputs.slices, SIGNAL), inputs.slices, inputs.leakage.terms, SIGNAL, factors_of(*DAYS))
    random = np.random.default_rng(seed)
    codes, inverse = np.unique(t.keys, return_inverse=True)
    inverse = inverse.reshape(t.keys.shape)
    low, high = np.ones(len(codes)), np.ones(len(codes))
    low[inverse], high[inverse] = np.log(t.lower), np.log(t.upper)
    corner = random.random((60, len(codes))).round(int(random.integers(0, 3)))
    f = low + corner * (high - low)
    savings = (t.kg * np.exp(f[:, inverse].sum(axis=2))).sum(axis=1)
    o = row(result)
    slack = 1e-9 * np.abs(t.kg).sum()
    assert (savings >= -o["carbon_bounds_upper"] - slack).all()
    assert (savings <= -o["carbon_bounds_lower"] + slack).all()


def test_what_both_sides_share_is_factored_out_of_the_bounds():
    o = row(verified([Run("o", "A", "B", 12, 1)], SIGNAL))
    cf, act = o["counterfactual_carbon_kg"], o["actual_carbon_kg"]
    own, common = 1.04 * 1.15 * 1.10, 1.42 * 1.06
    assert -o["carbon_bounds_lower"] == pytest.approx(common * (cf * own - act / own))
    assert -o["carbon_bounds_upper"] == pytest.approx((cf / own - act * own) / common)
    naive = cf * own * common - act / own / common
    assert naive > -o["carbon_bounds_lower"]


# Portfolios and credits -------------------------------------------------------------------------------------------

TEAMS = ["data", "data", "web", "web", "data", "web"]
MONTHS = [START, START.replace(day=30), START, START.replace(month=4), START.replace(month=4), START]


def fleet():
    runs = [
        Run("o0", "A", "B", 12, 3, 4),
        Run("o1", "B", "A", 20, 2),
        Run("o2", "A", "B", 30, 3.3, 1.5),
        Run("o3", "A", "A", 12, 5, -3),
        Run("o4", "A", "C", 12, 1, kw=20),
        Run("o5", "C", "C", 40, 1, 7, kw=3),
    ]
    claims = claim_table([r.outcome for r in runs], team_id=TEAMS, executed_on=MONTHS)
    return verified(runs, SIGNAL, claims=claims, draws=200)


def test_credits_sum_to_the_lower_bound_of_team_and_month():
    result = fleet()
    rows = result.outcomes.to_pylist()
    for p in result.portfolios.to_pylist():
        mine = [r for r in rows if (r["team_id"], r["month"]) == (p["team_id"], p["month"])]
        assert p["outcomes"] == len(mine)
        assert sum(r["credited_kg"] for r in mine) == pytest.approx(p["credit_bound_kg"], rel=1e-9)
        assert p["credit_bound_kg"] <= p["savings_ci_lower"]
        assert p["savings_kg"] < 0 or p["credit_bound_kg"] == p["savings_ci_lower"]
        assert p["savings_kg"] == pytest.approx(-sum(r["measured_carbon_delta_kg"] for r in mine))
        # Credit is never below what the outcome would earn alone by the linear bound.
        for r in mine if p["savings_kg"] > 0 else ():
            assert r["credited_kg"] >= -r["measured_carbon_delta_kg"] - Z90 * r["carbon_sd_kg"] - 1e-12
    assert min(r["credited_kg"] for r in rows) < 0 < max(r["credited_kg"] for r in rows)


@pytest.mark.parametrize("where", ["team_id = 'data'", "team_id = 'web'", "outcome_id IN ('o0', 'o3', 'o4')", "true"])
def test_any_subset_aggregates_exactly_in_sql(where):
    result = fleet()
    database = duckdb.connect()
    database.register("outcomes", result.outcomes)
    database.register("sensitivities", result.sensitivities)
    ids = [r[0] for r in database.execute(f"SELECT outcome_id FROM outcomes WHERE {where}").fetchall()]
    sd = database.execute(
        "SELECT sqrt(sum(g * g)) FROM (SELECT factor_key, sum(scaled_kg) AS g FROM sensitivities "
        f"JOIN outcomes USING (outcome_id) WHERE {where} GROUP BY factor_key)"
    ).fetchall()[0][0]
    savings = {r["outcome_id"]: -r["measured_carbon_delta_kg"] for r in result.outcomes.to_pylist()}
    total = aggregate(result.sensitivities, savings, ids)
    assert total.sd[0] == pytest.approx(sd, rel=1e-9)
    # And exactly what verifying the subset alone says.
    runs = {
        "o0": Run("o0", "A", "B", 12, 3, 4),
        "o3": Run("o3", "A", "A", 12, 5, -3),
        "o4": Run("o4", "A", "C", 12, 1, kw=20),
    }
    if set(ids) == set(runs):
        alone = verified(list(runs.values()), SIGNAL, draws=10).portfolios
        assert alone["sd_kg"][0].as_py() == pytest.approx(sd, rel=1e-9)


def test_the_stored_vector_is_the_row_of_the_table():
    result = fleet()
    table = {}
    for r in result.sensitivities.to_pylist():
        table.setdefault(r["outcome_id"], {})[r["factor_key"]] = r["kg"]
        assert r["scaled_kg"] == pytest.approx(r["kg"] * r["log_sd"])
    for r in result.outcomes.to_pylist():
        stored = json.loads(r["sensitivities"])
        assert stored == table[r["outcome_id"]]
        assert list(stored) == sorted(stored)


def test_credit_where_nothing_in_the_total_is_uncertain_is_the_saving():
    savings, group, none = np.array([3.0, -1.0]), np.zeros(2, np.int64), np.empty(0, np.int64)
    total = portfolios(savings, group, 1, none, none, np.empty(0), 0)
    assert euler_credits(savings, group, none, np.empty(0), total).tolist() == [3.0, -1.0]
    outcome, key, scaled = np.array([0, 1]), np.zeros(2, np.int64), np.array([2.0, -2.0])
    total = portfolios(savings, group, 1, outcome, key, scaled, 1)
    assert total.sd[0] == 0
    assert euler_credits(savings, group, outcome, scaled, total).tolist() == [3.0, -1.0]


def test_the_bound_of_a_loss_is_that_of_a_log_normal_loss():
    losses, sds = np.array([-100.0, -100.0, -100.0]), np.array([1.0, 20.0, 60.0])
    bound = lower_bound(losses, sds).kg
    # The loss itself as a log-normal figure of that spread: its 95 % quantile.
    spread = np.sqrt(np.log(1 + (sds / 100) ** 2))
    assert bound == pytest.approx(losses * np.exp(Z90 * spread))
    assert (bound < losses - Z90 * sds).all()
    # A gain keeps the straight line, and so does a loss that is all error.
    assert lower_bound(-losses, sds).kg == pytest.approx(100 - Z90 * sds)
    assert lower_bound(np.array([-1e-9]), np.array([5.0])).kg == pytest.approx([-5 * Z90])


@given(st.floats(-1e3, 1e3), st.floats(0, 1e3), st.floats(0.01, 100))
def test_the_credit_bound_is_homogeneous_and_euler_adds_up(saving, sd, scale):
    bound = lower_bound(np.array([saving, saving * scale]), np.array([sd, sd * scale]))
    size = abs(saving) + sd
    assert bound.kg[1] == pytest.approx(bound.kg[0] * scale, abs=1e-9 * size * scale)
    assert bound.by_saving[0] * saving + bound.by_sd[0] * sd == pytest.approx(bound.kg[0], abs=1e-9 * size)
    assert bound.kg[0] <= saving - Z90 * sd + 1e-9 * size
    # The derivatives are those of the bound: a small step in each argument (away from where the two branches meet).
    step = 1e-6 * size
    for d_saving, d_sd, slope in ((step, 0.0, bound.by_saving[0]), (0.0, step, bound.by_sd[0])):
        near = lower_bound(np.array([saving - d_saving, saving + d_saving]), np.array([max(sd - d_sd, 0.0), sd + d_sd]))
        if len({*near.by_sd.round(3), round(float(bound.by_sd[0]), 3)}) == 1 and sd > step and abs(saving) > step:
            assert (near.kg[1] - near.kg[0]) / (2 * step) == pytest.approx(slope, rel=1e-2, abs=1e-2)


def test_sparse_and_dense_sums_agree(monkeypatch):
    random = np.random.default_rng(3)
    group, outcome = random.integers(0, 9, 50), random.integers(0, 50, 400)
    args = (random.random(50), group, 9, outcome, random.integers(0, 30, 400), random.normal(size=400), 30)
    dense = portfolios(*args)
    monkeypatch.setattr("sust_dagster.agents.verifier.uncertainty._DENSE_CELLS", 0)
    sparse = portfolios(*args)
    assert sparse.sd == pytest.approx(dense.sd)
    both = [euler_credits(args[0], group, outcome, args[5], p) for p in (dense, sparse)]
    assert both[0] == pytest.approx(both[1])


# Status -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("saving", "lower", "upper", "claimed", "disqualified", "status"),
    [
        (10, 2, 18, 9, False, "confirmed"),
        (10, 2, 18, 10, False, "confirmed"),
        (10, 2, 18, float("nan"), False, "confirmed"),
        (10, 2, 18, 11, False, "partial"),
        (10, 1, 23, 5, False, "partial"),
        (10, 0, 20, 5, False, "inconclusive"),
        (10, -1, 20, 50, False, "inconclusive"),
        (0, 0, 0, 0, False, "inconclusive"),
        (-5, -20, 0, 5, False, "inconclusive"),
        (-5, -9, -1, 5, False, "refuted"),
        (10, 2, 18, 9, True, "disqualified"),
        (float("nan"), 2, 18, 9, False, "disqualified"),
        (10, 2, float("inf"), 9, False, "disqualified"),
    ],
)
def test_status_in_order(saving, lower, upper, claimed, disqualified, status):
    columns = (np.array([float(v)]) for v in (saving, lower, upper, claimed))
    assert statuses(*columns, np.array([disqualified])).tolist() == [status]


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=4, max_size=4), st.booleans())
def test_every_figure_gets_one_status_that_means_what_it_says(values, disqualified):
    saving, lower, upper, claimed = values
    (status,) = statuses(*(np.array([v]) for v in values), np.array([disqualified])).tolist()
    assert status in STATUSES
    if status == "confirmed":
        assert lower > 0
        assert (upper - lower) / 2 <= saving
        assert not saving < claimed
    if status == "partial":
        assert lower > 0
        assert saving > 0
    if status == "refuted":
        assert upper < 0
    if status not in {"disqualified", "refuted"} and lower <= 0:
        assert status == "inconclusive"
