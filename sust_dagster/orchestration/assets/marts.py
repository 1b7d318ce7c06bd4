"""MARTS: what people query: jobs, emissions by region, team, service and hour, effective cost.

Belongs here: how the dbt project becomes assets. Each mart is a Parquet file under ``<project>/marts``; it is
built aside and put in place whole, so a reader never sees half a file.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
from dagster_dbt import DagsterDbtTranslator, DagsterDbtTranslatorSettings, DbtCliResource, dbt_assets
from dagster_dbt.compat import DBT_PYTHON_VERSION

from sust_dagster.orchestration.dbt_lake import LAKE_SOURCES
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.settings import Project
from sust_dagster.world.permissions import resolve
from sust_dagster.world.schemas import TABLES

DBT_PROJECT = Path(__file__).parents[3] / "dbt_project"
_PARSED = DBT_PROJECT / "target"
#: With it the models are parsed as most projects build them; dbt parses again those whose variables differ.
_PARSED_WITH = {"SUST_CARBON_PRICE_USD_PER_T": repr(Project.model_fields["carbon_price_usd_per_t"].default)}

#: The marts join it for the time of the commit that holds a row; nothing writes it, each commit changes it.
LAKE_FILES = dg.AssetSpec(
    "lake_files",
    group_name="marts",
    deps=LAKE_SOURCES,
    description="The lake's own inventory: the active file of every slot, with its hash and the time of its commit.",
    kinds={"deltalake"},
)


class _Translator(DagsterDbtTranslator):
    """Marts are ``marts/<name>``; sources keep the key of the asset that makes them."""

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
        key = super().get_asset_key(dbt_resource_props)
        return key if dbt_resource_props["resource_type"] == "source" else dg.AssetKey(["marts", key.path[-1]])

    def get_description(self, dbt_resource_props: Mapping[str, Any]) -> str:
        """What dbt says of the model, without its SQL: a list of assets shows the first words."""
        return dbt_resource_props.get("description") or f"dbt {dbt_resource_props['resource_type']}"

    def get_metadata(self, dbt_resource_props: Mapping[str, Any]) -> Mapping[str, Any]:
        """dbt's, with the file a mart is read from in place of the database in memory, and the SQL of a model."""
        metadata = {**super().get_metadata(dbt_resource_props)}
        if dbt_resource_props["resource_type"] != "model":
            return metadata
        if dbt_resource_props["config"]["materialized"] == "external":
            metadata["dagster/table_name"] = f"marts/{dbt_resource_props['name']}.parquet"
        return {**metadata, "sql": dg.MetadataValue.md(f"```sql\n{dbt_resource_props['raw_code']}\n```")}

    def get_owners(self, dbt_resource_props: Mapping[str, Any]) -> Sequence[str] | None:
        owners = super().get_owners(dbt_resource_props)
        return owners or (["team:platform"] if dbt_resource_props["resource_type"] == "model" else None)

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str | None:
        return None if dbt_resource_props["resource_type"] == "source" else "marts"


def environment(project: Project) -> dict[str, str]:
    """What the dbt project needs to know of this project."""
    return {
        "SUST_LAKE_URL": project.lake_root,
        "SUST_BOOKS_URL": project.books_address,
        "SUST_MARTS_BUILD": str(_build_folder(project)),
        "SUST_CARBON_PRICE_USD_PER_T": repr(project.carbon_price_usd_per_t),
        # What was parsed for the definitions serves every project: dbt compares it with the files.
        "DBT_PARTIAL_PARSE_FILE_PATH": str(_PARSED / "partial_parse.msgpack"),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    }


@contextmanager
def _environment(project: Project) -> Generator[None]:
    """The variables set for the time of a dbt call, which takes none of its own."""
    names = environment(project)
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _target(project: Project) -> Path:
    return project.marts_root / ".dbt"


def _build_folder(project: Project) -> Path:
    return project.marts_root / ".build"


def dbt_executable() -> str:
    """The dbt of this environment: it is not on PATH when the environment is not activated."""
    beside = Path(sys.executable).with_name("dbt")
    return str(beside) if beside.exists() else "dbt"


