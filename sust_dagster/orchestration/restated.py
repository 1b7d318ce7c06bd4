"""Outcomes whose data was restated since their evidence was written.

Belongs here: which outcomes these are, what changed, and the days to verify again. Does not belong here: verifying
(the desk), asking for a run (the sensor), telling people (heartbeats, faces).

An outcome rests on what its evidence bundle names: the file of each hour of ledger, emissions and grid by its SHA-256,
the runs and the regions whose rows it took from them. So the bundle and the lake's current files are all that is
compared, and nothing has to be remembered: a new bundle names the files of its time, and what was verified again is
quiet by itself. Commit times would not do: a verification that finds the same leaves no commit to compare with.

A changed file alone is no restatement of an outcome: an hour holds the rows of everybody. Where a named file is no
longer the current one, the rows of the outcome's own runs and regions are compared, old file against new, in the
columns that a verification reads. Rows that came to an hour in which there were none when the evidence was written
count too; a later verification would name that hour, so these too are quiet once it has run.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError

from sust_dagster.agents.verifier.runs import EMISSIONS_COLUMNS, LEDGER_COLUMNS
from sust_dagster.orchestration.partitions import daily
from sust_dagster.orchestration.verification_desk import LONGEST, UNSETTLED, days_to_verify
from sust_dagster.settings import Project
from sust_dagster.world.lake import Lake, slot_name, slot_start

#: Column that says whose a row is, by table of the lake.
OWNER: Mapping[str, str] = {"activity_ledger": "job_id", "emissions": "job_id", "grid_intensity": "region"}
#: What a verification reads of them. Bounds show a factor that has other bounds and the same value.
_COLUMNS: Mapping[str, Sequence[str]] = {
    "activity_ledger": ("started_at", "cloud_provider", *LEDGER_COLUMNS),
    "emissions": (*EMISSIONS_COLUMNS, "emission_factor_id", "kg_location_lower", "kg_location_upper"),
    "grid_intensity": (
        "ts", "region", "signal", "method", "intensity_kgco2_kwh", "estimated", "quality", "system_rel_lower",
        "system_rel_upper", "hour_rel_lower", "hour_rel_upper",
    ),
}  # fmt: skip
#: An hour that changed concerns no outcome executed further from it: a run begins within days of its execution.
_REACH = timedelta(days=31)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR, _DAY, _MICROSECOND = timedelta(hours=1), timedelta(days=1), timedelta(microseconds=1)
_TEXT, _TIME = pa.string(), pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, order=True)
class Change:
    """A slot of the lake whose rows changed, with the SHA-256 of what it holds now; None: nothing any more."""

    table: str
    slot: str
    sha256: str | None

    def __str__(self) -> str:
        return f"{self.table} {self.slot} {(self.sha256 or 'gone')[:12]}"


@dataclass(frozen=True)
class Restated:
    """What a look found, and how to know next time that nothing changed."""

    outcomes: Mapping[str, datetime]
    """Id and day of execution of each outcome that rests on data restated since."""
    changes: Sequence[Change]
    """What changed under them, in order."""
    unreadable: Sequence[str]
    """Outcomes whose evidence is not there or not what its name says: what they rest on is not known."""
    cursor: str
    versions: Mapping[str, int | None]
    newest: datetime | None
    """Newest day of execution that has an outcome."""

    def days(self, project: Project) -> tuple[datetime, datetime] | None:
        """First and last day to verify again: the whole months of the days concerned, as far as there are outcomes.

        Credit is a share of what a team saved in a month, and a run writes the rows of its own days only.
        """
        if not self.outcomes or self.newest is None:
            return None
        first = min(self.outcomes.values()).replace(day=1)
        last = (max(self.outcomes.values()).replace(day=1) + 31 * _DAY).replace(day=1) - _DAY
        begins = datetime.strptime(daily(project).get_first_partition_key() or "", "%Y-%m-%d").replace(tzinfo=UTC)
        return max(first, begins), min(last, self.newest)

    @property
    def cause(self) -> str:
        """What changed, as a key: the first slot with its new hash, how many more, and a digest of all of them.

        The versions of the tables are in the digest: content that comes back has the hash it had before.
        """
        lines = [f"{c.table} v{self.versions[c.table]} {c.slot} {c.sha256 or 'gone'}" for c in self.changes]
        more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
        digest = _digest("\n".join(lines))
        return f"{self.changes[0]}{more} ({digest})"


def restated(project: Project, now: datetime, cursor: str | None = None) -> Restated:
    """The outcomes of a project whose data was restated since their evidence was written; nothing is written.

    ``cursor`` is that of an earlier look: only what changed after it is looked at, and nothing is read where nothing
    did. An outcome that has not settled is left out while ``daily_verification`` looks at its day anyway.

    Raises what the lake raises where it cannot be read.
    """
    lake = Lake(project.lake_root)
    present = _Present(lake)
    if cursor == present.cursor:
        return present.quiet()
    changed = present.changed_since(cursor)
    rows = _outcomes(lake, project, now, changed)
    bundles, unreadable = [], []
    for row in rows:
        try:
            bundles.append(_Rests.read(project.evidence_root, row))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            unreadable.append(row["outcome_id"])
    hits = _Comparison(lake, present, bundles, changed, now).hits()
    return Restated(
        outcomes={bundles[n].outcome_id: bundles[n].executed_on for n in sorted({n for n, _, _ in hits})},
        changes=sorted({Change(t, s, present.slots[t].get(s)) for _, t, s in hits}),
        unreadable=sorted(unreadable),
        cursor=present.cursor,
        versions=present.versions,
        newest=max(map(slot_start, lake.slots("outcomes")), default=None),
    )


def verify_command(first: datetime, last: datetime) -> str:
    """What a person types to verify these days again, the last included."""
    return f"`sust verify --from {first:%Y-%m-%d} --to {last + _DAY:%Y-%m-%d}`"


class _Present:
    """The slots that the lake holds now."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        # Before the slots: a commit that comes between is one more look, never one less.
        self.versions = {t: lake.version(t) for t in OWNER}
        held = lake.inventory(list(OWNER)).select(["table_name", "slot", "sha256", "path"]).to_pylist()
        self.slots: dict[str, dict[str, str]] = {t: {} for t in OWNER}
        self.paths: dict[str, dict[str, str]] = {t: {} for t in OWNER}
        for row in held:
            self.slots[row["table_name"]][row["slot"]] = row["sha256"]
            self.paths[row["table_name"]][row["slot"]] = row["path"]
        self.cursor = json.dumps({t: [self.versions[t], _of_slots(self.slots[t])] for t in OWNER})

    def quiet(self) -> Restated:
        return Restated({}, (), (), self.cursor, self.versions, None)

    def changed_since(self, cursor: str | None) -> dict[str, set[str]] | None:
        """Slots by table that are not what they were; None where that is not known: all of them."""
        try:
            then = json.loads(cursor or "")
            changed = {}
            for table in OWNER:
                version, digest = then[table]
                before = {} if version is None else self._lake.slots(table, version)
                if _of_slots(before) != digest:
                    return None  # another lake is in its place
                now = self.slots[table]
                changed[table] = {s for s in {*before, *now} if before.get(s) != now.get(s)}
        except (DeltaError, ValueError, KeyError, TypeError):
            return None
        return changed


