"""What every test may use: the data folder beside the project, a real S3 API on loopback, a PostgreSQL server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import postgres_server
import pytest

# No test is about time: a busy machine must not fail one.
hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.load_profile("house")

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real bills, grid traces and job traces; not part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the data folder ../shared/data is not there: real bills and traces are not redistributed")
    return SHARED_DATA


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgres_server.Server]:
    """A PostgreSQL server of this session's own; skips, saying why, where there can be none."""
    with postgres_server.running() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A moto server on a free loopback port: the real S3 protocol over HTTP."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{url}/moto-api/", timeout=1).read()
                break
            except OSError:
                if server.poll() is not None:
                    pytest.fail("moto server did not start")
                time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket URL on the S3 server, with credentials and endpoint in the environment."""
    return new_bucket(s3_server, monkeypatch)


@pytest.fixture(scope="module")
def s3_of_module(s3_server: str) -> Iterator[str]:
    """The same for all tests of a module: one bucket."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield new_bucket(s3_server, monkeypatch)


def new_bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    import boto3

    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    bucket = f"bucket-{os.getpid()}-{time.monotonic_ns()}"
    boto3.client("s3", endpoint_url=server).create_bucket(Bucket=bucket)
    return f"s3://{bucket}"
