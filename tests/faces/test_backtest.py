"""`sust backtest` on plain grid files."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from sust_dagster.agents.planner.forecast import BACKTEST, MODELS
from sust_dagster.cli import app

START = datetime(2025, 1, 1, tzinfo=UTC)


def grid_file(path: Path, days: int = 120) -> Path:
    """Two regions: a daily swing with noise, and a constant."""
    hours = np.arange(24 * days)
    noise = np.random.default_rng(3).normal(0, 10, len(hours))
    swing = 300 + 80 * np.sin(2 * np.pi * hours / 24) + noise
    ts = [START + timedelta(hours=int(h)) for h in hours]
    table = pa.table(
        {
            "ts": pa.array([t.strftime("%Y-%m-%dT%H:%M:%SZ") for t in ts] * 2),
            "region": ["eu-west-1"] * len(hours) + ["ap-east-1"] * len(hours),
            "intensity_g_per_kwh": np.concatenate([swing, np.full(len(hours), 500.0)]),
        }
    )
    pa_csv.write_csv(table, path)
    return path


def sust(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["backtest", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_scores_are_printed_and_written(tmp_path: Path) -> None:
    grid, out = grid_file(tmp_path / "grid.csv"), tmp_path / "scores.parquet"
    code, text, _ = sust("--grid", str(grid), "--days", "20", "--out", str(out), "--json")
    assert code == 0
    found = json.loads(text)
    assert [m["model"] for m in found["means"]][::2] == list(MODELS)
    table = pq.read_table(out)
    assert table.schema.names == BACKTEST.names
    swing = {r["model"]: r for r in table.to_pylist() if (r["region"], r["band"]) == ("eu-west-1", "h1-24")}
    assert swing["persistence"]["captured_percent"] < swing["hour-of-day mean"]["captured_percent"]
    assert swing["ridge"]["mape_percent"] < swing["yesterday"]["mape_percent"] < swing["persistence"]["mape_percent"]
    first = out.read_bytes()
    sust("--grid", str(grid), "--days", "20", "--out", str(out))
    assert out.read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--grid", "nowhere.csv"), "no such file"),
        (("--grid", "static"), "annual means have no hours"),
    ],
)
def test_what_cannot_be_scored_is_said(arguments: tuple[str, ...], said: str) -> None:
    code, _, error = sust(*arguments)
    assert code == 3
    assert said in error


def test_an_unknown_zone_names_those_there_are(tmp_path: Path) -> None:
    code, _, error = sust("--grid", str(grid_file(tmp_path / "grid.csv", 40)), "--zone", "GB")
    assert code == 3
    assert "no GB; they hold ap-east-1, eu-west-1" in " ".join(error.split())
