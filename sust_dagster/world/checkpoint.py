"""Checkpoints: the size and root of a log, signed, in files that may lie in another repository.

Belongs here: the text of a checkpoint (C2SP tlog-checkpoint), the signed note around it (C2SP signed-note, Ed25519),
keys, and the folder of checkpoints. Does not belong here: the tree (``merkle``), what the log holds and whether a
checkpoint may be signed (``transparency``).

A checkpoint as it lies in its file::

    sust.local/5f1c0a9b2d3e
    1234
    bYOt6wTsVQ3Ju5EdS9bmOPwSyMWrnKXEzqdnj6rcUGI=

    — sust.local/5f1c0a9b2d3e <base64 of key id and signature>

One file per checkpoint, named by its size: a file that is there is whole and is never written again, any tool that
reads signed notes reads it, and a version control system shows a new one as an added file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sust_dagster.world.merkle import SIZE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

#: Name of the private key's file in the project folder, and of the public key's beside the checkpoints.
KEY_FILE, VERIFIER_FILE = "log.key", "log.vkey"
#: Ending of a checkpoint's file.
SUFFIX = ".checkpoint"

_ED25519 = b"\x01"
_NAME = re.compile(r"[^\s+\x00-\x1f\x7f]+")
_SIGNATURE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/=]+)")


class CheckpointError(ValueError):
    """A key, a note or a checkpoint is not what it must be; the message names the file and what would mend it."""


# -- keys ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verifier:
    """A public key with its name: ``str()`` gives the C2SP form ``name+hash+key`` ("vkey")."""

    name: str
    public_key: bytes

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise CheckpointError(f"'{self.name}' is no name of a key: it has text, no space and no '+'")
        if len(self.public_key) != 32:
            raise CheckpointError(f"an Ed25519 public key has 32 bytes, this one {len(self.public_key)}")

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """The key of a vkey; raises :class:`CheckpointError` when its parts do not belong together."""
        name, hashed, key = _parts(vkey, 3)
        made = cls(name, key)
        if hashed != made.key_id.hex():
            raise CheckpointError(f"the vkey of {name} carries the hash {hashed}, its key has {made.key_id.hex()}")
        return made

    @cached_property
    def key_id(self) -> bytes:
        """First 4 bytes of SHA-256 over name, newline, algorithm and key."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public_key).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{_base64(_ED25519 + self.public_key)}"

    def accepts(self, text: str, signature: bytes) -> bool:
        """Whether the signature (64 bytes) is this key's over the text."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, text.encode())
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, repr=False)
class Signer:
    """A private key with its name. ``text`` is the form it is kept in, that of Go's ``sumdb/note``."""

    name: str
    seed: bytes

    @classmethod
    def generate(cls, origin: str = "") -> Self:
        """A new key. Without a name it is called by its own hash, so that no two logs share one."""
        seed = secrets.token_bytes(32)
        return cls(origin or f"sust.local/{hashlib.sha256(_public(seed)).hexdigest()[:12]}", seed)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key of its text; raises :class:`CheckpointError`, which never shows the key."""
        name, hashed, seed = _parts(text.strip().removeprefix("PRIVATE+KEY+"), 3)
        made = cls(name, seed)
        if hashed != made.verifier.key_id.hex():
            raise CheckpointError(f"the private key of {name} does not belong to its hash {hashed}")
        return made

    @cached_property
    def verifier(self) -> Verifier:
        return Verifier(self.name, _public(self.seed))

    def text(self) -> str:
        return f"PRIVATE+KEY+{self.name}+{self.verifier.key_id.hex()}+{_base64(_ED25519 + self.seed)}"

    def sign(self, text: str) -> str:
        """The signed note of a text, which must end with a newline."""
        _check_text(text)
        signature = _private(self.seed).sign(text.encode())
        return f"{text}\n— {self.name} {_base64(self.verifier.key_id + signature)}\n"

    def __repr__(self) -> str:
        return f"Signer({self.name})"


def load_signer(path: Path, *, origin: str = "", keep_out_of: Sequence[str | Path] = ()) -> Signer:
    """The key in ``path``, made on first use, readable by its owner alone.

    ``origin`` names a new key (and with it the log); ``keep_out_of`` are places that others read, such as the lake.
    Raises :class:`CheckpointError` when the file lies in one of them or others may read it.
    """
    path = path.absolute()
    for place in keep_out_of:
        if "://" not in str(place) and path.resolve().is_relative_to(Path(place).resolve()):
            raise CheckpointError(f"{path} would lie in {place}, which others read: keep the key in the project folder")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        _write_new(temporary, Signer.generate(origin).text() + "\n", mode=0o600)
        _publish(temporary, path)
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise CheckpointError(f"others may read the key {path}: `chmod 600` it, and change it if they may have")
    return Signer.parse(path.read_text())


# -- notes --------------------------------------------------------------------------------------------------


def open_note(note: str, verifier: Verifier) -> str:
    """The text of a signed note, newline included.

    Signatures of other keys are passed over. Raises :class:`CheckpointError` when the note is malformed, or when the
    key has not signed it.
    """
    text, separator, tail = note.rpartition("\n\n")
    text += "\n"
    if not separator or not tail.endswith("\n"):
        raise CheckpointError("this is no signed note: a text, an empty line and signature lines")
    _check_text(text)
    signed = False
    for line in tail.removesuffix("\n").split("\n"):
        found = _SIGNATURE.fullmatch(line)
        if not found:
            raise CheckpointError(f"this is no signature line of a signed note: {line[:60]!r}")
        body = _unbase64(found[2])
        if found[1] != verifier.name or body[:4] != verifier.key_id:
            continue
        if len(body) != 68 or not verifier.accepts(text, body[4:]):
            raise CheckpointError(f"the signature of {verifier.name} does not fit the note: it was changed")
        signed = True
    if not signed:
        raise CheckpointError(f"the note is not signed by {verifier.name}+{verifier.key_id.hex()}")
    return text


@dataclass(frozen=True)
class Checkpoint:
    """A log's name, its number of leaves and their root (32 bytes)."""

    origin: str
    size: int
    root: bytes

    def body(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The checkpoint of a body; lines after the third are extensions, which this log writes none of."""
        lines = text.split("\n")
        if len(lines) < 4 or not all(lines[:-1]) or lines[-1]:
            raise CheckpointError("a checkpoint is three lines and more, none of them empty: origin, size, root")
        if not re.fullmatch(r"0|[1-9][0-9]{0,18}", lines[1]):
            raise CheckpointError(f"the size of a checkpoint is a decimal number, not {lines[1][:30]!r}")
        root = _unbase64(lines[2])
        if len(root) != SIZE:
            raise CheckpointError(f"the root of a checkpoint has {SIZE} bytes, this one {len(root)}")
        return cls(lines[0], int(lines[1]), root)


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer) -> str:
    """The signed note of a checkpoint of the signer's own log."""
    if checkpoint.origin != signer.name:
        raise CheckpointError(f"the key of {signer.name} does not sign for the log {checkpoint.origin}")
    return signer.sign(checkpoint.body())


def open_checkpoint(note: str, verifier: Verifier) -> Checkpoint:
    """The checkpoint of a signed note; raises :class:`CheckpointError` unless the key signed it for its own log."""
    checkpoint = Checkpoint.parse(open_note(note, verifier))
    if checkpoint.origin != verifier.name:
        raise CheckpointError(f"the checkpoint is of the log {checkpoint.origin}, not of {verifier.name}")
    return checkpoint


# -- the folder ---------------------------------------------------------------------------------------------


def checkpoint_file(folder: Path, size: int) -> Path:
    """Where the checkpoint of a size lies; names sort as sizes do."""
    return folder / f"{size:012d}{SUFFIX}"


def read_checkpoints(folder: Path, verifier: Verifier) -> list[Checkpoint]:
    """Every checkpoint of a folder, smallest first; none where there is no folder.

    Raises :class:`CheckpointError`, naming the file, when one is not signed by the key or is not of the size in its
    name.
    """
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            checkpoint = open_checkpoint(path.read_bytes().decode(), verifier)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
        if path != checkpoint_file(folder, checkpoint.size):
            raise CheckpointError(f"{path}: it is a checkpoint of {checkpoint.size} leaves under another name")
        found.append(checkpoint)
    return sorted(found, key=lambda c: c.size)


def write_checkpoint(folder: Path, checkpoint: Checkpoint, signer: Signer) -> Path:
    """Sign a checkpoint into its file, and put the public key beside it.

    The file of a size is written once: one that is there must hold the same checkpoint. Raises
    :class:`CheckpointError` otherwise. Whether the log may be signed for at all is ``transparency``'s to say.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vkey = folder / VERIFIER_FILE
    path = checkpoint_file(folder, checkpoint.size)
    for target, text in ((vkey, f"{signer.verifier}\n"), (path, sign_checkpoint(checkpoint, signer))):
        if not target.exists():
            temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
            _write_new(temporary, text, mode=0o644)
            _publish(temporary, target)
    if vkey.read_text().strip() != str(signer.verifier):
        raise CheckpointError(f"{vkey} holds another key: give the checkpoints of another key a folder of their own")
    if open_checkpoint(path.read_bytes().decode(), signer.verifier) != checkpoint:
        raise CheckpointError(f"{path} holds another root for {checkpoint.size} leaves: the log was rewritten")
    return path


# -- helpers ------------------------------------------------------------------------------------------------


def _private(seed: bytes) -> Ed25519PrivateKey:
    # Imported late: every process opens the world, few sign or check a signature.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed)


def _public(seed: bytes) -> bytes:
    return _private(seed).public_key().public_bytes_raw()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unbase64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise CheckpointError(f"no base64: {error}") from error
    if _base64(data) != text:
        raise CheckpointError("base64 with bits left over: it would read the same with another text")
    return data


def _parts(text: str, count: int) -> tuple[str, str, bytes]:
    """Name, hash and key of a key's text; the base64 of the key may hold a '+' itself."""
    parts = text.split("+", count - 1)
    if len(parts) != count or not re.fullmatch(r"[0-9a-f]{8}", parts[1]):
        raise CheckpointError("a key is written name+hash+key, the hash in 8 hexadecimal digits")
    data = _unbase64(parts[2])
    if data[:1] != _ED25519 or len(data) != 33:
        raise CheckpointError(f"the key of {parts[0]} is no Ed25519 key")
    return parts[0], parts[1], data[1:]


def _check_text(text: str) -> None:
    if not text.endswith("\n") or any((c < " " and c != "\n") or c == "\x7f" for c in text):
        raise CheckpointError("the text of a note ends with a newline and holds no other control character")


def _write_new(path: Path, text: str, *, mode: int) -> None:
    """Write a file that is not there yet, with its mode from its first moment, through to the disk."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(text.encode())
        stream.flush()
        os.fsync(stream.fileno())


def _publish(temporary: Path, path: Path) -> None:
    """Give a whole file its name, unless another process was first."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink(missing_ok=True)
