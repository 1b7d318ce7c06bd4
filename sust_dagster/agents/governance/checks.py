"""Named conditions that must each be true.

Belongs here: asking them so that whatever goes wrong counts as no. Does not belong here: the conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

Case = TypeVar("Case")

#: True, or why not.
Answer = bool | str


@dataclass(frozen=True)
class Check:
    """One named condition and whether it is true; ``why`` says why it is not."""

    name: str
    ok: bool
    why: str = ""


def ask(checks: Mapping[str, Callable[[Case], Answer]], case: Case) -> tuple[Check, ...]:
    """Every check of a case, in order. Anything but ``True``, an exception included, is no."""
    return tuple(_ask(name, check, case) for name, check in checks.items())


def _ask(name: str, check: Callable[[Case], Answer], case: Case) -> Check:
    try:
        answer = check(case)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong, the answer is no
        return Check(name, False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return Check(name, True) if answer is True else Check(name, False, str(answer))
