"""From a plan to what people approve: one recommendation per workload and day, with its interval and its reasons.

Belongs here: gathering the plan's job groups by workload, the plan interval, confidence, the canonical plan and its
hash, the template text. Does not belong here: finding the plan (``rules``, ``coupled``, ``scale``), right-sizing and
spot (``options``), whether it may happen (governance).

Plan interval (forecast to settled): the change of a workload is a sum over region-hours of energy moved times the
hour's intensity. With ``D[r, h]`` the energy after less before and ``s[r, h]`` the forecast's standard deviation,

    Var = rho sum_r (sum_h D s)^2 + (1 - rho) sum_rh (D s)^2 + sum_i delta_i^2 (1 + cv^2) / n_i

the errors of one region being half common to its hours and half each hour's own (rho = 0.5), those of regions
independent, and the last term that of the number of runs (Poisson, n_i expected) and their lengths. rho and cv are
assumptions until executed actions calibrate them; the row says which interval it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import ndtr

from sust_dagster.agents.planner.problem import Figures, Flags, Floats, Ints, Objective, Plan, Problem, evaluate, spread
from sust_dagster.world.canonical import canonical_json, content_hash
from sust_dagster.world.ids import uuid5
from sust_dagster.world.schemas import PLACEMENTS, RECOMMENDATIONS

#: Part of a region's forecast error that all its hours share.
COMMON_ERROR = 0.5
#: Coefficient of variation of a run's length around its group's mean.
RUN_TIME_CV = 0.5
#: Standard deviations of a two-sided 90 % interval, each side.
Z90 = 1.6448536269514722
#: How far confidence is trusted by what stands behind the intensities; the weakest method of a plan counts.
TRUST_BY_METHOD: Mapping[str, float] = {"ridge": 1.0, "hour-of-day mean": 0.9, "last known good": 0.5}
#: USD a day below which money saved is none.
_LEAST_USD = 0.01
#: How far confidence is trusted where a workload has few runs behind it.
TRUST_FEW_RUNS = 0.8


@dataclass(frozen=True)
class Outlook:
    """What the plan was made with: the day, the rules in force and the forecast's spread."""

    planned_for: datetime
    issued_at: datetime
    objective: Objective
    carbon_price_usd_per_t: float
    policy_version: int
    carbon_sd: Floats
    """R x H: standard deviation of ``problem.carbon``, kg per IT kWh."""
    methods: tuple[str, ...]
    """Forecast method by region, as in the forecast rows."""
    egress_usd_per_gb: float = 0.02
    """Price that break-even GB are counted with."""
    shrink: Mapping[str, float] = field(default_factory=dict)
    """Winner's-curse factor in [0, 1] by action type, from what was verified; 1 where nothing is known."""
    least_saving_kg: float = 0.0
    """A workload's change that saves less, and no money, is not worth asking people for."""
    static: tuple[Ints, Ints] | None = None
    """Region and delay by job of the plan that knows mean intensities only."""


@dataclass(frozen=True)
class Change:
    """One job's before and after, as the tables want it; arrays over the problem's jobs."""

    before: Figures
    after: Figures
    vcpus_scale: Floats
    spot: Flags
    action: np.ndarray
    """Action type by job, 'do_nothing' where it stays."""


@dataclass(frozen=True)
class Recommended:
    """Rows in the declared schemas, and what was considered and left out, with why."""

    recommendations: pa.Table
    placements: pa.Table
    left_out: dict[str, int]


def placement_change(problem: Problem, plan: Plan, before: Figures, after: Figures) -> Change:
    """The change a plan makes to each job: region, start or neither."""
    elsewhere = plan.region != problem.home
    action = np.where(elsewhere, "region_shift", np.where(plan.delay > 0, "time_shift", "do_nothing"))
    n = len(problem)
    return Change(before, after, np.ones(n), np.zeros(n, bool), action)


