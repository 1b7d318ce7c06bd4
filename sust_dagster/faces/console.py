"""Printing: data on stdout, progress and notes on stderr.

Belongs here: the progress bar, the summary tables and how a number is written for people. With ``--json`` stdout
holds one object and nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)


@contextmanager
def progress() -> Iterator[Progress]:
    """A progress display on stderr that leaves its finished bars behind."""
    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description:<44}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=stderr, refresh_per_second=8) as bars:
        yield bars


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON object on stdout; a figure that is not finite is null, never NaN."""

    def clean(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, Mapping):
            return {str(k): clean(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [clean(v) for v in value]
        return value

    print(json.dumps(clean(document), allow_nan=False, default=str))  # noqa: T201 - the output of the command


def number(value: float | None, unit: str = "", digits: int = 3) -> str:
    """A figure for people: thousands separated, significant digits kept, 'not estimated' when there is none."""
    if value is None:
        return "not estimated"
    text = f"{value:,.0f}" if abs(value) >= 10 ** (digits + 1) else f"{value:,.{digits}g}" if value else "0"
    if "e" in text and abs(value) >= 1:
        text = f"{value:,.0f}"
    return f"{text} {unit}".strip()


def print_table(title: str, rows: Mapping[str, str]) -> None:
    """A two-column table of named figures."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, value)
    stdout.print(table)