def manifest() -> Path:
    """The parsed dbt project, parsed again when a file of it is newer."""
    path = _PARSED / "manifest.json"
    sources = [p for p in DBT_PROJECT.rglob("*") if p.suffix in {".sql", ".yml"} and "target" not in p.parts]
    newest = max(p.stat().st_mtime for p in sources)
    if not path.exists() or path.stat().st_mtime < newest:
        subprocess.run(
            [
                dbt_executable(),
                "--quiet",
                "parse",
                "--project-dir",
                str(DBT_PROJECT),
                "--profiles-dir",
                str(DBT_PROJECT),
            ],
            check=True,
            env={**os.environ, "DBT_SEND_ANONYMOUS_USAGE_STATS": "false", **_PARSED_WITH},
        )
        os.utime(path)
    return path


class _Dbt(DbtCliResource):
    """dbt as a process, and nothing of it in ours.

    Dagster asks the executable for its version and loads the adapter beside it, each slower than a mart: the adapter
    to count rows and to read columns in the warehouse, which is in the memory of a process that is gone.
    """

    @cached_property
    def _cli_version(self) -> Any:
        return DBT_PYTHON_VERSION or super()._cli_version

    def _initialize_dbt_core_adapter(self, args: Sequence[str]) -> Any:  # noqa: ARG002 - Dagster's signature
        return None


def dbt_resource() -> DbtCliResource:
    """dbt, run in the project folder of this repository."""
    return _Dbt(project_dir=str(DBT_PROJECT), profiles_dir=str(DBT_PROJECT), dbt_executable=dbt_executable())


def build() -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The marts, with their dbt tests as asset checks."""
    settings = DagsterDbtTranslatorSettings(enable_asset_checks=True, enable_source_tests_as_checks=True)

    @dbt_assets(manifest=manifest(), dagster_dbt_translator=_Translator(settings=settings), name="marts")
    def marts(context: dg.AssetExecutionContext, dbt: DbtCliResource, project: ProjectResource) -> Iterator[Any]:
        built = _build_folder(project.project)
        shutil.rmtree(built, ignore_errors=True)
        built.mkdir(parents=True)
        with _environment(project.project):
            # What dbt compiles and logs stays with the project, too: by default each run leaves a folder in ours.
            for event in dbt.cli(["build"], context=context, target_path=_target(project.project)).stream():
                yield _with_rows(event, context, built)
        for file in sorted(built.glob("*.parquet")):
            file.replace(project.project.marts_root / file.name)
        shutil.rmtree(built)

    return [LAKE_FILES, marts]


def _with_rows(event: Any, context: dg.AssetExecutionContext, built: Path) -> Any:
    """Add a mart's row count and columns to its event; from the file, dbt's own counting would hold a lock."""
    if not isinstance(event, dg.Output):
        return event
    key = context.asset_key_for_output(event.output_name)
    file = built / f"{key.path[-1]}.parquet"
    if not file.exists():
        return event
    stored = pq.read_metadata(file)
    declared = context.assets_def.metadata_by_key[key].get("dagster/column_schema")
    about = {
        "dagster/row_count": stored.num_rows,
        "dagster/column_schema": _columns(key.path[-1], stored.schema.to_arrow_schema(), declared),
    }
    return event.with_metadata({**(event.metadata or {}), **about})


def _columns(mart: str, stored: pa.Schema, declared: Any) -> dg.TableSchema:
    """Columns of a mart as they are in its file: dbt's descriptions, else those of the table it is made of."""
    schema = getattr(declared, "schema", declared)
    said = {c.name: c.description for c in schema.columns if c.description} if schema is not None else {}
    sources = [TABLES[t] for t in (resolve(mart), "emissions") if t in TABLES]
    docs = {c.name: f"{c.doc} [{c.unit}]" if c.unit else c.doc for t in reversed(sources) for c in t.columns}
    return dg.TableSchema(
        [dg.TableColumn(f.name, str(f.type), description=said.get(f.name) or docs.get(f.name)) for f in stored]
    )
