"""The policy as a file people edit (TOML, commented), and what differs between two policies.

Belongs here: writing and reading the file, the list of differences. The fields and their meaning are in ``policy``;
comments come from there.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from sust_dagster.agents.governance.contradictions import check_policy
from sust_dagster.agents.governance.policy import Policy, PolicyError, read_policy

_HEAD = "# Policy of this project. Every field must be there; nothing else may. docs/governance.md explains them."


@dataclass(frozen=True)
class Change:
    """One field that differs: where, and both values (``None`` where there is none)."""

    field: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.field}: {_shown(self.before)} → {_shown(self.after)}"


def read_policy_file(text: str, regions: Collection[str] | None = None) -> Policy:
    """The policy of a file's text. Raises :class:`PolicyError` naming every field and contradiction at fault.

    ``regions``: the regions there are, to find misspelt ones.
    """
    try:
        document = json.dumps(tomllib.loads(text), allow_nan=False)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError([f"it is no TOML: {error}"]) from error
    except (TypeError, ValueError) as error:
        raise PolicyError([f"it holds a value no policy has: {error}"]) from error
    policy = read_policy(document)
    check_policy(policy, regions)
    return policy


def write_policy_file(policy: Policy, note: str = "") -> str:
    """The file of a policy, each field with its meaning; reading it gives the same policy."""
    lines = [_HEAD, *([f"# {note}"] if note else []), ""]
    lines += _fields(policy)
    for name in type(policy).model_fields:
        part = getattr(policy, name)
        if isinstance(part, BaseModel):
            lines += ["", f"# {_meaning(type(part))}", *_section(name, part)]
    return "\n".join(_said_once(lines)) + "\n"


def differences(before: Policy | None, after: Policy) -> list[Change]:
    """Fields that differ, in the order of the document; all of them where there is no ``before``."""
    old = {} if before is None else _flat(before.model_dump(mode="json"))
    new = _flat(after.model_dump(mode="json"))
    fields = [*new, *(f for f in old if f not in new)]
    return [Change(f, old.get(f), new.get(f)) for f in fields if old.get(f) != new.get(f)]


def _said_once(lines: list[str]) -> list[str]:
    """The lines without comments that were there before."""
    return [line for i, line in enumerate(lines) if not line.startswith("#") or line not in lines[:i]]


def _section(name: str, part: BaseModel) -> list[str]:
    lines = [f"[{name}]", *_fields(part)]
    for key in type(part).model_fields:
        value = getattr(part, key)
        if isinstance(value, BaseModel):
            lines += ["", f"# {_meaning(type(value))}", *_section(f"{name}.{key}", value)]
        elif isinstance(value, dict):
            lines += ["", f"# {_described(part, key)}", f"[{name}.{key}]"]
            lines += [f"{_scalar(k)} = {_scalar(list(v))}" for k, v in value.items()]
        elif _of_models(value):
            for item in value:
                lines += ["", f"[[{name}.{key}]]", *(f"{k} = {_scalar(v)}" for k, v in item.model_dump().items())]
    return lines


def _fields(part: BaseModel) -> list[str]:
    """Lines of the plain fields: the meaning above, then the value."""
    lines = []
    for key in type(part).model_fields:
        value = getattr(part, key)
        if isinstance(value, BaseModel | dict):
            continue
        lines.append(f"# {_described(part, key)}")
        if not _of_models(value):
            lines.append(f"{key} = {_scalar(value)}")
    return lines


def _of_models(value: Any) -> bool:
    """A list of tables, which TOML writes as sections of their own."""
    return isinstance(value, tuple) and any(isinstance(v, BaseModel) for v in value)


def _described(part: BaseModel, key: str) -> str:
    return str(type(part).model_fields[key].description)


def _meaning(kind: type[BaseModel]) -> str:
    return str(kind.__doc__).strip().splitlines()[0]


def _scalar(value: Any) -> str:
    """A text, number, flag or list of them: JSON and TOML write these alike."""
    return json.dumps(value, ensure_ascii=False)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Leaves by dotted path; a list is a leaf."""
    if isinstance(value, Mapping) and value:
        return {k: v for name, part in value.items() for k, v in _flat(part, f"{path}.{name}".lstrip(".")).items()}
    return {path: value}


def _shown(value: Any) -> str:
    return "nothing" if value is None else _scalar(value)
