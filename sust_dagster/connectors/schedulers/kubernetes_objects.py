"""CronJobs as plain objects: quantities, the fields a manager owns, and pieces of an object by path.

Belongs here: reading and building the JSON that the Kubernetes API takes. Does not belong here: calls to it, and what
a plan wants changed (``kubernetes``).

A path is a tuple of keys; a step into a list of named things is ``("name", value)`` as in ``containers``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from typing import Any

Step = str | tuple[str, str]
Path = tuple[Step, ...]

_QUANTITY = re.compile(r"^(\d+(?:\.\d+)?|\.\d+)(n|u|m|k|M|)$")
_UNITS = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1), "k": Decimal(1000),
          "M": Decimal(1000000)}  # fmt: skip


def cores(quantity: str | float) -> Decimal:
    """CPU cores of a quantity such as ``500m``; raises ``ValueError``."""
    found = _QUANTITY.match(str(quantity))
    if found is None:
        raise ValueError(f"{quantity!r} is no CPU quantity")
    return Decimal(found[1]) * _UNITS[found[2]]


def millicores(value: Decimal) -> str:
    """The quantity, rounded up to the millicore, which is the finest the API takes."""
    milli = int((value * 1000).to_integral_value(ROUND_CEILING))
    return str(milli // 1000) if milli % 1000 == 0 else f"{milli}m"


def get(node: Any, path: Path) -> Any:
    """What stands at a path; None where nothing does."""
    for step in path:
        if isinstance(step, tuple):
            key, value = step
            node = next((item for item in node or () if item.get(key) == value), None)
        else:
            node = node.get(step) if isinstance(node, Mapping) else None
        if node is None:
            return None
    return node


def put(node: Any, path: Path, value: Any) -> None:
    """Set what stands at a path, making what leads to it."""
    head, rest = path[0], path[1:]
    if isinstance(head, tuple):
        if not any(item.get(head[0]) == head[1] for item in node):
            node.append({head[0]: head[1]})
        put(get(node, (head,)), rest, value)
    elif rest:
        put(node.setdefault(head, [] if isinstance(rest[0], tuple) else {}), rest, value)
    else:
        node[head] = value


def text_of(path: Path) -> str:
    """A path as people read it."""
    out = ""
    for step in path:
        if isinstance(step, tuple):
            out += f"[{step[1]}]"
        elif "." in step or "/" in step:
            out += f"[{step}]"
        else:
            out += f".{step}" if out else step
    return out


def owned(found: Mapping[str, Any], manager: str) -> tuple[Path, ...]:
    """Leaves that ``manager`` owns by server-side apply, as the object's ``managedFields`` say."""
    paths: list[Path] = []
    for entry in found.get("metadata", {}).get("managedFields") or ():
        if entry.get("manager") == manager and entry.get("operation") == "Apply":
            paths += _leaves(entry.get("fieldsV1") or {}, ())
    return tuple(paths)


def _leaves(fields: Mapping[str, Any], at: Path) -> Iterator[Path]:
    inner = {k: v for k, v in fields.items() if k != "."}
    if not inner:
        if at and not isinstance(at[-1], tuple):
            yield at
        return
    for key, below in inner.items():
        kind, _, name = key.partition(":")
        if kind == "f":
            yield from _leaves(below or {}, (*at, name))
        elif kind == "k":
            keys = re.findall(r'"(\w+)":"([^"]*)"', name)
            if len(keys) == 1:
                if keys[0][0] == "name" and set(below or {}) <= {".", "f:name"}:
                    continue
                yield from (
                    p for p in _leaves(below or {}, (*at, keys[0])) if not (p[-1] == keys[0][0] and p[-2] == keys[0])
                )


def build(values: Sequence[tuple[Path, Any]]) -> dict[str, Any]:
    """The object that holds these values and nothing else; None leaves its path out."""
    node: dict[str, Any] = {}
    for path, value in values:
        if value is not None:
            put(node, path, value)
    return node
