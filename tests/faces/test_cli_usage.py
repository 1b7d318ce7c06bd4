"""The command line itself: help, exit codes, one JSON object, clean messages, Ctrl-C."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sust_cli import T0, sust, usage, write_bill, write_grid

SUST = [sys.executable, "-m", "sust_dagster.cli"]


def test_help_imports_nothing_heavy():
    heavy = ("pyarrow", "numpy", "pandas", "duckdb", "dagster", "sqlalchemy", "deltalake", "matplotlib", "pydantic")
    code = f"import sys, sust_dagster.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_answers_at_once():
    best = 9.0
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run([*SUST, "account", "--help"], capture_output=True, text=True, check=True)
        best = min(best, time.perf_counter() - started)
    assert "--grid-fallback" in done.stdout
    assert best < 1.0  # 0.3 s on an idle core


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Usage"),
        (("acount",), "Did you mean 'account'?"),
        (("account",), "Missing option '--billing'"),
        (("account", "--billing", "x", "--gird", "y"), "No such option: --gird"),
        (("account", "--billing", "x", "--method", "magic/v9"), "simple/v1, instance-power/v1"),
        (("account", "--billing", "x", "--gap-policy", "guess"), "flag_missing"),
        (("account", "--billing", "x", "--intensity-method", "marginal"), "lifecycle"),
        (("account", "--billing", "x", "--grid-fallback", "zero"), "static"),
        (("account", "--billing", "x", "--grid-fallback", "static"), "static already"),
        (("account", "--billing", "x", "--fx", "CAD"), "CAD=0.73"),
        (("account", "--billing", "x", "--fx", "CAD=-1"), "CAD=0.73"),
        (("account", "--billing", "x", "--fx", "CAD=nan"), "CAD=0.73"),
        (("ingest", "--billing", "x", "--fx", "=1"), "CAD=0.73"),
        (("init", "--billing", "x", "--start", "2026-10-01", "--method", "magic/v9"), "simple/v1"),
        (("simulate", "--days", "0"), "greater than or equal to 1"),
        (("restate",), "needs a reason"),
    ],
)
def test_usage_errors_exit_with_2_and_say_what_is_known(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    ran = sust(*arguments)
    assert ran.code == 2
    assert said in ran.out + ran.err
    assert list(tmp_path.iterdir()) == []


def cut(path: Path) -> Path:
    rows = [usage(T0, vcpus=v) for v in range(1, 400)]
    whole = gzip.compress(write_bill(path.with_suffix(".whole"), rows).read_bytes())
    path.with_suffix(".whole").unlink()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def wrong_columns(path: Path) -> Path:
    path.write_text("when,what,how much\nnow,that,1\n")
    return path


def no_quantity(path: Path) -> Path:
    return write_bill(path, [{k: v for k, v in usage(T0).items() if k != "ConsumedQuantity"}])


def missing(path: Path) -> Path:
    return path


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("a.csv", missing, "does not exist; check the path"),
        ("b.csv.gz", cut, "b.csv.gz"),
        ("c.csv", wrong_columns, "c.csv: is in no format we read; its columns are when, what, how much; export FOCUS"),
        ("d.csv", no_quantity, "column ConsumedQuantity: looks like"),
    ],
)
def test_bad_bills_exit_with_3_name_the_file_and_leave_nothing(tmp_path, name, make, said):
    bill = make(tmp_path / name)
    before = sorted(p.name for p in tmp_path.iterdir())
    for command in ("account", "ingest"):
        ran = sust(command, "--billing", bill, "--out", tmp_path / "out.parquet")
        assert ran.code == 3
        assert said in ran.err
        assert ran.out == ""
        assert ran.err.startswith("error: ")
        assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_an_old_result_survives_a_failed_run(tmp_path):
    out = tmp_path / "out.parquet"
    sust("account", "--billing", write_bill(tmp_path / "good.csv", [usage(T0)]), "--out", out)
    before = {p: p.read_bytes() for p in tmp_path.glob("out*")}
    assert sust("account", "--billing", cut(tmp_path / "b.csv.gz"), "--out", out).code == 3
    assert {p: p.read_bytes() for p in tmp_path.glob("out*")} == before


def test_a_result_never_takes_the_place_of_an_input(tmp_path):
    bill = write_bill(tmp_path / "bills" / "bill.parquet", [usage(T0)])
    before = bill.read_bytes()
    ran = sust("account", "--billing", bill, "--out", bill)
    assert (ran.code, "would overwrite an input" in ran.err) == (3, True)
    ran = sust("account", "--billing", tmp_path / "bills", "--out", tmp_path / "bills" / "e.parquet")
    assert (ran.code, "lie inside an input folder" in ran.err) == (3, True)
    grid = write_grid(tmp_path / "grid.csv", (T0, "us-east-1", 300))
    assert sust("account", "--billing", bill, "--grid", grid, "--out", grid).code == 3
    ran = sust("account", "--billing", bill, "--out", tmp_path)
    assert (ran.code, "give --out FILE.parquet" in ran.err) == (3, True)
    assert bill.read_bytes() == before


def test_files_of_a_folder_that_are_no_bills_are_passed_over_and_named(tmp_path):
    write_bill(tmp_path / "bills" / "bill.csv", [usage(T0)])
    wrong_columns(tmp_path / "bills" / "regions.csv")
    ran = sust("account", "--billing", tmp_path / "bills", "--out", tmp_path / "e.parquet", "--json")
    assert ran.json["files_passed_over"] == ["regions.csv"]
    assert ran.json["rows_read"] == 1
    assert "passed over, no bill by their columns: regions.csv" in ran.err
    named = sust(
        "account", "--billing", tmp_path / "bills", "--billing", tmp_path / "bills" / "regions.csv", "--out",
        tmp_path / "e.parquet",
    )  # fmt: skip
    assert (named.code, "regions.csv: is in no format we read" in named.err) == (3, True)
    no_quantity(tmp_path / "bills" / "broken.csv")
    broken = sust("account", "--billing", tmp_path / "bills", "--out", tmp_path / "e.parquet")
    assert (broken.code, "broken.csv, column ConsumedQuantity" in broken.err) == (3, True)


def test_json_is_one_object_on_stdout_for_every_plain_command(tmp_path):
    bill = write_bill(tmp_path / "bill.csv", [usage(T0), usage(T0, ConsumedQuantity="x")])
    for arguments in (
        ("account", "--billing", bill, "--out", tmp_path / "e.parquet"),
        ("ingest", "--billing", bill, "--out", tmp_path / "l.parquet"),
        ("simulate", "--days", 1, "--out", tmp_path / "sim"),
        ("init", "--billing", bill, "--start", "2026-10-01", "--out", tmp_path / "project"),
        ("doctor",),
    ):
        ran = sust(*arguments, "--json")
        assert isinstance(json.loads(ran.out), dict), arguments
        assert ran.out.count("\n") == 1, arguments


def test_figures_stand_under_each_other_and_paths_stay_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    deep = tmp_path / ("a-rather-long-folder-name-" * 4)
    out = deep / "emissions.parquet"
    bill = write_bill(tmp_path / "bill.csv", [usage(T0), usage(T0, region="nowhere-1")])
    ran = sust("account", "--billing", bill, "--out", out)
    lines = ran.out.splitlines()
    assert lines[0] == str(out)
    kg = [line for line in lines if "kgCO2e" in line]
    assert [line.split()[0] for line in kg] == ["location-based", "market-based"]
    assert len({line.index("kgCO2e") for line in kg}) == 1
    assert all("[" in line and "–" in line for line in kg)
    assert ["embodied", "not", "estimated"] in [
        line.split() for line in lines
    ]  # a made-up instance has no server behind it
    ran = sust("account", "--billing", deep / "no.csv", "--out", out)
    assert ran.err == f"error: {deep / 'no.csv'}: does not exist; check the path\n"


def test_no_color_is_respected(tmp_path):
    bill = write_bill(tmp_path / "bill.csv", [usage(T0, region="nowhere-1")])
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    command = [*SUST, "account", "--billing", str(bill), "--out", str(tmp_path / "e.parquet")]
    coloured = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "\x1b[1;33m" in coloured.stderr
    plain = subprocess.run(command, capture_output=True, text=True, env={**environment, "NO_COLOR": "1"}, check=True)
    assert "\x1b[1;33m" not in plain.stderr
    assert "33m" not in plain.stderr + plain.stdout


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_ctrl_c_in_the_middle_of_a_bill_is_clean(tmp_path):
    bill = write_bill(tmp_path / "bill.csv", [usage(T0)])
    header, row = bill.read_text().splitlines()
    bill.write_text("\n".join([header, *(row.replace("us-east-1-", f"{n}-") for n in range(150_000))]) + "\n")
    command = [*SUST, "account", "--billing", str(bill), "--out", str(tmp_path / "e.parquet")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    limit = time.monotonic() + 60
    while not list(tmp_path.glob(".e.*")) and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.endswith("interrupted: files that were being written are left as they were\n")
    assert "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bill.csv"]


def test_an_interrupt_has_its_own_exit_code(tmp_path, monkeypatch):
    from sust_dagster.faces import account

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(account, "account_stream", interrupted)
    bill = write_bill(tmp_path / "bill.csv", [usage(T0)])
    ran = sust("account", "--billing", bill, "--out", tmp_path / "e.parquet")
    assert (ran.code, ran.out) == (130, "")
    assert ran.err.startswith("interrupted:")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bill.csv"]
