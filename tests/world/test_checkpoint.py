"""Signed checkpoints: the published vectors, keys on disk, and that nothing changed or misplaced passes."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sust_dagster.world.checkpoint import (
    KEY_FILE,
    VERIFIER_FILE,
    Checkpoint,
    CheckpointError,
    Signer,
    Verifier,
    checkpoint_file,
    load_signer,
    open_checkpoint,
    open_note,
    read_checkpoints,
    sign_checkpoint,
    write_checkpoint,
)

# Published with golang.org/x/mod/sumdb/note.
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_KEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
GO_NOTE = f"{GO_TEXT}\n{GO_LINE}"

# Published with the C2SP specification of signed notes.
SPEC_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_NOTE = (
    "This is an example message.\n\n— example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)

SIGNER = Signer("log.example/1", bytes(range(32)))
ROOT = hashlib.sha256(b"root").digest()
CHECKPOINT = Checkpoint("log.example/1", 1234, ROOT)


def test_the_published_notes_verify() -> None:
    assert open_note(GO_NOTE, Verifier.parse(GO_VKEY)) == GO_TEXT
    assert open_note(SPEC_NOTE, Verifier.parse(SPEC_VKEY)) == "This is an example message.\n"


def test_the_published_key_signs_the_published_note() -> None:
    signer = Signer.parse(GO_KEY)
    assert (str(signer.verifier), signer.text()) == (GO_VKEY, GO_KEY)
    assert signer.sign(GO_TEXT) == GO_NOTE


def test_any_change_of_a_note_fails() -> None:
    """Every byte of text and signature; a changed name or key id is another key's signature, and is not enough."""
    verifier, raw = Verifier.parse(GO_VKEY), GO_NOTE.encode()
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 1
        with pytest.raises(ValueError):  # bytes that are no text fail as such
            open_note(changed.decode(), verifier)


def test_any_change_of_a_vkey_fails() -> None:
    for vkey in (GO_VKEY, SPEC_VKEY):
        for at in range(len(vkey)):
            for other in "Az9+ ":
                changed = vkey[:at] + other + vkey[at + 1 :]
                if changed != vkey:
                    with pytest.raises(CheckpointError):
                        Verifier.parse(changed)
            with pytest.raises(CheckpointError):
                Verifier.parse(vkey[:at])


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n",
        GO_TEXT,
        GO_TEXT + "\n",
        GO_TEXT + GO_LINE,
        GO_NOTE.removesuffix("\n"),
        GO_NOTE + "\n",
        GO_NOTE.replace("— ", "- "),
        GO_NOTE.replace("know", "kn\tow"),
        GO_NOTE + "— somebody\n",
        GO_NOTE + "— somebody bm8gYmFzZTY\n",
        GO_NOTE.replace("\n\n", "\r\n\r\n"),
    ],
)
def test_a_malformed_note_is_refused(note: str) -> None:
    with pytest.raises(CheckpointError):
        open_note(note, Verifier.parse(GO_VKEY))


def test_a_witness_may_sign_too_and_alone_is_not_enough() -> None:
    note = sign_checkpoint(CHECKPOINT, SIGNER)
    witness = Signer("witness.example", bytes(32))
    line = witness.sign(CHECKPOINT.body()).split("\n\n")[1]
    assert open_checkpoint(note + line, SIGNER.verifier) == CHECKPOINT
    assert open_note(note + line, witness.verifier) == CHECKPOINT.body()
    with pytest.raises(CheckpointError, match="not signed by log"):
        open_checkpoint(witness.sign(CHECKPOINT.body()), SIGNER.verifier)
    namesake = Signer("log.example/1", bytes(32))
    with pytest.raises(CheckpointError, match="not signed by log"):
        open_checkpoint(sign_checkpoint(CHECKPOINT, namesake), SIGNER.verifier)


def test_the_body_of_a_checkpoint() -> None:
    note = sign_checkpoint(CHECKPOINT, SIGNER)
    assert note.startswith(f"log.example/1\n1234\n{base64.b64encode(ROOT).decode()}\n\n— log.example/1 ")
    assert open_checkpoint(note, SIGNER.verifier) == CHECKPOINT
    extended = SIGNER.sign(CHECKPOINT.body() + "an extension\n")
    assert open_checkpoint(extended, SIGNER.verifier) == CHECKPOINT
    with pytest.raises(CheckpointError, match="does not sign for the log elsewhere"):
        sign_checkpoint(Checkpoint("elsewhere", 1, ROOT), SIGNER)
    with pytest.raises(CheckpointError, match="is of the log elsewhere"):
        open_checkpoint(SIGNER.sign(Checkpoint("elsewhere", 1, ROOT).body()), SIGNER.verifier)


