"""The factor store: versions of emission factors, each waiting for a review before it is used.

Belongs here: proposing a version, reviewing it, which versions are in force, which have grown old. Does not
belong here: the figures (``reference``), what is computed with them (the accountant), storage (``books``).

A factor is named by (type, region, provider, name); its versions count from 1 and stay readable for ever. A
version is in force from its activation on, for the instants it is valid for, until a later one is activated
or it is itself refused. A second activation of the same version confirms it: its age counts from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.world.access import AgentHandle, AgentSnapshot
from sust_dagster.world.ids import uuid5
from sust_dagster.world.schemas import AGENTS, EMISSION_FACTORS, FACTOR_REVIEWS, FLOAT

Decision = Literal["activate", "refuse"]
FactorKey = tuple[str, str | None, str | None, str]

#: Who activated what came with the release.
RELEASE = "release"

#: What identifies a factor, and what a new version of it may change.
_KEY = ("factor_type", "region", "provider", "name")
_GIVEN_BY_THE_STORE = ("factor_id", "version", "created_at")
_CONTENT = tuple(n for n in EMISSION_FACTORS.column_names if n not in (*_KEY, *_GIVEN_BY_THE_STORE))

#: Words that stand in the place of a reading and state none.
_NO_READING = frozenset({"", "-", "?", "n/a", "na", "none", "null", "unknown", "unstated", "unspecified", "tbd"})


class FactorError(ValueError):
    """A factor or a review cannot be taken as it is; the message names the factor and the reason."""


@dataclass(frozen=True)
class Seeded:
    """What an install of shipped factors did: rows activated, waiting for a review, there already."""

    activated: int
    waiting: int
    unchanged: int


def factor_key(row: Mapping[str, Any]) -> FactorKey:
    """What identifies the factor of a row, whatever its version."""
    return row["factor_type"], row.get("region"), row.get("provider"), row["name"]


def factor_id(key: FactorKey, version: int) -> str:
    """Id of one version of a factor."""
    return uuid5("emission_factor", *("" if k is None else k for k in key), version)


class FactorStore:
    """The factors as the agent of ``handle`` may see and change them."""

    def __init__(self, handle: AgentHandle) -> None:
        self._handle = handle

    # -- writing ------------------------------------------------------------------------------------

    def propose(self, rows: pa.Table | Sequence[Mapping[str, Any]], *, now: datetime) -> pa.Table:
        """Add a new version of each factor; it waits for a review. Returns the versions, old and new.

        Rows carry the columns of EMISSION_FACTORS but ``factor_id``, ``version`` and ``created_at``, which the
        store gives. A row that says what the latest version says already adds nothing.
        """
        proposals = [_checked(r) for r in _plain(rows)]
        with self._handle.transaction() as transaction:
            known = _by_key(transaction.read_books("emission_factors").to_pylist())
            result = []
            for row in proposals:
                versions = known.setdefault(factor_key(row), [])
                if not versions or _content(versions[-1]) != _content(row):
                    versions.append(_versioned(row, len(versions) + 1, now))
                result.append(versions[-1])
            table = pa.Table.from_pylist(result, schema=EMISSION_FACTORS.arrow)
            transaction.append("emission_factors", table)
            return table

    def review(self, factor_id: str, decision: Decision, *, reviewer: str, reason: str, now: datetime) -> str:
        """Activate or refuse a version; returns the review's id.

        The reviewer is a person: neither the agent that proposes nor any other may review, nor the name
        the release signs with; such attempts raise ``PermissionRefused`` and are recorded. Refusing an active
        version withdraws it; a refused version is not activated again: propose a new one.
        """
        if reviewer in AGENTS or reviewer == RELEASE or not reviewer.strip():
            who = reviewer.strip() or "nobody"
            why = f"reviewer '{who}' of factor {factor_id}: a person other than the one who proposed must review"
            raise self._handle.refuse("factor_reviews", "write", why)
        if decision not in ("activate", "refuse"):
            raise FactorError(f"factor {factor_id}: a review says 'activate' or 'refuse', not '{decision}'")
        if not reason.strip():
            raise FactorError(f"factor {factor_id}: the review gives no reason")
        with self._handle.transaction() as transaction:
            if not transaction.read_books("emission_factors", {"factor_id": factor_id}).num_rows:
                raise FactorError(f"there is no factor version {factor_id}")
            earlier = transaction.read_books("factor_reviews", {"factor_id": factor_id}).to_pylist()
            review = _review(factor_id, decision, reviewer, reason, now)
            if any(r["decision"] == "refuse" for r in earlier) and review not in earlier:
                raise FactorError(f"factor {factor_id} was refused before; propose a new version instead")
            transaction.append("factor_reviews", [review])
        return review["review_id"]

    def seed_shipped(self, table: pa.Table, *, package_version: str, now: datetime) -> Seeded:
        """Install the reference factors that came with a release; safe to run again.

        New factors, and new figures for those that only releases have touched, are activated in the name of
        the release. Where a person activated a version, the shipped figures wait for a review like any other.
        """
        shipped = [_checked(r) for r in _plain(table)]
        repeated = len(shipped) - len({factor_key(r) for r in shipped})
        if repeated:
            raise FactorError(f"{repeated} shipped factors are there twice: type, region, provider and name repeat")
        added, reviews, waiting = [], [], 0
        with self._handle.transaction() as transaction:
            known = _by_key(transaction.read_books("emission_factors").to_pylist())
            status = _statuses(transaction.read_books("factor_reviews").to_pylist())
            for row in shipped:
                versions = known.setdefault(factor_key(row), [])
                if _is_installed(row, versions, status):
                    continue
                version = _versioned(row, len(versions) + 1, now)
                added.append(version)
                if any(_active(status.get(v["factor_id"])) and not _by_release(status, v) for v in versions):
                    waiting += 1
                    continue
                reason = f"shipped with sust-ai-naible {package_version}"
                reviews.append(_review(version["factor_id"], "activate", RELEASE, reason, now))
            transaction.append("emission_factors", added)
            transaction.append("factor_reviews", reviews)
        return Seeded(len(reviews), waiting, len(shipped) - len(added))

    # -- reading ------------------------------------------------------------------------------------

    def active(self, now: datetime, *, known_at: datetime | None = None) -> pa.Table:
        """The versions in force for the instant ``now``, one per factor, in EMISSION_FACTORS shape.

        ``known_at``: as far as it was known then (reviews made later are left out); none: all that is known.
        """
        return self._in_force(now, known_at)[0]

    def as_of(self, factor_ids: Iterable[str]) -> pa.Table:
        """Exactly these versions, whatever has become of them since: what an old figure was computed with."""
        wanted = set(factor_ids)
        table = self._handle.read_books("emission_factors", {"factor_id": sorted(wanted)})
        missing = sorted(wanted - set(table.column("factor_id").to_pylist()))
        if missing:
            raise FactorError(f"no such factor version: {', '.join(missing)}")
        return _ordered(table)

    def history(self, key: FactorKey) -> pa.Table:
        """Every version of one factor, the first first."""
        where = dict(zip(_KEY, key, strict=True))
        return self._handle.read_books("emission_factors", where).sort_by("version")

    def waiting(self) -> pa.Table:
        """Versions that no one has reviewed yet."""
        with self._handle.snapshot() as snapshot:
            factors, reviews = _both(snapshot)
        reviewed = {r["factor_id"] for r in reviews}
        rows = [f for f in factors if f["factor_id"] not in reviewed]
        return _ordered(pa.Table.from_pylist(rows, schema=EMISSION_FACTORS.arrow))

    def stale(self, now: datetime, *, days: float = 30) -> pa.Table:
        """Versions in force whose last review is more than ``days`` old, with ``reviewed_at`` and ``age_days``."""
        table, activated = self._in_force(now, None)
        old = [now - at > timedelta(days=days) for at in activated]
        found = [at for at, is_old in zip(activated, old, strict=True) if is_old]
        reviewed = pa.array(found, FACTOR_REVIEWS.arrow.field("reviewed_at").type)
        age = pa.array([(now - at) / timedelta(days=1) for at in found], FLOAT)
        table = table.filter(pa.array(old, pa.bool_()))
        return table.append_column("reviewed_at", reviewed).append_column("age_days", age)

    def _in_force(self, now: datetime, known_at: datetime | None) -> tuple[pa.Table, list[datetime]]:
        """The versions in force for ``now``, one per factor, ordered by factor, and the last activation of each."""
        with self._handle.snapshot() as snapshot:
            factors, reviews = snapshot.read_books("emission_factors"), snapshot.read_books("factor_reviews")
        said = reviews.select(["factor_id", "decision", "reviewed_at"]).to_pylist()
        status = _statuses(r for r in said if known_at is None or r["reviewed_at"] <= known_at)
        instant = pa.scalar(now, EMISSION_FACTORS.arrow.field("valid_from").type)
        open_ended = pc.fill_null(pc.greater(factors["valid_to"], instant), True)
        valid = factors.filter(pc.and_(pc.less_equal(factors["valid_from"], instant), open_ended)).sort_by("version")
        rows = valid.select(["factor_id", *_KEY]).to_pylist()
        chosen = {factor_key(r): n for n, r in enumerate(rows) if _active(status.get(r["factor_id"]))}
        ordered = sorted(chosen.values(), key=lambda n: _order(rows[n]))
        return valid.take(pa.array(ordered, pa.int64())), [status[rows[n]["factor_id"]]["reviewed_at"] for n in ordered]


def _both(snapshot: AgentSnapshot) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    factors = snapshot.read_books("emission_factors").to_pylist()
    return factors, snapshot.read_books("factor_reviews").to_pylist()


def _plain(rows: pa.Table | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return rows.to_pylist() if isinstance(rows, pa.Table) else [dict(r) for r in rows]


def _checked(row: dict[str, Any]) -> dict[str, Any]:
    """The row with what the store gives left out; raises :class:`FactorError` when it cannot be a factor."""
    named = "/".join(str(row.get(k) or "any") for k in _KEY)

    def wrong(why: str) -> FactorError:
        return FactorError(f"factor {named}: {why}")

    row = {k: v for k, v in row.items() if k not in _GIVEN_BY_THE_STORE}
    unknown = sorted(set(row) - set(_KEY) - set(_CONTENT))
    if unknown:
        raise wrong(f"unknown columns {', '.join(unknown)}")
    for column in EMISSION_FACTORS.columns:
        if not column.nullable and column.name not in _GIVEN_BY_THE_STORE and row.get(column.name) is None:
            raise wrong(f"{column.name} ({column.doc}) is missing")
    for name in ("region", "provider"):
        row[name] = row.get(name) or None
    reading = str(row["bound_reading"]).strip()
    if reading.lower() in _NO_READING:
        raise wrong("its bounds have no stated reading (such as '95% lognormal' or 'uniform')")
    lower, value, upper = (float(row[n]) for n in ("value_lower", "value", "value_upper"))
    if not all(math.isfinite(v) for v in (lower, value, upper)) or not lower <= value <= upper:
        raise wrong(f"{value} does not lie within its bounds {lower} to {upper}")
    if "lognormal" in reading.lower() and lower <= 0:
        raise wrong(f"a lognormal bound is positive, its lower bound is {lower}")
    for name in ("valid_from", "valid_to"):
        if row.get(name) is not None:
            row[name] = _instant(row[name], wrong, name)
    if row.get("valid_to") is not None and row["valid_to"] <= row["valid_from"]:
        raise wrong(f"it is valid from {row['valid_from']} to {row['valid_to']}: never")
    return row


def _instant(value: datetime, wrong: Callable[[str], FactorError], name: str) -> datetime:
    if value.tzinfo is None:
        raise wrong(f"{name} {value} has no timezone")
    return value.astimezone(UTC)


def _versioned(row: dict[str, Any], version: int, now: datetime) -> dict[str, Any]:
    return {**row, "factor_id": factor_id(factor_key(row), version), "version": version, "created_at": now}


def _review(factor: str, decision: str, reviewer: str, reason: str, now: datetime) -> dict[str, Any]:
    at = now.astimezone(UTC)
    return {
        "review_id": uuid5("factor_review", factor, decision, reviewer, at.isoformat()),
        "factor_id": factor,
        "decision": decision,
        "reviewer": reviewer,
        "reason": reason,
        "reviewed_at": at,
    }


def _content(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(c) for c in _CONTENT)


def _by_key(rows: Iterable[dict[str, Any]]) -> dict[FactorKey, list[dict[str, Any]]]:
    versions: dict[FactorKey, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda r: r["version"]):
        versions.setdefault(factor_key(row), []).append(row)
    return versions


def _statuses(reviews: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The review that holds for each version: a refusal once there is one, else the last activation."""
    held: dict[str, Mapping[str, Any]] = {}
    for review in sorted(reviews, key=lambda r: (r["decision"] == "refuse", r["reviewed_at"])):
        held[review["factor_id"]] = review
    return held


