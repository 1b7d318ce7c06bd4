"""`sust plan` on plain files: a case worked out by hand, its columns, its summary, its refusals."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from sust_cli import T0, Ran, sust, write_grid

CONTRACT = [
    "job_id", "region", "start", "action_type", "kg_before", "kg_after", "cost_before_usd", "cost_after_usd",
    "egress_usd", "score_before", "score_after",
]  # fmt: skip
HEAD = (
    "job_id", "workload_id", "team_id", "cloud_provider", "region", "category", "requested_start", "duration_hours",
    "vcpus", "gpus", "data_gb", "cost_usd", "sla_latency_ms", "allowed_regions", "max_delay_hours", "depends_on",
)  # fmt: skip


def job(job_id: str, **other: Any) -> dict[str, Any]:
    return {
        "job_id": job_id, "workload_id": "w", "team_id": "t", "cloud_provider": "aws", "region": "us-east-1",
        "category": "sustainable", "requested_start": f"{T0:%Y-%m-%dT%H:%M:%SZ}", "duration_hours": 1, "vcpus": 8,
        "gpus": 0, "data_gb": 0, "cost_usd": "0.4", "sla_latency_ms": "", "allowed_regions": "",
        "max_delay_hours": "", "depends_on": "", **other,
    }  # fmt: skip


def write(path: Path, rows: Sequence[dict[str, Any]], head: Sequence[str] = HEAD) -> Path:
    def cell(value: Any) -> str:
        return f'"{value}"' if "," in str(value) else str(value)

    lines = [",".join(head), *(",".join(cell(row[c]) for c in head) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def grid(path: Path, hours: int = 30) -> Path:
    """us-east-1 400 g but 100 g at 02:00; us-west-2 200 g; eu-north-1 20 g, from T0 on."""
    rows = []
    for h in range(hours):
        at = T0 + timedelta(hours=h)
        rows += [(at, "us-east-1", 100 if h == 2 else 400), (at, "us-west-2", 200), (at, "eu-north-1", 20)]
    return write_grid(path, *rows)


def plan(folder: Path, jobs: Path, *more: object, out: str = "plan.parquet") -> Ran:
    given = grid(folder / "grid.csv") if not (folder / "grid.csv").exists() else folder / "grid.csv"
    return sust("plan", "--jobs", jobs, "--grid", given, "--out", folder / out, "--json", *more)


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    return {r["job_id"]: r for r in pq.read_table(path).to_pylist()}


KW = 8 * 0.005
KG = KW * 1.1 / 1000


def test_a_case_by_hand(tmp_path):
    jobs = write(
        tmp_path / "jobs.csv",
        [
            job("urgent", category="urgent"),
            job("balanced", category="balanced", allowed_regions="us-west-2"),
            job("far", data_gb="0.5"),
            job("heavy", data_gb="1000", requested_start=f"{T0 + timedelta(minutes=30):%Y-%m-%d %H:%M:%S}"),
            job("gpu", category="balanced", gpus=1, duration_hours="1.5", allowed_regions="us-east-1"),
            job("strange", category="batch"),
        ],
    )
    ran = plan(tmp_path, jobs, "--objective", "min-carbon", "--egress-budget", "1000000")
    said = ran.json
    rows = rows_of(tmp_path / "plan.parquet")
    assert list(rows) == ["urgent", "balanced", "far", "heavy", "gpu", "strange"]
    assert pq.read_schema(tmp_path / "plan.parquet").names[:11] == CONTRACT

    urgent = rows["urgent"]  # same continent, at once
    assert (urgent["region"], urgent["action_type"], urgent["start"]) == ("us-west-2", "region_shift", T0)
    assert urgent["kg_before"] == pytest.approx(400 * KG)
    assert urgent["kg_after"] == pytest.approx(200 * KG)
    assert (urgent["cost_before_usd"], urgent["cost_after_usd"], urgent["egress_usd"]) == (0.4, 0.4, 0.0)
    assert (urgent["score_before"], urgent["score_after"]) == (urgent["kg_before"], urgent["kg_after"])
    assert urgent["break_even_usd_per_t"] == 0.0

    balanced = rows["balanced"]  # home at 02:00 beats us-west-2 at any time
    assert (balanced["region"], balanced["action_type"]) == ("us-east-1", "time_shift")
    assert (balanced["start"], balanced["delay_hours"]) == (T0 + timedelta(hours=2), 2)
    assert balanced["kg_after"] == pytest.approx(100 * KG)

    far = rows["far"]
    assert (far["region"], far["action_type"], far["start"]) == ("eu-north-1", "region_shift", T0)
    assert far["egress_usd"] == pytest.approx(0.01)
    assert far["cost_after_usd"] == pytest.approx(0.41)
    assert far["break_even_usd_per_t"] == pytest.approx(0.01 / (380 * KG) * 1000)
    assert far["break_even_egress_gb"] == pytest.approx(75 * 380 * KG / 1000 / 0.02)

    heavy = rows["heavy"]  # carbon alone: 20 USD of egress do not count
    assert (heavy["region"], heavy["egress_usd"]) == ("eu-north-1", 20.0)
    assert heavy["start"] == T0 + timedelta(minutes=30)

    gpu = rows["gpu"]  # (8 x 0.005 + 0.3) kW for 1.5 h: from 02:00 an hour at 100 g and half an hour at 400 g
    assert (gpu["action_type"], gpu["delay_hours"]) == ("time_shift", 2)
    assert gpu["kg_before"] == pytest.approx(0.34 * 1.1 * (400 + 0.5 * 400) / 1000)
    assert gpu["kg_after"] == pytest.approx(0.34 * 1.1 * (100 + 0.5 * 400) / 1000)

    strange = rows["strange"]
    assert (strange["action_type"], strange["reason"], strange["region"]) == (
        "do_nothing",
        "unknown_category",
        "us-east-1",
    )
    assert strange["kg_before"] == strange["kg_after"] == pytest.approx(400 * KG)

    assert said["objective"] == pytest.approx(sum(r["score_after"] for r in rows.values()))
    assert said["counts"]["jobs"] == 6
    assert said["counts"]["excluded"] == {"unknown_category": 1}


def test_at_a_plausible_carbon_price_only_what_is_free_moves(tmp_path):
    jobs = write(tmp_path / "jobs.csv", [job("free"), job("dear", data_gb="0.5")])
    said = plan(tmp_path, jobs).json
    rows = rows_of(tmp_path / "plan.parquet")
    assert rows["free"]["region"] == "eu-north-1"
    assert (rows["dear"]["region"], rows["dear"]["action_type"]) == ("us-east-1", "time_shift")
    score = 75 * 400 * KG / 1000 + 0.4
    assert rows["free"]["score_before"] == pytest.approx(score)
    assert said["objective_name"] == "effective-cost"
    # At the price that breaks even it goes.
    more = 0.01 / (80 * KG) * 1000 * 1.01  # 380 - 300 g: what eu-north-1 saves above waiting
    plan(tmp_path, jobs, "--carbon-price", more, out="dear.parquet")
    assert rows_of(tmp_path / "dear.parquet")["dear"]["region"] == "eu-north-1"
    plan(tmp_path, jobs, "--carbon-price", more * 0.98, out="cheap.parquet")
    assert rows_of(tmp_path / "cheap.parquet")["dear"]["region"] == "us-east-1"


def test_the_summary_shows_both_objectives_and_both_baselines(tmp_path):
    jobs = write(tmp_path / "jobs.csv", [job("a"), job("b", data_gb="5"), job("c", category="urgent")])
    said = plan(tmp_path, jobs).json
    assert said.keys() >= {"objective", "lower_bound", "gap", "counts", "seconds", "formulation", "why", "relaxed"}
    assert said["lower_bound"] == said["objective"] and said["gap"] == 0.0 and said["proven_optimal"]
    rows = rows_of(tmp_path / "plan.parquet").values()
    chosen, other = said["objectives"]["effective-cost"], said["objectives"]["min-carbon"]
    for key in ("kg_before", "kg_after", "cost_before_usd", "cost_after_usd", "egress_usd"):
        assert chosen[key] == said[key] == pytest.approx(sum(r[key] for r in rows))
    assert other["kg_after"] < chosen["kg_after"] and other["cost_after_usd"] > chosen["cost_after_usd"]
    baselines = said["baselines"]
    assert baselines["run_now"]["kg"] == pytest.approx(said["kg_before"])
    assert baselines["run_now"]["score"] == pytest.approx(chosen["score_before"])
    # The reference's annual means know nothing of the dip at 02:00.
    assert baselines["static_table"]["kg"] >= said["kg_after"]
    assert baselines["static_table"]["basis"] == "annual means of the reference table"
    assert said["counts"] | {"stays": 0, "excluded": 0} == {
        "jobs": 3, "planned": 3, "moved": 3, "region_shift": 2, "time_shift": 1, "do_nothing": 0, "stays": 0,
        "excluded": 0, "makes_room": 0,
    }  # fmt: skip


def test_the_same_input_gives_the_same_bytes(tmp_path):
    jobs = write(tmp_path / "jobs.csv", [job(f"j{i}", data_gb=i / 10, duration_hours=1 + i / 7) for i in range(40)])
    plan(tmp_path, jobs, out="a.parquet")
    plan(tmp_path, jobs, out="b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_prices_replace_the_cost_in_the_file(tmp_path):
    jobs = write(tmp_path / "jobs.csv", [job("a", max_delay_hours=0)])
    prices = tmp_path / "prices.csv"
    prices.write_text("region,usd_per_vcpu_hour\nus-east-1,0.05\neu-north-1,0.06\nus-west-2,\n", encoding="utf-8")
    said = plan(tmp_path, jobs, "--prices", prices, "--objective", "min-carbon").json
    row = rows_of(tmp_path / "plan.parquet")["a"]
    assert (row["region"], row["cost_before_usd"]) == ("eu-north-1", pytest.approx(0.4))
    assert row["cost_after_usd"] == pytest.approx(0.48)
    assert row["break_even_usd_per_t"] == pytest.approx(0.08 / (380 * KG) * 1000)
    assert not any("us-west-2" in (r["region"]) for r in rows_of(tmp_path / "plan.parquet").values())
    assert said["cost_after_usd"] == pytest.approx(0.48)
    # By the hour; the home region has none at 01:00, where the second job runs.
    hours = [f"{T0 + timedelta(hours=h):%Y-%m-%dT%H:00:00Z}" for h in range(30)]
    lines = [f"us-east-1,{t},{0.05 + 0.01 * h}" for h, t in enumerate(hours) if h != 1]
    lines += [f"eu-north-1,{t},0.5" for t in hours]
    prices.write_text("\n".join(["region,ts,usd_per_vcpu_hour", *lines]) + "\n", encoding="utf-8")
    jobs = write(
        tmp_path / "jobs.csv",
        [
            job("a", requested_start=hours[2], duration_hours=2),
            job("b", duration_hours=2),
            job("c", region="us-west-2"),
        ],
    )
    plan(tmp_path, jobs, "--prices", prices)
    rows = rows_of(tmp_path / "plan.parquet")
    assert rows["a"]["cost_before_usd"] == pytest.approx(8 * (0.07 + 0.08))
    assert (rows["b"]["reason"], rows["b"]["cost_before_usd"]) == ("grid_gap", None)
    assert (rows["c"]["reason"], rows["c"]["action_type"]) == ("no_price", "do_nothing")


def test_egress_and_latency_files_are_used(tmp_path):
    jobs = write(
        tmp_path / "jobs.csv",
        [job("a", data_gb=10, max_delay_hours=0), job("u", category="urgent", sla_latency_ms=60)],
    )
    egress, latency = tmp_path / "egress.csv", tmp_path / "latency.csv"
    egress.write_text("from_region,to_region,usd_per_gb\nus-east-1,eu-north-1,0.09\n", encoding="utf-8")
    said = plan(tmp_path, jobs, "--egress", egress, "--objective", "min-carbon").json
    rows = rows_of(tmp_path / "plan.parquet")
    assert rows["a"]["egress_usd"] == pytest.approx(0.9)
    assert (rows["u"]["region"], rows["u"]["reason"]) == ("us-east-1", "no_other_place")
    assert any("urgent" in n and "--latency" in n for n in said["notices"])
    latency.write_text("from_region,to_region,rtt_ms\nus-west-2,us-east-1,60\n", encoding="utf-8")
    said = plan(tmp_path, jobs, "--latency", latency, "--objective", "min-carbon").json
    row = rows_of(tmp_path / "plan.parquet")["u"]
    assert (row["region"], row["latency_delta_ms"]) == ("us-west-2", 60.0)


def test_every_kind_of_file_gives_the_same_plan(tmp_path):
    jobs = write(tmp_path / "jobs.csv", [job("a"), job("b", sla_latency_ms="5"), job("c", max_delay_hours="3")])
    plan(tmp_path, jobs)
    expected = (tmp_path / "plan.parquet").read_bytes()
    packed = tmp_path / "jobs.csv.gz"
    packed.write_bytes(gzip.compress(jobs.read_bytes()))
    table = pcsv.read_csv(jobs)
    assert pa.types.is_null(table.schema.field("depends_on").type)
    pq.write_table(table, tmp_path / "jobs.parquet")
    named = table.rename_columns(
        ["workload_category" if c == "category" else "requested_at" if c == "requested_start" else c
         for c in table.column_names]
    )  # fmt: skip
    pq.write_table(named, tmp_path / "named.parquet")
    typed = table.set_column(3, "cloud_provider", table.column(3).dictionary_encode())
    typed = typed.set_column(4, "region", table.column(4).cast(pa.large_string()))
    typed = typed.set_column(6, "requested_start", table.column(6).cast(pa.timestamp("ns")))
    typed = typed.set_column(11, "cost_usd", table.column(11).cast(pa.decimal128(9, 4)))
    pq.write_table(typed, tmp_path / "typed.parquet")
    for path in (packed, tmp_path / "jobs.parquet", tmp_path / "named.parquet", tmp_path / "typed.parquet"):
        plan(tmp_path, path, out="again.parquet")
        assert (tmp_path / "again.parquet").read_bytes() == expected, path.name


def test_what_the_simulator_writes_can_be_planned(tmp_path):
    sust("simulate", "--days", 2, "--seed", 3, "--out", tmp_path, "--json")
    said = sust(
        "plan", "--jobs", tmp_path / "jobs.csv", "--grid", tmp_path / "grid.csv", "--out", tmp_path / "p.parquet",
        "--json",
    ).json  # fmt: skip
    rows = pq.read_table(tmp_path / "p.parquet")
    assert rows.num_rows == said["counts"]["jobs"] > 1000
    assert said["kg_after"] < said["kg_before"]
    assert said["cost_after_usd"] <= said["cost_before_usd"] + said["kg_before"] * 75 / 1000


def test_a_zone_file_covers_the_regions_of_its_zones(tmp_path):
    rows = [(T0 + timedelta(hours=h), z, g) for h in range(26) for z, g in (("US-MIDA-PJM", 400), ("SE-SE3", 20))]
    given = write_grid(tmp_path / "zones.csv", *rows, place="zone")
    jobs = write(tmp_path / "jobs.csv", [job("a", allowed_regions="eu-north-1"), job("b", category="balanced")])
    said = sust("plan", "--jobs", jobs, "--grid", given, "--out", tmp_path / "p.parquet", "--json").json
    assert rows_of(tmp_path / "p.parquet")["a"]["region"] == "eu-north-1"
    assert rows_of(tmp_path / "p.parquet")["b"]["region"] == "eu-north-1"
    assert any("the same at all hours" in n for n in said["notices"])


def test_annual_means_move_by_region_and_never_by_hour(tmp_path):
    jobs = write(tmp_path / "jobs.csv", [job("a", allowed_regions="eu-north-1"), job("b", allowed_regions="us-east-1")])
    said = sust("plan", "--jobs", jobs, "--grid", "static", "--out", tmp_path / "p.parquet", "--json").json
    rows = rows_of(tmp_path / "p.parquet")
    assert (rows["a"]["region"], rows["a"]["delay_hours"]) == ("eu-north-1", 0)
    assert rows["b"]["reason"] == "best_as_it_is"
    assert any("do not differ by hour" in n for n in said["notices"])


def test_the_worst_case_keeps_what_survives_the_bounds(tmp_path):
    lines = ["ts,region,intensity_g_per_kwh,lower,upper"]
    for h in range(30):
        at = f"{T0 + timedelta(hours=h):%Y-%m-%dT%H:00:00Z}"
        lines += [f"{at},us-east-1,400,300,500", f"{at},us-west-2,290,190,390", f"{at},eu-north-1,20,10,30"]
    (tmp_path / "grid.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    jobs = write(
        tmp_path / "jobs.csv",
        [job("near", allowed_regions="us-west-2"), job("far", allowed_regions="eu-north-1")],
    )
    mean = plan(tmp_path, jobs).json
    assert mean["counts"]["moved"] == 2
    said = plan(tmp_path, jobs, "--robust", "worst-case").json
    rows = rows_of(tmp_path / "plan.parquet")
    assert (rows["near"]["region"], rows["near"]["reason"]) == ("us-east-1", "not_robust")
    assert rows["far"]["region"] == "eu-north-1"
    assert rows["far"]["kg_savings_worst_case"] == pytest.approx((300 - 30) * KG)
    assert rows["far"]["kg_before"] - rows["far"]["kg_after"] == pytest.approx(380 * KG)
    assert said["robust"] == "worst-case" and not said["proven_optimal"]
    assert said["lower_bound"] == pytest.approx(mean["objective"])
    assert said["gap"] > 0


def test_the_frontier_is_written_with_its_pictures(tmp_path):
    jobs = write(
        tmp_path / "jobs.csv",
        [job(f"j{i}", data_gb=i * i / 300, allowed_regions="us-west-2,eu-north-1", max_delay_hours=0)
         for i in range(30)],
    )  # fmt: skip
    said = plan(tmp_path, jobs, "--frontier", tmp_path / "f.csv").json
    table = pcsv.read_csv(tmp_path / "f.csv")
    assert table.num_rows > 3
    assert table.column("knee").to_pylist().count(True) == 1
    assert said["knee"]["kg"] in table.column("kg").to_pylist()
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "f.html").read_text(encoding="utf-8")
    assert "knee" in page and "<script src=" not in page
    names = pcsv.read_csv(tmp_path / "f.sensitivity.csv").column("scenario").to_pylist()
    assert names[0] == "as planned" and len(names) == len(said["sensitivities"]) > 8
    before = [p.read_bytes() for p in sorted(tmp_path.glob("f.*"))]
    plan(tmp_path, jobs, "--frontier", tmp_path / "f.csv")
    assert [p.read_bytes() for p in sorted(tmp_path.glob("f.*"))] == before


def test_finer_starts_and_suspended_runs_are_written_beside_the_plan(tmp_path):
    """Two hours from 00:30, home only: the one clean hour is 02:00. Suspended: that hour and the last of the window."""
    start = f"{T0 + timedelta(minutes=30):%Y-%m-%dT%H:%M:%SZ}"
    given = {"requested_start": start, "duration_hours": 1.5, "allowed_regions": "us-east-1", "max_delay_hours": 3}
    jobs = write(tmp_path / "jobs.csv", [job("a", **given)])
    ran = plan(tmp_path, jobs, "--objective", "min-carbon", "--finer", tmp_path / "finer.parquet")
    rows = pq.read_table(tmp_path / "finer.parquet").to_pylist()
    kw = 8 * 0.005 * 1.1
    moment = [r for r in rows if r["mode"] == "any_start"]
    assert [(r["job_id"], r["region"], r["hours_run"]) for r in moment] == [("a", "us-east-1", 1.5)]
    assert moment[0]["start"] in (T0 + timedelta(hours=1.5), T0 + timedelta(hours=2))
    parts = [r for r in rows if r["mode"] == "suspended"]
    assert sum(r["hours_run"] for r in parts) == 1.5
    assert all(a["start"] + timedelta(hours=a["hours_run"]) < b["start"] for a, b in pairwise(parts))
    finer = ran.json["finer"]
    assert finer["score_before_kg"] == pytest.approx(kw * 1.5 * 0.4)
    assert finer["any_start_kg"] == pytest.approx(kw * (0.1 + 0.5 * 0.4))
    assert finer["suspended_kg"] == pytest.approx(kw * (0.1 + 0.5 * 0.4))
    people = sust("plan", "--jobs", jobs, "--grid", tmp_path / "grid.csv", "--objective", "min-carbon",
                  "--finer", tmp_path / "finer.parquet", "--out", tmp_path / "p.parquet")  # fmt: skip
    assert "at other starts: whole hours" in people.out and "suspended -50.00 %" in people.out


def test_finer_starts_are_not_offered_where_limits_couple_the_jobs(tmp_path):
    jobs = write(tmp_path / "jobs.csv", [job("a")])
    ran = plan(tmp_path, jobs, "--egress-budget", "1", "--finer", tmp_path / "finer.parquet")
    assert ran.code == 3 and "limits couple these" in ran.err and not (tmp_path / "finer.parquet").exists()


def test_the_table_for_people(tmp_path):
    jobs = write(tmp_path / "jobs.csv", [job("a"), job("b", category="nonsense")])
    ran = sust("plan", "--jobs", jobs, "--grid", grid(tmp_path / "grid.csv"), "--out", tmp_path / "p.parquet")
    assert ran.code == 0
    for text in ("run now", "static region table", "effective-cost (this plan)", "min-carbon", "region_shift 1",
                 "unknown_category 1", "proven optimal"):  # fmt: skip
        assert text in ran.out
    assert "1 of 2 jobs cannot be planned" in ran.err


# --- shared limits


def capacity_file(path: Path, vcpus: float, region: str = "eu-north-1") -> Path:
    lines = [f"{region},{T0 + timedelta(hours=h):%Y-%m-%dT%H:00:00Z},{vcpus}" for h in range(30)]
    path.write_text("\n".join(["region,ts,vcpus", *lines]) + "\n", encoding="utf-8")
    return path


def test_a_capacity_is_kept(tmp_path):
    jobs = write(
        tmp_path / "jobs.csv", [job(f"j{i}", max_delay_hours=1, allowed_regions="eu-north-1") for i in range(6)]
    )
    said = plan(tmp_path, jobs, "--capacity", capacity_file(tmp_path / "c.csv", 16), "--objective", "min-carbon").json
    rows = rows_of(tmp_path / "plan.parquet").values()
    there = [r["start"] for r in rows if r["region"] == "eu-north-1"]
    assert sorted(there) == [T0, T0, T0 + timedelta(hours=1), T0 + timedelta(hours=1)]
    assert said["kg_after"] == pytest.approx((4 * 20 + 2 * 400) * KG)
    assert said["lower_bound"] <= said["objective"] * (1 + 1e-9)
    assert said["formulation"] != "rules"
    dear = said["capacity_prices"]
    assert {d["region"] for d in dear} <= {"eu-north-1"}
    assert all(d["ts"].startswith("2026-10-01T0") and d["saves_per_vcpu_hour"] > 0 for d in dear)


def test_moves_that_only_make_room_are_named_and_can_be_done_without(tmp_path):
    """The north has room for one: the GPU job, which burns more, is worth more there than the one that lives there."""
    jobs = write(
        tmp_path / "jobs.csv",
        [
            job("lives there", region="eu-north-1", vcpus=8, max_delay_hours=0, allowed_regions="us-west-2"),
            job("wants in", vcpus=8, gpus=1, max_delay_hours=0, allowed_regions="eu-north-1"),
        ],
    )
    capacity = capacity_file(tmp_path / "c.csv", 8)
    said = plan(tmp_path, jobs, "--capacity", capacity, "--objective", "min-carbon").json
    rows = rows_of(tmp_path / "plan.parquet")
    assert (rows["lives there"]["region"], rows["lives there"]["reason"]) == ("us-west-2", "makes_room")
    assert (rows["wants in"]["region"], rows["wants in"]["reason"]) == ("eu-north-1", "")
    assert said["counts"]["makes_room"] == 1
    said = plan(tmp_path, jobs, "--capacity", capacity, "--objective", "min-carbon", "--own-gain").json
    rows = rows_of(tmp_path / "plan.parquet")
    assert {r["action_type"] for r in rows.values()} == {"do_nothing"}
    assert said["counts"]["makes_room"] == 0 and said["gap"] > 0.5 and not said["proven_optimal"]


def test_the_worst_case_is_kept_where_limits_couple_the_jobs(tmp_path):
    lines = ["ts,region,intensity_g_per_kwh,lower,upper"]
    for h in range(30):
        at = f"{T0 + timedelta(hours=h):%Y-%m-%dT%H:00:00Z}"
        lines += [f"{at},us-east-1,400,300,500", f"{at},us-west-2,290,190,390", f"{at},eu-north-1,20,10,30"]
    (tmp_path / "grid.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    near = "us-west-2,eu-north-1"
    jobs = write(tmp_path / "jobs.csv", [job(f"j{i}", max_delay_hours=0, allowed_regions=near) for i in range(6)])
    given = ("--capacity", capacity_file(tmp_path / "c.csv", 16), "--objective", "min-carbon")
    plan(tmp_path, jobs, *given)
    assert sorted(r["region"] for r in rows_of(tmp_path / "plan.parquet").values()) == (
        ["eu-north-1"] * 2 + ["us-west-2"] * 4
    )  # fmt: skip
    plan(tmp_path, jobs, *given, "--robust", "worst-case")
    rows = rows_of(tmp_path / "plan.parquet").values()
    assert sorted(r["region"] for r in rows) == ["eu-north-1"] * 2 + ["us-east-1"] * 4
    assert {r["kg_savings_worst_case"] is None for r in rows if r["region"] == "us-east-1"} == {True}


def test_a_cost_limit_and_an_egress_budget_are_kept(tmp_path):
    jobs = write(
        tmp_path / "jobs.csv",
        [job(f"j{i}", data_gb=1, max_delay_hours=0, allowed_regions="eu-north-1") for i in range(10)],
    )
    said = plan(tmp_path, jobs, "--objective", "min-carbon", "--max-cost-increase", "2").json
    assert said["counts"]["moved"] == 4  # 2 % of 4 USD is 8 cents, 2 cents a move
    assert said["cost_after_usd"] <= 4.08 + 1e-9
    said = plan(tmp_path, jobs, "--objective", "min-carbon", "--egress-budget", "0.05").json
    assert said["counts"]["moved"] == 2
    said = plan(tmp_path, jobs, "--objective", "min-carbon", "--share-cap", "0.3").json
    assert said["counts"]["moved"] == 3


def test_a_dependency_is_kept(tmp_path):
    jobs = write(
        tmp_path / "jobs.csv",
        [
            job("first", allowed_regions="us-east-1", max_delay_hours=2),
            job("then", category="urgent", allowed_regions="us-east-1", depends_on="first",
                requested_start=f"{T0 + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"),
        ],
    )  # fmt: skip
    plan(tmp_path, jobs)
    rows = rows_of(tmp_path / "plan.parquet")
    assert rows["first"]["delay_hours"] == 0  # 02:00 would be cleaner, but the other cannot wait


def test_rules_forced_on_a_binding_limit_write_nothing(tmp_path):
    jobs = write(tmp_path / "jobs.csv", [job(f"j{i}", max_delay_hours=0) for i in range(6)])
    ran = plan(tmp_path, jobs, "--capacity", capacity_file(tmp_path / "c.csv", 16), "--formulation", "rules")
    assert ran.code == 1
    assert "--formulation auto" in ran.err
    assert not (tmp_path / "plan.parquet").exists()


def test_a_limit_that_the_jobs_break_as_they_are_is_relaxed_by_name(tmp_path):
    jobs = write(
        tmp_path / "jobs.csv", [job(f"j{i}", category="urgent", allowed_regions="us-east-1") for i in range(6)]
    )
    ran = plan(tmp_path, jobs, "--capacity", capacity_file(tmp_path / "c.csv", 16, "us-east-1"))
    assert ran.code == 1
    said = json.loads(ran.out)
    assert said["relaxed"] and "us-east-1" in said["relaxed"][0]
    assert said["findings"][0].startswith("limit relaxed")
    assert {r["action_type"] for r in rows_of(tmp_path / "plan.parquet").values()} == {"do_nothing"}


# --- what cannot be planned, and what is refused


def test_jobs_the_grid_does_not_reach_stay_and_are_said(tmp_path):
    late = f"{T0 + timedelta(days=9):%Y-%m-%dT%H:%M:%SZ}"
    jobs = write(
        tmp_path / "jobs.csv",
        [job("stale", requested_start=late), job("nowhere", region="ap-south-1"), job("ok"),
         job("over", requested_start=f"{T0 + timedelta(hours=29.5):%Y-%m-%dT%H:%M:%SZ}")],
    )  # fmt: skip
    said = plan(tmp_path, jobs).json
    rows = rows_of(tmp_path / "plan.parquet")
    assert {k: r["reason"] for k, r in rows.items()} == {
        "stale": "outside_grid_hours", "nowhere": "no_grid_hours", "ok": "", "over": "leaves_grid_hours",
    }  # fmt: skip
    assert rows["stale"]["region"] == "us-east-1" and rows["stale"]["kg_before"] is None
    assert said["counts"]["excluded"] == {"outside_grid_hours": 1, "no_grid_hours": 1, "leaves_grid_hours": 1}
    assert any("the grid source covers 2026-10-01 00:00 to 2026-10-02 05:00" in n for n in said["notices"])


def test_no_job_with_grid_hours_is_a_finding(tmp_path):
    jobs = write(tmp_path / "jobs.csv", [job("stale", requested_start="2020-01-01T00:00:00Z")])
    ran = plan(tmp_path, jobs)
    assert ran.code == 1
    assert json.loads(ran.out)["findings"] == ["no job could be planned"]
    assert rows_of(tmp_path / "plan.parquet")["stale"]["action_type"] == "do_nothing"


def test_a_day_without_jobs_is_an_empty_plan(tmp_path):
    said = plan(tmp_path, write(tmp_path / "jobs.csv", [])).json
    assert said["counts"]["jobs"] == 0 and said["objective"] == 0.0
    assert pq.read_table(tmp_path / "plan.parquet").num_rows == 0


def test_a_job_without_a_feasible_start_stays(tmp_path):
    """The only hour it may run in is a gap of the grid."""
    rows = [(T0 + timedelta(hours=h), "us-east-1", 400) for h in range(6) if h != 1]
    write_grid(tmp_path / "grid.csv", *rows)
    jobs = write(
        tmp_path / "jobs.csv",
        [job("gap", requested_start=f"{T0 + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}", max_delay_hours=0), job("ok")],
    )
    plan(tmp_path, jobs)
    found = rows_of(tmp_path / "plan.parquet")
    assert (found["gap"]["reason"], found["gap"]["kg_before"]) == ("grid_gap", None)
    assert found["ok"]["reason"] == "best_as_it_is"


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("duration_hours", "nan", "row 3, column duration_hours: nan is no finite number"),
        ("vcpus", "", "row 3, column vcpus: is empty"),
        ("vcpus", "four", "row 3, column vcpus: 'four' is not a number"),
        ("gpus", "-1", "row 3, column gpus: -1.0 is negative"),
        ("cost_usd", "inf", "row 3, column cost_usd: inf is no finite number"),
        ("data_gb", "1e99", "row 3, column data_gb: 1e+99 is above 1e+12"),
        ("requested_start", "yesterday", "row 3, column requested_start: 'yesterday' is not a time"),
        ("requested_start", "", "row 3, column requested_start: is empty"),
        ("job_id", "a", "row 3, column job_id: 'a' stands already in row 2"),
        ("region", "", "row 3, column region: is empty"),
        ("depends_on", "b", "row 3, column depends_on: 'b' waits for itself"),
    ],
)
def test_a_malformed_job_is_refused_by_file_row_and_column(tmp_path, column, value, said):
    jobs = write(tmp_path / "jobs.csv", [job("a"), job("b") | {column: value}])
    ran = plan(tmp_path, jobs)
    assert ran.code == 3
    assert f"{jobs}: {said}" in ran.err
    assert not (tmp_path / "plan.parquet").exists()


@pytest.mark.parametrize(
    ("option", "text", "said"),
    [
        ("--prices", "region,usd_per_vcpu_hour\nus-east-1,nan\n", "row 2, column usd_per_vcpu_hour: nan is no finite"),
        ("--prices", "region,usd_per_vcpu_hour\na,1\na,2\n", "row 3, column region: the same region as row 2"),
        ("--prices", "region,price\na,1\n", "no column usd_per_vcpu_hour"),
        ("--prices", "region,usd_per_vcpu_hour\na,1\nb\n", "not a readable CSV"),
        ("--capacity", "region,ts,vcpus\na,2026-10-01T00:30:00Z,1\n", "row 2, column ts: 2026-10-01 00:30:00 is not"),
        ("--capacity", "region,ts,vcpus\na,2026-10-01,-1\n", "row 2, column vcpus: -1.0 is negative"),
        ("--capacity", "", "the file is empty"),
        ("--egress", "from_region,to_region,usd_per_gb\na,,1\n", "row 2, column to_region: is empty"),
        ("--latency", "from_region,to_region,rtt_ms\na,b,soon\n", "row 2, column rtt_ms: 'soon' is not a number"),
    ],
)
def test_a_malformed_table_is_refused_by_file_row_and_column(tmp_path, option, text, said):
    jobs = write(tmp_path / "jobs.csv", [job("a")])
    given = tmp_path / "given.csv"
    given.write_text(text, encoding="utf-8")
    ran = plan(tmp_path, jobs, option, given)
    assert ran.code == 3
    assert f"{given}: {said}" in ran.err


def test_other_bad_files_are_refused(tmp_path):
    jobs = write(tmp_path / "jobs.csv", [job("a")])
    for given, said in (
        (tmp_path / "none.csv", "no such file"),
        (write(tmp_path / "jobs.txt", [job("a")]), "unknown file type"),
        (write(tmp_path / "less.csv", [job("a")], HEAD[:6]), "no column requested_start"),
        (write(tmp_path / "twice.csv", [job("a")], (*HEAD, "region")), "stands twice in the header"),
    ):
        ran = plan(tmp_path, given)
        assert (ran.code, said in ran.err) == (3, True), ran.err
    ran = sust("plan", "--jobs", jobs, "--grid", tmp_path / "no.csv", "--out", tmp_path / "p.parquet")
    assert (ran.code, "no such file" in ran.err) == (3, True)
    write_grid(tmp_path / "bad.csv", (T0, "us-east-1", "nan"))
    ran = sust("plan", "--jobs", jobs, "--grid", tmp_path / "bad.csv", "--out", tmp_path / "p.parquet")
    assert (ran.code, "row 2" in ran.err) == (3, True)
    ran = plan(tmp_path, jobs, out="jobs.csv")
    assert (ran.code, "would overwrite an input" in ran.err) == (3, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--objective", "cheapest"),
        ("--formulation", "magic"),
        ("--robust", "maybe"),
        ("--carbon-price", "-1"),
        ("--carbon-price", "nan"),
        ("--max-cost-increase", "-2"),
        ("--max-cost-increase", "inf"),
        ("--share-cap", "1.5"),
        ("--egress-budget", "-1"),
    ],
)
def test_options_out_of_range_are_usage_errors(tmp_path, arguments):
    jobs = write(tmp_path / "jobs.csv", [job("a")])
    ran = plan(tmp_path, jobs, *arguments)
    assert ran.code == 2
    assert not (tmp_path / "plan.parquet").exists()
