"""Factor versions: proposed, reviewed by another, in force, kept for ever."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.world.access import World
from sust_dagster.world.books import Books
from sust_dagster.world.factor_store import (
    RELEASE,
    FactorError,
    FactorStore,
    Seeded,
    factor_id,
    factor_key,
)
from sust_dagster.world.ids import uuid5
from sust_dagster.world.lake import Lake
from sust_dagster.world.permissions import PermissionRefused
from sust_dagster.world.schemas import AGENTS, EMISSION_FACTORS

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=40)
FROM = datetime(2025, 1, 1, tzinfo=UTC)


def factor(value: float = 1.1, **changes: Any) -> dict[str, Any]:
    row = {
        "factor_type": "pue",
        "region": None,
        "provider": "aws",
        "name": "provider average",
        "value": value,
        "value_lower": value * 0.9,
        "value_upper": value * 1.1,
        "unit": "ratio",
        "bound_reading": "uniform",
        "source": "the provider",
        "source_year": 2025,
        "valid_from": FROM,
    }
    return row | changes


def shipped(*rows: dict[str, Any]) -> pa.Table:
    given_by_the_store = {"factor_id": "", "version": 0, "created_at": NOW}
    return pa.Table.from_pylist([r | given_by_the_store for r in rows], schema=EMISSION_FACTORS.arrow)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(Lake(tmp_path / "lake"), Books.open(tmp_path / "books.db"), clock=lambda: NOW) as made:
        yield made


@pytest.fixture
def store(world: World) -> FactorStore:
    return FactorStore(world.handle("accountant"))


def activate(store: FactorStore, row: dict[str, Any], now: datetime = NOW, reviewer: str = "dana") -> str:
    version = store.propose([row], now=now).to_pylist()[0]["factor_id"]
    store.review(version, "activate", reviewer=reviewer, reason="checked against the source", now=now)
    return version


def values(table: pa.Table) -> list[float]:
    return table.column("value").to_pylist()


# -- proposing ----------------------------------------------------------------------------------------------


def test_a_version_waits_until_another_has_reviewed_it(store: FactorStore) -> None:
    (row,) = store.propose([factor()], now=NOW).to_pylist()
    assert (row["version"], row["created_at"]) == (1, NOW)
    assert row["factor_id"] == factor_id(factor_key(row), 1)
    assert row["factor_id"] == uuid5("emission_factor", "pue", "", "aws", "provider average", 1)
    assert store.active(NOW).num_rows == 0
    assert store.waiting().to_pylist() == [row]
    store.review(row["factor_id"], "activate", reviewer="dana", reason="matches the report", now=NOW)
    assert store.active(NOW).to_pylist() == [row]
    assert store.active(NOW).schema.equals(EMISSION_FACTORS.arrow, check_metadata=True)
    assert store.waiting().num_rows == 0


def test_versions_count_up_and_the_same_again_is_no_new_one(store: FactorStore) -> None:
    tables = [store.propose([factor(v)], now=NOW + timedelta(hours=i)) for i, v in enumerate([1.1, 1.1, 1.2, 1.1])]
    assert [t.column("version").to_pylist() for t in tables] == [[1], [1], [2], [3]]
    history = store.history(("pue", None, "aws", "provider average"))
    assert values(history) == [1.1, 1.2, 1.1]


def test_names_regions_and_providers_are_factors_of_their_own(store: FactorStore) -> None:
    rows = [factor(), factor(name="other"), factor(region="eu-west-1"), factor(provider=None), factor(factor_type="x")]
    assert store.propose(rows, now=NOW).column("version").to_pylist() == [1] * 5
    assert store.propose([factor(1.2), factor(1.3)], now=NOW).column("version").to_pylist() == [2, 3]
    assert values(store.history(("pue", "eu-west-1", "aws", "provider average"))) == [1.1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bound_reading": ""}, "no stated reading"),
        ({"bound_reading": " Unknown "}, "no stated reading"),
        ({"bound_reading": None}, "bound_reading .* is missing"),
        ({"value": 2.0}, "does not lie within its bounds"),
        ({"value_lower": float("nan")}, "does not lie within its bounds"),
        ({"value_upper": float("inf")}, "does not lie within its bounds"),
        ({"bound_reading": "95% lognormal", "value_lower": 0.0}, "lower bound is 0"),
        ({"valid_to": FROM}, "never"),
        ({"valid_from": FROM.replace(tzinfo=None)}, "has no timezone"),
        ({"source": None}, "source .* is missing"),
        ({"colour": "green"}, "unknown columns colour"),
    ],
)
def test_what_cannot_be_a_factor_is_refused_by_name(store: FactorStore, change: dict[str, Any], message: str) -> None:
    with pytest.raises(FactorError, match=f"factor pue/any/aws/provider average: .*{message}"):
        store.propose([factor(name="good"), factor() | change], now=NOW)
    assert store.waiting().num_rows == 0, "nothing of a refused batch is kept"


# -- reviewing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reviewer", [*AGENTS, RELEASE, "", "  "])
def test_the_reviewer_is_a_person_other_than_the_proposer(world: World, store: FactorStore, reviewer: str) -> None:
    (row,) = store.propose([factor()], now=NOW).to_pylist()
    with pytest.raises(PermissionRefused, match="a person other than the one who proposed must review"):
        store.review(row["factor_id"], "activate", reviewer=reviewer, reason="trust me", now=NOW)
    assert store.active(NOW).num_rows == 0
    (refusal,) = world.books.read("access_log", {"allowed": False}).to_pylist()
    assert (refusal["agent"], refusal["table_name"], refusal["verb"]) == ("accountant", "factor_reviews", "write")
    assert row["factor_id"] in refusal["detail"]


@pytest.mark.parametrize("agent", [a for a in AGENTS if a != "accountant"])
def test_other_agents_may_read_at_most(world: World, store: FactorStore, agent: Any) -> None:
    activate(store, factor())
    other = FactorStore(world.handle(agent))
    for write in (
        lambda: other.propose([factor(1.3)], now=NOW),
        lambda: other.seed_shipped(shipped(factor(1.3)), package_version="1", now=NOW),
        lambda: other.review(activate(store, factor()), "refuse", reviewer="dana", reason="no", now=NOW),
    ):
        with pytest.raises(PermissionRefused):
            write()
    if world.handle(agent).can("emission_factors", "read"):
        assert values(other.active(NOW)) == [1.1]
    else:
        with pytest.raises(PermissionRefused):
            other.active(NOW)


def test_a_refused_version_stays_refused_and_a_withdrawn_one_gives_way_to_the_one_before(store: FactorStore) -> None:
    first = activate(store, factor(1.1))
    second = activate(store, factor(1.2))
    assert values(store.active(NOW)) == [1.2]
    store.review(second, "refuse", reviewer="eve", reason="the source was withdrawn", now=LATER)
    assert values(store.active(NOW)) == [1.1]
    with pytest.raises(FactorError, match="was refused before"):
        store.review(second, "activate", reviewer="dana", reason="still good", now=LATER)
    assert values(store.as_of([first, second])) == [1.1, 1.2], "old versions stay readable"


def test_a_review_said_twice_is_one(world: World, store: FactorStore) -> None:
    version = activate(store, factor())
    for _ in range(2):
        store.review(version, "refuse", reviewer="dana", reason="wrong unit", now=LATER)
    assert world.books.read("factor_reviews").num_rows == 2


def test_reviews_that_say_nothing_are_refused(store: FactorStore) -> None:
    version = store.propose([factor()], now=NOW).column("factor_id")[0].as_py()
    for changes, message in (
        ({"decision": "maybe"}, "not 'maybe'"),
        ({"reason": " "}, "gives no reason"),
        ({"factor_id": "nope"}, "there is no factor version nope"),
    ):
        arguments: dict[str, Any] = {"factor_id": version, "decision": "activate", "reason": "because"} | changes
        with pytest.raises(FactorError, match=message):
            store.review(**arguments, reviewer="dana", now=NOW)


# -- in force -----------------------------------------------------------------------------------------------


def test_validity_decides_which_version_is_in_force(store: FactorStore) -> None:
    turn = datetime(2026, 1, 1, tzinfo=UTC)
    activate(store, factor(1.1))
    activate(store, factor(1.2, valid_from=turn, valid_to=NOW))
    moment = timedelta(microseconds=1)
    assert values(store.active(FROM - moment)) == []
    assert values(store.active(turn - moment)) == [1.1]
    assert values(store.active(turn)) == [1.2]
    assert values(store.active(NOW - moment)) == [1.2]
    assert values(store.active(NOW)) == [1.1]


def test_what_was_known_then(store: FactorStore) -> None:
    activate(store, factor(1.1), NOW)
    activate(store, factor(1.2), LATER)
    assert values(store.active(NOW)) == [1.2]
    assert values(store.active(NOW, known_at=NOW)) == [1.1]
    assert values(store.active(NOW, known_at=NOW - timedelta(seconds=1))) == []


def test_exactly_the_versions_asked_for(store: FactorStore) -> None:
    ids = [activate(store, factor(v)) for v in (1.1, 1.2, 1.3)]
    assert values(store.as_of(ids[:2])) == [1.1, 1.2]
    assert store.as_of([]).num_rows == 0
    with pytest.raises(FactorError, match="no such factor version: gone"):
        store.as_of([ids[0], "gone"])


def test_age_counts_from_the_last_review(store: FactorStore) -> None:
    old = activate(store, factor(), NOW)
    activate(store, factor(name="fresh"), LATER - timedelta(days=1))
    assert store.stale(NOW + timedelta(days=30)).num_rows == 0
    (row,) = store.stale(LATER).to_pylist()
    assert (row["factor_id"], row["reviewed_at"], row["age_days"]) == (old, NOW, 40.0)
    assert store.stale(LATER, days=50).num_rows == 0
    store.review(old, "activate", reviewer="dana", reason="still the published figure", now=LATER)
    assert store.stale(LATER).num_rows == 0
    assert store.stale(NOW).column_names == [*EMISSION_FACTORS.column_names, "reviewed_at", "age_days"]


# -- what ships with the release ----------------------------------------------------------------------------


def seed(store: FactorStore, *rows: dict[str, Any], release: str = "0.1.0", now: datetime = NOW) -> Seeded:
    return store.seed_shipped(shipped(*rows), package_version=release, now=now)


def test_the_shipped_factors_are_in_force_at_once_and_only_once(world: World, store: FactorStore) -> None:
    rows = [factor(), factor(name="other", region="eu-west-1")]
    assert seed(store, *rows) == Seeded(activated=2, waiting=0, unchanged=0)
    assert seed(store, *rows, now=LATER) == Seeded(activated=0, waiting=0, unchanged=2)
    assert values(store.active(NOW)) == [1.1, 1.1]
    reviews = world.books.read("factor_reviews").to_pylist()
    assert {(r["reviewer"], r["reason"]) for r in reviews} == {("release", "shipped with sust-ai-naible 0.1.0")}


def test_a_new_release_replaces_its_own_figures_but_not_a_persons(store: FactorStore) -> None:
    mine = factor(1.5, name="mine")
    seed(store, factor(1.1), factor(1.1, name="mine"))
    activate(store, mine)
    assert seed(store, factor(1.2), factor(1.1, name="mine"), release="0.2.0") == Seeded(1, 0, 1)
    assert seed(store, factor(1.2), factor(1.3, name="mine"), release="0.3.0") == Seeded(0, 1, 1)
    assert seed(store, factor(1.2), factor(1.3, name="mine"), release="0.3.0") == Seeded(0, 0, 2)
    assert {r["name"]: r["value"] for r in store.active(NOW).to_pylist()} == {"provider average": 1.2, "mine": 1.5}
    (waiting,) = store.waiting().to_pylist()
    store.review(waiting["factor_id"], "activate", reviewer="dana", reason="better source", now=NOW)
    assert {r["name"]: r["value"] for r in store.active(NOW).to_pylist()} == {"provider average": 1.2, "mine": 1.3}


def test_a_release_that_goes_back_goes_back(store: FactorStore) -> None:
    for value in (1.1, 1.2, 1.1):
        seed(store, factor(value))
    assert values(store.active(NOW)) == [1.1]
    assert store.history(("pue", None, "aws", "provider average")).num_rows == 3


def test_the_release_has_no_privilege_on_bounds(store: FactorStore) -> None:
    for change in ({"bound_reading": "n/a"}, {"value_lower": 9.0}):
        with pytest.raises(FactorError, match=r"no stated reading|within its bounds"):
            seed(store, factor(name="good"), factor() | change)
    assert store.active(NOW).num_rows == 0


def test_a_factor_twice_in_one_release_is_refused(store: FactorStore) -> None:
    with pytest.raises(FactorError, match="1 shipped factors are there twice"):
        seed(store, factor(1.1), factor(1.2))


@pytest.fixture(scope="module")
def long_lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FactorStore]:
    folder = tmp_path_factory.mktemp("factors")
    with World(Lake(folder / "lake"), Books.open(folder / "books.db"), clock=lambda: NOW) as made:
        yield FactorStore(made.handle("accountant"))


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["propose", "activate", "refuse", "seed"]), st.sampled_from([1.1, 1.2, 1.3])), max_size=12
)


@settings(max_examples=25, deadline=None)
@given(actions=ACTIONS, data=st.data())
def test_whatever_happens_only_reviewed_versions_are_in_force_and_none_is_lost(
    long_lived: FactorStore, actions: list[tuple[Any, float]], data: st.DataObject
) -> None:
    name = f"factor {data.draw(st.integers(0, 10**12))}"
    seen: dict[str, float] = {}
    for i, (action, value) in enumerate(actions):
        now = NOW + timedelta(minutes=i)
        row = factor(value, name=name)
        versions = long_lived.history(("pue", None, "aws", name)).to_pylist()
        if action == "propose":
            long_lived.propose([row], now=now)
        elif action == "seed":
            seed(long_lived, row, now=now)
        elif versions:
            try:
                long_lived.review(versions[-1]["factor_id"], action, reviewer="dana", reason="said so", now=now)
            except FactorError as refusal:
                assert "refused before" in str(refusal)
        versions = long_lived.history(("pue", None, "aws", name)).to_pylist()
        assert [v["version"] for v in versions] == list(range(1, len(versions) + 1))
        assert seen.items() <= {v["factor_id"]: v["value"] for v in versions}.items()
        seen = {v["factor_id"]: v["value"] for v in versions}
        in_force = [r["factor_id"] for r in long_lived.active(NOW).to_pylist() if r["name"] == name]
        waiting = [r["factor_id"] for r in long_lived.waiting().to_pylist()]
        assert len(in_force) <= 1
        assert not set(in_force) & set(waiting)
