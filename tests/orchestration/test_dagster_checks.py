"""Asset checks: they pass on good data, each fails on the one fault it is for, and a failure stops the run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from dagster_worlds import (
    HOUR,
    START,
    billed,
    check,
    fill,
    focus_bill,
    lake_of,
    materializations,
    run,
    simulated,
    with_values,
)

from sust_dagster.orchestration.build import build_defs
from sust_dagster.settings import Project, load_project
from sust_dagster.world.access import World
from sust_dagster.world.books import Books
from sust_dagster.world.factor_store import FactorStore
from sust_dagster.world.lake import Lake

HOURS = 6
WINDOW = (START, START + HOURS * HOUR)


def bill_with_one_bad_row() -> pa.Table:
    """The first hours of the simulated bill, in which one usage row has no quantity."""
    bill = focus_bill(HOURS)
    usage = pc.equal(bill.column("ChargeCategory"), "Usage").to_pylist()
    return with_values(bill, "ConsumedQuantity", [usage.index(True)], None)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A few hours of a bill on disk, in which one row is in quarantine."""
    project = billed(tmp_path_factory.mktemp("good") / "project", bill_with_one_bad_row(), hours=HOURS)
    fill(project)
    assert lake_of(project).read("quarantine").num_rows == 1
    return project


@pytest.fixture
def world(good: Project, tmp_path: Path) -> Project:
    """A copy of it to spoil."""
    shutil.copytree(good.root, tmp_path / "project")
    return load_project(tmp_path / "project")


def spoil(project: Project, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    lake = lake_of(project)
    lake.write(table, change(lake.read(table, *WINDOW)), *WINDOW, writer="a test", reason="spoiled")


def failed(project: Project, asset: str, window: tuple[datetime, datetime] = WINDOW) -> set[str]:
    return {name for name, e in check(project, asset, window).items() if not e.passed}


def dropped(where: Callable[[pa.Table], pa.Array]) -> Callable[[pa.Table], pa.Table]:
    return lambda t: t.filter(pc.invert(where(t)))


def first_usage(table: pa.Table) -> int:
    return table.column("charge_class").to_pylist().index("usage")


def put(column: str, value: object) -> Callable[[pa.Table], pa.Table]:
    """Set a value in the first usage row."""
    return lambda t: with_values(t, column, [first_usage(t) if "charge_class" in t.column_names else 0], value)


def twice(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(0, 1)])


def last_hours(table: pa.Table) -> pa.Array:
    column = "hour" if "hour" in table.column_names else "started_at"
    return pc.greater_equal(table.column(column), pa.scalar(WINDOW[1] - 3 * HOUR, table.schema.field(column).type))


FAULTS: list[tuple[str, str, list[tuple[str, Callable[[pa.Table], pa.Table]]]]] = [
    ("activity_ledger", "row_conservation", [("quarantine", lambda t: t.slice(0, 0))]),
    ("activity_ledger", "keys_are_unique", [("activity_ledger", twice)]),
    ("activity_ledger", "no_negative_usage", [("activity_ledger", put("resource_qty", -1.0))]),
    ("activity_ledger", "no_negative_usage", [("activity_ledger", put("vcpu_hours", -1.0))]),
    ("activity_ledger", "slices_fit_their_hour", [("activity_ledger", put("ended_at", lambda v: v + HOUR))]),
    ("activity_ledger", "slices_fit_their_hour", [("activity_ledger", put("ended_at", lambda v: v - 2 * HOUR))]),
    (
        "activity_ledger",
        "freshness",
        [("activity_ledger", dropped(last_hours)), ("ingest_counts", dropped(last_hours))],
    ),
    ("emissions", "every_activity_accounted", [("emissions", lambda t: t.slice(1))]),
    ("emissions", "every_activity_accounted", [("activity_ledger", lambda t: t.slice(1))]),
    ("emissions", "no_negative_energy", [("emissions", put("energy_kwh", -1.0))]),
    ("emissions", "bounds_contain_the_point", [("emissions", put("kg_location_upper", 0.0))]),
    ("emissions", "bounds_contain_the_point", [("emissions", put("kg_embodied_lower", 1e6))]),
]


def test_every_check_passes_on_good_data(good: Project) -> None:
    for asset in ("activity_ledger", "emissions"):
        found = check(good, asset, WINDOW)
        assert found and all(e.passed for e in found.values()), {n: e.description for n, e in found.items()}


