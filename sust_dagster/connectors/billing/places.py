"""Where bills are: files, folders and object stores, opened as streams.

Belongs here: paths and URLs, file systems, what is a bill among the files of a folder, compression. Credentials
come from the environment, as the providers' own tools take them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from sust_dagster.connectors.billing.errors import BillingError

_BILLS = re.compile(r"\.(?:csv|csv\.gz|csv\.zst|gz|parquet|pq|tsv|txt)$", re.IGNORECASE)
_IGNORED = re.compile(r"(?:^|/)[._]|manifest", re.IGNORECASE)
#: Names of parts of one delivery: part-00001, part_0_0001, -00001.csv, -000000000012.csv.
_PART = re.compile(r"(?<![A-Za-z0-9])(?:part[-_]?\d+(?:[-_]\d+)*|0\d{4}|0\d{11})(?=[.\-_]|$)", re.IGNORECASE)
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PAR1": "parquet",
    b"PK\x03\x04": "zip",
    b"\xd0\xcf\x11\xe0": "excel",
}


@dataclass(frozen=True)
class BillFile:
    """One file of a bill: where it is, its label, the number of its delivery and the label of its bill."""

    system: fs.FileSystem
    path: str
    label: str
    delivery: int = 0
    bill: str = ""

    def open_stream(self) -> pa.NativeFile:
        """The file's bytes from the start. Raises :class:`BillingError` where it cannot be opened."""
        try:
            return self.system.open_input_stream(self.path, compression=None)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error

    def open_file(self) -> pa.NativeFile:
        """The file with random access. Raises :class:`BillingError` where it cannot be opened."""
        try:
            return self.system.open_input_file(self.path)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error

    def kind(self) -> str:
        """'parquet', 'gzip', 'zstd' or 'text', by the first bytes."""
        with self.open_stream() as stream:
            head = stream.read(8)
        for magic, name in _MAGIC.items():
            if head.startswith(magic):
                if name in ("zip", "excel"):
                    raise BillingError(
                        f"is a {name} file", file=self.label, fix="unpack it, or export as CSV or Parquet"
                    )
                return name
        return "text"

    def _unreadable(self, error: Exception) -> BillingError:
        return BillingError(f"cannot be read: {error}", file=self.label, fix="check that it exists and may be read")


def find_bills(paths: str | Path | Iterable[str | Path]) -> list[BillFile]:
    """The bill files behind files, folders and URLs (s3://, gs://, abfs://, file://), in a stable order.

    Each path that is given is one bill, labelled by its own name, whatever files a folder comes to hold. Parts of
    one export (by their names, in one folder) share a delivery number. Raises :class:`BillingError` for a path that
    does not exist or holds no bill.
    """
    listed = [paths] if isinstance(paths, str | Path) else list(paths)
    if not listed:
        raise BillingError("no bill was named", fix="give at least one file, folder or URL")
    groups = [_files_of(str(p)) for p in listed]
    labels = _labels({path for group in groups for _, path in group})
    places = [file_system(str(p))[1] for p in listed]
    bills = _labels(set(places))
    files: list[BillFile] = []
    delivery = -1
    previous: tuple[str, ...] | None = None
    for group, place in zip(groups, places, strict=True):
        previous = None  # the same path given twice is two deliveries
        for system, path in group:
            family = _family(path)
            if family is None or family != previous:
                delivery += 1
            previous = family
            files.append(BillFile(system, path, labels[path], delivery, bills[place]))
    return files


def _family(path: str) -> tuple[str, ...] | None:
    """What parts of one delivery have in common; ``None`` for a file that is no part."""
    name = PurePosixPath(path)
    stem = _PART.sub("#", name.name)
    return (str(name.parent), stem) if stem != name.name else None


def _files_of(place: str) -> list[tuple[fs.FileSystem, str]]:
    system, path = file_system(place)
    shown = _without_secrets(place)
    try:
        info = system.get_file_info(path)
    except (OSError, pa.ArrowException) as error:
        raise BillingError(
            f"cannot be reached: {error}", file=shown, fix="check the address, the credentials and the endpoint"
        ) from error
    if info.type == fs.FileType.File:
        return [(system, path)]
    if info.type == fs.FileType.NotFound:
        raise BillingError("does not exist", file=shown, fix="check the path")
    try:
        inside = system.get_file_info(fs.FileSelector(path, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise BillingError(f"cannot be listed: {error}", file=shown, fix="check the permissions") from error
    found = sorted(i.path for i in inside if i.type == fs.FileType.File and i.size != 0 and _is_bill(i.path, path))
    if not found:
        raise BillingError("holds no bill", file=shown, fix="put .csv, .csv.gz or .parquet files in it")
    return [(system, f) for f in sorted(found, key=lambda f: (_family(f) or (f,), f))]


def _is_bill(path: str, folder: str) -> bool:
    inner = path[len(folder) :].lstrip("/")
    return bool(_BILLS.search(path)) and not _IGNORED.search(inner)


def file_system(place: str) -> tuple[fs.FileSystem, str]:
    """File system and path inside it for a local path or an object-store URL.

    Raises :class:`BillingError` for an unknown kind of URL.
    """
    scheme = urlsplit(place).scheme if "://" in place else ""
    try:
        if scheme == "":
            return fs.LocalFileSystem(), str(Path(place).expanduser().absolute())
        if scheme in ("s3", "s3a"):
            path = place.split("://", 1)[1].rstrip("/")
            return _s3(path.split("/", 1)[0]), path
        if scheme in ("gs", "gcs", "abfs", "abfss", "az", "file"):
            return fs.FileSystem.from_uri(place)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BillingError(
            f"cannot be reached: {error}", file=_without_secrets(place), fix="check the address and the credentials"
        ) from error
    raise BillingError(
        f"{scheme}:// is not read", file=_without_secrets(place), fix="use a path, or s3://, gs:// or abfs://"
    )


def _s3(bucket: str) -> fs.S3FileSystem:
    """S3 with the environment's credentials; AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL names another store."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not endpoint:
        return fs.S3FileSystem(region=region or fs.resolve_s3_region(bucket))
    parts = urlsplit(endpoint)
    return fs.S3FileSystem(
        endpoint_override=parts.netloc or parts.path, scheme=parts.scheme or "https", region=region or "us-east-1"
    )


def _without_secrets(place: str) -> str:
    """A URL without user, password and query."""
    if "://" not in place:
        return place
    parts = urlsplit(place)
    return f"{parts.scheme}://{parts.netloc.rsplit('@', 1)[-1] if parts.password else parts.netloc}{parts.path}"


def _labels(paths: set[str]) -> dict[str, str]:
    """Short labels, distinct for distinct paths: the shortest tail that tells them apart."""
    depth = 1
    while True:
        label = {p: "/".join(PurePosixPath(p.replace("\\", "/")).parts[-depth:]).lstrip("/") for p in paths}
        if len(set(label.values())) == len(paths) or depth > 64:
            return label
        depth += 1
