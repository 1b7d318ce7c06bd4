"""Reading ahead: one batch is parsed while the one before it is worked on.

Belongs here: the thread, and its orderly end when the consumer stops early.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

T = TypeVar("T")
_END = object()


class _Worker(Generic[T]):
    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._items = items
        self._queue: Queue[object] = Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bill-reader")
        self._thread.start()

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    break
            else:
                self._put(_END)
        except BaseException as error:  # noqa: BLE001 - handed over to the consumer, who raises it
            self._put(_Failure(error))
        finally:
            if isinstance(self._items, Generator):
                self._items.close()

    def _put(self, item: object) -> bool:
        # No daemon: a thread inside Arrow must not be cut off at exit. So it watches for the end itself.
        while not self._stop.is_set() and threading.main_thread().is_alive():
            try:
                self._queue.put(item, timeout=0.1)
            except Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[T]:
        while True:
            item = self._next()
            if item is _END:
                return
            if isinstance(item, _Failure):
                raise item.error
            yield item  # ty: ignore[invalid-yield]

    def _next(self) -> object:
        # The consumer may be a thread of its own that outlives the producer when the process ends (Ctrl-C).
        while True:
            alive = self._thread.is_alive()
            try:
                return self._queue.get(timeout=0.1)
            except Empty:
                if not alive:
                    raise RuntimeError("reading ended before the last batch: the process is ending") from None

    def close(self) -> None:
        self._stop.set()
        while True:
            try:
                self._queue.get_nowait()
            except Empty:
                break
        self._thread.join()


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def read_ahead(items: Iterator[T], depth: int = 1) -> Iterator[T]:
    """The same items, produced in a thread of their own, at most ``depth`` ahead; errors arrive in their place."""
    with closing(_Worker(items, depth)) as worker:
        yield from worker
