"""`sust`: the same work without a server.

Belongs here: commands, their options and exit codes (0 ok, 1 finding, 2 usage, 3 bad input). The flows behind
them are in ``faces/``; heavy libraries are imported inside commands, so that help answers at once.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sust_dagster import __version__
from sust_dagster.faces.console import (
    Figure,
    print_figures,
    print_findings,
    print_json,
    print_notices,
    print_table,
    progress,
    say,
    stderr,
)

EXIT_OK, EXIT_FINDING, EXIT_USAGE, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 3, 130

app = typer.Typer(
    help="Cloud carbon optimisation as a closed control loop, with proof.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # locals may hold credentials
    rich_markup_mode="rich",
)


@dataclass
class _Options:
    project: Path | None = None


_options = _Options()

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]


def _bad_input(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what a person can mend into one message on stderr and exit code 3; a finding is 1, Ctrl-C is 130."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise  # RuntimeErrors to Python, but the command's own last word
        except (ValueError, OSError) as error:
            say("error", _described(error), "red")
            raise typer.Exit(EXIT_BAD_INPUT) from error
        except RuntimeError as error:
            say("finding", _described(error), "red")
            raise typer.Exit(EXIT_FINDING) from error
        except KeyboardInterrupt:
            say("interrupted", "files that were being written are left as they were", "red")
            raise typer.Exit(EXIT_INTERRUPTED) from None

    return run


def _described(error: Exception) -> str:
    """The message; with its class where it is not one of ours, whose messages stand for themselves."""
    ours = type(error).__module__.startswith("sust_dagster") or type(error) in (ValueError, RuntimeError)
    return str(error) if ours or isinstance(error, OSError) else f"{type(error).__name__}: {error}"


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    project: Annotated[
        Path | None, typer.Option("--project", help="Folder of a project (a demo leaves one).", envvar="SUST_PROJECT")
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Cloud carbon optimisation as a closed control loop, with proof."""
    _options.project = project
    if version:
        print(__version__)  # noqa: T201
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise typer.Exit(EXIT_USAGE)


