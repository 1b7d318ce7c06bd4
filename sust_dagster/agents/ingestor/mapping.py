"""From tags, accounts, services and resource ids to team, service, workload, job, tier and category.

Belongs here: the mapping's shape and its evaluation over whole columns. Reading the file is the connector's.

Category is policy: it follows from the service tier by the mapping's table. A tag that declares a category is
ignored and flagged; a tier tag that asks for more freedom than the policy gives its service is ignored too; no
tier, or an unknown one, is urgent. So nobody makes their own jobs deferrable by a tag alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.ingestor.arrays import as_dictionary, codes, combinations, query
from sust_dagster.agents.ingestor.default_mapping import DEFAULT_MAPPING
from sust_dagster.agents.ingestor.normal_form import Flag
from sust_dagster.world.schemas import CATEGORIES

FIELDS = ("team", "service", "workload", "job", "tier")
UNMAPPED_TEAM = "unmapped"
#: Rule conditions and the column each looks at.
CONDITIONS = {
    "provider": "x_Provider",
    "billing_account": "BillingAccountId",
    "account": "SubAccountId",
    "service": "ServiceName",
    "service_code": "x_ServiceCode",
    "region": "region",
    "resource": "ResourceId",
    "resource_name": "ResourceName",
    "resource_type": "ResourceType",
}
_CATEGORY_KEYS = ("category", "workload-category", "carbon-category", "sustainability")
#: From least to most freedom.
_FREEDOM = {name: i for i, name in enumerate(CATEGORIES)}


class MappingError(ValueError):
    """A mapping that cannot be used; the message names the key and the fix."""


def tag_key(text: str) -> str:
    """A tag key without case, separators and provider prefixes."""
    return re.sub(r"[\s\-_.:/]+", "", re.sub(r"^(?:user|tag|label)[:_]", "", text.strip().lower()))


def tier_key(text: str) -> str:
    """A tier without case and separators."""
    return re.sub(r"[\s\-_.:/]+", "", text.strip().lower())


@dataclass(frozen=True)
class Rule:
    """``assign`` these fields where every condition holds; patterns are globs, any of several may match."""

    conditions: tuple[tuple[str, tuple[str, ...]], ...]
    tags: tuple[tuple[str, tuple[str, ...]], ...]
    assign: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class MappingRules:
    """A mapping, checked. Make one with :meth:`from_dict`; keys are as in docs/mapping.md."""

    tags: Mapping[str, tuple[str, ...]]
    rules: tuple[Rule, ...]
    services: Mapping[str, str]
    categories: Mapping[str, str]

    @classmethod
    def from_dict(cls, document: Mapping[str, Any] | None = None) -> MappingRules:
        """A mapping from a parsed file laid over the default; ``None`` is the default itself.

        Raises :class:`MappingError` naming the key that is wrong.
        """
        document = {} if document is None else document
        if not isinstance(document, Mapping):
            raise MappingError("the mapping is no table of keys; see docs/mapping.md")
        unknown = set(document) - {*DEFAULT_MAPPING, "extends"}
        if unknown:
            raise MappingError(f"unknown keys {sorted(unknown)}; known: {sorted(DEFAULT_MAPPING)}")
        if document.get("version", 1) != 1:
            raise MappingError(f"version {document['version']!r} is not 1")
        tags = {**DEFAULT_MAPPING["tags"], **_table(document, "tags")}
        tiers = _table(document, "tiers") or DEFAULT_MAPPING["tiers"]
        return cls(
            tags={field: tuple(tag_key(k) for k in keys) for field, keys in _field_lists(tags).items()},
            rules=tuple(_rule(i, r) for i, r in enumerate(_list(document, "rules"))),
            services={str(k).lower(): str(v) for k, v in _table(document, "services").items()},
            categories=_categories(tiers),
        )

    def category_of(self, tier: str | None) -> str | None:
        """Category of a tier; ``None`` for an unknown one."""
        return self.categories.get(tier_key(tier)) if tier else None


def _table(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key) or {}
    if not isinstance(value, Mapping):
        raise MappingError(f"{key}: a table of keys is wanted, not {type(value).__name__}")
    return value


def _list(document: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = document.get(key) or []
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise MappingError(f"{key}: a list is wanted, not {type(value).__name__}")
    return value


def _field_lists(tags: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    unknown = set(tags) - set(FIELDS)
    if unknown:
        raise MappingError(f"tags: unknown fields {sorted(unknown)}; known: {list(FIELDS)}")
    return {field: _texts(f"tags.{field}", keys) for field, keys in tags.items()}


def _texts(where: str, value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str | int) else value
    if not isinstance(values, Sequence) or not all(isinstance(v, str | int) for v in values):
        raise MappingError(f"{where}: a text or a list of texts is wanted")
    return tuple(str(v) for v in values)


def _categories(tiers: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for category, names in tiers.items():
        if category not in CATEGORIES:
            raise MappingError(f"tiers: {category!r} is no category; known: {list(CATEGORIES)}")
        for name in _texts(f"tiers.{category}", names):
            if found.setdefault(tier_key(name), category) != category:
                raise MappingError(f"tiers: {name!r} stands under {found[tier_key(name)]} and under {category}")
    return found


def _rule(number: int, rule: Any) -> Rule:
    where = f"rules[{number}]"
    if not isinstance(rule, Mapping) or set(rule) - {"match", "set", "note"} or "set" not in rule:
        raise MappingError(f"{where}: a rule has 'match' and 'set' (and may have 'note')")
    match, assign = rule.get("match") or {}, rule["set"]
    if not isinstance(match, Mapping) or not isinstance(assign, Mapping):
        raise MappingError(f"{where}: 'match' and 'set' are tables")
    wrong = [k for k in assign if k not in FIELDS]
    if wrong:
        raise MappingError(f"{where}: cannot set {wrong}; a category follows from the tier, known: {list(FIELDS)}")
    wrong = [k for k in match if k not in CONDITIONS and k != "tags"]
    if wrong:
        raise MappingError(f"{where}: cannot match on {wrong}; known: {[*CONDITIONS, 'tags']}")
    tags = match.get("tags") or {}
    if not isinstance(tags, Mapping):
        raise MappingError(f"{where}.match.tags: a table of tag key and pattern is wanted")
    return Rule(
        conditions=tuple((k, _texts(f"{where}.match.{k}", v)) for k, v in match.items() if k != "tags"),
        tags=tuple((tag_key(k), _texts(f"{where}.match.tags.{k}", v)) for k, v in tags.items()),
        assign=tuple((k, str(v)) for k, v in assign.items()),
    )


@dataclass(frozen=True)
class Owners:
    """What the mapping says of each distinct combination, and the combination of each row.

    ``group`` (int64) indexes the string arrays; null where nothing is known. ``tier`` is the tier that decided
    ``category``. ``flags`` (uint32) per combination.
    """

    group: np.ndarray
    team: pa.Array
    service: pa.Array
    workload: pa.Array
    job: pa.Array
    tier: pa.Array
    category: pa.Array
    flags: np.ndarray


def map_owners(normal: pa.Table, region: pa.DictionaryArray, mapping: MappingRules) -> Owners:
    """Apply a mapping to rows in the normal form; ``region`` is their region id."""
    used = {c for rule in mapping.rules for c, _ in rule.conditions}
    names = ["ServiceName", "Tags", *(CONDITIONS[c] for c in sorted(used) if c not in ("service", "region"))]
    columns: dict[str, pa.DictionaryArray] = {n: as_dictionary(normal.column(n)) for n in dict.fromkeys(names)}
    if "region" in used:
        columns["region"] = region
    group, first = combinations(list(columns.values()))
    distinct = {name: values.take(pa.array(first)) for name, values in columns.items()}
    tags = _Tags(distinct["Tags"], mapping)
    found = {field: pa.nulls(len(first), pa.string()) for field in FIELDS}
    for rule in mapping.rules:
        _apply(rule, distinct, tags, found)
    by_rule_tier, found["tier"] = found["tier"], pa.nulls(len(first), pa.string())
    for field in FIELDS:
        for key in mapping.tags.get(field, ()):
            found[field] = pc.coalesce(found[field], tags.value(key))
    return _with_category(group, found, by_rule_tier, distinct["ServiceName"], tags, mapping)


def _apply(rule: Rule, distinct: Mapping[str, pa.DictionaryArray], tags: _Tags, found: dict[str, pa.Array]) -> None:
    """First match wins, field by field: a rule fills what no earlier rule has filled."""
    rows = len(distinct["Tags"])
    holds = np.ones(rows, bool)
    for condition, patterns in rule.conditions:
        holds &= _matches(distinct[CONDITIONS[condition]].cast(pa.string()), patterns)
    for key, patterns in rule.tags:
        holds &= _matches(tags.value(key), patterns)
    mask = pa.array(holds)
    for field, value in rule.assign:
        free = pc.and_(mask, pc.is_null(found[field]))
        found[field] = pc.if_else(free, pa.scalar(value), found[field])


def _matches(values: pa.Array, patterns: tuple[str, ...]) -> np.ndarray:
    """Whether each value matches one of the globs, without regard to case; null never does."""
    expression = "|".join(_glob(p) for p in patterns)
    hit = pc.match_substring_regex(values, f"^(?:{expression})$", ignore_case=True)
    return pc.fill_null(hit, False).to_numpy(zero_copy_only=False)


def _glob(pattern: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(c) or re.escape(c) for c in pattern)


def _with_category(
    group: np.ndarray,
    found: dict[str, pa.Array],
    by_rule: pa.Array,
    service: pa.DictionaryArray,
    tags: _Tags,
    mapping: MappingRules,
) -> Owners:
    """Category by policy. All arrays are per distinct combination, their texts looked up per distinct text."""
    services = pc.coalesce(found["service"], service.cast(pa.string()))
    policy = _each(services, lambda s: mapping.services.get(s.lower()))
    policy_tier = pc.coalesce(by_rule, policy)
    tag_tier = found["tier"]
    freedom = {None: -1, **_FREEDOM}
    asked = _numbers(tag_tier, lambda t: freedom[mapping.category_of(t)])
    allowed = _numbers(policy_tier, lambda t: freedom[mapping.category_of(t)])
    has_policy = policy_tier.is_valid().to_numpy(zero_copy_only=False)
    ignored = has_policy & (asked > allowed)
    # A tag may ask for less freedom than the policy gives, never for more.
    use_tag = ~has_policy | ((asked >= 0) & (asked < allowed))
    tier = pc.if_else(pa.array(use_tag), tag_tier, policy_tier)
    level = _numbers(tier, lambda t: freedom[mapping.category_of(t)])
    category = pa.array(CATEGORIES).take(pa.array(np.maximum(level, 0)))
    has_tier = tier.is_valid().to_numpy(zero_copy_only=False)
    flags = np.zeros(len(tier), np.uint32)
    flags[found["team"].is_null().to_numpy(zero_copy_only=False)] |= int(Flag.UNMAPPED_TEAM)
    flags[~has_tier] |= int(Flag.NO_TIER)
    flags[has_tier & (level < 0)] |= int(Flag.UNKNOWN_TIER)
    flags[ignored] |= int(Flag.TIER_TAG_IGNORED)
    flags[tags.declares_category()] |= int(Flag.CATEGORY_TAG_IGNORED)
    return Owners(group, found["team"], found["service"], found["workload"], found["job"], tier, category, flags)


def _each(values: pa.Array, look_up: Callable[[str], str | None]) -> pa.Array:
    """A text look-up, once per distinct value."""
    encoded = as_dictionary(values)
    answers = pa.array([look_up(v) if v is not None else None for v in encoded.dictionary.to_pylist()], pa.string())
    return answers.take(encoded.indices)


def _numbers(values: pa.Array, look_up: Callable[[str], int]) -> np.ndarray:
    """A number look-up, once per distinct value; -1 for null."""
    encoded = as_dictionary(values)
    table = np.array([*(look_up(v) for v in encoded.dictionary.to_pylist()), -1], np.int64)
    return table[codes(encoded)]


class _Tags:
    """Values of wanted tag keys of distinct combinations: the tags are parsed once per distinct text."""

    def __init__(self, tags: pa.DictionaryArray, mapping: MappingRules) -> None:
        encoded = as_dictionary(pc.dictionary_encode(tags.cast(pa.string())))
        self._codes = codes(encoded)
        self._size = len(encoded.dictionary)
        wanted = {k for keys in mapping.tags.values() for k in keys}
        wanted |= {k for rule in mapping.rules for k, _ in rule.tags}
        wanted |= {tag_key(k) for k in _CATEGORY_KEYS}
        self._by_key = _tag_values(encoded.dictionary, wanted)

    def value(self, key: str) -> pa.Array:
        """Value of a tag by its normalised key, null where absent or empty."""
        entry = self._by_key.get(key)
        if entry is None:
            return pa.nulls(len(self._codes), pa.string())
        positions, values = entry
        place = np.full(self._size + 1, -1, np.int64)
        place[positions] = np.arange(len(positions))
        at = place[self._codes]
        return values.take(pa.array(at, mask=at < 0))

    def declares_category(self) -> np.ndarray:
        """Whether tags declare a category themselves."""
        found = np.zeros(len(self._codes), bool)
        for key in _CATEGORY_KEYS:
            found |= self.value(tag_key(key)).is_valid().to_numpy(zero_copy_only=False)
        return found


def _tag_values(texts: pa.Array, wanted: set[str]) -> dict[str, tuple[np.ndarray, pa.Array]]:
    """Per wanted key: which texts have it (int64 positions) and the value. The first of several spellings wins."""
    if not len(texts):
        return {}
    keys = pa.table({"wanted": pa.array(sorted(wanted), pa.string())})
    rows = query(
        r"""
        with pairs as (
            select position, pair.id as place,
                regexp_replace(regexp_replace(lower(trim(pair.key)), '^(user|tag|label)[:_]', ''),
                    '[\s\-_.:/]+', '', 'g') as name,
                json_extract_string(pair.value, '$') as value
            from (
                select position,
                    case when json_valid(text) and json_type(text) = 'OBJECT' then text else '{}' end as text
                from texts
            ) t, json_each(t.text) as pair
        )
        select name, position, arg_min(value, place) as value
        from pairs join keys on name = wanted
        where trim(value) <> ''
        group by name, position order by name, position
        """,
        {"texts": pa.table({"position": np.arange(len(texts)), "text": texts.cast(pa.string())}), "keys": keys},
    ).combine_chunks()
    names = as_dictionary(rows.column("name"))
    positions = rows.column("position").to_numpy()
    values = rows.column("value").combine_chunks()
    values = values.chunk(0) if isinstance(values, pa.ChunkedArray) else values
    of = codes(names)
    return {
        name: (positions[of == i], values.filter(pa.array(of == i)))
        for i, name in enumerate(names.dictionary.to_pylist())
    }