def _outcomes(
    lake: Lake, project: Project, now: datetime, changed: Mapping[str, set[str]] | None
) -> list[dict[str, Any]]:
    """Outcomes near enough to what changed, without those that wait for their data and are looked at daily."""
    if lake.version("outcomes") is None:
        return []
    start, end = None, None
    if changed is not None:
        slots = set().union(*changed.values())
        if not slots:
            return []
        days = [slot_start(s).replace(hour=0) for s in (min(slots), max(slots))]
        start, end = days[0] - _REACH, days[1] + _REACH
    table = lake.read("outcomes", start, end, columns=["outcome_id", "executed_on", "reason", "evidence_chain"])
    window = days_to_verify(now + _DAY, project.start)  # by the next of them, at the latest
    waiting = pc.fill_null(pc.match_substring(table.column("reason"), UNSETTLED), False)
    if window is not None:
        waiting = pc.and_(waiting, pc.greater_equal(table.column("executed_on"), pa.scalar(window[0], _TIME)))
    return table.filter(pc.invert(waiting)).to_pylist()


@dataclass(frozen=True)
class _Rests:
    """What one outcome rests on, by its bundle."""

    outcome_id: str
    executed_on: datetime
    named: Mapping[str, Mapping[str, str]]
    """By table: slot and path of its file."""
    jobs: Sequence[str]
    regions: Sequence[str]
    asked: tuple[datetime, datetime] | None
    """Hour that the first run was asked for in, and the end of that of the last; None without runs."""
    ran: tuple[datetime, datetime] | None
    """The first and the last moment that a run was asked for or ran, both included."""

    @classmethod
    def read(cls, folder: Path, row: Mapping[str, Any]) -> _Rests:
        """Raises ``OSError``, ``ValueError`` or what a wrong shape raises where the outcome names no such bundle."""
        data = (folder / f"{row['evidence_chain']}.json").read_bytes()
        if hashlib.sha256(data).hexdigest() != row["evidence_chain"]:
            raise ValueError(f"{row['evidence_chain']}: the file is not what its name says")
        bundle = json.loads(data)
        asked, usage = bundle["requests"]["requested_at"], bundle["usage"]
        hours = (_hour(min(asked)), _hour(max(asked)) + _HOUR) if asked else None
        moments = [*asked, *usage["started_at"], *usage["ended_at"]]
        return cls(
            outcome_id=row["outcome_id"],
            executed_on=row["executed_on"],
            named={t: {_parts(p)[0]: p for p in bundle["inputs"].get(t, ())} for t in OWNER},
            jobs=bundle["requests"]["job_id"],
            regions=list(bundle["grid"]["regions"]),
            asked=hours,
            ran=(_at(min(moments)), _at(max(moments) - 1)) if moments else None,
        )

    def owners(self, table: str) -> Sequence[str]:
        return self.regions if OWNER[table] == "region" else self.jobs


