"""`sust ui`: the Dagster UI and daemon of a project, on loopback.

Belongs here: starting Dagster's own programs with the project's instance and stopping them together.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from sust_dagster.settings import PROJECT_VARIABLE, Project

WORKSPACE = Path(__file__).parents[2] / "workspace.yaml"


def serve(project: Project, port: int, *, read_only: bool = False) -> int:
    """Run the UI until it is stopped; returns its exit code.

    Raises ``ValueError`` when the port is taken: Dagster would answer from whatever is there.
    """
    from sust_dagster.faces.runs import EVENT_SWITCHES, instance_folder

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ValueError(f"port {port} on 127.0.0.1 is taken; give another with --port") from error
    home = instance_folder(project)
    _skip_newsletter(home)
    environment = {
        **EVENT_SWITCHES,
        **os.environ,
        "DAGSTER_HOME": str(home),
        PROJECT_VARIABLE: str(project.root),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    here = Path(sys.executable).parent
    address = ["-h", "127.0.0.1", "-p", str(port), "-w", str(WORKSPACE)]
    if read_only:
        command = [str(here / "dagster-webserver"), "--read-only", *address]
    else:
        command = [str(here / "dagster"), "dev", *address]
    # A shell that ignores SIGINT hands that on, and then nothing short of -9 stops the server.
    child = subprocess.Popen(command, env=environment, preexec_fn=_default_signals)  # noqa: PLW1509
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.send_signal(signal.SIGINT)
        return child.wait()


def _skip_newsletter(home: Path) -> None:
    """Dagster's first page asks for an e-mail address unless this file says that it has asked before."""
    seen = home / ".nux" / "nux.yaml"
    seen.parent.mkdir(exist_ok=True)
    seen.write_text("seen: 1\n")


def _default_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
