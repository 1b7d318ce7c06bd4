"""A value in a file replaced where it stands: what an edit is, and what becomes of the comment beside it.

Belongs here: the edit as a value, the splice, the rule for comments that quote what was changed, refusals that name
file, line and fix. Does not belong here: where a value stands in a language (``yaml_edits``, ``hcl_edits``), what it
should become (``changes``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sust_dagster.connectors.targets import TargetRefused

#: Comment that names the workload a line belongs to.
MARKER = re.compile(r"#\s*sust:\s*(?P<workload>\S+)")
#: Words by which a comment speaks of what was: putting the new value there would make it a lie.
_PAST_BEFORE = r"\b(?:was|were|before|previously|formerly|used to be|until|since|originally|from)\W+(?:\w+\W+)?"


@dataclass(frozen=True)
class Edit:
    """One file's text before and after a change of one value."""

    file: str
    before: str
    after: str
    line: int
    """Line of the value, from 1."""
    old: str
    new: str
    stale: tuple[str, ...] = ()
    """Comments that speak of figures and were left as they are: people should look at them."""


def refused(reason: str, file: str, line: int | None, text: str, fix: str) -> TargetRefused:
    """A refusal that says where and what to do."""
    where = f"{file}, line {line}" if line is not None else file
    return TargetRefused(reason, f"{where}: {text}; {fix}")


def text_of(raw: bytes, file: str) -> str:
    """The text of a file, its byte order mark and line ends included."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise refused("unreadable_file", file, line, "the file is not UTF-8", "save it as UTF-8") from None


def line_at(text: str, index: int) -> int:
    """Number of the line that holds ``index``, from 1."""
    return text.count("\n", 0, index) + 1


def line_end(text: str, index: int) -> int:
    """Where the line that holds ``index`` ends, before its line end."""
    end = text.find("\n", index)
    end = len(text) if end < 0 else end
    return end - 1 if end > index and text[end - 1] == "\r" else end


def line_start(text: str, index: int) -> int:
    """Where the line that holds ``index`` starts, after a byte order mark."""
    start = text.rfind("\n", 0, index) + 1
    return start + 1 if text.startswith("\ufeff", start) else start


def newline_at(text: str, index: int) -> str:
    """The line end of the line that holds ``index``; where it has none, that of the first line of the file."""
    end = text.find("\n", index)
    end = text.find("\n") if end < 0 else end
    return "\r\n" if end > 0 and text[end - 1] == "\r" else "\n"


@dataclass(frozen=True)
class Comment:
    """The comment at the end of the line of a value; ``start`` is its index in the text."""

    start: int
    text: str


def splice(
    file: str, text: str, span: tuple[int, int], rendered: str, *, old: str, new: str,
    words: Mapping[str, str], comment: Comment | None, above: str = "",
) -> Edit:  # fmt: skip
    """``text`` with the span replaced, and with what its trailing comment quoted of the old value.

    ``words`` are further names of the old value and of the new one in comments ('02:00': '11:00'). A comment with
    figures in it that none of them explains is left and reported in ``stale``, as is one that stands ``above`` the
    line and quotes the old value: comments on lines of their own are never rewritten.
    """
    start, end = span
    names = {old: new, **words}
    after = text[:start] + rendered
    stale: list[str] = []
    if comment is None:
        after += text[end:]
    else:
        told_of_past = _of_the_past(comment.text, names)
        said = comment.text if told_of_past else _reworded(comment.text, names)
        if told_of_past or re.search(r"\d", _unexplained(said, names)):
            stale.append(said.strip())
        after += text[end : comment.start] + said + text[comment.start + len(comment.text) :]
    if above and _reworded(above, names) != above:
        stale.append(above.strip())
    return Edit(file, text, after, line_at(text, start), old, new, tuple(stale))


def _of_the_past(comment: str, names: Mapping[str, str]) -> bool:
    """Whether a comment names the old value as what once was."""
    quoted = "|".join(re.escape(n) for n in names if n)
    if not quoted:
        return False
    pattern = rf"{_PAST_BEFORE}(?:{quoted})(?!\w)|(?<!\w)(?:{quoted})\W+(?:until|in the past)\b"
    return re.search(pattern, comment, re.IGNORECASE) is not None


def _unexplained(comment: str, names: Mapping[str, str]) -> str:
    """What a comment says beside the marker and the new value's names."""
    for name in (n for n in names.values() if n):
        comment = comment.replace(name, "")
    return MARKER.sub("", comment)


def _reworded(comment: str, names: Mapping[str, str]) -> str:
    """The comment with old names replaced by new ones, in one pass; markers are left alone."""
    wanted = sorted((n for n in names if n), key=len, reverse=True)
    if not wanted or MARKER.search(comment):
        return comment
    pattern = "|".join(re.escape(n) for n in wanted)
    return re.sub(rf"(?<![\w.:])(?:{pattern})(?![\w:]|\.\d)", lambda m: names[m.group()], comment)
