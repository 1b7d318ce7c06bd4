"""``.sust/workloads.yaml``: where in a repository a workload's schedule, size, region and capacity are written.

Belongs here: the format of that file, strictly read, and what it says of one workload. Does not belong here: what is
written to those places (``changes``).
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from sust_dagster.connectors.forges.edits import refused

MAPPING_PATH = ".sust/workloads.yaml"

Text = Annotated[str, Field(min_length=1)]


def _inside(path: str) -> str:
    """A path stays inside the repository, and out of what git keeps for itself."""
    plain = posixpath.normpath(path)
    if path.startswith("/") or "\\" in path or plain != path or plain.split("/")[0] in ("..", ".git", "."):
        raise ValueError(f"{path!r} is not a path inside the repository, from its root")
    return path


File = Annotated[str, AfterValidator(_inside)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Schedule(_Strict):
    """A cron line: of a Kubernetes CronJob, or of a GitHub Actions workflow."""

    kind: Literal["cronjob", "actions"]
    file: File
    document: Mapping[str, str] = Field(default_factory=dict)
    path: Text = "spec.schedule"
    time_zone: Text | None = None
    """Where the file names none; UTC by default."""


class Size(_Strict):
    """A CPU request and limit, or an instance type."""

    kind: Literal["cronjob", "manifest", "terraform"]
    file: File
    document: Mapping[str, str] = Field(default_factory=dict)
    container: Text | None = None
    path: Text | None = None
    """Of the container's ``resources``; by default that of a CronJob's container."""
    address: Text | None = None
    """``aws_instance.worker.instance_type``, ``module.batch.instance_type``, ``var.size``."""
    vcpus: Mapping[str, float] = Field(default_factory=dict)
    """Instance types that may be used, with their vCPUs."""

    @model_validator(mode="after")
    def _whole(self) -> Size:
        if self.kind == "terraform" and not (self.address and self.vcpus):
            raise ValueError("a terraform size needs 'address' and 'vcpus' (instance types with their vCPUs)")
        if self.kind == "cronjob" and not (self.container or self.path):
            raise ValueError("a cronjob size needs 'container' (or 'path' of its resources)")
        if self.kind == "manifest" and not self.path:
            raise ValueError("a manifest size needs 'path' (of the container's resources)")
        return self


class Region(_Strict):
    """What decides where it runs: a GitOps destination, or a Terraform variable that modules are made from."""

    kind: Literal["argo", "kustomize", "terraform", "cronjob"]
    file: File
    document: Mapping[str, str] = Field(default_factory=dict)
    path: Text | None = None
    address: Text | None = None
    """``var.enabled_regions``; its value is a list of regions."""
    values: Mapping[str, str] = Field(default_factory=dict)
    """What is written there by region; the region's own name where it is not given."""

    @model_validator(mode="after")
    def _whole(self) -> Region:
        if self.kind == "terraform" and not self.address:
            raise ValueError("a terraform region needs 'address' (such as var.enabled_regions)")
        if self.kind in ("argo", "kustomize") and not (self.path and self.values):
            raise ValueError(f"a region of kind {self.kind} needs 'path' and 'values' (by region)")
        return self


class Capacity(_Strict):
    """What is written where for capacity that may be taken back."""

    kind: Literal["manifest", "terraform"]
    file: File
    document: Mapping[str, str] = Field(default_factory=dict)
    path: Text | None = None
    address: Text | None = None
    spot: Text

    @model_validator(mode="after")
    def _whole(self) -> Capacity:
        if (self.address if self.kind == "terraform" else self.path) is None:
            raise ValueError("capacity needs 'address' (terraform) or 'path' (manifest)")
        return self


class Workload(_Strict):
    """The places of one workload."""

    schedule: tuple[Schedule, ...] = ()
    size: tuple[Size, ...] = ()
    region: tuple[Region, ...] = ()
    capacity: tuple[Capacity, ...] = ()


class _Mapping(_Strict):
    version: Literal[1]
    workloads: Mapping[str, Workload]


def read_workloads(text: str, file: str = MAPPING_PATH) -> Mapping[str, Workload]:
    """The workloads of the mapping file. Refused (``bad_mapping``) with the place of the first fault."""
    try:
        content: Any = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else None
        raise refused("bad_mapping", file, line, "not YAML", "see docs/targets-forge.md") from None
    try:
        return _Mapping.model_validate(content).workloads
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise refused("bad_mapping", f"{file}, {where}", None, str(first["msg"]), "see docs/targets-forge.md") from None
