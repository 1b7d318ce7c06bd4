"""The plan's rows replayed in words: what each job may do by its category, job table against plan table.

Belongs here: the rules of moving, said again without the arrays a plan was made from. Each distinct kind of move is
judged once. Does not belong here: shared limits (``checker``), figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.columns import Coded, encode, floats
from sust_dagster.agents.planner.jobs import HOUR_US, UNKNOWN_CATEGORY, Jobs
from sust_dagster.agents.planner.problem import Flags, Floats, Ints
from sust_dagster.agents.planner.windows import WINDOWS, Regions, listed_regions, provider_name
from sust_dagster.world.schemas import CATEGORIES

assert len(CATEGORIES) == UNKNOWN_CATEGORY, "the code of an unknown category follows the known ones"


def replay(
    jobs: Jobs,
    plan: pa.Table,
    regions: Regions,
    latency_ms: Floats,
    *,
    strict_latency: bool = False,
    alone: bool = True,
) -> pa.Table:
    """What a plan's rows do against the rules of the job's category: ``job_id, kind, detail``.

    ``alone``: nothing couples the jobs, so that each move must gain by itself.

    ``plan`` has ``job_id, region, start, action_type, score_before, score_after``. ``regions`` and ``latency_ms``
    (R x R, NaN = not known) are what is known of places. Kinds: ``missing``, ``unknown_job``, ``twice``, ``window``,
    ``region``, ``latency``, ``action_type``, ``no_gain``.
    """
    job = pc.fill_null(pc.index_in(plan.column("job_id").cast(pa.string()), jobs.ids), -1).to_numpy().astype(np.int64)
    seen = np.bincount(job[job >= 0], minlength=len(jobs))
    told = [
        _told(jobs.ids.filter(pa.array(seen == 0)), "missing", "no row"),
        _told(jobs.ids.filter(pa.array(seen > 1)), "twice", "more than one row"),
        _told(plan.column("job_id").filter(pa.array(job < 0)), "unknown_job", "no such job"),
    ]
    moves = _moves(jobs, plan.filter(pa.array(job >= 0)), job[job >= 0])
    told += [*_judged(moves, jobs, regions, latency_ms, strict_latency), *_consistent(moves, alone)]
    return pa.concat_tables(told)


@dataclass(frozen=True)
class _Moves:
    """The plan's rows beside the jobs they speak of."""

    rows: pa.Table
    job: Ints
    target: Coded
    delay: Floats
    elsewhere: Flags

    @property
    def moved(self) -> Flags:
        return self.elsewhere | (self.delay != 0)

    def told(self, bad: Flags, kind: str, detail: str) -> pa.Table:
        return _told(self.rows.column("job_id").filter(pa.array(bad)), kind, detail)


def _moves(jobs: Jobs, rows: pa.Table, job: Ints) -> _Moves:
    target = encode(rows.column("region"))
    names = {name: code for code, name in enumerate(jobs.region.values)}
    as_home = np.array([names.get(v, -1) for v in target.values], np.int64)
    elsewhere = as_home[target.codes] != jobs.region.codes[job]
    start = rows.column("start").cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    return _Moves(rows, job, target, (start - jobs.start_us[job]) / HOUR_US, elsewhere)


def _told(ids: pa.Array | pa.ChunkedArray, kind: str, detail: str) -> pa.Table:
    return pa.table(
        {
            "job_id": pa.array(ids.to_pylist(), pa.string()),
            "kind": pa.array([kind] * len(ids), pa.string()),
            "detail": pa.array([detail] * len(ids), pa.string()),
        }
    )


def _judged(
    moves: _Moves, jobs: Jobs, regions: Regions, latency_ms: Floats, strict_latency: bool
) -> Iterator[pa.Table]:
    """Each distinct move judged once, in words."""
    job, delay = moves.job, moves.delay
    hours = np.array([float(WINDOWS[c].hours) for c in CATEGORIES] + [0.0])[jobs.category[job]]
    longest = np.fmin(hours, jobs.max_delay_hours[job])
    late = moves.moved & ((delay < 0) | (delay > longest) | (delay % 1 != 0))
    yield moves.told(late, "window", "the start is not a whole hour within the window")
    keys = pd.DataFrame(
        {
            "category": jobs.category[job],
            "home": jobs.region.codes[job],
            "provider": jobs.provider.codes[job],
            "allowed": jobs.allowed.codes[job],
            "sla": jobs.sla_latency_ms[job],
            "sized": ~np.isnan(jobs.data_gb[job]),
            "target": moves.target.codes,
        }
    )[moves.elsewhere]
    kind = keys.groupby(list(keys.columns), dropna=False, sort=False).ngroup().to_numpy()
    distinct = keys.drop_duplicates()
    distinct = distinct.assign(
        category=[(*CATEGORIES, "?")[c] for c in distinct["category"]],
        home=[jobs.region.values[c] for c in distinct["home"]],
        provider=[jobs.provider.values[c] for c in distinct["provider"]],
        allowed=[jobs.allowed.values[c] for c in distinct["allowed"]],
        target=[moves.target.values[c] for c in distinct["target"]],
    )
    places = {name: i for i, name in enumerate(regions.names)}
    verdicts = [_verdict(m, regions, places, latency_ms, strict_latency) for m in distinct.to_dict("records")]
    for number, (verdict, move) in enumerate(zip(verdicts, distinct.to_dict("records"), strict=True)):
        if verdict != "ok":
            bad = np.zeros(len(job), bool)
            bad[np.flatnonzero(moves.elsewhere)[kind == number]] = True
            yield moves.told(bad, verdict, f"{move['category']} work from {move['home']} to {move['target']}")


def _verdict(move: dict, regions: Regions, places: dict[str, int], latency_ms: Floats, strict_latency: bool) -> str:
    home, target, category = move["home"], move["target"], move["category"]
    if target not in places or category == "?" or not move["sized"]:
        return "region"
    listed = listed_regions(move["allowed"])
    if listed and target not in listed:
        return "region"
    h, t = places[home], places[target]
    scope = WINDOWS[category].scope
    if scope == "continent" and (not regions.continent[h] or regions.continent[h] != regions.continent[t]):
        return "region"
    if scope == "provider":
        providers = {provider_name(move["provider"]), regions.provider[h], regions.provider[t]} - {""}
        if len(providers) != 1 or not regions.provider[t]:
            return "region"
    if not np.isnan(move["sla"]):
        if category == "urgent" and not latency_ms[h, t] <= move["sla"]:
            return "latency"
        if strict_latency and latency_ms[h, t] > move["sla"]:
            return "latency"
    return "ok"


def _consistent(moves: _Moves, alone: bool) -> Iterator[pa.Table]:
    """The action's name says what the row does, and a move has something to gain."""
    right = np.where(moves.elsewhere, "region_shift", np.where(moves.delay != 0, "time_shift", "do_nothing"))
    named = pc.equal(moves.rows.column("action_type").cast(pa.string()), pa.array(right.tolist(), pa.string()))
    yield moves.told(~pc.fill_null(named, False).to_numpy(), "action_type", "another action than the row's")
    if alone:
        falls = floats(moves.rows.column("score_after")) < floats(moves.rows.column("score_before"))
        yield moves.told(moves.moved & ~falls, "no_gain", "the score does not fall")
