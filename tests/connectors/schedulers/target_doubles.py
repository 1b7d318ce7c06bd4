"""An HTTP server on loopback that a test double's answers come from, with the faults a network has."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

Reply = tuple[int, Any, dict[str, str]]


@dataclass
class Call:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Double:
    """One outside system. ``faults`` are used up one per call: 'before', 'lost', 'garbage' or a whole reply."""

    calls: list[Call] = field(default_factory=list)
    faults: list[Any] = field(default_factory=list)
    writes_only: bool = False
    """Faults wait for a call that is not a read."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, call: Call) -> Reply:
        raise NotImplementedError

    def state(self) -> Any:
        """Everything that people outside would see."""
        raise NotImplementedError

    def is_write(self, call: Call) -> bool:
        return call.method != "GET"

    def snapshot(self) -> Any:
        with self.lock:
            return copy.deepcopy(self.state())

    @contextmanager
    def serve(self) -> Iterator[str]:
        double = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def respond(self) -> None:
                url = urlsplit(self.path)
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                query = dict(parse_qsl(url.query, keep_blank_values=True))
                sent = {k.lower(): v for k, v in self.headers.items()}
                call = Call(self.command, url.path, query, sent, json.loads(raw) if raw else None)
                with double.lock:
                    double.calls.append(call)
                    due = double.faults and (not double.writes_only or double.is_write(call))
                    fault = double.faults.pop(0) if due else None
                    if fault == "before":
                        self.close()
                        return
                    status, body, headers = fault if isinstance(fault, tuple) else double.answer(call)
                if fault == "lost":
                    self.close()
                    return
                text = b"<html>not what you wanted" if fault == "garbage" else _bytes(body)
                self.send_response_only(status)
                for name, value in {
                    "Date": self.date_time_string(),
                    "Content-Length": str(len(text)),
                    **headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            def close(self) -> None:
                self.close_connection = True

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = respond

        class Server(ThreadingHTTPServer):
            def handle_error(self, *args: Any) -> None:
                """Who hung up before the answer is not our fault."""

        server = Server(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _bytes(body: Any) -> bytes:
    if body is None:
        return b""
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()