@pytest.mark.parametrize(("asset", "name", "spoils"), FAULTS, ids=[f"{n}-{i}" for i, (_, n, _) in enumerate(FAULTS)])
def test_a_fault_fails_its_check_and_no_other(
    world: Project, asset: str, name: str, spoils: list[tuple[str, Callable[[pa.Table], pa.Table]]]
) -> None:
    for table, change in spoils:
        spoil(world, table, change)
    assert failed(world, asset) == {name}


def test_a_row_lost_from_the_ledger_breaks_conservation(world: Project) -> None:
    """A row of one slice; a longer one would still have its other slices."""
    lake = lake_of(world)
    refs = lake.read("activity_ledger", *WINDOW).column("raw_record_ref").to_pylist()
    lost = next(r for r in refs if refs.count(r) == 1)
    spoil(world, "activity_ledger", dropped(lambda t: pc.equal(t.column("raw_record_ref"), lost)))
    assert failed(world, "activity_ledger") == {"row_conservation"}


def test_a_row_in_quarantine_that_nobody_counted_breaks_conservation(world: Project) -> None:
    spoil(world, "ingest_counts", dropped(lambda t: pc.equal(t.column("outcome"), "quarantine")))
    assert failed(world, "activity_ledger") == {"row_conservation"}


def test_a_missing_figure_must_say_why(world: Project) -> None:
    lake = lake_of(world)
    quality = lake.read("emissions", *WINDOW).column("quality").to_pylist()

    def without_kg(table: pa.Table) -> pa.Table:
        return with_values(table, "kg_location", [0], None)

    spoil(world, "emissions", without_kg)
    named = quality[0] != "ok"
    assert failed(world, "emissions") == (set() if named else {"not_estimated_is_named"})
    spoil(world, "emissions", lambda t: with_values(t, "quality", [0], "ok"))
    assert failed(world, "emissions") == {"not_estimated_is_named"}
    spoil(world, "emissions", lambda t: with_values(t, "quality", [0], "no_grid"))
    assert failed(world, "emissions") == set()


def test_corrections_may_be_negative(world: Project) -> None:
    spoil(world, "activity_ledger", lambda t: put("charge_class", "correction")(put("resource_qty", -1.0)(t)))
    assert failed(world, "activity_ledger") == set()


def test_a_failing_check_that_blocks_stops_what_comes_after(tmp_path: Path) -> None:
    project = billed(tmp_path / "strict", bill_with_one_bad_row(), hours=HOURS, schema_pass_rate=1.0)
    run(project, "factors")
    result = run(project, window=WINDOW, ok=False)
    assert not result.success
    evaluations = {e.check_name: e for e in result.get_asset_check_evaluations()}
    assert not evaluations["schema_pass_rate"].passed
    assert evaluations["schema_pass_rate"].description.startswith("1 of ")
    assert materializations(result, "activity_ledger")
    assert not materializations(result, "emissions")
    lake = lake_of(project)
    assert lake.version("activity_ledger") is not None and lake.version("emissions") is None
    lenient = project.model_copy(update={"schema_pass_rate": 0.5})
    lenient.save()
    assert run(load_project(project.root), window=WINDOW).success
    assert lake.version("emissions") is not None


def test_stale_data_warns_and_does_not_stop(tmp_path: Path) -> None:
    bill = focus_bill(HOURS)
    early = pc.less(bill.column("ChargePeriodStart"), pa.scalar(START + 2 * HOUR, pa.timestamp("us", "UTC")))
    project = billed(tmp_path / "stale", bill.filter(early), hours=HOURS)
    result = fill(project)
    freshness = next(e for e in result.get_asset_check_evaluations() if e.check_name == "freshness")
    assert result.success and not freshness.passed
    assert freshness.severity == dg.AssetCheckSeverity.WARN
    assert freshness.metadata["age_hours"].value >= 3
    assert lake_of(project).version("emissions") is not None