@pytest.mark.parametrize(
    "body",
    [
        "o\n1\n",
        f"o\n01\n{base64.b64encode(ROOT).decode()}\n",
        f"o\n-1\n{base64.b64encode(ROOT).decode()}\n",
        f"o\n1.0\n{base64.b64encode(ROOT).decode()}\n",
        f"o\n1\n{base64.b64encode(ROOT[:31]).decode()}\n",
        f"o\n1\n{base64.b64encode(ROOT).decode().removesuffix('=')}\n",
        f"\n1\n{base64.b64encode(ROOT).decode()}\n",
        f"o\n1\n{base64.b64encode(ROOT).decode()}\n\nx\n",
        f"o\n1\n{base64.b64encode(ROOT).decode()}",
    ],
)
def test_a_malformed_checkpoint_is_refused(body: str) -> None:
    with pytest.raises(CheckpointError):
        Checkpoint.parse(body)


@given(st.integers(0, 2**60), st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_what_is_signed_is_read_back(size: int, root: bytes, seed: bytes) -> None:
    signer = Signer("a/b", seed)
    made = Checkpoint("a/b", size, root)
    assert open_checkpoint(sign_checkpoint(made, signer), Verifier.parse(str(signer.verifier))) == made
    assert Signer.parse(signer.text()) == signer


# -- keys on disk -------------------------------------------------------------------------------------------


def test_a_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "project" / KEY_FILE
    before = os.umask(0)
    try:
        made = load_signer(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_signer(path, origin="ignored once it is there") == made
    assert made.name.startswith("sust.local/") and load_signer(tmp_path / "other").name != made.name
    assert load_signer(tmp_path / "named", origin="example.com/log").name == "example.com/log"
    assert [p.name for p in path.parent.iterdir()] == [KEY_FILE]
    assert base64.b64encode(made.seed).decode() not in repr(made)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / KEY_FILE
    load_signer(path)
    path.chmod(0o640)
    with pytest.raises(CheckpointError, match="chmod 600"):
        load_signer(path)


def test_a_key_is_kept_out_of_the_lake(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    with pytest.raises(CheckpointError, match="would lie in"):
        load_signer(lake / "deep" / KEY_FILE, keep_out_of=[lake])
    assert not lake.exists()
    load_signer(tmp_path / KEY_FILE, keep_out_of=[lake, "s3://bucket/lake"])


def test_a_spoilt_key_is_refused_and_not_shown(tmp_path: Path) -> None:
    path = tmp_path / KEY_FILE
    secret = base64.b64encode(load_signer(path, origin="a").seed).decode()
    for text in (path.read_text().replace("+a+", "+b+"), path.read_text()[:-3], "", "PRIVATE+KEY+a+00000000+AQ=="):
        path.write_text(text)
        with pytest.raises(CheckpointError) as refusal:
            load_signer(path)
        assert secret[:20] not in str(refusal.value)


# -- the folder ---------------------------------------------------------------------------------------------


def test_checkpoints_lie_in_their_folder_with_the_public_key(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere" / "checkpoints"
    assert read_checkpoints(folder, SIGNER.verifier) == []
    made = [Checkpoint(SIGNER.name, size, hashlib.sha256(bytes([size])).digest()) for size in (5, 40, 200)]
    for checkpoint in reversed(made):
        path = write_checkpoint(folder, checkpoint, SIGNER)
        assert path == checkpoint_file(folder, checkpoint.size)
        assert write_checkpoint(folder, checkpoint, SIGNER) == path
    assert read_checkpoints(folder, Verifier.parse((folder / VERIFIER_FILE).read_text().strip())) == made
    assert len(list(folder.iterdir())) == 4, "nothing half-written is left"


def test_a_folder_holds_one_key_and_one_root_per_size(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, CHECKPOINT, SIGNER)
    with pytest.raises(CheckpointError, match="holds another root for 1234 leaves"):
        write_checkpoint(tmp_path, Checkpoint(SIGNER.name, 1234, bytes(32)), SIGNER)
    other = Signer("another", bytes(32))
    with pytest.raises(CheckpointError, match="holds another key"):
        write_checkpoint(tmp_path, Checkpoint("another", 1, ROOT), other)


def test_several_threads_that_sign_at_once_write_one_file(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda _: write_checkpoint(tmp_path, CHECKPOINT, SIGNER), range(64)))
    assert len(set(written)) == 1 and read_checkpoints(tmp_path, SIGNER.verifier) == [CHECKPOINT]
    assert len(list(tmp_path.iterdir())) == 2, "the checkpoint and the public key, and nothing left over"


def test_a_changed_or_renamed_file_is_named(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, CHECKPOINT, SIGNER)
    good = path.read_text()
    path.write_text(good.replace("1234", "1235"))
    with pytest.raises(CheckpointError, match=rf"{path.name}: the signature of log.example/1 does not fit"):
        read_checkpoints(tmp_path, SIGNER.verifier)
    path.write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=path.name):
        read_checkpoints(tmp_path, SIGNER.verifier)
    path.write_text(good)
    path.rename(checkpoint_file(tmp_path, 9))
    with pytest.raises(CheckpointError, match="under another name"):
        read_checkpoints(tmp_path, SIGNER.verifier)
