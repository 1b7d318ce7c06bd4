"""What each kind of job may do: categories, regions, providers, latency, and what moving costs.

Belongs here: the rule that a region is allowed for a job, how far a start may move, egress and latency by pair of
regions. Does not belong here: hours, intensities and prices (``candidates``), what is best (``rules``, ``scale``).

Rules are positive: a place is allowed when everything that must be true of it is known and true. Home is always
allowed. ``urgent``: no delay, same continent, SLA latency kept; ``balanced``: up to 4 h, same provider;
``sustainable``: up to 24 h, anywhere. A job's own ``max_delay_hours`` and ``allowed_regions`` narrow that, never widen
it, so that nobody can make a job deferrable by saying so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sust_dagster.agents.accountant.columns import Coded, compact
from sust_dagster.agents.planner.jobs import UNKNOWN_CATEGORY, Jobs
from sust_dagster.agents.planner.problem import Flags, Floats, Ints, Places
from sust_dagster.world.schemas import CATEGORIES

Scope = Literal["home", "continent", "provider", "anywhere"]

#: USD per GB that leaves a region, where nothing else is said.
EGRESS_USD_PER_GB = 0.02
#: USD per run and ms above the SLA: the founding design's weight of 10 times 0.001 USD.
PENALTY_USD_PER_MS = 0.01


@dataclass(frozen=True)
class Window:
    """How far work of a category may move."""

    hours: int
    scope: Scope


WINDOWS: Mapping[str, Window] = MappingProxyType(
    {"urgent": Window(0, "continent"), "balanced": Window(4, "provider"), "sustainable": Window(24, "anywhere")}
)


@dataclass(frozen=True)
class Rules:
    """What policy says about moving."""

    windows: Mapping[str, Window] = field(default_factory=lambda: WINDOWS)
    penalty_usd_per_ms: float = PENALTY_USD_PER_MS
    strict_latency: bool = False
    """Whether a latency known to be above its SLA bars other work too (min-carbon, which pays no penalty)."""


@dataclass(frozen=True)
class Regions:
    """R regions and what the reference knows of them; '' = not known."""

    names: tuple[str, ...]
    provider: tuple[str, ...]
    continent: tuple[str, ...]

    @classmethod
    def of(cls, names: tuple[str, ...], reference: pa.Table) -> Regions:
        """``reference``: region, provider, continent."""
        rows = reference.select(["region", "provider", "continent"]).to_pylist()
        facts = {r["region"]: (r["provider"] or "", r["continent"] or "") for r in rows}
        known = [facts.get(n, ("", "")) for n in names]
        return cls(names, tuple(p for p, _ in known), tuple(c for _, c in known))

    @property
    def unknown(self) -> tuple[str, ...]:
        """Regions the reference does not know."""
        return tuple(n for n, p in zip(self.names, self.provider, strict=True) if not p)


@dataclass(frozen=True)
class Pairs:
    """What lies between regions: R x R, row = from (home), column = to."""

    egress_usd_per_gb: Floats
    latency_ms: Floats
    """NaN = not known."""


@dataclass(frozen=True)
class Kinds:
    """Jobs by what they may do."""

    places: Places
    place: Ints
    """n: row of ``places``."""
    max_delay: Ints
    """n: longest start delay, whole hours."""
    unsure_latency: Flags
    """n: jobs with an SLA that no latency is known for: urgent ones stay, others are not charged."""


def kinds(jobs: Jobs, regions: Regions, pairs: Pairs, rules: Rules, pinned: Flags) -> Kinds:
    """Places of every job; ``pinned`` (n) jobs stay at home at once.

    K kinds are the combinations that occur of category, home, provider, allowed regions and SLA, so that jobs are
    looked at by column and places by kind.
    """
    category = np.where(pinned, UNKNOWN_CATEGORY, jobs.category)
    position = {name: i for i, name in enumerate(regions.names)}
    home = np.array([position.get(v, -1) for v in jobs.region.values], np.int64)[jobs.region.codes]
    movable = ~np.isnan(jobs.data_gb)
    latency_known = np.isfinite(pairs.latency_ms).any()
    sla = jobs.sla_latency_ms
    runs = np.where(np.isnan(sla), 1.0, jobs.count) if latency_known else np.ones(len(jobs))
    sla_values, sla_code = np.unique(np.where(np.isnan(sla), np.inf, sla), return_inverse=True)
    run_values, run_code = np.unique(runs, return_inverse=True)
    place, rows = _combinations(
        [
            (category, UNKNOWN_CATEGORY + 1),
            (home, len(regions.names)),
            (jobs.provider.codes, len(jobs.provider.values)),
            (jobs.allowed.codes, len(jobs.allowed.values)),
            (movable.astype(np.int64), 2),
            (sla_code, len(sla_values)),
            (run_code, len(run_values)),
        ]
    )
    kind = _Kind(
        category[rows],
        home[rows],
        np.array([provider_name(v) for v in jobs.provider.values], object)[jobs.provider.codes[rows]],
        _listed(jobs.allowed, regions.names)[jobs.allowed.codes[rows]],
        movable[rows],
        sla[rows],
        run_values[run_code[rows]],
    )
    places, unsure = _places(kind, regions, pairs, rules)
    return Kinds(places, place, _max_delay(jobs, category, rules), unsure[place])


@dataclass(frozen=True)
class _Kind:
    """K kinds as arrays."""

    category: Ints
    home: Ints
    provider: NDArray[np.object_]
    listed: Flags
    """K x R: regions of its own list."""
    movable: Flags
    """Its data size is known, so that moving has a price."""
    sla: Floats
    runs: Floats


def _combinations(columns: list[tuple[NDArray[np.integer], int]]) -> tuple[Ints, Ints]:
    """Code of each row's combination, and the first row of each code."""
    code = np.zeros(len(columns[0][0]), np.int64)
    size = 1
    for values, distinct in columns:
        code, size = code * distinct + values, size * distinct
        if size > max(4 * len(code), 1024):
            present, code = np.unique(code, return_inverse=True)
        else:
            present, code = compact(code, size)
        code, size = code.astype(np.int64), len(present)
    first = np.zeros(size, np.int64)
    first[code[::-1]] = np.arange(len(code))[::-1]
    return code, first