@app.command()
@_bad_input
def demo(
    days: Annotated[int, typer.Option(min=1, help="Simulated days.")] = 30,
    seed: Annotated[int, typer.Option(help="Seed of the simulated cloud.")] = 42,
    out: Annotated[Path, typer.Option(help="Folder of the demo; run again to resume or extend.")] = Path("demo"),
    replay: Annotated[
        str, typer.Option(help="Grid file (Electricity Maps CSV, or ts,region,intensity_g_per_kwh) to replay.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Simulate a cloud, ingest its bill, account it hour by hour, build the marts, draw the report."""
    from sust_dagster.faces.demo import run_demo

    with progress() as bars:
        result = run_demo(out.absolute(), days, seed, bars, replay)
    document = {"out": str(out), "days": days, "seed": seed, "jobs": result.jobs, "spend_usd": result.spend_usd}
    if as_json:
        print_json({**document, **result.totals})
        return
    print_figures(f"{days} days, {result.jobs:,} jobs", _totals(result.totals))
    stderr.print(f"\nReport       {out / 'report.html'}\nTables       {out / 'lake'}  {out / 'marts'}")
    stderr.print(f"Dagster UI   sust --project {out} ui")


def _totals(totals: dict[str, Any]) -> list[Figure]:
    """The three kinds of kg with their bounds, energy and cost, as every command shows them."""

    def kg(name: str, column: str) -> Figure:
        return Figure(name, totals[column], "kgCO2e", (totals.get(f"{column}_lower"), totals.get(f"{column}_upper")))

    return [
        Figure("energy (IT)", totals["energy_kwh"], "kWh"),
        kg("location-based", "kg_location"),
        kg("market-based", "kg_market"),
        kg("embodied", "kg_embodied"),
        Figure("cost", totals["cost_usd"], "USD"),
    ]


def _rows(result: dict[str, Any]) -> list[Figure]:
    """The three counts that add up to the rows read, each with its classes."""

    def classes(key: str) -> str:
        return ", ".join(f"{name} {n:,}" for name, n in result[key].items())

    return [
        Figure("rows read", result["rows_read"]),
        Figure("in the ledger", result["rows_ledger"], note=f"as {result['ledger_slices']:,} slices"),
        Figure("quarantined", result["rows_quarantined"], note=classes("quarantined")),
        Figure("skipped", result["rows_skipped"], note=classes("skipped")),
    ]


@app.command()
@_bad_input
def account(
    billing: Annotated[list[str], typer.Option(help="Bill: file, folder or URL; may be repeated.")],
    grid: Annotated[
        list[str] | None,
        typer.Option(help="Grid file or folder; may be repeated, the first wins. Default 'static': annual means."),
    ] = None,
    method: Annotated[str, typer.Option(help="Accounting method: simple/v1 or instance-power/v1.")] = "simple/v1",
    out: Annotated[Path, typer.Option(help="Parquet file to write; quarantine is written beside it.")] = Path(
        "emissions.parquet"
    ),
    grid_fallback: Annotated[
        Literal["none", "static"],
        typer.Option(help="For hours and regions the grid file lacks: nothing, or annual means, flagged, bounds wide."),
    ] = "none",
    intensity_method: Annotated[
        Literal["lifecycle", "direct"] | None,
        typer.Option(help="Which intensity of the grid file; without it life cycle where the file has it."),
    ] = None,
    gap_policy: Annotated[
        Literal["last_known", "flag_missing"],
        typer.Option(help="Hours missing inside the grid file: last known value for up to 3 h, or left empty."),
    ] = "last_known",
    mapping: Annotated[str, typer.Option(help="Mapping file for team, service and tier.")] = "",
    instruments: Annotated[str, typer.Option(help="CSV of market instruments.")] = "",
    fx: Annotated[list[str] | None, typer.Option(help="Rate as CUR=USD, e.g. CAD=0.73; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Account a bill, hour by hour, with bounds. Needs no project and no server."""
    from sust_dagster.faces.account import GridChoice, account_files

    _check_method(method)
    rates = _rates(fx)
    choice = GridChoice(tuple(grid or ["static"]), intensity_method, gap_policy, grid_fallback == "static")
    if choice.fallback and choice.sources == ("static",):
        raise typer.BadParameter("the grid is static already", param_hint="--grid-fallback")
    with progress() as bars:
        result = account_files(
            billing, choice, out, method=method, mapping=mapping, instruments=instruments, fx=rates, bars=bars
        )
    print_notices(result["notices"])
    if as_json:
        print_json(result)
        return
    counts = [
        *_rows(result),
        Figure("not estimated", result["slices_not_estimated"], note="slices without location-based kg"),
    ]
    if result["slices_no_intensity"]:
        counts.append(Figure("no grid intensity", result["slices_no_intensity"], note="slices"))
    if result["slices_grid_fallback"]:
        counts.append(Figure("grid fallback", result["slices_grid_fallback"], note="slices on annual means"))
    print_figures(str(out), [*_totals(result), *_other_currencies(result["cost_by_currency"]), *counts])


def _other_currencies(costs: dict[str, float]) -> list[Figure]:
    return [Figure("billed", value, currency) for currency, value in costs.items() if currency != "USD"]


def _check_method(method: str) -> None:
    from sust_dagster.agents.accountant.methods import METHODS

    if method not in METHODS:
        raise typer.BadParameter(f"{method!r} is none of {', '.join(METHODS)}", param_hint="--method")


def _rates(fx: list[str] | None) -> dict[str, float]:
    rates = {}
    for text in fx or []:
        currency, _, rate = text.partition("=")
        try:
            value = float(rate)
        except ValueError:
            value = math.nan
        if not (currency.strip() and 0 < value < math.inf):
            raise typer.BadParameter(f"{text!r} is not CUR=rate, e.g. CAD=0.73", param_hint="--fx")
        rates[currency.strip().upper()] = value
    return rates


@app.command()
@_bad_input
def simulate(
    days: Annotated[int, typer.Option(min=1, help="Simulated days.")] = 30,
    seed: Annotated[int, typer.Option(help="Seed of the simulated cloud.")] = 42,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("simulated"),
    as_json: Json = False,
) -> None:
    """Write what the simulated cloud does: jobs.csv, bill.parquet (FOCUS 1.2) and grid.csv."""
    from sust_dagster.faces.simulate import simulate_files

    with progress() as bars:
        result = simulate_files(out, days, seed, bars)
    print_json(result) if as_json else print_table(str(out), {k: str(v) for k, v in result.items()})


@app.command()
@_bad_input
def ingest(
    billing: Annotated[list[str], typer.Option(help="Bill: file, folder or URL; may be repeated.")],
    out: Annotated[Path, typer.Option(help="Ledger file to write; quarantine is written beside it.")] = Path(
        "ledger.parquet"
    ),
    mapping: Annotated[str, typer.Option(help="Mapping file for team, service and tier.")] = "",
    fx: Annotated[list[str] | None, typer.Option(help="Rate as CUR=USD; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Turn a bill into the activity ledger, streaming; every row read is in the ledger, quarantine or a count."""
    from sust_dagster.faces.account import ingest_files

    rates = _rates(fx)
    with progress() as bars:
        result = ingest_files(billing, out, mapping=mapping, fx=rates, bars=bars)
    print_notices(result["notices"])
    if as_json:
        print_json(result)
        return
    costs = [Figure("cost", result["cost_usd"], "USD"), *_other_currencies(result["cost_by_currency"])]
    print_figures(str(out), [*_rows(result), Figure("vCPU hours", result["vcpu_hours"], "h"), *costs])


@app.command()
@_bad_input
def init(
    billing: Annotated[list[str], typer.Option(help="Bill: file, folder or URL; may be repeated.")],
    start: Annotated[datetime, typer.Option(help="First hour of the project, UTC.")],
    end: Annotated[datetime | None, typer.Option(help="End, exclusive; none: up to now.")] = None,
    grid: Annotated[str, typer.Option(help="Grid file, or 'static'.")] = "static",
    method: Annotated[str, typer.Option(help="Accounting method and version.")] = "simple/v1",
    mapping: Annotated[str, typer.Option(help="Mapping file for team, service and tier.")] = "",
    out: Annotated[Path, typer.Option(help="Folder of the project.")] = Path("project"),
    as_json: Json = False,
) -> None:
    """Make a project of your own bills, for `sust backfill` and the Dagster UI."""
    from sust_dagster.settings import Project

    _check_method(method)
    absolute = [b if "://" in b else str(Path(b).absolute()) for b in billing]
    grid = grid if grid == "static" else str(Path(grid).absolute())
    mapping = str(Path(mapping).absolute()) if mapping else ""
    project = Project(
        root=out.absolute(), source="files", billing=absolute, grid=grid, start=start, end=end, method=method,
        mapping=mapping,
    )  # fmt: skip
    path = project.save()
    if as_json:
        print_json({"project": str(out), "settings": str(path)})
    else:
        say("wrote", f"{path}; next: sust --project {out} backfill", "green")


@app.command()
@_bad_input
def backfill(
    start: Annotated[datetime | None, typer.Option("--from", help="First hour, UTC; default: the project's.")] = None,
    end: Annotated[datetime | None, typer.Option("--to", help="End, exclusive; default: the project's.")] = None,
    reason: Annotated[str, typer.Option(help="Reason recorded with any restatement.")] = "backfill",
    only_missing: Annotated[bool, typer.Option("--only-missing", help="Leave hours that are done.")] = False,
    marts: Annotated[bool, typer.Option("--marts/--no-marts", help="Build the marts afterwards.")] = True,
    as_json: Json = False,
) -> None:
    """Sense and model a range of hours again, as one Dagster run; unchanged hours are left as they are."""
    from sust_dagster.faces.backfill import run_backfill

    with progress() as bars:
        result = run_backfill(_project(), _utc(start), _utc(end), reason, bars, only_missing=only_missing, marts=marts)
    print_json(result) if as_json else print_table("backfill", {k: str(v) for k, v in result.items()})


@app.command()
@_bad_input
def restate(
    factors: Annotated[Path | None, typer.Option(help="CSV of new factor versions to propose and activate.")] = None,
    reviewer: Annotated[str, typer.Option(help="Who reviewed the new factors (not the accountant).")] = "",
    reason: Annotated[str, typer.Option(help="Why; recorded with every restated hour.")] = "",
    start: Annotated[datetime | None, typer.Option("--from", help="First hour, UTC; default: the project's.")] = None,
    end: Annotated[datetime | None, typer.Option("--to", help="End, exclusive; default: the project's.")] = None,
    out: Annotated[Path, typer.Option(help="CSV of the differences to write.")] = Path("restatement.csv"),
    as_json: Json = False,
) -> None:
    """Account hours again with the factors active now; report what changed. Old versions stay readable."""
    from sust_dagster.faces.backfill import run_restatement

    if not reason:
        raise typer.BadParameter("a restatement needs a reason", param_hint="--reason")
    with progress() as bars:
        result = run_restatement(
            _project(), _utc(start), _utc(end), reason, out, bars, factors=factors, reviewer=reviewer
        )
    print_json(result) if as_json else print_table("restatement", {k: str(v) for k, v in result.items()})


@app.command()
@_bad_input
def report(
    out: Annotated[Path | None, typer.Option(help="HTML file; default: report.html of the project.")] = None,
    as_json: Json = False,
) -> None:
    """Draw the report of a project: one self-contained page and a PNG of each chart."""
    from sust_dagster.faces.report import summary, write_report

    project = _project()
    path = write_report(project, out or project.root / "report.html", pngs=project.root / "charts")
    print_json({"report": str(path), **summary(project)}) if as_json else stderr.print(f"wrote {path}")


@app.command()
@_bad_input
def doctor(as_json: Json = False) -> None:
    """Check the environment and, where there is one, the project: versions, books, file hashes, freshness."""
    from sust_dagster.faces.doctor import examine

    findings = examine(_options.project)
    if as_json:
        print_json({"findings": [f.as_dict() for f in findings], "ok": all(f.ok for f in findings)})
    else:
        print_findings(findings)
    if not all(f.ok for f in findings):
        raise typer.Exit(EXIT_FINDING)


@app.command()
@_bad_input
def ui(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 3000,
    read_only: Annotated[bool, typer.Option("--read-only", help="Look, do not touch.")] = False,
) -> None:
    """Open the Dagster UI of a project on 127.0.0.1."""
    from sust_dagster.faces.ui import serve

    raise typer.Exit(serve(_project(), port, read_only=read_only))


def _project() -> Any:
    from sust_dagster.settings import load_project

    return load_project(_options.project)


def _utc(value: datetime | None) -> datetime | None:
    if value is None:
        return None
    value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if value != value.replace(minute=0, second=0, microsecond=0):
        rounded = value.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        raise ValueError(f"{value} is not a whole hour; the next one is {rounded}")
    return value


def main() -> None:
    """Entry point of the ``sust`` command."""
    sys.exit(app())


if __name__ == "__main__":
    main()
