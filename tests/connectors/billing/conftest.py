"""Fixtures that write small bills."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bills import FOCUS_ROW, Ingested, csv_text, ingest_paths

from sust_dagster.agents.ingestor import IngestOptions


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a bill file; text is written as UTF-8."""

    def made(content: str | bytes, name: str = "bill.csv") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return made


@pytest.fixture
def focus(write: Callable[..., Path]) -> Callable[..., Ingested]:
    """Ingest FOCUS rows given as differences from a usual row."""

    def made(*changes: dict[str, Any], options: IngestOptions | None = None) -> Ingested:
        rows = [{**FOCUS_ROW, **c} for c in changes]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        return ingest_paths(write(csv_text(rows, columns)), options)

    return made
