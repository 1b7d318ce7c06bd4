"""Runs of the hourly job: what is stored, what is shown, what a second run does."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from dagster_worlds import HOUR, START, billed, fill, focus_bill, lake_of, materializations, run, simulated, with_values

from sust_dagster import __version__
from sust_dagster.agents.accountant import FactorSet, account
from sust_dagster.agents.ingestor import ServiceHours, ingest_range
from sust_dagster.connectors.billing import TableBilling
from sust_dagster.connectors.billing.simulated import SimulatedBilling
from sust_dagster.connectors.grid import hourly
from sust_dagster.connectors.grid.simulated import SimulatedGrid
from sust_dagster.connectors.sources import ingest_options, regions_of
from sust_dagster.orchestration.build import build_defs
from sust_dagster.orchestration.jobs import HOURLY_ASSETS
from sust_dagster.reference import instances, shipped_factors
from sust_dagster.settings import Project
from sust_dagster.simulator.cloud import FakeCloud
from sust_dagster.world.access import World
from sust_dagster.world.books import Books
from sust_dagster.world.factor_store import FactorStore
from sust_dagster.world.schemas import EMISSIONS, TABLES

DAY = (START, START + 24 * HOUR)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, dg.ExecuteInProcessResult]:
    """A day of a simulated project in one run."""
    project = simulated(tmp_path_factory.mktemp("filled"))
    return project, fill(project)


def rows_of(table: pa.Table, name: str) -> pa.Table:
    """Rows as the lake gives them: conformed, by hour and key."""
    spec = TABLES[name]
    conformed = spec.conform(table)
    keys = [pc.floor_temporal(conformed.column(str(spec.time_column)), unit="hour"), *map(conformed.column, spec.key)]
    names = ["_slot", *spec.key]
    order = pc.sort_indices(pa.table(keys, names=names), sort_keys=[(n, "ascending") for n in names])
    return conformed.take(order).combine_chunks().replace_schema_metadata(None)


def assert_same(stored: pa.Table, expected: pa.Table) -> None:
    assert stored.column_names == expected.column_names
    assert stored.num_rows == expected.num_rows
    for name in stored.column_names:
        assert stored.column(name).combine_chunks().equals(expected.column(name).combine_chunks()), name


def test_what_is_stored_is_what_the_domain_functions_give(filled: tuple[Project, dg.ExecuteInProcessResult]) -> None:
    project, _ = filled
    cloud = FakeCloud(42)
    batches = TableBilling(SimulatedBilling(cloud).read, "simulated").read(*DAY)
    sensed = ingest_range(batches, *DAY, ingest_options(project), undated=START, history=ServiceHours())
    grid = hourly(SimulatedGrid(cloud), *DAY, regions_of(project)).table
    factors = FactorSet.from_table(shipped_factors())
    emissions = account(sensed.ledger, grid, factors, method="simple/v1", instances=instances())
    expected = {
        "activity_ledger": sensed.ledger,
        "quarantine": sensed.quarantine,
        "ingest_counts": sensed.counts,
        "grid_intensity": grid,
        "emissions": emissions,
    }
    lake = lake_of(project)
    for name, table in expected.items():
        stored, wanted = lake.read(name), rows_of(table, name)
        # Factor ids are given by the store, not by the shipped tables.
        skipped = ["emission_factor_id"] if name == "emissions" else []
        assert_same(stored.drop_columns(skipped), wanted.drop_columns(skipped))
    assert lake.read("activity_ledger").num_rows > 1000


def test_hour_by_hour_and_a_range_store_the_same(filled: tuple[Project, dg.ExecuteInProcessResult], tmp_path: Path):
    ranged, _ = filled
    project = simulated(tmp_path / "hourly")
    defs = build_defs(project, with_marts=False)
    run(project, "factors", defs=defs)
    for hour in range(3):
        result = run(project, partition_key=f"2026-01-01-{hour:02}:00", defs=defs)
        assert list(materializations(result, "emissions")) == [f"2026-01-01-{hour:02}:00"]
    alone, together = lake_of(project), lake_of(ranged)
    for table in HOURLY_ASSETS:
        slots = alone.slots(table)
        assert slots == {s: h for s, h in together.slots(table).items() if s <= "2026-01-01T02"}, table
    assert len(alone.slots("emissions")) == 3


def test_a_second_run_of_the_same_range_commits_nothing(tmp_path: Path) -> None:
    project = simulated(tmp_path / "twice")
    window = (START, START + 6 * HOUR)
    fill(project, window)
    lake = lake_of(project)
    versions = {t: lake.version(t) for t in HOURLY_ASSETS}
    result = fill(project, window)
    assert {t: lake.version(t) for t in HOURLY_ASSETS} == versions
    shown = materializations(result, "emissions")["2026-01-01-03:00"]
    assert (shown["committed"], shown["slots_written"], shown["slots_unchanged"]) == (False, 0, 6)


def test_each_partition_shows_its_own_rows_and_sums(filled: tuple[Project, dg.ExecuteInProcessResult]) -> None:
    project, result = filled
    lake = lake_of(project)
    keys = [f"2026-01-01-{h:02}:00" for h in range(24)]
    for table in HOURLY_ASSETS:
        shown = materializations(result, table)
        assert list(shown) == keys
        for hour in (0, 5, 23):
            rows = lake.read(table, START + hour * HOUR, START + (hour + 1) * HOUR)
            assert shown[keys[hour]]["dagster/partition_row_count"] == rows.num_rows
            # A day without anything in quarantine is no commit, nor is there a table.
            version = lake.version(table)
            committed = shown[keys[hour]]["committed"], shown[keys[hour]]["lake_version"]
            assert committed == ((True, version) if version is not None else (False, -1))
    hour = (START + 5 * HOUR, START + 6 * HOUR)
    emissions, stored = materializations(result, "emissions")[keys[5]], lake.read("emissions", *hour)
    for name in ("energy_kwh", "kg_location", "kg_location_lower", "kg_location_upper", "kg_market", "kg_embodied"):
        assert emissions[name] == pytest.approx(pc.sum(stored.column(name)).as_py())
    assert emissions["kg_location_lower"] < emissions["kg_location"] < emissions["kg_location_upper"]
    ledger, stored = materializations(result, "activity_ledger")[keys[5]], lake.read("activity_ledger", *hour)
    for name in ("cost_usd", "vcpu_hours"):
        assert ledger[name] == pytest.approx(pc.sum(stored.column(name)).as_py())
    assert "restated_slots" not in emissions


def test_the_last_partition_shows_the_run_as_a_whole(filled: tuple[Project, dg.ExecuteInProcessResult]) -> None:
    project, result = filled
    lake = lake_of(project)
    ledger = materializations(result, "activity_ledger")["2026-01-01-23:00"]
    assert ledger["run_rows"] == lake.read("activity_ledger").num_rows
    assert ledger["rows_read"] == ledger["rows_ledger"] + ledger["rows_quarantined"] + ledger["rows_skipped"]
    assert ledger["run_cost_usd"] == pytest.approx(pc.sum(lake.read("activity_ledger").column("cost_usd")).as_py())
    assert len(ledger["vcpu_hours_by_hour_of_day"]) == 24
    assert ledger["top_services"].count("\n") >= 2
    assert ledger["dagster/column_lineage"].deps_by_column["started_at"][0].column_name == "ChargePeriodStart"
    emissions, stored = materializations(result, "emissions")["2026-01-01-23:00"], lake.read("emissions")
    assert emissions["run_kg_location"] == pytest.approx(pc.sum(stored.column("kg_location")).as_py())
    assert set(emissions["kg_by_hour_of_day"]) <= set("·▁▂▃▄▅▆▇█")
    lineage = emissions["dagster/column_lineage"].deps_by_column["kg_location"]
    assert {d.asset_key.to_user_string() for d in lineage} == {"activity_ledger", "grid_intensity", "emission_factors"}
    early = materializations(result, "emissions")["2026-01-01-22:00"]
    assert not {"dagster/column_lineage", "top_teams", "run_rows"} & set(early)


def test_lineage_names_columns_that_exist(filled: tuple[Project, dg.ExecuteInProcessResult]) -> None:
    _, result = filled
    for table in ("activity_ledger", "emissions"):
        lineage = materializations(result, table)["2026-01-01-23:00"]["dagster/column_lineage"].deps_by_column
        assert set(lineage) <= set(TABLES[table].column_names)
        for dep in itertools.chain.from_iterable(lineage.values()):
            name = dep.asset_key.path[-1]
            known = focus_bill(1).column_names if name == "billing_records" else TABLES[name].column_names
            assert dep.column_name in known, (table, name, dep.column_name)


def test_every_lake_asset_declares_the_columns_of_its_table(filled: tuple[Project, dg.ExecuteInProcessResult]) -> None:
    graph = build_defs(filled[0], with_marts=False).resolve_asset_graph()
    for table in (*HOURLY_ASSETS, "emission_factors"):
        node = graph.get(dg.AssetKey(table))
        schema = node.metadata["dagster/column_schema"]
        schema = getattr(schema, "schema", schema)
        assert [c.name for c in schema.columns] == list(TABLES[table].column_names)
        assert all(c.description for c in schema.columns)
        assert node.description == TABLES[table].doc
        assert node.owners == [f"team:{node.metadata['agent']}"]


def test_the_intensity_of_the_run_is_drawn_once(filled: tuple[Project, dg.ExecuteInProcessResult]) -> None:
    _, result = filled
    seen = [e for e in result.all_events if e.event_type_value == "ASSET_OBSERVATION"]
    assert len(seen) == 1
    plot = seen[0].asset_observation_data.asset_observation.metadata["intensity_by_region"].value
    assert plot.startswith("![plot](data:image/png;base64,")


def test_a_changed_bill_restates_the_touched_hours_and_says_so(tmp_path: Path) -> None:
    bill = focus_bill(6)
    project = billed(tmp_path / "files", bill, hours=6)
    fill(project)
    lake = lake_of(project)
    before = lake.version("emissions")
    hours = pc.hour(bill.column("ChargePeriodStart")).to_pylist()
    usage = bill.column("ConsumedQuantity").to_pylist()
    touched = [next(i for i, (h, q) in enumerate(zip(hours, usage, strict=True)) if h == hour and q) for hour in (1, 4)]
    billed(tmp_path / "files", with_values(bill, "ConsumedQuantity", touched, lambda q: q * 2), hours=6)
    result = run(project, window=(START, START + 6 * HOUR), tags={"sust/reason": "supplier corrected the bill"})
    for table in ("activity_ledger", "emissions"):
        found = lake.restatements(table)
        assert {r.slot for _, r, _ in found} == {"2026-01-01T01", "2026-01-01T04"}
        assert {why for *_, why in found} == {"supplier corrected the bill"}
        shown = materializations(result, table)["2026-01-01-00:00"]
        assert (shown["restated_slots"], shown["slots_unchanged"]) == (2, 4)
        assert all(r.before[:12] in shown["restatements"] for _, r, _ in found)
    window = (START + HOUR, START + 2 * HOUR)
    assert not lake.read("emissions", *window).equals(lake.read("emissions", *window, as_of=before))


def test_a_factor_version_valid_from_the_middle_of_a_range_splits_the_computation(tmp_path: Path) -> None:
    project = simulated(tmp_path / "epochs")
    window = (START, START + 4 * HOUR)
    fill(project, window)
    lake = lake_of(project)
    old = lake.read("emissions", *window)
    middle = START + 2 * HOUR
    with World(lake, Books.open(project.books_address)) as world:
        store = FactorStore(world.handle("accountant"))
        shipped = store.active(START).to_pylist()
        factor = next(f for f in shipped if f["factor_type"] == "power" and f["name"] == "simple/v1 vcpu")
        doubled = {k: 2 * factor[k] for k in ("value", "value_lower", "value_upper")}
        given = {k: v for k, v in factor.items() if k not in ("factor_id", "version", "created_at")}
        now = datetime.now(UTC)
        version = store.propose([{**given, **doubled, "valid_from": middle}], now=now).column("factor_id")[0].as_py()
        untouched = run(project, window=window)
        store.review(version, "activate", reviewer="a person", reason="measured anew", now=now + timedelta(seconds=1))
    # A version that waits for its review changes nothing.
    assert not materializations(untouched, "emissions")["2026-01-01-03:00"]["committed"]
    run(project, window=window, tags={"sust/reason": "new power factor"})
    assert [r.slot for _, r, _ in lake.restatements("emissions")] == ["2026-01-01T02", "2026-01-01T03"]
    new = lake.read("emissions", *window)
    assert new.select(["activity_id", "started_at"]).equals(old.select(["activity_id", "started_at"]))
    late = pc.greater_equal(new.column("started_at"), pa.scalar(middle, EMISSIONS.arrow.field("started_at").type))
    assert new.filter(pc.invert(late)).equals(old.filter(pc.invert(late)))
    plain = pc.and_(late, pc.not_equal(new.column("resource_type"), "gpu"))
    before, after = (t.filter(plain).column("kg_location") for t in (old, new))
    assert pc.sum(after).as_py() == pytest.approx(2 * pc.sum(before).as_py(), rel=1e-3)
    ids = [set(t.filter(late).column("emission_factor_id").to_pylist()) for t in (old, new)]
    assert ids[0].isdisjoint(ids[1])


def test_hours_that_our_clock_has_not_come_to_are_run_like_any_other(tmp_path: Path) -> None:
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    project = simulated(tmp_path / "ahead", start=start)
    fill(project)
    assert len(lake_of(project).slots("emissions")) == 24


def test_factors_are_installed_once(tmp_path: Path) -> None:
    project = simulated(tmp_path / "factors")
    first = materializations(run(project, "factors"), "emission_factors")[None]
    second = materializations(run(project, "factors"), "emission_factors")[None]
    shipped = shipped_factors().num_rows
    assert (first["activated"], first["unchanged"]) == (shipped, 0)
    assert (second["activated"], second["unchanged"]) == (0, shipped)
    assert second["dagster/row_count"] == shipped
    assert "| power |" in second["by_type"]
    with World(lake_of(project), Books.open(project.books_address)) as world:
        reviews = world.handle("accountant").read_books("factor_reviews")
    assert set(reviews.column("reason").to_pylist()) == {f"shipped with sust-ai-naible {__version__}"}


def test_an_asset_cannot_write_the_table_of_another_agent(tmp_path: Path) -> None:
    project = simulated(tmp_path / "thief")
    defs = build_defs(project, with_marts=False)
    hourly_partitions = defs.resolve_asset_graph().get(dg.AssetKey("emissions")).partitions_def

    def asset(agent: str) -> dg.AssetsDefinition:
        @dg.asset(name="emissions", io_manager_key="lake", partitions_def=hourly_partitions, metadata={"agent": agent})
        def emissions() -> pa.Table:
            return EMISSIONS.empty()

        return emissions

    def attempt(agent: str) -> dg.ExecuteInProcessResult:
        with dg.DagsterInstance.ephemeral() as instance:
            return dg.materialize(
                [asset(agent)],
                resources=dict(defs.resources or {}),
                partition_key="2026-01-01-00:00",
                instance=instance,
                raise_on_error=False,
            )

    assert attempt("accountant").success
    stolen = attempt("ingestor")
    assert not stolen.success
    error = stolen.get_step_failure_events()[0].step_failure_data.error
    assert "PermissionRefused" in error.to_string()
    with World(lake_of(project), Books.open(project.books_address)) as world:
        log = world.handle("governance").read_books("access_log", {"allowed": False}).to_pylist()
    assert [(e["agent"], e["table_name"], e["verb"]) for e in log] == [("ingestor", "emissions", "write")]


def test_each_asset_writes_as_an_agent_that_may(filled: tuple[Project, dg.ExecuteInProcessResult]) -> None:
    graph = build_defs(filled[0], with_marts=False).resolve_asset_graph()
    for table in HOURLY_ASSETS:
        assert graph.get(dg.AssetKey(table)).metadata["agent"] in TABLES[table].writers