def _active(review: Mapping[str, Any] | None) -> bool:
    return review is not None and review["decision"] == "activate"


def _by_release(status: Mapping[str, Mapping[str, Any]], version: Mapping[str, Any]) -> bool:
    return status[version["factor_id"]]["reviewer"] == RELEASE


def _is_installed(
    row: Mapping[str, Any], versions: Sequence[Mapping[str, Any]], status: Mapping[str, Mapping[str, Any]]
) -> bool:
    """Whether shipped figures are there: as the latest, as the last of a release, or as one not in force."""
    by_release = [v for v in versions if _active(status.get(v["factor_id"])) and _by_release(status, v)]
    not_active = [v for v in versions if not _active(status.get(v["factor_id"]))]
    return any(_content(v) == _content(row) for v in [*versions[-1:], *by_release[-1:], *not_active])


def _order(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[k] or "") for k in _KEY)


def _ordered(table: pa.Table) -> pa.Table:
    if table.num_rows == 0:
        return table
    keys = [pc.fill_null(table.column(k), "") for k in _KEY]
    indices = pc.sort_indices(
        pa.table([*keys, table.column("version")], names=[*_KEY, "version"]),
        sort_keys=[(k, "ascending") for k in (*_KEY, "version")],
    )
    return table.take(indices)
