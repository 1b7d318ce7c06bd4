"""Text of bills as UTF-8, whatever the file's encoding, with undecodable bytes marked.

Belongs here: byte-order marks, UTF-16, invalid bytes. The mark is a sequence that no bill holds, so that the rows
with invalid bytes can be found after parsing and quarantined one by one.
"""

from __future__ import annotations

import codecs
import io
from typing import Protocol

#: Stands for undecodable bytes: a replacement character followed by a private-use one.
INVALID = "\ufffd\ue0ff"

codecs.register_error("sust-mark", lambda error: (INVALID, getattr(error, "end", 0)))


class ByteReader(Protocol):
    """What gives bytes: files, Arrow streams."""

    def read(self, size: int = -1, /) -> bytes: ...

    def close(self) -> None: ...


def sniff_encoding(head: bytes) -> tuple[str, int]:
    """Encoding of a text file by its first bytes, and the length of its byte-order mark."""
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if head.startswith(mark):
            return name, len(mark)
    return "utf-8", 0


class Utf8Stream(io.RawIOBase):
    """A stream of UTF-8 bytes over a stream in another encoding, or in UTF-8 with faults."""

    def __init__(self, source: ByteReader, encoding: str, head: bytes = b"") -> None:
        self._source = source
        self._head = head
        self._decoder = codecs.getincrementaldecoder(encoding)("sust-mark")
        self._utf8 = encoding == "utf-8"
        self._pending = b""
        #: Whether any byte could not be decoded so far.
        self.faulty = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """About ``size`` bytes (never none before the end); more where decoding widens them."""
        while True:
            chunk = self._head or self._source.read(size)
            self._head = b""
            final = not chunk
            if self._utf8 and not self._pending and chunk.isascii():
                return chunk
            text = self._decoder.decode(chunk, final)
            self._pending = self._decoder.getstate()[0]
            if INVALID in text:
                self.faulty = True
            if text or final:
                return text.encode("utf-8")

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()