def recommend(upcoming: pa.Table, problem: Problem, plan: Plan, change: Change, outlook: Outlook) -> Recommended:
    """Recommendations and placements of a plan; ``upcoming`` (UPCOMING_JOBS) is aligned with the problem's jobs.

    A workload is recommended when something about it changes, its score falls, and its carbon does not rise (spot
    apart, whose restarts cost some); the others are counted in ``left_out`` by reason. Every figure is for the
    expected number of runs. ``risk_level`` is 'high' until governance has assessed it: unknown is never low.
    """
    if upcoming.num_rows != len(problem):
        raise ValueError(f"{upcoming.num_rows} upcoming rows for a problem of {len(problem)} jobs")
    names = pc.dictionary_encode(upcoming.column("workload_id").combine_chunks())
    owner = names.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    gather = _Gather(upcoming, problem, plan, change, outlook, owner, len(names.dictionary))
    wanted, left_out = gather.verdict()
    rows = [gather.row(w, str(names.dictionary[w])) for w in np.flatnonzero(wanted).tolist()]
    ids = np.full(len(names.dictionary), None, object)
    ids[np.flatnonzero(wanted)] = [r["recommendation_id"] for r in rows]
    table = RECOMMENDATIONS.conform(pa.Table.from_pylist(rows, RECOMMENDATIONS.arrow))
    placed = gather.placements(ids, np.isin(owner, np.flatnonzero(wanted)) & gather.touched)
    return Recommended(table.sort_by("workload_id"), placed, left_out)


