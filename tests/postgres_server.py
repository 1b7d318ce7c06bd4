"""A PostgreSQL server of the tests' own: its own folder, its own Unix socket, no network, gone at the end.

It is as unlike SQLite as a real one may be: its clock stands in another zone, its texts sort as a dictionary sorts
them, and its transactions would be serializable if nobody asked for less.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from typing import Any

import pytest

OLDEST = 15
#: Drivers that the books may be reached through, the one that a bare postgresql:// means first.
DRIVERS = ("psycopg2", "psycopg")
#: Who runs the server where the tests run as root, which PostgreSQL refuses; the first that there is.
ACCOUNTS = ("postgres", "nobody")
#: Names the socket file; nothing listens on a network.
PORT = "5432"

_MEMORY = Path("/dev/shm")

_CLUSTER = (
    "--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8",
    "--locale-provider=icu", "--icu-locale=en-US",
)  # fmt: skip
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "timezone": "Asia/Kolkata",
    "default_transaction_isolation": "serializable",
}


@dataclass(frozen=True)
class Server:
    """A running server: where its programs and its socket are."""

    bin: Path
    folder: Path

    def psql(self, database: str, script: str, *, stop: bool = True) -> str:
        """Run a script; returns what it printed. ``stop``: at the first error, which then fails the test."""
        where = ["-h", self.folder, "-p", PORT, "-U", "postgres", "-v", f"ON_ERROR_STOP={int(stop)}", database]
        done = subprocess.run(
            [self.bin / "psql", "-XqAt", *where], input=script, capture_output=True, text=True, timeout=60, check=False
        )
        assert not stop or done.returncode == 0, done.stderr
        return done.stdout

    def create(self, database: str = "", *, like: str = "") -> str:
        """A new database, empty or a copy of one that nobody is connected to; returns its name."""
        database = database or f"books_{secrets.token_hex(6)}"
        self.psql("postgres", f"CREATE DATABASE {database}{f' TEMPLATE {like}' if like else ''}")
        return database

    def url(self, database: str, driver: str = "", user: str = "postgres") -> str:
        """Address of a database for the books; the driver they choose where none is given."""
        return f"postgresql{f'+{driver}' if driver else ''}://{user}@/{database}?host={self.folder}&port={PORT}"

    def forge(self, database: str, *statements: str) -> None:
        """Run statements as a superuser whom no trigger stops; each must change something."""
        for statement in statements:
            shown = self.psql(database, f"SET session_replication_role = replica;\n{statement}\nRETURNING 'changed';")
            assert "changed" in shown, statement


def without_driver(driver: str = "") -> str | None:
    """Why a driver (default: any) cannot be used; ``None`` when it can."""
    wanted = (driver,) if driver else DRIVERS
    if any(importlib.util.find_spec(name) for name in wanted):
        return None
    return f"no PostgreSQL driver ({' or '.join(wanted)}) is installed; `make install-dev` does it"


def find_binaries() -> Path:
    """Folder of initdb, postgres and psql: that on the PATH, else the newest of Debian's; skips where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: _number(p.parts[-3]))
    on_path = shutil.which("initdb")
    folders = [*([Path(on_path).resolve().parent] if on_path else []), *(p.parent for p in reversed(found))]
    whole = [f for f in folders if all((f / name).exists() for name in ("initdb", "postgres", "psql", "pg_isready"))]
    if not whole:
        pytest.skip("no initdb on the PATH or in /usr/lib/postgresql/*/bin (Debian: apt-get install postgresql)")
    versions = {f: _number(_run([f / "postgres", "--version"]).stdout) for f in whole}
    recent = [f for f, version in versions.items() if version >= OLDEST]
    if not recent:
        pytest.skip(f"PostgreSQL {OLDEST} or later is needed, {whole[0]} is {versions[whole[0]]}")
    return recent[0]


@contextmanager
def running() -> Generator[Server]:
    """A server until the block ends; skips where there can be none."""
    binaries = find_binaries()
    with tempfile.TemporaryDirectory(prefix="pg", dir=_memory()) as name:
        folder = Path(name)
        options: dict[str, Any] = {"cwd": folder} | _account(folder)
        _run([binaries / "initdb", "-D", folder / "data", *_CLUSTER], **options)
        settings = [f"--{key}={value}" for key, value in _SETTINGS.items()]
        log = (folder / "log").open("w")
        process = subprocess.Popen(
            [binaries / "postgres", "-D", folder / "data", "-k", folder, "-p", PORT, *settings],
            stdout=log, stderr=subprocess.STDOUT, **options,
        )  # fmt: skip
        try:
            ready = [binaries / "pg_isready", "-q", "-h", folder, "-p", PORT, "-U", "postgres"]
            for _ in range(400):
                if subprocess.run(ready, check=False).returncode == 0:
                    break
                if process.poll() is not None:
                    pytest.fail(f"the PostgreSQL server ended at once:\n{(folder / 'log').read_text()}")
                time.sleep(0.05)
            yield Server(binaries, folder)
        finally:
            process.send_signal(SIGINT)  # SIGTERM would wait for every client to leave
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
            log.close()


def _memory() -> str | None:
    """A folder in memory where there is plenty of it: a server there keeps no disk busy."""
    try:
        return str(_MEMORY) if shutil.disk_usage(_MEMORY).free > 2 << 30 and os.access(_MEMORY, os.W_OK) else None
    except OSError:
        return None


def _account(folder: Path) -> dict[str, Any]:
    """Whom to run the server as, the folder given to them; nothing where we are not root."""
    if os.geteuid() != 0:
        return {}
    for name in ACCOUNTS:
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(folder, account.pw_uid, account.pw_gid)
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    pytest.skip(f"the tests run as root and there is no account {' or '.join(ACCOUNTS)} to run PostgreSQL as")


def _number(text: str) -> int:
    found = re.search(r"\d+", text)
    return int(found[0]) if found else 0


def _run(command: list[Any], **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        pytest.fail(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
    return done
