"""The contract of all targets and the server their doubles answer from lie beside the schedulers' tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "schedulers"))