class _Comparison:
    """Bundles against the lake, all at once: outcomes by their place among the bundles."""

    def __init__(
        self,
        lake: Lake,
        present: _Present,
        bundles: Sequence[_Rests],
        changed: Mapping[str, set[str]] | None,
        now: datetime,
    ) -> None:
        self._lake, self._present, self._bundles = lake, present, bundles
        self._changed, self._now = changed, now

    def hits(self) -> set[tuple[int, str, str]]:
        """Place of the outcome, table and slot, of whatever changed under an outcome."""
        found = {(n, t, s) for t in OWNER for n, s in self._replaced(t)}
        found |= {(n, "emissions", s) for n, s in self._came()}
        return found | {(n, "grid_intensity", s) for n, s in self._known_now()}

    def _to_look_at(self, table: str, slot: str) -> bool:
        return self._changed is None or slot in self._changed[table]

    def _replaced(self, table: str) -> Iterator[tuple[int, str]]:
        """Named slots whose file is another one now, where a row of the outcome's own is another one too."""
        current = self._present.slots[table]
        stale: dict[str, dict[str, list[int]]] = {}
        for n, bundle in enumerate(self._bundles):
            for slot, path in bundle.named[table].items():
                if current.get(slot) != _parts(path)[1] and self._to_look_at(table, slot):
                    stale.setdefault(slot, {}).setdefault(path, []).append(n)
        # Bundles of several ages may name several old files of one slot: one of each slot a round.
        for k in range(max(map(len, stale.values()), default=0)):
            files = {slot: sorted(old)[k] for slot, old in stale.items() if len(old) > k}
            yield from self._differing(table, files, stale)

    def _differing(
        self, table: str, files: Mapping[str, str], stale: Mapping[str, Mapping[str, Sequence[int]]]
    ) -> Iterator[tuple[int, str]]:
        concerned = [(n, slot) for slot, path in files.items() for n in stale[slot][path]]
        owners = {o for n in {n for n, _ in concerned} for o in self._bundles[n].owners(table)}
        now = self._rows(table, files, owners)
        try:
            where = pc.field(OWNER[table]).isin(pa.array(sorted(owners), _TEXT))
            then = self._lake.rows_in(table, list(files.values()), columns=_COLUMNS[table], where=where)
        except FileNotFoundError:
            yield from concerned  # what it was cannot be seen: only a new look can tell
            return
        different = _one_sided(then, now)
        slot = _slots(different.column(str(self._lake.spec(table).time_column)))
        changed = pa.table({"slot": slot, "owner": different.column(OWNER[table])})
        mine = _pairs(concerned, "slot").join(self._members({n for n, _ in concerned}, table), "n", join_type="inner")
        yield from _each(mine.join(changed, ["slot", "owner"], join_type="left semi"))

    def _came(self) -> Iterator[tuple[int, str]]:
        """Hours with rows of an outcome's runs that its bundle does not name, as far as a verification reads."""
        spans = {n: b.asked for n, b in enumerate(self._bundles) if b.asked is not None}
        if not spans:
            return
        first, end = min(a for a, _ in spans.values()), max(b for _, b in spans.values()) + LONGEST
        until = self._now.replace(minute=0, second=0, microsecond=0)
        slots = [
            s for s in self._present.slots["emissions"]
            if self._to_look_at("emissions", s) and first <= slot_start(s) < min(end, until)
        ]  # fmt: skip
        owners = {job for n in spans for job in self._bundles[n].jobs}
        rows = self._rows("emissions", slots, owners, columns=("job_id", "started_at"))
        rows = pa.table({"owner": rows.column("job_id"), "slot": _slots(rows.column("started_at"))})
        found = self._members(spans, "emissions").join(
            rows.group_by(["owner", "slot"]).aggregate([]), "owner", "owner", "inner"
        )
        named = _pairs([(n, slot) for n in spans for slot in self._bundles[n].named["emissions"]], "slot")
        for n, slot in _each(found.join(named, ["n", "slot"], join_type="left anti")):
            if spans[n][0] <= slot_start(slot) < spans[n][1] + LONGEST:
                yield n, slot

    def _known_now(self) -> Iterator[tuple[int, str]]:
        """Hours of the grid that nobody knew when the evidence was written; a bundle names whole days of them."""
        held = sorted(s for s in self._present.slots["grid_intensity"] if self._to_look_at("grid_intensity", s))
        for n, bundle in enumerate(self._bundles):
            if bundle.ran is not None and bundle.regions:
                first, end = (slot_name("hour", at) for at in bundle.ran)
                named = bundle.named["grid_intensity"]
                around = held[bisect_left(held, f"{first[:10]}T00") : bisect_right(held, end)]
                yield from ((n, slot) for slot in around if slot not in named)

    def _members(self, places: Iterable[int], table: str) -> pa.Table:
        """Whose rows each of these outcomes has."""
        members = [(n, owner) for n in places for owner in self._bundles[n].owners(table)]
        return _pairs(members, "owner")

    def _rows(
        self, table: str, slots: Iterable[str], owners: Iterable[str], columns: Sequence[str] | None = None
    ) -> pa.Table:
        """The rows of these slots and owners as they are now."""
        wanted = [s for s in slots if s in self._present.paths[table]]
        paths = sorted({self._present.paths[table][s] for s in wanted})
        where = pc.field(OWNER[table]).isin(pa.array(sorted(owners), _TEXT))
        rows = self._lake.rows_in(table, paths, columns=columns or _COLUMNS[table], where=where)
        # A folded day holds hours that nobody asked for.
        slot = _slots(rows.column(str(self._lake.spec(table).time_column)))
        return rows.filter(pc.is_in(slot, pa.array(wanted, _TEXT)))


