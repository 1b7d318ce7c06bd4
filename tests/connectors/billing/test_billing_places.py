"""Files, folders and an object store over real HTTP on loopback."""

from __future__ import annotations

import gzip

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bills import FOCUS_ROW, csv_text, ingest_paths
from moto.server import ThreadedMotoServer

from sust_dagster.connectors.billing import BillingError, BillingSource, FileBilling, TableBilling


def rows(n: int, start: int = 0) -> str:
    return csv_text([{**FOCUS_ROW, "ResourceId": f"i-{i}"} for i in range(start, start + n)])


def test_a_folder_of_everything(write, tmp_path):
    write(rows(2), "october/a.csv")
    write(gzip.compress(rows(3, 2).encode()), "october/deep/b.csv.gz")
    pq.write_table(pa.Table.from_pylist([{**FOCUS_ROW, "ResourceId": "i-9"}]), tmp_path / "october/c.snappy.parquet")
    write("{}", "october/manifest.json")
    write("", "october/_SUCCESS")
    write("x", "october/.hidden.csv")
    got = ingest_paths(tmp_path / "october")
    assert got.counts == (6, 6, 0, 0)
    assert dict(got.summary.files) == {"a.csv": 2, "b.csv.gz": 3, "c.snappy.parquet": 1}


def test_labels_tell_files_of_one_name_apart(write):
    one, two = write(rows(1), "jan/bill.csv"), write(rows(1, 1), "feb/bill.csv")
    assert set(ingest_paths([one, two]).summary.files) == {"jan/bill.csv", "feb/bill.csv"}


def test_a_bill_is_labelled_by_what_was_named(write, tmp_path):
    """References and counts go by it, so a file that comes or goes in a folder must not change it."""
    write(rows(1), "2026/october/part-00000.csv")
    folder, file = tmp_path / "2026", write(rows(1, 1), "extra.csv")

    def bills(*places):
        return {f.label: f.bill for f in FileBilling(places).files}

    assert bills(folder, file) == {"part-00000.csv": "2026", "extra.csv": "extra.csv"}
    write(rows(1, 2), "2026/november/part-00000.csv")
    named = bills(folder, file)
    assert {label.rpartition("/")[0] for label in named} == {"october", "november", tmp_path.name}
    assert set(named.values()) == {"2026", "extra.csv"}
    other = write(rows(1, 3), "archive/2026/bill.csv").parent
    assert set(bills(folder, other).values()) == {f"{tmp_path.name}/2026", "archive/2026"}
    assert bills(folder / "october", folder / "october") == {"part-00000.csv": "october"}


def test_formats_may_be_mixed(write):
    from test_billing_formats import AZURE_ROW, CUR_ROW, GCP_ROW

    paths = [write(csv_text([r]), f"{i}.csv") for i, r in enumerate((FOCUS_ROW, AZURE_ROW, CUR_ROW, GCP_ROW))]
    got = ingest_paths(paths)
    assert got.counts == (4, 4, 0, 0)
    assert {r["cloud_provider"] for r in got.rows} == {"aws", "azure", "gcp"}
    assert [i.format for i in FileBilling(paths).describe()] == [
        "focus-1.1", "azure-cost-details", "aws-cur", "gcp-standard",
    ]  # fmt: skip


def test_a_source_is_what_the_protocol_says(write):
    assert isinstance(FileBilling(write(rows(1))), BillingSource)
    assert isinstance(TableBilling(lambda _a, _b: pa.table({}), "x"), BillingSource)


@pytest.fixture(scope="module")
def store(request):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    request.addfinalizer(server.stop)
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


@pytest.fixture
def bucket(store, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", store)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = boto3.client("s3", endpoint_url=store, region_name="us-east-1")
    client.create_bucket(Bucket="bills")
    return client


def test_an_object_store(bucket):
    bucket.put_object(Bucket="bills", Key="focus/part-00001.csv.gz", Body=gzip.compress(rows(400).encode()))
    bucket.put_object(Bucket="bills", Key="focus/part-00002.csv.gz", Body=gzip.compress(rows(300, 400).encode()))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([{**FOCUS_ROW, "ResourceId": f"i-{i}"} for i in range(600, 800)]), sink)
    bucket.put_object(Bucket="bills", Key="more/focus.parquet", Body=sink.getvalue().to_pybytes())
    folder = ingest_paths("s3://bills/focus")
    assert folder.counts == (700, 700, 0, 0)
    assert ingest_paths("s3://bills/focus/part-00002.csv.gz").counts == (300, 300, 0, 0)
    both = ingest_paths(["s3://bills/focus/", "s3://bills/more/focus.parquet"])
    assert both.counts == (900, 800, 0, 100)
    assert "part-00001.csv.gz" in both.summary.files


def test_what_an_object_store_does_not_have(bucket):
    with pytest.raises(BillingError, match=r"s3://bills/nothing\.csv: does not exist"):
        FileBilling("s3://bills/nothing.csv")
    with pytest.raises(BillingError, match=r"s3://no-such-bucket/x"):
        FileBilling("s3://no-such-bucket/x")
