"""Placements: what is refused, what they change, and that they change nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.simulator.cloud import FakeCloud
from sust_dagster.simulator.network import egress_usd_per_gb
from sust_dagster.simulator.placements import PLACEMENT_SCHEMA, PlacementError, Placements
from sust_dagster.simulator.regions import REGION_INDEX

START = datetime(2026, 1, 1, tzinfo=UTC)
IDENTITY = [
    "job_id", "workload_id", "service_name", "team_id", "owner", "job_type", "service_tier", "workload_category",
    "home_region", "requested_at", "data_gb",
]  # fmt: skip


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def first_job(cloud: FakeCloud, workload_id: str) -> dict:
    jobs = cloud.jobs(START, at(96)).to_pandas()
    return jobs[jobs["workload_id"] == workload_id].iloc[0].to_dict()


def test_twin_worlds_share_their_random_numbers(cloud: FakeCloud, placed_cloud: FakeCloud) -> None:
    a, b = cloud.jobs(START, at(240)), placed_cloud.jobs(START, at(240))
    assert a.select(IDENTITY).equals(b.select(IDENTITY))
    before, after = a.to_pandas(), b.to_pandas()
    placed = {"etl-orders", "train-ranking", "ci-checkout-build", "svc-cart", "dev-data"}
    left_alone = ~before["workload_id"].isin(placed)
    assert before[left_alone].equals(after[left_alone])
    service = after["workload_id"] == "svc-cart"
    assert (after["vcpus"][service] == 2).all() and (after["duration_hours"][service] == 24).all()
    moved = before["workload_id"] == "train-ranking"
    assert ((after["started_at"] - before["started_at"])[moved] == timedelta(hours=24)).all()
    assert (after["region"][moved] == "us-west-2").all()


def test_one_placement_changes_the_bill_of_that_job_alone(cloud: FakeCloud) -> None:
    job = first_job(cloud, "etl-orders")
    answer = cloud.submit([{"job_id": job["job_id"], "region": "us-west-2", "delay_hours": 5}])
    assert answer.refused.num_rows == 0
    before = cloud.focus_rows(START, at(144)).to_pandas()
    after = answer.cloud.focus_rows(START, at(144)).to_pandas()
    own_before, own_after = before["ResourceName"] == job["job_id"], after["ResourceName"] == job["job_id"]
    assert before[~own_before].reset_index(drop=True).equals(after[~own_after].reset_index(drop=True))
    assert set(after[own_after]["RegionId"]) == {"us-west-2", "us-east-1"}  # egress is billed at home
    egress = after[own_after & (after["ConsumedUnit"] == "GB")]
    price = egress_usd_per_gb()[REGION_INDEX["us-east-1"], REGION_INDEX["us-west-2"]]
    assert egress["ConsumedQuantity"].tolist() == [job["data_gb"]]
    assert egress["BilledCost"].tolist() == pytest.approx([job["data_gb"] * price])
    assert (after[own_after]["ChargePeriodStart"] >= job["requested_at"].floor("h") + timedelta(hours=5)).all()
    placed = answer.cloud.jobs(START, at(96)).to_pandas().set_index("job_id").loc[job["job_id"]]
    assert placed["egress_usd"] == pytest.approx(job["data_gb"] * price)
    assert placed["duration_hours"] == job["duration_hours"]


def test_egress_has_the_price_of_the_home_region(cloud: FakeCloud) -> None:
    job = first_job(cloud, "features-refresh")
    assert job["home_region"] == "ap-south-1"
    world = cloud.submit([{"job_id": job["job_id"], "region": "us-east-1"}]).cloud
    after = world.jobs(START, at(96)).to_pandas().set_index("job_id").loc[job["job_id"]]
    assert after["egress_usd"] == pytest.approx(job["data_gb"] * 0.086)
    rows = world.focus_rows(START, at(96)).to_pandas()
    assert rows[rows["ConsumedUnit"] == "GB"]["BilledCost"].tolist() == pytest.approx([after["egress_usd"]])


def test_a_jobs_own_placement_wins_over_its_groups(cloud: FakeCloud) -> None:
    job = first_job(cloud, "ci-checkout-build")
    group = {"workload_id": "ci-checkout-build", "requested_hour": job["requested_at"].floor("h").to_pydatetime()}
    world = cloud.submit([{**group, "region": "us-west-2"}, {"job_id": job["job_id"], "delay_hours": 1.0}]).cloud
    jobs = world.jobs(START, at(96)).to_pandas()
    in_group = jobs[jobs["job_id"].str.startswith(job["job_id"][:-4])].set_index("job_id")
    assert in_group.loc[job["job_id"], "region"] == "us-east-1"
    assert set(in_group.drop(index=job["job_id"])["region"]) <= {"us-west-2"}


def test_spot_is_cheaper_and_interruptions_cost_time(cloud: FakeCloud) -> None:
    hours = [at(h) for h in range(24 * 20)]
    rows = [{"workload_id": "train-ranking", "requested_hour": h, "spot": True} for h in hours]
    before, world = cloud.jobs(START, at(480)).to_pandas(), cloud.submit(rows).cloud
    after = world.jobs(START, at(480)).to_pandas()
    mine = (before["workload_id"] == "train-ranking") & after["spot"]
    rate = after["cost_usd"][mine] / after["duration_hours"][mine] / 3.0
    assert rate.between(0.30, 0.40).all()
    extra = (after["duration_hours"] - before["duration_hours"])[mine]
    restarted = after["status"][mine] == "restarted"
    assert 0 < restarted.mean() < 0.5
    assert (extra[~restarted] == 0).all()
    # A quarter of an hour for each interruption.
    assert (np.round(extra[restarted] / 0.25, 9) % 1 == 0).all() and (extra[restarted] > 0).all()
    bill = world.focus_rows(START, at(600)).to_pandas()
    spot = bill[bill["PricingCategory"] == "Dynamic"]
    assert spot["BilledCost"].sum() == pytest.approx(after["cost_usd"][after["spot"]].sum())
    assert (spot["ListCost"] > spot["BilledCost"]).all()


def test_right_sizing_changes_the_instance_and_may_stretch_the_run(cloud: FakeCloud) -> None:
    need = {w.workload_id: w.needed_share for w in cloud.catalogue}
    for workload_id in ("etl-orders", "etl-clickstream", "ci-checkout-build", "logs-compaction"):
        job = first_job(cloud, workload_id)
        world = cloud.submit([{"job_id": job["job_id"], "vcpus_scale": 0.5}]).cloud
        after = world.jobs(START, at(96)).to_pandas().set_index("job_id").loc[job["job_id"]]
        assert after["vcpus"] == job["vcpus"] / 2
        assert after["instance_type"] != job["instance_type"]
        stretch = max(1.0, need[workload_id] / 0.5)
        assert after["duration_hours"] == pytest.approx(job["duration_hours"] * stretch, abs=1 / 3600)
        assert after["cost_usd"] == pytest.approx(job["cost_usd"] * stretch / 2, rel=0.01)


@pytest.mark.parametrize(
    ("given_row", "reason"),
    [
        ({"job_id": "nobody-2026010100-000"}, "unknown_job"),
        ({"job_id": "not a job id"}, "unknown_job"),
        ({"job_id": "ci-checkout-build-2026010116-900"}, "unknown_job"),
        ({"workload_id": "nobody", "requested_hour": at(5)}, "unknown_job"),
        ({"workload_id": "etl-orders", "requested_hour": at(5), "region": "mars-1"}, "unknown_region"),
        ({"workload_id": "etl-ledger", "requested_hour": at(5), "region": "us-west-2"}, "region_not_allowed"),
        ({"workload_id": "etl-orders", "requested_hour": at(5), "delay_hours": 24.5}, "delay_out_of_range"),
        ({"workload_id": "etl-orders", "requested_hour": at(5), "delay_hours": -1}, "delay_out_of_range"),
        ({"workload_id": "etl-orders", "requested_hour": at(5), "delay_hours": float("nan")}, "delay_out_of_range"),
        ({"workload_id": "svc-cart", "requested_hour": at(24), "delay_hours": 1}, "always_on"),
        ({"workload_id": "svc-cart", "requested_hour": at(24), "spot": True}, "not_spot_tolerant"),
        ({"workload_id": "train-fraud", "requested_hour": at(5), "vcpus_scale": 0.5}, "no_such_size"),
        ({"workload_id": "etl-orders", "requested_hour": at(5), "vcpus_scale": 0.3}, "no_such_size"),
        ({"workload_id": "etl-orders", "requested_hour": at(5), "vcpus_scale": float("nan")}, "no_such_size"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(cloud: FakeCloud, given_row: dict, reason: str) -> None:
    good = {"workload_id": "etl-orders", "requested_hour": at(7), "region": "us-west-2"}
    answer = cloud.submit([given_row, good])
    assert answer.refused["reason"].to_pylist() == [reason]
    assert reason in answer.refused["detail"].to_pylist()[0]
    # The good row beside it is in force.
    assert answer.accepted.num_rows == len(answer.cloud.placements) == 1


def test_a_region_in_outage_takes_no_placement(cloud: FakeCloud) -> None:
    outages = cloud.outages(START, at(24 * 120)).to_pandas()
    assert 0 < len(outages) < 0.02 * 24 * 120 * 5
    out = outages[outages["region"] == "us-west-2"].iloc[0]
    row = {
        "workload_id": "etl-orders",
        "requested_hour": out["ts"] - timedelta(hours=3),
        "region": "us-west-2",
        "delay_hours": 3,
    }
    refused = cloud.submit([row]).refused.to_pylist()
    assert [r["reason"] for r in refused] == ["region_outage"]
    assert "us-west-2" in refused[0]["detail"]
    # Other hours and regions go through.
    assert cloud.submit([{**row, "delay_hours": 0}, {**row, "region": "eu-north-1"}]).refused.num_rows == 0


def test_what_has_begun_can_no_longer_be_placed(cloud: FakeCloud) -> None:
    row = {"workload_id": "etl-orders", "requested_hour": at(5), "region": "us-west-2"}
    assert cloud.submit([row], now=at(5)).accepted.num_rows == 1
    assert cloud.submit([row], now=at(5.01)).refused["reason"].to_pylist() == ["already_started"]
    with pytest.raises(ValueError, match="time zone"):
        cloud.submit([row], now=datetime(2026, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize(
    "row",
    [
        {"region": "us-west-2"},
        {"workload_id": "etl-orders"},
        {"requested_hour": START},
        {"workload_id": "etl-orders", "requested_hour": at(0.5)},
        {"job_id": "etl-orders-2026010100-000", "workload_id": "etl-orders", "requested_hour": START},
        {"job_id": "etl-orders-2026010100-000", "colour": "green"},
    ],
)
def test_rows_of_the_wrong_form_raise(row: dict) -> None:
    with pytest.raises(PlacementError):
        Placements.from_rows([row])


def test_a_cloud_does_not_start_on_placements_it_cannot_read() -> None:
    for row in (
        {"workload_id": "nobody", "requested_hour": START},
        {"workload_id": "etl-orders", "requested_hour": START, "region": "mars-1"},
        {"workload_id": "etl-orders", "requested_hour": START, "delay_hours": 400.0},
    ):
        with pytest.raises(PlacementError):
            FakeCloud(42, placements=Placements.from_rows([row]))


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "workload_id": st.sampled_from(["etl-orders", "train-fraud", "ci-search-build"]),
            "requested_hour": st.integers(0, 3).map(at),
            "delay_hours": st.integers(0, 24).map(float),
        }
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=50)
@given(rows=ROWS, more=ROWS)
def test_placements_are_immutable_and_their_digest_is_their_content(rows: list[dict], more: list[dict]) -> None:
    before = Placements.from_rows(rows)
    kept = before.table.to_pylist()
    after = before.with_rows(more)
    assert before.table.to_pylist() == kept
    # The last word about each group counts, whatever the order of the others.
    last = {(r["workload_id"], r["requested_hour"]): r for r in [*rows, *more]}
    assert after.digest == Placements.from_rows(list(reversed(last.values()))).digest
    assert len(after) == len(last)
    assert Placements.from_rows(after.table).digest == after.digest
    assert after.without(list(last.values())).digest == Placements().digest
    assert after.table.schema.equals(PLACEMENT_SCHEMA)
    if last:
        row = next(iter(last.values()))
        assert after.with_rows([{**row, "delay_hours": row["delay_hours"] + 1}]).digest != after.digest


def test_asking_twice_changes_nothing(cloud: FakeCloud) -> None:
    rows = [{"workload_id": "etl-orders", "requested_hour": at(5), "region": "us-west-2", "delay_hours": 2}]
    once = cloud.submit(rows).cloud
    assert once.submit(rows).cloud.placements.digest == once.placements.digest
    assert (
        once.with_placements(once.placements.without(rows))
        .focus_rows(START, at(24))
        .equals(cloud.focus_rows(START, at(24)))
    )


def test_many_placements_are_looked_up_fast(cloud: FakeCloud) -> None:
    jobs = cloud.jobs(START, at(720))
    rows = pa.table({"job_id": jobs["job_id"], "delay_hours": pa.array(np.zeros(jobs.num_rows))})
    answer = cloud.submit(rows)
    assert answer.accepted.num_rows + answer.refused.num_rows == jobs.num_rows
    assert set(answer.refused["reason"].to_pylist()) <= {"region_outage"}
    assert answer.cloud.jobs(START, at(720)).equals(jobs)