class _Gather:
    """Sums by workload of what changes."""

    def __init__(
        self, upcoming: pa.Table, problem: Problem, plan: Plan, change: Change, outlook: Outlook, owner: Ints, n: int
    ) -> None:
        self.upcoming, self.problem, self.plan, self.change = upcoming, problem, plan, change
        self.outlook, self.owner, self.n = outlook, owner, n
        self.touched: Flags = change.action != "do_nothing"
        shrink = np.array([outlook.shrink.get(a, 1.0) for a in change.action.tolist()])
        self.kg = np.where(self.touched, (change.after.kg - change.before.kg) * shrink, 0.0)
        self.usd = np.where(self.touched, change.after.cost_usd - change.before.cost_usd, 0.0)
        score = change.after.score(outlook.objective) - change.before.score(outlook.objective)
        self.score = np.where(self.touched, score, 0.0)
        self.runs = upcoming.column("expected_count").to_numpy()
        self.sum_kg, self.sum_usd, self.sum_score = (self.by_owner(v) for v in (self.kg, self.usd, self.score))
        self.forecast_sd = self._forecast_spread()
        counts = self.by_owner(self.kg**2 * (1 + RUN_TIME_CV**2) / np.maximum(self.runs, 1e-9))
        self.sd = np.sqrt(self.forecast_sd**2 + counts)
        self.requested = _times(problem, np.zeros(len(problem), np.int64))
        self.start = _times(problem, np.where(self.touched, plan.delay, 0))

    def by_owner(self, values: Floats) -> Floats:
        return np.bincount(self.owner, values, minlength=self.n).astype(np.float64)

    def verdict(self) -> tuple[Flags, dict[str, int]]:
        """Which workloads are recommended, and how many are left out for which reason."""
        changed = self.by_owner(self.touched.astype(np.float64)) > 0
        better = self.sum_score < 0
        # Spot is for money: interrupted runs start again. It says so, and a rise of carbon is high risk to governance.
        reduces = (self.sum_kg <= 0) | (self.by_owner(self.change.spot.astype(np.float64)) > 0)
        worth = (-self.sum_kg >= self.outlook.least_saving_kg) | (self.sum_usd < -_LEAST_USD)
        left_out = {
            "nothing_better": int((~changed).sum()),
            "no_gain": int((changed & ~better).sum()),
            "carbon_would_rise": int((changed & better & ~reduces).sum()),
            "too_small": int((changed & better & reduces & ~worth).sum()),
        }
        return changed & better & reduces & worth, left_out

    def _forecast_spread(self) -> Floats:
        """Standard deviation of each workload's carbon change that comes from the forecast."""
        problem, plan, who = self.problem, self.plan, (self.touched, self.owner, self.n)
        after = spread(problem, self._kw_after(), plan.region, plan.delay, *who)
        before = spread(problem, problem.kw, problem.home, np.zeros_like(plan.delay), *who)
        moved = (after - before) * np.nan_to_num(self.outlook.carbon_sd)
        common, own = (moved.sum(2) ** 2).sum(1), (moved**2).sum((1, 2))
        return np.sqrt(COMMON_ERROR * common + (1 - COMMON_ERROR) * own)

    def _kw_after(self) -> Floats:
        """Power after the change; right-sizing scales the vCPUs' part, which the carbon figures already hold."""
        same = (self.plan.region == self.problem.home) & (self.plan.delay == 0)
        ratio = np.divide(
            self.change.after.kg, self.change.before.kg, out=np.ones(len(self.problem)), where=self.change.before.kg > 0
        )
        return self.problem.kw * np.where(same & self.touched, ratio, 1.0)

    def row(self, w: int, workload_id: str) -> dict[str, Any]:
        """One recommendation."""
        jobs = np.flatnonzero((self.owner == w) & self.touched)
        first = self.upcoming.slice(int(jobs[0]), 1).to_pylist()[0]
        action = _leading(self.change.action[jobs], np.abs(self.kg[jobs]))
        current, proposed = self._configs(jobs, first, action)
        plan_hash = hash_of(workload_id, self.outlook, action, proposed)
        kg, usd, sd = float(self.sum_kg[w]), float(self.sum_usd[w]), float(self.sd[w])
        row = {
            "recommendation_id": uuid5("recommendation", workload_id, self.outlook.planned_for.isoformat(), plan_hash),
            "workload_id": workload_id,
            "team_id": first["team_id"],
            "planned_for": self.outlook.planned_for,
            "action_type": action,
            "current_config": canonical_json(current),
            "proposed_config": canonical_json(proposed),
            "est_carbon_delta_kg": kg,
            "est_carbon_delta_kg_lower": kg - Z90 * sd,
            "est_carbon_delta_kg_upper": kg + Z90 * sd,
            "est_cost_delta_usd": usd,
            "est_latency_delta_ms": self._latency(jobs),
            "confidence": self._confidence(kg, float(self.forecast_sd[w]), jobs),
            "workload_category": first["category"],
            "risk_level": "high",
            "risk_reasons": "not_assessed",
            "plan_hash": plan_hash,
            "service_tier": first["service_tier"],
            "issued_at": self.outlook.issued_at,
            "objective": self.outlook.objective.name,
            "formulation": self.plan.formulation,
            "policy_version": self.outlook.policy_version,
            "expected_runs": float(self.runs[jobs].sum()),
            "kg_before": float(self.change.before.kg[jobs].sum()),
            "cost_before_usd": float(self.change.before.cost_usd[jobs].sum()),
            "egress_usd": float(self.change.after.egress_usd[jobs].sum()),
            "static_carbon_delta_kg": self._static(jobs),
            "break_even_usd_per_t": break_even_usd_per_t(kg, usd),
            "break_even_egress_gb": self._break_even_gb(kg, usd),
            "forecast_method": ";".join(sorted(set(self._methods(jobs)))),
        }
        return {**row, "rationale_text": rationale(row, self._places(jobs))}

    def _configs(self, jobs: Ints, first: Mapping[str, Any], action: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Status quo and change as people and the executor read them: texts and whole numbers only."""
        home = sorted({self.problem.regions[r] for r in self.problem.home[jobs].tolist()})
        current = {
            "regions": home,
            "start": "as requested",
            "instance_type": first["instance_type"],
            "vcpus_scale": "1",
            "spot": False,
            "groups": len(jobs),
        }
        ids = self.upcoming.column("job_id").take(pa.array(jobs)).to_pylist()
        groups = [
            {
                "job_id": job_id,
                "requested_start": str(requested) + "Z",
                "region": self.problem.regions[region],
                "delay_hours": delay,
            }
            for job_id, requested, region, delay in zip(
                ids, np.datetime_as_string(self.requested[jobs], unit="s").tolist(), self.plan.region[jobs].tolist(),
                self.plan.delay[jobs].tolist(), strict=True,
            )
        ]  # fmt: skip
        scale = self.change.vcpus_scale[jobs]
        proposed = {
            "action_type": action,
            "vcpus_scale": f"{float(scale.min()):g}",
            "spot": bool(self.change.spot[jobs].any()),
            "placements": groups,
        }
        return current, proposed

    def _latency(self, jobs: Ints) -> float | None:
        delta = self.problem.places.latency_delta_ms[self.problem.place[jobs], self.plan.region[jobs]]
        return None if np.isnan(delta).any() else float(np.average(delta, weights=np.maximum(self.runs[jobs], 1e-9)))

    def _confidence(self, kg: float, sd: float, jobs: Ints) -> float:
        """Probability that carbon falls, times the trust in what it rests on.

        The number of runs changes how much it falls, not whether: only the forecast's spread counts here.
        """
        likely = 1.0 if sd == 0 else float(ndtr(-kg / sd))
        trust = min((trust_in(m) for m in self._methods(jobs)), default=0.0)
        quality = self.upcoming.column("quality").take(pa.array(jobs))
        few = pc.any(pc.match_substring(quality, "few_runs")).as_py()
        return likely * trust * (TRUST_FEW_RUNS if few else 1.0)

    def _methods(self, jobs: Ints) -> list[str]:
        touched = np.union1d(self.plan.region[jobs], self.problem.home[jobs])
        return [self.outlook.methods[r] for r in touched.tolist()]

    def _static(self, jobs: Ints) -> float | None:
        """What the plan of mean intensities would change, in the same forecast hours."""
        if self.outlook.static is None:
            return None
        region, delay = self.outlook.static
        kg = evaluate(self.problem, region, delay).kg[jobs] - self.change.before.kg[jobs]
        return None if np.isnan(kg).any() else float(kg.sum())

    def _break_even_gb(self, kg: float, usd: float) -> float | None:
        worth = -kg * self.outlook.carbon_price_usd_per_t / 1000.0 - usd
        return worth / self.outlook.egress_usd_per_gb if worth > 0 else 0.0

    def _places(self, jobs: Ints) -> _Moves:
        weights = np.maximum(self.runs[jobs], 1e-9)
        regions = np.bincount(self.plan.region[jobs], weights, minlength=len(self.problem.regions))
        homes = np.bincount(self.problem.home[jobs], weights, minlength=len(self.problem.regions))
        total = int((self.owner == self.owner[jobs[0]]).sum())
        return _Moves(
            self.problem.regions[int(homes.argmax())],
            self.problem.regions[int(regions.argmax())],
            len(jobs),
            total,
            float(np.average(self.plan.delay[jobs], weights=weights)),
            float(self.change.vcpus_scale[jobs].min()),
        )

    def placements(self, ids: np.ndarray, chosen: Flags) -> pa.Table:
        """Rows of PLACEMENTS for the chosen jobs, in order of recommendation, start and id."""
        jobs = np.flatnonzero(chosen)
        take = pa.array(jobs)
        change, problem, n = self.change, self.problem, len(jobs)
        regions = pa.array(problem.regions, pa.string())
        before, after = change.before, change.after
        table = pa.table(
            {
                "recommendation_id": pa.array(ids[self.owner[jobs]], pa.string()),
                "planned_for": pa.array([self.outlook.planned_for] * n, pa.timestamp("us", tz="UTC")),
                "job_id": self.upcoming.column("job_id").take(take),
                "workload_id": self.upcoming.column("workload_id").take(take),
                "requested_start": _stamps(self.requested[jobs]),
                "home_region": regions.take(pa.array(problem.home[jobs])),
                "region": regions.take(pa.array(self.plan.region[jobs])),
                "start": _stamps(self.start[jobs]),
                "action_type": pa.array(change.action[jobs].tolist(), pa.string()),
                "kg_before": before.kg[jobs],
                "kg_after": after.kg[jobs],
                "cost_before_usd": before.cost_usd[jobs],
                "cost_after_usd": after.cost_usd[jobs],
                "egress_usd": after.egress_usd[jobs],
                "score_before": before.score(self.outlook.objective)[jobs],
                "score_after": after.score(self.outlook.objective)[jobs],
                "expected_runs": self.runs[jobs],
                "vcpus_scale": change.vcpus_scale[jobs],
                "spot": change.spot[jobs],
            }
        )
        keys = [("workload_id", "ascending"), ("requested_start", "ascending"), ("job_id", "ascending")]
        return PLACEMENTS.conform(table.take(pc.sort_indices(table, keys)))


@dataclass(frozen=True)
class _Moves:
    home: str
    region: str
    groups: int
    of: int
    delay_hours: float
    vcpus_scale: float


def _times(problem: Problem, delay: Ints) -> np.ndarray:
    seconds = np.rint((problem.first_hour + problem.start_hours + delay) * 3600).astype(np.int64)
    return seconds.astype("datetime64[s]")


def _stamps(times: np.ndarray) -> pa.Array:
    return pa.array(times.astype("datetime64[us]"), pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC"))


def _leading(actions: np.ndarray, weight: Floats) -> str:
    """The action that carries most of the change; ties to the earlier name."""
    names, inverse = np.unique(actions, return_inverse=True)
    return str(names[np.bincount(inverse, weight + 1e-12).argmax()])


def trust_in(method: str) -> float:
    """Trust in a forecast method: the least of the known names it holds; an unknown method is trusted least."""
    return min((t for name, t in TRUST_BY_METHOD.items() if name in method), default=0.25)


def break_even_usd_per_t(kg_delta: float, usd_delta: float) -> float | None:
    """Carbon price at which the change pays for itself: cost increase over carbon saved; 0 where it costs nothing
    more, None where it saves no carbon.
    """
    if kg_delta >= 0:
        return None
    return max(0.0, usd_delta) / -kg_delta * 1000.0


def hash_of(workload_id: str, outlook: Outlook, action: str, proposed: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical plan: what an approval is bound to."""
    return content_hash(
        {
            "workload_id": workload_id,
            "planned_for": outlook.planned_for.isoformat(),
            "action_type": action,
            "objective": outlook.objective.name,
            "policy_version": outlook.policy_version,
            "proposed_config": proposed,
        }
    )


_TEXTS: Mapping[str, str] = {
    "region_shift": "Run {groups} of {of} hourly groups of {workload_id} mostly in {region} instead of {home}{later}",
    "time_shift": "Start {groups} of {of} hourly groups of {workload_id} {delay:.1f} h later on average, in {home}",
    "right_size": "Give {workload_id} {scale:.0%} of its vCPUs in {home}: its observed peak leaves the rest idle",
    "spot_convert": "Run {workload_id} on spot capacity in {home}; interrupted runs start again",
}


def rationale(row: Mapping[str, Any], moves: _Moves) -> str:
    """The explanation, from a template; every number in it stands in the row."""
    later = f", {moves.delay_hours:.1f} h later on average" if moves.delay_hours else ""
    what = _TEXTS[row["action_type"]].format(
        groups=moves.groups, of=moves.of, workload_id=row["workload_id"], region=moves.region, home=moves.home,
        later=later, delay=moves.delay_hours, scale=moves.vcpus_scale,
    )  # fmt: skip
    text = (
        f"{what}: {row['est_carbon_delta_kg']:+.3f} kgCO2e "
        f"(90 % {row['est_carbon_delta_kg_lower']:+.3f} to {row['est_carbon_delta_kg_upper']:+.3f}) "
        f"and {row['est_cost_delta_usd']:+.2f} USD over {row['expected_runs']:.1f} expected runs."
    )
    pays = row["break_even_usd_per_t"]
    if pays is not None:
        text += f" It pays from {pays:,.0f} USD per tonne." if pays else " It costs nothing more."
    static = row["static_carbon_delta_kg"]
    if static is not None:
        text += f" A table of mean intensities alone would give {static:+.3f} kgCO2e."
    return text


def proposals(recommendations: pa.Table, proposed_by: str) -> Sequence[dict[str, Any]]:
    """Payloads of the 'proposed' events, by recommendation, in the order of the table."""
    return [
        {
            **{k: (v.isoformat() if isinstance(v, datetime) else v) for k, v in row.items()},
            "proposed_by": proposed_by,
        }
        for row in recommendations.to_pylist()
    ]
