"""Every knob in one place, each with its unit and default.

Belongs here: what a project is (its folder, its sources, its clock) and the settings a person may change,
read from ``sust.toml`` in the project folder and from ``SUST_*`` environment variables, which win.
Does not belong here: credentials of outside systems (their connectors read them from the environment).
"""

from __future__ import annotations

import os
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

#: Name of a project's settings file.
PROJECT_FILE = "sust.toml"
#: Environment variable that names the project folder.
PROJECT_VARIABLE = "SUST_PROJECT"
#: First hour of a simulated project; a constant, so a demo is the same on any day.
SIMULATION_START = datetime(2026, 1, 1, tzinfo=UTC)


class ProjectError(ValueError):
    """The project folder cannot be used as it is; the message says what would fix it."""


class Project(BaseSettings):
    """A project: one folder (or URLs) that holds a lake, books and their settings."""

    model_config = SettingsConfigDict(env_prefix="SUST_", extra="forbid", validate_default=True)

    root: Path = Field(description="folder of the project")
    lake_url: str = Field("", description="folder or object-store URL of the lake; default <root>/lake")
    books_url: str = Field("", description="SQLAlchemy URL of the books; default SQLite at <root>/books.db")

    source: Literal["simulated", "files"] = Field("simulated", description="where activity comes from")
    billing: list[str] = Field(default_factory=list, description="bills: files, folders or URLs (source = files)")
    mapping: str = Field("", description="mapping file for team, service and tier; default: the shipped one")
    fx_usd: dict[str, float] = Field(default_factory=dict, description="USD per unit of a billing currency")

    grid: str = Field("simulated", description="'simulated', 'static', or a grid file")
    grid_replay: str = Field("", description="grid file whose year replaces the generated intensity of the simulation")
    instruments: str = Field("", description="CSV of market instruments for market-based accounting")
    method: str = Field("simple/v1", description="accounting method and version")

    workloads: str = Field("", description="register of workloads: data size, latency limit, allowed regions, ...")
    prices: str = Field("", description="prices file: region, usd_per_vcpu_hour[, ts]")
    egress: str = Field("", description="egress file: from_region, to_region, usd_per_gb")
    latency: str = Field("", description="latency file: from_region, to_region, rtt_ms")
    capacity: str = Field("", description="capacity file: region, vcpus[, ts]")

    start: datetime = Field(SIMULATION_START, description="first hour of the project, UTC")
    end: datetime | None = Field(None, description="end of the project's hours, exclusive; none: up to now")
    seed: int = Field(42, description="seed of the simulated cloud")

    plan_effort: Literal["quick", "normal", "thorough"] = Field("normal", description="work spent on a coupled plan")
    min_saving_kg: float = Field(
        0.01, ge=0, description="a change of a workload that saves less in a day, and no money, is not proposed"
    )
    holdout_share: float = Field(
        0.05, ge=0, le=0.10, description="share of job groups left as they are by lot, to compare moves with; 0: none"
    )
    carbon_price_usd_per_t: float = Field(75.0, ge=0, description="internal carbon price, USD per tCO2e")
    freshness_limit_hours: float = Field(1.0, gt=0, description="age of the newest activity that raises a warning, h")
    factor_age_limit_days: float = Field(30.0, gt=0, description="age of a factor that raises a warning, days")
    checkpoint_path: str = Field(
        "", description="folder of signed checkpoints, best in another repository; default <root>/checkpoints"
    )
    execution_enabled: bool = Field(True, description="the kill switch: false, and no further change is begun")
    execution_target: Literal["simulated", "none", "kubernetes", "pull request", "jira", "linear", "slack", "teams"] = (
        Field("simulated", description="where approved changes are carried out; none: nowhere")
    )
    target_options: dict[str, str] = Field(
        default_factory=dict, description="what the target must know, by name (docs/targets.md); never a credential"
    )
    max_changes_per_day: int = Field(1000, ge=0, description="most changes begun in a day (UTC)")
    max_share_of_workloads_per_day: float = Field(
        1.0, ge=0, le=1, description="largest share of the known workloads changed in a day, 0-1"
    )
    canary_share: float = Field(0.1, gt=0, le=1, description="share of a production change that goes first, 0-1")
    schema_pass_rate: float = Field(0.995, ge=0, le=1, description="least share of input rows outside quarantine")

    @field_validator("start", "end")
    @classmethod
    def _utc_hour(cls, value: datetime | None) -> datetime | None:
        if value is None:
            return None
        value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        if value != value.replace(minute=0, second=0, microsecond=0):
            raise ValueError(f"{value} is not a whole hour; give hours like 2026-01-01T00:00:00Z")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file: the file's values arrive as init settings."""
        return env_settings, init_settings

    @property
    def lake_root(self) -> str:
        return self.lake_url or str(self.root / "lake")

    @property
    def books_address(self) -> str:
        return self.books_url or f"sqlite:///{self.root / 'books.db'}"

    @property
    def checkpoints_root(self) -> Path:
        return self.root / (self.checkpoint_path or "checkpoints")

    @property
    def evidence_root(self) -> Path:
        """Folder of the evidence bundles, each named by the SHA-256 of its bytes."""
        return self.root / "evidence"

    @property
    def log_key(self) -> Path:
        """The private key of the transparency log; never in the lake, nor in a repository."""
        return self.root / "log.key"

    @property
    def marts_root(self) -> Path:
        return self.root / "marts"

    def last_hour_end(self, now: datetime | None = None) -> datetime:
        """End of the project's hours: its own end, or the last whole hour."""
        if self.end is not None:
            return self.end
        now = now or datetime.now(UTC)
        return now.replace(minute=0, second=0, microsecond=0)

    def present(self, now: datetime | None = None) -> datetime:
        """The project's present: one that has ended stays at its end."""
        now = now or datetime.now(UTC)
        return now if self.end is None else min(now, self.end)

    def save(self) -> Path:
        """Write ``sust.toml``: only what differs from the defaults, with each knob's meaning beside it."""
        self.root.mkdir(parents=True, exist_ok=True)
        lines = ["# Settings of this project; SUST_* environment variables win over them."]
        for name, info in type(self).model_fields.items():
            value = getattr(self, name)
            if name == "root" or value == info.get_default(call_default_factory=True):
                continue
            lines.append(f"{name} = {_toml(value)}  # {info.description}")
        path = self.root / PROJECT_FILE
        text = "\n".join(lines) + "\n"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        return path


def _toml(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def load_project(root: str | Path | None = None) -> Project:
    """The project in ``root`` (default: ``SUST_PROJECT``, else ``demo``).

    Raises :class:`ProjectError` when the folder holds no project or its settings are wrong.
    """
    folder = Path(root or os.environ.get(PROJECT_VARIABLE) or "demo").absolute()
    path = folder / PROJECT_FILE
    if not path.exists():
        raise ProjectError(f"{folder} holds no {PROJECT_FILE}; `sust demo --out {folder.name}` makes a project")
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text())
        values["root"] = folder
        return Project(**values)
    except ValueError as error:
        raise ProjectError(f"{path}: {error}") from error


def simulated_project(root: str | Path, *, days: int, seed: int, **changes: Any) -> Project:
    """Settings of a simulated project of ``days`` whole days from :data:`SIMULATION_START`."""
    start = changes.pop("start", SIMULATION_START)
    changes.setdefault("plan_effort", "quick")
    return Project(root=Path(root).absolute(), start=start, end=start + timedelta(days=days), seed=seed, **changes)