def _max_delay(jobs: Jobs, category: Ints, rules: Rules) -> Ints:
    widest = np.array([rules.windows[c].hours if c in rules.windows else 0 for c in CATEGORIES] + [0])[category]
    own = np.floor(np.nan_to_num(jobs.max_delay_hours, nan=np.inf))
    return np.minimum(widest, own).astype(np.int64)


def _places(kind: _Kind, regions: Regions, pairs: Pairs, rules: Rules) -> tuple[Places, Flags]:
    at_home = np.arange(len(regions.names))[None, :] == kind.home[:, None]
    latency = pairs.latency_ms[kind.home]
    home_latency = np.nan_to_num(latency[np.arange(len(kind.home)), kind.home], nan=0.0)
    has_sla = ~np.isnan(kind.sla)
    sla = np.where(has_sla, kind.sla, np.inf)[:, None]
    # Neither comparison is true of a latency that is not known.
    urgent = (has_sla & (kind.category == CATEGORIES.index("urgent")))[:, None]
    kept = np.where(urgent, latency <= sla, ~(rules.strict_latency & (latency > sla)))
    candidate = _in_scope(kind, regions, rules) & kind.listed & kind.movable[:, None] & ~at_home
    over = np.maximum(0.0, np.nan_to_num(latency) - sla)
    places = Places(
        allowed=(candidate & kept) | at_home,
        egress_usd_per_gb=np.where(at_home, 0.0, pairs.egress_usd_per_gb[kind.home]),
        penalty_usd=over * rules.penalty_usd_per_ms * kind.runs[:, None],
        latency_delta_ms=np.where(at_home, 0.0, latency - home_latency[:, None]),
    )
    return places, has_sla & (np.isnan(latency) & candidate).any(1)


def _in_scope(kind: _Kind, regions: Regions, rules: Rules) -> Flags:
    """K x R: what the category allows. Names are compared as codes, '' (not known) never equals anything."""
    provider, continent = np.array(regions.provider, object), np.array(regions.continent, object)
    scopes = np.array([rules.windows[c].scope if c in rules.windows else "home" for c in CATEGORIES] + ["home"], object)
    scope = scopes[kind.category][:, None]
    same_continent = (continent[None, :] == continent[kind.home][:, None]) & (continent[None, :] != "")
    stated, by_home = kind.provider[:, None], provider[kind.home][:, None]
    # Where the job's provider and its home's contradict each other, no provider is the same.
    wanted = np.where(stated == "", by_home, np.where((by_home == "") | (by_home == stated), stated, "?"))
    same_provider = (provider[None, :] == wanted) & (provider[None, :] != "")
    return (
        (scope == "anywhere")
        | ((scope == "continent") & same_continent)
        | ((scope == "provider") & same_provider)
    )  # fmt: skip


#: Names of the providers in bills, as the reference names them.
_PROVIDERS = {"amazon": "aws", "amazon web services": "aws", "microsoft": "azure", "microsoft azure": "azure",
              "google": "gcp", "google cloud": "gcp", "google cloud platform": "gcp"}  # fmt: skip


def provider_name(word: str) -> str:
    """A provider as the reference names it; a name that is not known stays as it is."""
    word = word.strip().lower()
    return _PROVIDERS.get(word, word)


def listed_regions(text: str) -> tuple[str, ...]:
    """The regions of a joined list (commas; semicolons, bars and spaces too); none for an empty one: all."""
    return tuple(part for part in re.split(r"[,;|\s]+", text) if part)


def _listed(allowed: Coded, names: tuple[str, ...]) -> Flags:
    """Lists x R: regions each list names."""
    rows = np.ones((len(allowed.values), len(names)), bool)
    for i, text in enumerate(allowed.values):
        wanted = set(listed_regions(text))
        if wanted:
            rows[i] = [name in wanted for name in names]
    return rows
