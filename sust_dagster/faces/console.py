"""Printing: data on stdout, progress and notes on stderr.

Belongs here: the progress bar, the summary tables and how a number is written for people. With ``--json`` stdout
holds one object and nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)


class _Bars(Progress):
    def stop(self) -> None:
        """As rich does it, but in a file the line break follows bars that were written, and nothing else."""
        self.live.stop()
        if not self.console.is_interactive and not self.live.transient:
            self.console.print()


@contextmanager
def progress() -> Generator[Progress]:
    """A progress display on stderr that leaves its finished bars behind, and an unfinished one only while it runs."""
    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description:<36}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with _Bars(*columns, console=stderr, refresh_per_second=4) as bars:
        try:
            yield bars
        finally:
            for task in bars.tasks:
                if not task.finished:
                    bars.update(task.id, visible=False)
            bars.live.transient = not any(task.finished for task in bars.tasks)


def say(kind: str, text: str, colour: str) -> None:
    """One message on stderr. Long lines are left to the terminal: a path broken in two cannot be copied."""
    first, *rest = text.splitlines() or [""]
    stderr.print(f"[bold {colour}]{kind}:[/] ", end="")
    stderr.print(first, markup=False, soft_wrap=True)
    for line in rest:
        stderr.print(f"  {line}", markup=False, soft_wrap=True)


def print_notices(notices: Iterable[str]) -> None:
    """What a person should know beside the figures, on stderr."""
    for notice in notices:
        say("note", notice, "yellow")


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


@dataclass(frozen=True)
class Figure:
    """One line of a summary: a figure, its unit, its bounds or what else belongs to it."""

    name: str
    value: float | int | None
    unit: str = ""
    bounds: tuple[float | None, float | None] | None = None
    note: str = ""

    def cells(self) -> tuple[str, str, str, str]:
        value = f"{self.value:,}" if isinstance(self.value, int) else number(self.value)
        known = self.value is not None
        bounds = ""
        if self.bounds is not None and None not in self.bounds:
            bounds = f"[{number(self.bounds[0])} – {number(self.bounds[1])}]"
        return self.name, value, self.unit if known else "", "  ".join(p for p in (bounds, self.note) if p)


def print_figures(title: str, figures: Sequence[Figure]) -> None:
    """Figures under each other: numbers right-aligned, units and bounds in columns of their own."""
    rows = [f.cells() for f in figures]
    widths = [max(len(r[i]) for r in rows) for i in range(4)]
    if title:
        stdout.print(title, style="bold", markup=False, soft_wrap=True)
    for name, value, unit, rest in rows:
        line = f"  {name:<{widths[0]}}  {value:>{widths[1]}}  {unit:<{widths[2]}}  {rest}"
        stdout.print(line.rstrip(), markup=False, soft_wrap=True)


def print_table(title: str, rows: Mapping[str, str]) -> None:
    """Named values under each other."""
    width = max((len(name) for name in rows), default=0)
    if title:
        stdout.print(title, style="bold", markup=False, soft_wrap=True)
    for name, value in rows.items():
        stdout.print(f"  {name:<{width}}  {value}", markup=False, soft_wrap=True)


def print_rows(title: str, rows: Sequence[Mapping[str, str]], empty: str = "none") -> None:
    """Rows with the same columns under each other, the column names above."""
    stdout.print(title, style="bold", markup=False, soft_wrap=True)
    if not rows:
        stdout.print(f"  {empty}", markup=False, soft_wrap=True)
        return
    lines = [{name: name for name in rows[0]}, *rows]
    widths = {name: max(len(line[name]) for line in lines) for name in rows[0]}
    for line in lines:
        text = "  ".join(f"{line[name]:<{width}}" for name, width in widths.items())
        stdout.print(f"  {text.rstrip()}", markup=False, soft_wrap=True)


class Checked(Protocol):
    """What a check found, as ``faces.doctor.Finding``: whether all is well, what was seen, what would mend it."""

    @property
    def subject(self) -> str: ...
    @property
    def ok(self) -> bool: ...
    @property
    def detail(self) -> str: ...
    @property
    def fix(self) -> str: ...


def print_findings(findings: Sequence[Checked]) -> None:
    """Checks under each other, the fix below what is not well."""
    width = max((len(f.subject) for f in findings), default=0)
    for f in findings:
        stdout.print(f"[{'green]ok ' if f.ok else 'bold red]no '}[/] {f.subject:<{width}}  ", end="")
        stdout.print(f.detail, markup=False, soft_wrap=True)
        if f.fix and not f.ok:
            stdout.print(f"    fix: {f.fix}", markup=False, soft_wrap=True)