def _one_sided(then: pa.Table, now: pa.Table) -> pa.Table:
    """Rows that only one of two tables holds; a row that changed is in it twice."""
    both = pa.concat_tables([then, now])
    counted = both.group_by(both.column_names).aggregate([([], "count_all")])
    return counted.filter(pc.equal(counted.column("count_all"), 1))


def _pairs(pairs: Sequence[tuple[int, str]], name: str) -> pa.Table:
    """Places and texts as a table, to be joined."""
    return pa.table({"n": pa.array([n for n, _ in pairs], pa.int64()), name: pa.array([t for _, t in pairs], _TEXT)})


def _each(table: pa.Table) -> Iterator[tuple[int, str]]:
    """Place and slot of each row."""
    yield from zip(table.column("n").to_pylist(), table.column("slot").to_pylist(), strict=True)


def _slots(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Name of the hour that each time lies in."""
    return pc.strftime(pc.floor_temporal(times, unit="hour"), format="%Y-%m-%dT%H").cast(_TEXT)


def _parts(path: str) -> tuple[str, str]:
    """Slot and SHA-256 of ``date=.../<slot>-<sha256>.parquet``."""
    name = path.rsplit("/", 1)[-1].removesuffix(".parquet")
    return name[:-65], name[-64:]


def _of_slots(slots: Mapping[str, str]) -> str:
    return _digest("".join(f"{slot} {sha}\n" for slot, sha in sorted(slots.items())))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _at(micros: int) -> datetime:
    return _EPOCH + micros * _MICROSECOND


def _hour(micros: int) -> datetime:
    return _at(micros).replace(minute=0, second=0, microsecond=0)
