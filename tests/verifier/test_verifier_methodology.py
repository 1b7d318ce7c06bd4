"""The page docs/methodology.md, written out with the standard library, against the product: the same figures."""

from __future__ import annotations

import hashlib
import json
import math
import random
import statistics
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

import pytest
from verifier_cases import (
    FIRST_HOUR,
    POWER,
    START,
    Run,
    claim_table,
    factors_of,
    leakage_table,
    signal_of,
    slice_table,
    verified,
)

from sust_dagster.agents.verifier import lognormal_factor

HOUR = 3_600_000_000
Z = 1.6448536269514722
REGIONS = ("A", "B", "C")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1)


def hour_key(region: str, hour: int) -> str:
    return f"grid/{region}/{EPOCH + timedelta(hours=hour):%Y-%m-%dT%H}Z"


def credit_bound(saving: float, sd: float) -> tuple[float, float, float]:
    """Section 6: the bound, and its derivatives a and b."""
    r = -sd / saving
    t = math.sqrt(math.log(1 + r * r))
    h = math.exp(Z * t)
    if saving < 0 and saving * h < saving - Z * sd:
        slope = h * Z * r / ((1 + r * r) * t)
        return saving * h, h - r * slope, -slope
    return saving - Z * sd, 1.0, -Z


def words(seed: int, key: str):
    """Section 5: the words of a factor's stream."""
    mask = (1 << 64) - 1
    digest = hashlib.sha256(f"{seed}\x1f{key}".encode()).digest()
    block = 0
    while True:
        block += 1
        c = [block, 0, 0, 0]
        k = [int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")]
        for _ in range(10):
            a, b = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
            c = [(b >> 64) ^ c[1] ^ k[0], b & mask, (a >> 64) ^ c[3] ^ k[1], a & mask]
            k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
        yield from c


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def outcome_of(slices: list[dict], leaks: list[dict], world: World, seed: int, draws: int) -> dict:  # noqa: C901 - the page in its order
    """Sections 2 to 5 for one outcome."""
    terms, groups = [], defaultdict(lambda: [0.0, 0.0, 1.0, 1.0])
    out = defaultdict(float)
    boxes: dict[str, tuple[float, float]] = {}

    def use_hour(region: str, hour: int) -> None:
        lo, hi = boxes.get(f"grid/{region}", (1.0, 1.0))
        stated = world.system(region, hour)
        boxes[f"grid/{region}"] = (min(lo, stated[0]), max(hi, stated[1]))
        boxes[hour_key(region, hour)] = world.hour_box(region, hour)

    pieces = []
    for row in slices:
        s, e, d = micros(row["started_at"]), micros(row["ended_at"]), row["shift_us"]
        cuts = {s} | {h * HOUR for h in range(s // HOUR, e // HOUR + 1) if s < h * HOUR < e}
        cuts |= {h * HOUR + d for h in range((s - d) // HOUR, (e - d) // HOUR + 1) if s < h * HOUR + d < e}
        bounds = [*sorted(cuts), e]
        for a, b in pairwise(bounds):
            w = (b - a) / (e - s)
            region_a, region_b, h1, h0 = row["region_before"], row["region_after"], a // HOUR, (a - d) // HOUR
            u1 = row["energy_kwh"] * w
            u0 = u1 * row["energy_ratio"]
            e1, e0 = u1 * row["pue_after"], u0 * row["pue_before"]
            ga0, ga1, gb0, gb1 = (
                world.g(r, h) for r, h in ((region_a, h0), (region_a, h1), (region_b, h0), (region_b, h1))
            )
            use_hour(region_a, h0)
            use_hour(region_b, h1)
            cf, act = e0 * ga0, e1 * gb1
            before = [
                row["power_factor_key_before"] or row["power_factor_key"], row["provider_pue_factor_key_before"],
                row["region_pue_factor_key_before"], row["ratio_factor_key"],
                f"grid/{region_a}", hour_key(region_a, h0),
            ]  # fmt: skip
            after = [
                row["power_factor_key"], row["provider_pue_factor_key"], row["region_pue_factor_key"], None,
                f"grid/{region_b}", hour_key(region_b, h1),
            ]  # fmt: skip
            terms += [(cf, before), (-act, after)]
            pieces.append((cf, act, before, after))
            out["counterfactual_carbon_kg"] += cf
            out["actual_carbon_kg"] += act
            out["seed_savings_kg"] += e1 * (ga1 - gb1)
            x, y = e0 / 3 + e1 / 6, e0 / 6 + e1 / 3
            out["spatial_savings_kg"] += x * (ga0 - gb0) + y * (ga1 - gb1)
            out["temporal_savings_kg"] += x * (ga0 - ga1) + y * (gb0 - gb1)
            out["energy_savings_kg"] += (e0 - e1) * ((ga0 + gb1) / 3 + (ga1 + gb0) / 6)
            logs = [math.log(u0 / u1), math.log(row["pue_before"] / row["pue_after"]), math.log(ga0 / gb1)]
            mean = (cf + act) / 2 if abs(sum(logs)) < 1e-6 else (cf - act) / sum(logs)
            for name, log in zip(("usage", "pue", "intensity"), logs, strict=True):
                out[f"{name}_savings_kg"] += mean * log
    for leak in leaks:
        keys = [leak["factor_key"]]
        kg = leak["kg"]
        if leak["energy_kwh"] is not None:
            hour = micros(leak["at"]) // HOUR
            kg = leak["energy_kwh"] * world.g(leak["region"], hour)
            use_hour(leak["region"], hour)
            keys += [f"grid/{leak['region']}", hour_key(leak["region"], hour)]
        if kg is not None:
            terms.append((-kg, keys))
            out["leakage_kg"] += kg
    box = {k: (f.rel_lower, f.rel_upper) for k, f in world.factors.items()} | boxes
    sd = {k: math.log(hi / lo) / (2 * 1.959963984540054) for k, (lo, hi) in box.items()}
    s, plus, minus = defaultdict(float), defaultdict(float), defaultdict(float)
    for kg, keys in terms:
        for k in filter(None, keys):
            s[k] += kg
    for cf, act, before, after in pieces:
        for k in filter(None, before):
            plus[k] += cf
        for k in filter(None, after):
            minus[k] += act
    for kg, keys in terms[2 * len(pieces) :]:
        for k in filter(None, keys):
            minus[k] -= kg
    saving = out["counterfactual_carbon_kg"] - (out["actual_carbon_kg"] + out["leakage_kg"])
    spread = math.sqrt(sum((v * sd[k]) ** 2 for k, v in s.items()))
    sides = ((plus, out["counterfactual_carbon_kg"]), (minus, out["actual_carbon_kg"] + out["leakage_kg"]))
    large = max(sum((v / whole * sd[k]) ** 2 for k, v in part.items()) for part, whole in sides) > 0.1
    low, high = saving - Z * spread, saving + Z * spread
    method = "linear"
    if spread > 0 and (large or abs(saving) < 2 * spread):
        method = "monte_carlo"
        normal = statistics.NormalDist().inv_cdf
        z = {k: [normal(((w >> 11) + 0.5) / 2**53) for w in islice(words(seed, k), draws)] for k in s}
        drawn = [
            sum(kg * math.exp(sum(sd[k] * z[k][i] for k in keys if k)) for kg, keys in terms) for i in range(draws)
        ]
        low, high = quantile(drawn, 0.05), quantile(drawn, 0.95)
    for cf, act, before, after in pieces:
        shared = tuple(b if b == a else None for b, a in zip(before, after, strict=True))
        group = groups[shared]
        for kg, keys in ((cf, before), (-act, after)):
            own = [box[k] for k, both in zip(keys, shared, strict=True) if k and not both]
            ends = [kg * math.prod(b[i] for b in own) for i in (0, 1)]
            group[0] += min(ends)
            group[1] += max(ends)
        group[2] = math.prod(box[k][0] for k in shared if k)
        group[3] = math.prod(box[k][1] for k in shared if k)
    bounds = [[d * k for d in g[:2] for k in g[2:]] for g in groups.values()]
    lower, upper = sum(min(b) for b in bounds), sum(max(b) for b in bounds)
    for kg, keys in terms[2 * len(pieces) :]:
        ends = [kg * math.prod(box[k][i] for k in keys) for i in (0, 1)]
        lower, upper = lower + min(ends), upper + max(ends)
    return dict(out) | {
        "measured_carbon_delta_kg": -saving, "carbon_sd_kg": spread, "carbon_ci_lower": -high, "carbon_ci_upper": -low,
        "carbon_bounds_lower": -upper, "carbon_bounds_upper": -lower, "uncertainty_method": method,
        "leakage_kg": out["leakage_kg"], "vector": dict(s), "scaled": {k: v * sd[k] for k, v in s.items()},
    }  # fmt: skip


class World:
    """Grid, boxes and factors as plain numbers, and the same as the product takes them."""

    def __init__(self, seed: int, power: float) -> None:
        draw = random.Random(seed)
        self.grams = {r: [draw.uniform(60, 700) for _ in range(96)] for r in REGIONS}
        self.signal = signal_of(self.grams)
        self.signal.system_upper[1, 40:50] = 1.3
        self.signal.hour_lower[0, 30:40] = 0.7
        self.factors = factors_of(*REGIONS, power=power) | {"usage/x": lognormal_factor("usage/x", 0.08)}

    def g(self, region: str, hour: int) -> float:
        return self.grams[region][hour - FIRST_HOUR] / 1000

    def system(self, region: str, hour: int) -> tuple[float, float]:
        r, h = REGIONS.index(region), hour - FIRST_HOUR
        return float(self.signal.system_lower[r, h]), float(self.signal.system_upper[r, h])

    def hour_box(self, region: str, hour: int) -> tuple[float, float]:
        r, h = REGIONS.index(region), hour - FIRST_HOUR
        return float(self.signal.hour_lower[r, h]), float(self.signal.hour_upper[r, h])


@pytest.mark.parametrize(("seed", "power"), [(1, 1.42), (2, 1.42), (3, 2.2)])
def test_the_page_gives_the_same_figures(seed, power):
    world, draw = World(seed, power), random.Random(100 + seed)
    names = [f"o{i}" for i in range(8)]
    runs = [
        Run(
            name, draw.choice(REGIONS), draw.choice(REGIONS), draw.uniform(25, 60), draw.uniform(0.2, 4),
            draw.choice([0, 3, -2, draw.uniform(-20, 20)]), kw=draw.uniform(0.1, 5), ratio=ratio,
            pue_before=1.2, pue_after=1.15, extra={"ratio_factor_key": "usage/x" if ratio != 1 else None},
        )
        for name in names
        for ratio in (1.0, draw.uniform(0.8, 1.4))
    ]  # fmt: skip
    slices = slice_table(runs)
    egress = {"energy_kwh": 0.3, "region": "C", "at": START + timedelta(hours=33, minutes=5), "factor_key": POWER}
    leakage = leakage_table(names, egress=egress, retries={"kg": 0.004, "factor_key": "usage/x"})
    claims = claim_table(names, team_id=["a", "b"] * 4)
    tables = {"claims": claims, "slices": slices, "leakage": leakage}
    result = verified(runs, world.signal, world.factors, seed=seed, draws=60, **tables)
    ours = {r["outcome_id"]: r for r in result.outcomes.to_pylist()}
    assert {r["uncertainty_method"] for r in ours.values()} >= ({"monte_carlo"} if power > 2 else {"linear"})
    theirs = {}
    for name in names:
        mine = [r for r in slices.to_pylist() if r["outcome_id"] == name]
        leaks = [r for r in leakage.to_pylist() if r["outcome_id"] == name and r["reason"] is None]
        page = theirs[name] = outcome_of(mine, leaks, world, seed, 60)
        size = page["counterfactual_carbon_kg"] + page["actual_carbon_kg"]
        for key, value in page.items():
            if key == "vector":
                stored = json.loads(ours[name]["sensitivities"])
                assert stored == pytest.approx({k: v for k, v in value.items() if k in stored}, abs=1e-9 * size)
                assert all(abs(v) < 1e-9 * size for k, v in value.items() if k not in stored)
            elif key == "uncertainty_method":
                assert ours[name][key] == value
            elif key != "scaled":
                assert ours[name][key] == pytest.approx(value, abs=1e-9 * size), (name, key)
    for team, members in (("a", names[::2]), ("b", names[1::2])):
        total = defaultdict(float)
        for name in members:
            for k, v in theirs[name]["scaled"].items():
                total[k] += v
        norm = math.sqrt(sum(v * v for v in total.values()))
        row = next(p for p in result.portfolios.to_pylist() if p["team_id"] == team)
        assert row["sd_kg"] == pytest.approx(norm, rel=1e-9)
        bound, by_saving, by_sd = credit_bound(row["savings_kg"], norm)
        assert row["credit_bound_kg"] == pytest.approx(bound, rel=1e-9)
        for name in members:
            dot = sum(v * total[k] for k, v in theirs[name]["scaled"].items())
            credit = by_saving * -theirs[name]["measured_carbon_delta_kg"] + by_sd * dot / norm
            assert ours[name]["credited_kg"] == pytest.approx(credit, abs=1e-9 * norm)