@pytest.mark.slow
def test_simulated_totals_follow_the_founding_table(tmp_path: Path) -> None:
    project = simulated(tmp_path / "totals", days=14)
    result = fill(project)
    window = (project.start, project.last_hour_end())
    seen = next(e for e in result.get_asset_check_evaluations() if e.check_name == "seed_table_totals")
    assert seen.passed and 0.9 < seen.metadata["ratio"].value < 1.1
    short = check(project, "emissions", (START, START + 24 * HOUR))["seed_table_totals"]
    assert short.passed and short.description.startswith("not judged")
    lake = lake_of(project)
    table = lake.read("emissions")
    for factor in (1.2, 0.8):
        kilograms = [c for c in table.column_names if c.startswith("kg_location")]
        changed = table
        for name in kilograms:
            field = table.schema.field(name)
            index = table.schema.get_field_index(name)
            changed = changed.set_column(index, field, pc.multiply(table.column(name), factor))
        Lake(project.lake_root).write("emissions", changed, *window, writer="a test", reason="spoiled")
        assert failed(project, "emissions", window) == {"seed_table_totals"}


def test_a_bill_on_disk_is_not_held_to_the_founding_table(good: Project) -> None:
    assert "seed_table_totals" not in check(good, "emissions", WINDOW)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[tuple[Project, FactorStore]]:
    """A project with the shipped factors, and the store they are in."""
    project = simulated(tmp_path / "factors")
    run(project, "factors")
    with World(lake_of(project), Books.open(project.books_address)) as world:
        yield project, FactorStore(world.handle("accountant"))


def propose(store: FactorStore, name: str, *, at: datetime | None = None, **changes: object) -> None:
    """A new version of a shipped factor, activated by a person."""
    now = at or datetime.now(UTC)
    found = next(f for f in store.active(now).to_pylist() if f["name"] == name)
    given = {k: v for k, v in found.items() if k not in ("factor_id", "version", "created_at")}
    version = store.propose([{**given, **changes}], now=now).column("factor_id")[0].as_py()
    store.review(version, "activate", reviewer="a person", reason="a test", now=now + timedelta(seconds=1))


def test_shipped_factors_pass_their_checks(store: tuple[Project, FactorStore]) -> None:
    assert failed(store[0], "emission_factors") == set()


def test_an_old_review_is_told(store: tuple[Project, FactorStore]) -> None:
    project, factors = store
    propose(factors, "egress", value_upper=0.07)
    assert failed(project, "emission_factors") == set()
    project.model_copy(update={"factor_age_limit_days": 1e-6}).save()
    found = check(load_project(project.root), "emission_factors", WINDOW)["factors_reviewed"]
    assert not found.passed and found.severity == dg.AssetCheckSeverity.WARN


def test_a_factor_that_the_accountant_would_refuse_is_found_before_it_is_used(
    store: tuple[Project, FactorStore],
) -> None:
    project, factors = store
    propose(factors, "egress", bound_reading="a guess")
    found = check(project, "emission_factors", WINDOW)
    assert {n for n, e in found.items() if not e.passed} == {"factors_usable"}
    assert "reading" in (found["factors_usable"].description or "")


def test_sources_that_disagree_beyond_their_bounds_are_told(store: tuple[Project, FactorStore]) -> None:
    project, factors = store
    propose(factors, "egress", source="another laboratory", value=1.0, value_lower=0.9, value_upper=1.1)
    found = check(project, "emission_factors", WINDOW)
    assert {n for n, e in found.items() if not e.passed} == {"sources_agree"}
    assert found["sources_agree"].severity == dg.AssetCheckSeverity.WARN
    assert "another laboratory" in (found["sources_agree"].description or "")


def test_every_check_has_a_fault_that_fails_it(tmp_path: Path) -> None:
    graph = build_defs(simulated(tmp_path / "names"), with_marts=False).resolve_asset_graph()
    tested = {(asset, name) for asset, name, _ in FAULTS} | {
        ("activity_ledger", "schema_pass_rate"),
        ("emissions", "not_estimated_is_named"),
        ("emissions", "seed_table_totals"),
        ("emission_factors", "factors_reviewed"),
        ("emission_factors", "factors_usable"),
        ("emission_factors", "sources_agree"),
        ("placements", "plan_keeps_every_limit"),  # test_dagster_decide
        ("outcomes", "credits_add_up_to_the_bound"),  # this one and the next three: test_loop_verify
        ("outcomes", "every_execution_has_an_outcome"),
        ("outcomes", "evidence_is_there"),
        ("outcomes", "the_draw_was_obeyed"),
    }
    assert {(k.asset_key.to_user_string(), k.name) for k in graph.asset_check_keys} == tested
