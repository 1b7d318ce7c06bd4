"""`sust`: the same work without a server.

Belongs here: commands, their options and exit codes (0 ok, 1 finding, 2 usage, 3 bad input). The flows behind
them are in ``faces/``; heavy libraries are imported inside commands, so that help answers at once.
"""

from __future__ import annotations

import gc
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
    print_rows,
    print_table,
    progress,
    say,
    stderr,
    stdout,
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
    """Simulate a cloud and run the loop on it day by day: sense to act, then verify; marts, report, scorecard."""
    from sust_dagster.faces.demo import run_demo
    from sust_dagster.faces.scorecard import print_scorecard

    with progress() as bars:
        result = run_demo(out.absolute(), days, seed, bars, replay)
    document = {"out": str(out), "days": days, "seed": seed, "jobs": result.jobs, "spend_usd": result.spend_usd}
    if as_json:
        print_json({**document, **result.totals, "scorecard": result.scorecard})
        return
    print_figures(f"{days} days, {result.jobs:,} jobs", _totals(result.totals))
    print_scorecard(result.scorecard)
    stderr.print(f"\nReport       {out / 'report.html'}  {out / 'scorecard.json'}  {out / 'baseline_vs_optimized.csv'}")
    stderr.print(f"Tables       {out / 'lake'}  {out / 'marts'}")
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
def plan(
    jobs: Annotated[str, typer.Option(help="Jobs to plan: CSV (also .gz) or Parquet.")],
    grid: Annotated[list[str], typer.Option(help="Grid file or folder, or 'static'; may be repeated, the first wins.")],
    prices: Annotated[str, typer.Option(help="region, usd_per_vcpu_hour[, ts]; they replace cost_usd.")] = "",
    capacity: Annotated[str, typer.Option(help="region, ts, vcpus: what the jobs may hold.")] = "",
    egress: Annotated[str, typer.Option(help="from_region, to_region, usd_per_gb; 0.02 for other pairs.")] = "",
    latency: Annotated[str, typer.Option(help="from_region, to_region, rtt_ms.")] = "",
    carbon_price: Annotated[float, typer.Option(min=0, help="USD per tonne CO2e.")] = 75.0,
    objective: Annotated[
        Literal["effective-cost", "min-carbon"], typer.Option(help="Bill and carbon at its price, or carbon alone.")
    ] = "effective-cost",
    max_cost_increase: Annotated[
        float | None, typer.Option(min=0, metavar="PCT", help="Cost of all jobs may rise by so many percent.")
    ] = None,
    egress_budget: Annotated[float | None, typer.Option(min=0, metavar="USD", help="Most egress of all jobs.")] = None,
    share_cap: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Largest share of the movable vCPU-hours that may move into one region."),
    ] = None,
    formulation: Annotated[
        Literal["auto", "rules", "cp-sat", "scale"], typer.Option(help="How to solve; auto says why.")
    ] = "auto",
    effort: Annotated[
        Literal["quick", "normal", "thorough"], typer.Option(help="Work spent where limits couple the jobs.")
    ] = "normal",
    robust: Annotated[
        Literal["mean", "worst-case"], typer.Option(help="worst-case: only moves whose saving survives the bounds.")
    ] = "mean",
    own_gain: Annotated[
        bool, typer.Option("--own-gain", help="Only moves that gain by themselves, none to make room for others.")
    ] = False,
    latency_usd_per_ms: Annotated[
        float, typer.Option(min=0, help="Price of a run's latency above its SLA, for work that is not urgent.")
    ] = 0.01,
    intensity_method: Annotated[
        Literal["lifecycle", "direct"] | None,
        typer.Option(help="Which intensity of the grid file; without it life cycle where the file has it."),
    ] = None,
    frontier: Annotated[
        Path | None, typer.Option(help="CSV of the Pareto frontier to write; plots and sensitivities beside it.")
    ] = None,
    finer: Annotated[
        Path | None,
        typer.Option(help="Parquet of starts at any moment and of suspended runs, and what they would save."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Parquet file to write: one row per job.")] = Path("plan.parquet"),
    as_json: Json = False,
) -> None:
    """Plan where and when jobs run: exact where nothing couples them, with a proven gap where something does."""
    for name, value in (
        ("--carbon-price", carbon_price), ("--max-cost-increase", max_cost_increase), ("--share-cap", share_cap),
        ("--egress-budget", egress_budget), ("--latency-usd-per-ms", latency_usd_per_ms),
    ):  # fmt: skip
        if value is not None and not math.isfinite(value):
            raise typer.BadParameter(f"{value} is no finite number", param_hint=name)
    from sust_dagster.agents.planner.problem import Limits
    from sust_dagster.faces.plan import plan_files
    from sust_dagster.faces.plan_inputs import PlanFiles
    from sust_dagster.faces.plan_summary import PlanOptions, print_plan

    limits = Limits(None if max_cost_increase is None else max_cost_increase / 100, egress_budget, share_cap)
    options = PlanOptions(
        objective, carbon_price, limits, formulation, effort, robust == "worst-case", own_gain, latency_usd_per_ms
    )  # fmt: skip
    files = PlanFiles(jobs, tuple(grid), prices, capacity, egress, latency, intensity_method)
    with progress() as bars:
        result = plan_files(files, options, out, bars, frontier_file=frontier, finer_file=finer)
    print_notices(result["notices"])
    print_json(result) if as_json else print_plan(result)
    if result["findings"]:
        for finding in result["findings"]:
            say("finding", finding, "red")
        raise typer.Exit(EXIT_FINDING)


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
    if as_json:
        print_json(result)
        return
    hint = result.pop("next")
    print_table("restatement", {k: str(v) for k, v in result.items()})
    if hint:
        say("next", hint, "yellow")


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
def verify(
    start: Annotated[datetime | None, typer.Option("--from", help="First day of execution; default: all.")] = None,
    end: Annotated[
        datetime | None, typer.Option("--to", help="End, exclusive; default: the project's present.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify what executed changes truly saved, from data that has settled; evidence goes beside the lake."""
    from sust_dagster.faces.verify import in_words, run_verify

    found = run_verify(_project(), _utc(start), _utc(end))
    if as_json:
        print_json(found)
        return
    print_table("outcomes", {status: f"{n:,}" for status, n in found["outcomes_by_status"].items()})
    stderr.print(in_words(found), markup=False)


@app.command(name="raw-record")
@_bad_input
def raw_record(
    ref: Annotated[str, typer.Argument(help="Reference as in raw_record_ref of the ledger or the quarantine.")],
    billing: Annotated[
        list[str] | None, typer.Option(help="Bill to search: file, folder or URL; default: the project's bills.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the row of a bill behind a reference: its file, its number (without the header) and its columns."""
    from sust_dagster.faces.records import raw_record as find

    result = find(ref, billing or [], None if billing else _project())
    if as_json:
        print_json(result)
        return
    print_table(f"{result['file']}, row {result['row']} ({result['went_to']})", _shown(result["record"]))


def _shown(record: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in record.items() if value not in (None, "")}


@app.command()
@_bad_input
def compact(
    tables: Annotated[list[str] | None, typer.Argument(help="Tables of the lake; default: all hourly ones.")] = None,
    as_json: Json = False,
) -> None:
    """Fold the hourly files of each closed day into one; rows, versions and digests stay as they are."""
    from sust_dagster.faces.compact import compact_lake

    result = compact_lake(_project(), tables or [])
    if as_json:
        print_json(result)
        return
    done = result["tables"].items()
    rows = {name: f"{t['files_before']:,} files → {t['files_after']:,}, {t['days']} days folded" for name, t in done}
    print_table("compact", {**rows, "content digest": f"{result['digest']} (unchanged)"})


@app.command()
@_bad_input
def doctor(as_json: Json = False) -> None:
    """Check the environment and, where there is one, the project: versions, books, file hashes, freshness."""
    from sust_dagster.faces.doctor import examined

    found = examined(_options.project)
    if as_json:
        print_json(found.as_dict())
    else:
        print_findings(found.findings)
    if not found.ok:
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


# -- decisions ----------------------------------------------------------------------------------------------

As = Annotated[str, typer.Option("--as", metavar="ACCOUNT", help="Account that signs, as the policy names it.")]
RoleOption = Annotated[
    Literal["team-lead", "platform"] | None,
    typer.Option("--role", help="Role to sign in; default: the one that is asked for."),
]
PlanHash = Annotated[str | None, typer.Option("--plan-hash", help="Plan you looked at; another one is refused.")]


@app.command()
@_bad_input
def proposals(
    status: Annotated[str, typer.Option(help="State to list, or 'all'.")] = "proposed", as_json: Json = False
) -> None:
    """List recommendations: what is proposed, how risky it is, whose signature it waits for and until when."""
    from sust_dagster.faces.decisions import list_proposals

    found = list_proposals(_project(), status)
    if as_json:
        print_json({"status": status, "proposals": found})
        return
    print_rows(f"{len(found)} {status}", [_proposal_row(p) for p in found])


def _proposal_row(proposal: dict[str, Any]) -> dict[str, str]:
    row = {
        "recommendation": proposal["recommendation_id"],
        "workload": str(proposal["workload_id"]),
        "action": str(proposal["action_type"]),
        "kgCO2e": f"{proposal['est_carbon_delta_kg']:+.3f}",
        "USD": f"{proposal['est_cost_delta_usd']:+.2f}",
        "risk": str(proposal["risk_level"]),
    }
    if "verdict" not in proposal:
        return row | {"status": proposal["status"], "approved by": proposal["approved_by"] or ""}
    joint = " or " if proposal["verdict"] == "needs_review" else " and "
    waits = joint.join(proposal["waits_for"]) or proposal["verdict"]
    return row | {
        "why": ",".join(proposal["risk_reasons"]),
        "waits for": f"{waits} of {proposal['team_id']}" if proposal["waits_for"] else waits,
        "until": (proposal["expires_at"] or "")[:16],
    }


@app.command()
@_bad_input
def review(as_json: Json = False) -> None:
    """Decide everything proposed: approve what the policy allows, turn down what it forbids, expire the silent."""
    from sust_dagster.faces.decisions import review_proposals

    done = review_proposals(_project())
    if as_json:
        print_json(done)
        return
    counts = {name: str(len(done[name])) for name in ("approved", "rejected", "expired", "waiting")}
    print_table(f"review under policy {done['policy_version']}", counts)
    for name in ("rejected", "expired"):
        print_notices(f"{name} {recommendation}: {why}" for recommendation, why in done[name].items())


@app.command()
@_bad_input
def approve(
    recommendations: Annotated[list[str], typer.Argument(help="Ids of recommendations.")],
    account: As,
    role: RoleOption = None,
    reason: Annotated[str, typer.Option(help="Why; recorded with the signature.")] = "",
    plan_hash: PlanHash = None,
    as_json: Json = False,
) -> None:
    """Sign recommendations as a person; with the last signature a plan needs, it is approved."""
    from sust_dagster.faces.decisions import approve as sign

    _signed(sign(_project(), recommendations, account, role, reason, plan_hash), as_json)


@app.command()
@_bad_input
def reject(
    recommendations: Annotated[list[str], typer.Argument(help="Ids of recommendations.")],
    account: As,
    reason: Annotated[str, typer.Option(help="Why; recorded with the signature.")],
    role: RoleOption = None,
    plan_hash: PlanHash = None,
    as_json: Json = False,
) -> None:
    """Turn recommendations down as a person; final for these plans. Approved ones that have not begun are withdrawn."""
    from sust_dagster.faces.decisions import reject as sign

    _signed(sign(_project(), recommendations, account, role, reason, plan_hash), as_json)


@app.command()
@_bad_input
def execute(
    recommendations: Annotated[
        list[str] | None, typer.Argument(help="Ids to look at; default: everything approved.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes/--dry-run", help="Carry it out, or show the exact change.")] = False,
    at: Annotated[str, typer.Option(help="Moment to act at, ISO 8601 UTC; default: the project's present.")] = "",
    as_json: Json = False,
) -> None:
    """Show exactly what approved recommendations would change; with --yes, carry out everything approved."""
    from sust_dagster.faces.executions import dry_runs, execute_approved, moment_of

    project = _project()
    now = moment_of(project, at)
    if yes:
        if recommendations:
            raise typer.BadParameter("everything approved is carried out together; leave out the ids, or --yes")
        done = execute_approved(project, now)
        print_json(done) if as_json else print_table(
            "executions", {name: f"{len(done[name])}" for name in ("executed", "failed", "executing", "held")}
        )
        if done["failed"]:
            raise typer.Exit(EXIT_FINDING)
        return
    found = dry_runs(project, recommendations or [], now)
    if as_json:
        print_json({"at": now.isoformat(), "dry_run": found})
        return
    for run in found:
        print_table(f"{run['recommendation_id']} on {run['target']}", {"state": run["state"]})
        stdout.print(run["text"] or run["problem"] or "no change", markup=False, soft_wrap=True)
        print_notices(f"not now: {why}" for why in run["against"])
    if not found:
        say("nothing", "no recommendation is approved and not begun", "dim")


def _signed(results: list[dict[str, Any]], as_json: bool) -> None:
    """Print what signatures led to; a refused one is a finding."""
    refused = [r["refused"] for r in results if "refused" in r]
    if as_json:
        print_json({"results": results, "refused": len(refused)})
    else:
        rows = {r["recommendation_id"]: _signing(r) for r in results if "refused" not in r}
        print_table("", rows)
        for why in refused:
            say("refused", why, "red")
    if refused:
        raise typer.Exit(EXIT_FINDING)


def _signing(result: dict[str, Any]) -> str:
    waits = f", waits for {' and '.join(result['waits_for'])}" if result["waits_for"] else ""
    return f"{result['state']}, signed as {result['role']}{'' if result['new'] else ' before'}{waits}"


policy_app = typer.Typer(help="Versions of the policy: show, compare, propose, sign.", no_args_is_help=True)
app.add_typer(policy_app, name="policy")


@policy_app.command("show")
@_bad_input
def policy_show(
    version: Annotated[int | None, typer.Argument(help="Version; default: the one in force.")] = None,
    as_json: Json = False,
) -> None:
    """Print a version as the file to edit for the next one."""
    from sust_dagster.faces.decisions import show_policy

    number, policy, text = show_policy(_project(), version)
    if as_json:
        print_json({"version": number, "document_hash": policy.document_hash, "policy": policy.model_dump(mode="json")})
    else:
        print(text, end="")  # noqa: T201 - the output of the command


@policy_app.command("diff")
@_bad_input
def policy_diff(
    first: Annotated[str, typer.Argument(help="Version or file; alone it is compared with the policy in force.")],
    second: Annotated[str | None, typer.Argument(help="Version or file to compare it with.")] = None,
    as_json: Json = False,
) -> None:
    """List the fields that differ between two policies."""
    from sust_dagster.faces.decisions import diff_policy

    changes = diff_policy(_project(), first, second)
    if as_json:
        print_json({"changes": changes})
    else:
        print_rows("changes", [{"field": c["field"], "from": str(c["before"]), "to": str(c["after"])} for c in changes])


@policy_app.command("propose")
@_bad_input
def policy_propose(
    file: Annotated[Path, typer.Argument(help="Policy file, as `sust policy show` prints it.")],
    account: As,
    valid_from: Annotated[
        datetime | None, typer.Option(help="First instant it applies, UTC; default: once signed.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Add a version for two others to sign. Raises an alert."""
    from sust_dagster.faces.decisions import propose_policy

    _print_version(propose_policy(_project(), file, account, _utc(valid_from)), as_json)


@policy_app.command("approve")
@_bad_input
def policy_approve(
    version: Annotated[int, typer.Argument(help="Version to sign.")],
    account: As,
    role: RoleOption = None,
    reason: Annotated[str, typer.Option(help="Why; recorded with the signature.")] = "approved",
    as_json: Json = False,
) -> None:
    """Sign a version; a platform account and another team lead bring it into force. Raises an alert then."""
    from sust_dagster.faces.decisions import sign_policy

    _print_version(sign_policy(_project(), version, account, "approve", reason, role), as_json)


@policy_app.command("reject")
@_bad_input
def policy_reject(
    version: Annotated[int, typer.Argument(help="Version to turn down.")],
    account: As,
    reason: Annotated[str, typer.Option(help="Why; recorded with the signature.")],
    role: RoleOption = None,
    as_json: Json = False,
) -> None:
    """Turn a version down, for good."""
    from sust_dagster.faces.decisions import sign_policy

    _print_version(sign_policy(_project(), version, account, "reject", reason, role), as_json)


@policy_app.command("history")
@_bad_input
def policy_history(as_json: Json = False) -> None:
    """List every version, who wrote and signed it, and where it stands."""
    from sust_dagster.faces.decisions import policy_history as history

    versions = history(_project())
    if as_json:
        print_json({"versions": versions})
        return
    print_rows("policy versions", [_version_row(v) for v in versions])


def _version_row(version: dict[str, Any]) -> dict[str, str]:
    return {
        "version": str(version["version"]),
        "state": version["state"],
        "author": version["author"],
        "signed by": ", ".join(version["signed_by"]),
        "waits for": " and ".join(version["waits_for"]),
        "valid from": version["valid_from"][:16],
        "SHA-256": version["document_hash"][:12],
    }


def _print_version(version: dict[str, Any], as_json: bool) -> None:
    print_json(version) if as_json else print_table(f"policy {version['version']}", _version_row(version))


@app.command()
@_bad_input
def alerts(
    acknowledge: Annotated[list[str] | None, typer.Option(help="Alert you have seen, by id; may be repeated.")] = None,
    account: Annotated[str | None, typer.Option("--as", metavar="ACCOUNT", help="Account that has seen it.")] = None,
    text: Annotated[str, typer.Option(help="What you say to it.")] = "seen",
    everything: Annotated[bool, typer.Option("--all", help="Acknowledged ones too.")] = False,
    as_json: Json = False,
) -> None:
    """List alerts nobody has acknowledged, or acknowledge some. An alert is never removed."""
    from sust_dagster.faces.decisions import acknowledge_alerts, list_alerts

    if acknowledge and not account:
        raise typer.BadParameter("say who has seen it", param_hint="--as")
    if acknowledge and account:
        noted = acknowledge_alerts(_project(), acknowledge, account, text)
        print_json({"acknowledged": noted}) if as_json else print_table("", {"acknowledged": str(noted)})
        return
    found = list_alerts(_project(), everything)
    if as_json:
        print_json({"alerts": found})
        return
    rows = [
        {"alert": a["alert_id"], "raised": a["raised_at"][:16], "kind": a["kind"], "text": a["text"]} for a in found
    ]
    print_rows(f"{len(found)} alerts", rows)


@app.command()
@_bad_input
def backtest(
    grid: Annotated[list[str], typer.Option(help="Grid file or folder; may be repeated.")],
    hour: Annotated[int, typer.Option(min=0, max=23, help="Hour of issue, UTC.")] = 3,
    days: Annotated[int, typer.Option(min=1, help="Issues to score: the last so many days.")] = 365,
    zone: Annotated[list[str] | None, typer.Option(help="Region or zone to score; default: all.")] = None,
    out: Annotated[Path | None, typer.Option(help="Parquet file for every score, by region or zone.")] = None,
    as_json: Json = False,
) -> None:
    """Score the intensity forecast and its peers on the last days of grid files: MAPE, intervals, captured share."""
    from sust_dagster.faces.backtest import SHOWN, backtest_files, means

    scores = backtest_files(grid, hour=hour, days=days, zones=zone or [], out=out)
    found = means(scores)
    if as_json:
        print_json({"days": days, "hour": hour, "means": found, "scores": scores.to_pylist()})
        return

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    rows = [
        {
            "model": r["model"],
            "band": r["band"],
            "regions": str(r["regions"]),
            **{h: cell(r[n]) for n, h in SHOWN.items()},
        }
        for r in found
    ]
    print_rows(f"mean over regions, {days} issues at {hour:02d}:00 UTC", rows)


@app.command()
@_bad_input
def calibration(
    worlds: Annotated[int, typer.Option(min=100, help="Hidden worlds per fleet.")] = 5000,
    seed: Annotated[int, typer.Option(help="Seed of the hidden worlds.")] = 42,
    out: Annotated[Path, typer.Option(help="Folder for calibration.json and calibration.png.")] = Path("calibration"),
    project: Annotated[
        Path | None, typer.Option("--project", help="Folder of a project: how its plan intervals did, too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Hold the verifier against hidden truths: does a stated 90 % hold in 90 % of worlds? A line that fails is 1."""
    from sust_dagster.faces.calibration import print_calibration, run_calibration

    chosen = _evidence_project(project, needed=False)
    with progress() as bars:
        found = run_calibration(worlds, seed, out, chosen, bars)
    print_json(found) if as_json else print_calibration(found)
    if not found["passed"]:
        raise typer.Exit(EXIT_FINDING)


# -- evidence -----------------------------------------------------------------------------------------------

evidence_app = typer.Typer(help="Evidence bundles: verify, show, prove; sign for the log.", no_args_is_help=True)
app.add_typer(evidence_app, name="evidence")

OfProject = Annotated[Path | None, typer.Option("--project", help="Folder of a project; as `sust --project`.")]
BundleArgument = Annotated[
    str, typer.Argument(help="File of a bundle; with a project its SHA-256, or an outcome's id.")
]


@evidence_app.command("verify")
@_bad_input
def evidence_verify(
    bundle: Annotated[
        str | None,
        typer.Argument(help="File of a bundle; with a project its SHA-256, or an outcome's id. Default: everything."),
    ] = None,
    lake: Annotated[str, typer.Option(help="Lake to hold the bundle's rows against; default: the project's.")] = "",
    project: OfProject = None,
    everything: Annotated[bool, typer.Option("--all", help="Every bundle, lake file, book row and log entry.")] = False,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Folder of checkpoints kept elsewhere, to hold the log against.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Recompute a bundle from its raw rows and name the first thing that differs; with a project, check everything."""
    from sust_dagster.faces.evidence import verify_all, verify_bundle

    chosen = _evidence_project(project, needed=bundle is None or everything)
    if bundle is not None and everything:
        raise typer.BadParameter("everything is checked anyway; leave out the bundle, or --all", param_hint="BUNDLE")
    if bundle is None:
        with progress() as bars:
            checked = verify_all(chosen, bars, checkpoints)
    else:
        checked = verify_bundle(bundle, lake, chosen, checkpoints)
    if as_json:
        print_json(checked.as_dict())
    else:
        print_notices(checked.notes)
        for fault in checked.faults:
            say("differs", str(fault), "red")
        print_table("same" if checked.ok else "differs", {k: str(v) for k, v in checked.counts.items()})
    if not checked.ok:
        raise typer.Exit(EXIT_FINDING)


def _evidence_project(folder: Path | None, *, needed: bool) -> Any:
    """The project that was named; where none was, the default one if it is needed."""
    from sust_dagster.settings import load_project

    folder = folder or _options.project
    return load_project(folder) if folder is not None or needed else None


@evidence_app.command("show")
@_bad_input
def evidence_show(bundle: BundleArgument, project: OfProject = None, as_json: Json = False) -> None:
    """Show what a bundle says: claim, result with its interval, inputs, factors, decisions."""
    from sust_dagster.faces.evidence import show_bundle

    said = show_bundle(bundle, _evidence_project(project, needed=False))
    if as_json:
        print_json(said)
        return
    out = said["outputs"]

    def saved(name: str, delta: str, lower: str = "", upper: str = "") -> Figure:
        values = [None if not n or out[n] is None else -out[n] for n in (delta, upper, lower)]
        return Figure(name, values[0], "kgCO2e", (values[1], values[2]) if lower else None)

    title = f"outcome {said['outcome_id']}: {out['verification_status']}"
    print_figures(
        f"{title} ({out['reason']})" if out["reason"] else title,
        [
            saved("claimed saving", "claimed_delta_kg", "plan_ci_lower", "plan_ci_upper"),
            saved("verified saving", "measured_carbon_delta_kg", "carbon_ci_lower", "carbon_ci_upper"),
            Figure("credited", out["credited_kg"], "kgCO2e", note=f"{said['team_id']}, {out['month'][:7]}"),
            Figure("cost", out["measured_cost_delta_usd"], "USD"),
            Figure("runs", said["runs"], note=f"{said['rows']} rows of the bill"),
        ],
    )
    plan = said["plan"]
    print_table(
        "",
        {
            "change": f"{plan['action_type']} of {plan['workload_id']}, planned for {plan['planned_for'][:10]}",
            "plan": plan["plan_hash"],
            "service": {True: "kept", False: "broken", None: "not observed"}[out["sla_compliant"]],
            "interval": f"{out['uncertainty_method']}, {said['formula']['id']}, seed {said['formula']['seed']}",
            "usage ratio": _ratio_text(said["usage_ratio"]),
            "files": ", ".join(f"{table} {n}" for table, n in said["files"].items()),
            "bundle": said["sha256"],
        },
    )
    print_rows(
        "factors",
        [
            {"factor": k, "box": f"{f['box'][0]:.3f} – {f['box'][1]:.3f} ({f['reading']})", "from": f["sources"][0]}
            for k, f in said["factors"].items()
        ],
    )
    print_rows(
        "decisions",
        [{"at": e["occurred_at"][:16], "state": e["to_status"], "by": e["actor"]} for e in said["events"]],
    )
    if said["approvals"]:
        signed = [{"at": a["signed_at"][:16], "by": a["signer"], "as": a["role"]} for a in said["approvals"]]
        print_rows("signatures", signed)


def _ratio_text(ratio: dict[str, Any] | None) -> str:
    """The usage ratio with its 90 % interval."""
    if ratio is None:
        return "no run was moved"
    ends = f"[90 %: {ratio['ratio_ci_lower']:.4f} to {ratio['ratio_ci_upper']:.4f}]"
    return f"{ratio['ratio']:.4f} {ends}, {ratio['pool']}"


@evidence_app.command("prove")
@_bad_input
def evidence_prove(
    bundle: BundleArgument,
    since: Annotated[Path | None, typer.Option(help="Older checkpoint that the log must extend.")] = None,
    key: Annotated[Path | None, typer.Option(help="Public key (log.vkey) of that checkpoint.")] = None,
    project: OfProject = None,
    as_json: Json = False,
) -> None:
    """Prove that a bundle is in the log, and that the log extends an older checkpoint."""
    from sust_dagster.faces.evidence import prove_bundle

    proof, good = prove_bundle(bundle, _evidence_project(project, needed=True), since, key)
    if as_json:
        print_json(proof)
    else:
        inclusion, consistency = proof["inclusion"], proof["consistency"]
        rows = {
            "entry": f"{inclusion['index']} of {inclusion['size']}",
            "leaf": inclusion["leaf"],
            "root": inclusion["root"],
            "signed": "yes" if proof["checkpoint"] else "no checkpoint holds it yet (`sust evidence checkpoint`)",
            **{f"path {i}": step for i, step in enumerate(inclusion["proof"])},
        }
        if consistency:
            same = consistency["first_root"] == consistency["checkpoint_root"]
            rows["since"] = f"{consistency['first']} entries: {'the same' if same else 'ANOTHER LOG'}"
            rows |= {f"step {i}": step for i, step in enumerate(consistency["proof"])}
        print_table(proof["sha256"], rows)
    if not good:
        say("finding", "the log is not the one that was signed for", "red")
        raise typer.Exit(EXIT_FINDING)


@evidence_app.command("checkpoint")
@_bad_input
def evidence_checkpoint(
    out: Annotated[Path | None, typer.Option(help="Copy of the checkpoint, to keep elsewhere.")] = None,
    project: OfProject = None,
    as_json: Json = False,
) -> None:
    """Sign for the log as it is: keep the checkpoint where the project's owner cannot reach it."""
    from sust_dagster.faces.evidence import sign_checkpoint

    signed = sign_checkpoint(_evidence_project(project, needed=True), out)
    print_json(signed) if as_json else print_table("checkpoint", {k: str(v) for k, v in signed.items() if v})


def main() -> None:
    """Entry point of the ``sust`` command."""
    # A run makes many objects that die at once beside some million that stay: looking for cycles less often pays.
    gc.set_threshold(50_000, 20, 50)
    try:
        sys.exit(app())
    finally:
        gc.disable()  # what is left goes with the process, cycles and all


if __name__ == "__main__":
    main()
