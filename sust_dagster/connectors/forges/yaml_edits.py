"""One value of a YAML file replaced by its place in the text; everything else keeps its bytes.

Belongs here: finding a value by path and document, writing the new one in the style of the old one, adding a missing
key beside its siblings, proof that nothing else changed its meaning. Does not belong here: what is written
(``changes``), HCL (``hcl_edits``).

The file is never written out from a parsed form: that reindents lists and moves comments. The parser only says where
the value stands; afterwards the new text is parsed again, and the difference must be the intended one and no other.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml as yaml11
from ruamel.yaml import YAML
from ruamel.yaml.error import ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.resolver import Resolver

from sust_dagster.connectors.forges.edits import (
    MARKER,
    Comment,
    Edit,
    line_at,
    line_end,
    line_start,
    newline_at,
    refused,
    splice,
)

Scalar = str | int | float | bool
Step = str | int | tuple[str, str]
"""A key, an index, or (key, value): the list item whose key has that value."""

_STEP = re.compile(
    r"""\.?(?:
      \["(?P<quoted>[^"]+)"\] | \[(?P<index>\d+)\] | \[(?P<key>[\w./-]+)=(?P<value>[^\]]+)\] | (?P<name>[^.\[\]"]+)
    )""",
    re.VERBOSE,
)
_PLAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 *,/_.+-]*[A-Za-z0-9*/_.+-])?")
#: YAML 1.1 words that its resolver leaves alone and readers of manifests do not.
_WORDS_11 = frozenset({"y", "n", "Y", "N"})
_PROPERTIES = re.compile(r"(?:[&!]\S*[ \t]+)+")
_TEMPLATE = re.compile(r"\{\{|\$\{|\$\(")
_TABS = re.compile(r"[ \t]*\t[ \t]*(?=#|\r?$)", re.MULTILINE)
_MOST_LEAVES = 200_000


def parse_path(path: str) -> tuple[Step, ...]:
    """``spec.containers[name=train].resources["example.com/gpu"]`` in steps."""
    steps: list[Step] = []
    at = 0
    while at < len(path):
        found = _STEP.match(path, at)
        if found is None or found.end() == at:
            raise ValueError(f"path {path!r}: cannot be read from character {at + 1}")
        if found["index"] is not None:
            steps.append(int(found["index"]))
        elif found["key"] is not None:
            steps.append((found["key"], found["value"]))
        else:
            steps.append(found["quoted"] or found["name"])
        at = found.end()
    if not steps:
        raise ValueError("an empty path names no value")
    return tuple(steps)


def yaml_edit(
    text: str, path: str, new: Scalar, *, file: str = "file", document: Mapping[str, str] | None = None,
    words: Mapping[str, str] | None = None,
) -> Edit:  # fmt: skip
    """``text`` with the value at ``path`` replaced by ``new``; a missing last key is added beside its siblings.

    ``document`` picks one of several documents by the values at its paths (``{"kind": "CronJob"}``).
    """
    source = YamlFile.read(text, file)
    return source.set(parse_path(path), new, document=document, words=words or {})


@dataclass(frozen=True)
class Found:
    """A scalar's place: its value, its tag, its span without anchor and tag, its line."""

    node: ScalarNode
    span: tuple[int, int]
    in_flow: bool
    line: int

    @property
    def value(self) -> str:
        return self.node.value

    @property
    def tag(self) -> str:
        return str(self.node.tag).rsplit(":", 1)[-1]


@dataclass(frozen=True)
class YamlFile:
    """A YAML file's documents with the place of every value."""

    file: str
    text: str
    documents: tuple[Node, ...]

    @classmethod
    def read(cls, text: str, file: str) -> YamlFile:
        try:
            documents = _composed(text)
        except YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = mark.line + 1 if mark is not None else None
            if "{{" in text:
                raise refused(
                    "template", file, line, "the file is a template, not YAML",
                    "map the workload to the values file that fills it",
                ) from None  # fmt: skip
            problem = str(getattr(error, "problem", None) or "cannot be parsed").replace("\n", " ")
            raise refused("unreadable_file", file, line, f"not YAML: {problem}", "repair the file") from None
        except RecursionError:
            raise refused("unreadable_file", file, None, "nested too deeply", "map another file") from None
        return cls(file, text, documents)

    def find(self, steps: Sequence[Step], document: Mapping[str, str] | None = None) -> Found | None:
        """The scalar at a path; None when its last key is not there."""
        _, found = self._walk(steps, document)
        return found if isinstance(found, Found) else None

    def set(
        self, steps: Sequence[Step], new: Scalar, *, document: Mapping[str, str] | None = None,
        words: Mapping[str, str] | None = None,
    ) -> Edit:  # fmt: skip
        """See :func:`yaml_edit`."""
        where, found = self._walk(steps, document)
        if isinstance(found, Found):
            edit = self.replace(found, new, words or {})
            self._prove(edit, where, _leaf(new), added=False)
            return edit
        parent, in_flow = found
        edit = self._insert(parent, steps[len(where) - 2 :], new, in_flow)
        rest = steps[len(where) - 2 :]
        self._prove(edit, (*where[:-1], *rest), _leaf(new), added=True)
        return edit

    def replace(self, found: Found, new: Scalar, words: Mapping[str, str]) -> Edit:
        """The text with one scalar replaced, not yet proved."""
        if found.node.style in ("|", ">") or "\n" in self.text[slice(*found.span)]:
            raise self._no("block_value", found.line, "the value spans lines", "write it on one line")
        if _TEMPLATE.search(found.value):
            raise self._no("unresolvable_value", found.line, f"{found.value!r} is filled in elsewhere",
                           "map the place that fills it")  # fmt: skip
        if found.span[0] == found.span[1]:
            raise self._no("no_value", found.line, "the key has no value", "write the present value there first")
        rendered = render(new, found.node.style, in_flow=found.in_flow)
        start, end = found.span
        after = re.compile(r"[^\r\n#]*[ \t](#[^\r\n]*)").match(self.text, end)
        comment = Comment(after.start(1), after.group(1)) if after and not _in_quotes(self.text, end, after) else None
        return splice(
            self.file, self.text, (start, end), rendered, old=found.value, new=_shown(new), words=words,
            comment=comment, above=self.comment_above(found.line),
        )  # fmt: skip

    def prove(self, edit: Edit, found: Found, new: Scalar) -> None:
        """See :meth:`_prove`, for a scalar that was found otherwise than by path."""
        for number, top in enumerate(self.documents):
            for path, node in _nodes(top):
                if node is found.node:
                    self._prove(edit, (number, *path), _leaf(new), added=False)
                    return

    def comment_above(self, line: int) -> str:
        """The comment that stands alone on the line before; empty where there is none."""
        lines = self.text.split("\n")
        above = lines[line - 2].strip() if line >= 2 else ""
        return above if above.startswith("#") else ""

    def markers(self, found: Found) -> frozenset[str]:
        """Workloads named by ``# sust:`` beside the value or on the line before it."""
        rest = self.text[found.span[1] : line_end(self.text, found.span[1])]
        beside = frozenset(m["workload"] for m in MARKER.finditer(rest))
        return beside or frozenset(m["workload"] for m in MARKER.finditer(self.comment_above(found.line)))

    def _walk(
        self, steps: Sequence[Step], document: Mapping[str, str] | None
    ) -> tuple[tuple[Any, ...], Found | tuple[MappingNode, bool]]:
        """Real path (document number first) and the scalar; or the parent in which the rest is missing."""
        number, node = self._document(document)
        where: list[Any] = [number]
        in_flow = False
        for at, step in enumerate(steps):
            in_flow = in_flow or bool(getattr(node, "flow_style", False))
            key, child = _child(node, step)
            if child is None:
                keyed = all(isinstance(s, str) for s in steps[at:])
                if isinstance(node, MappingNode) and keyed and not _merges(node, str(step)):
                    return (*where, step), (node, in_flow)
                line = line_at(self.text, node.start_mark.index)
                raise self._no("missing_value", line, f"there is no {_named(steps[: at + 1])}", "correct the mapping")
            where.append(key)
            node = child
        line = line_at(self.text, node.start_mark.index)
        if not isinstance(node, ScalarNode):
            if self.text[node.start_mark.index :].startswith("{{"):
                raise self._no("template", line, "the value is a template", "map the values file that fills it")
            raise self._no("not_a_value", line, f"{_named(steps)} is not a single value", "map one value")
        return tuple(where), Found(node, self._span(node), in_flow, line)

    def scalars(self, path: Sequence[Step]) -> Iterator[Found]:
        """The value of the last step in each item of the list that the steps before it lead to."""
        *head, last = path
        for document in self.documents:
            node: Node | None = document
            for step in head:
                node = _child(node, step)[1] if node is not None else None
            if not isinstance(node, SequenceNode):
                continue
            for item in node.value:
                child = _child(item, last)[1]
                if isinstance(child, ScalarNode):
                    yield Found(child, self._span(child), False, line_at(self.text, child.start_mark.index))

    def _document(self, document: Mapping[str, str] | None) -> tuple[int, Node]:
        chosen = [
            (number, top)
            for number, top in enumerate(self.documents)
            if all(_text(top, parse_path(path)) == value for path, value in (document or {}).items())
        ]
        if not chosen:
            raise self._no("missing_value", None, f"no document of {dict(document or {})}", "correct the mapping")
        if len(chosen) > 1:
            raise self._no("ambiguous_document", None, f"{len(chosen)} documents fit {dict(document or {})}",
                           "name kind and metadata.name in the mapping")  # fmt: skip
        return chosen[0]

    def _span(self, node: Node) -> tuple[int, int]:
        start, end = node.start_mark.index, node.end_mark.index
        skipped = _PROPERTIES.match(self.text, start, end)
        return (skipped.end() if skipped else start), end

    def _insert(self, parent: MappingNode, steps: Sequence[Step], new: Scalar, in_flow: bool) -> Edit:
        keys = [str(s) for s in steps]
        if parent.flow_style or in_flow:
            return self._insert_in_flow(parent, keys, new)
        anchor = self._sibling(parent)
        if anchor is None:
            line = line_at(self.text, parent.start_mark.index)
            raise self._no("no_place", line, f"there is no line to put {keys[0]} beside", "add the key by hand first")
        start = line_start(self.text, anchor.start_mark.index)
        indent = re.sub(r"\S", " ", self.text[start : anchor.start_mark.index])
        end = line_end(self.text, anchor.start_mark.index)
        newline = newline_at(self.text, end)
        lines = [f"{indent}{'  ' * depth}{_key(key)}:" for depth, key in enumerate(keys)]
        lines[-1] += f" {render(new, None, in_flow=False)}"
        after = self.text[:end] + "".join(newline + line for line in lines) + self.text[end:]
        line = line_at(self.text, end) + len(keys)
        return Edit(self.file, self.text, after, line, "", _shown(new))

    def _insert_in_flow(self, parent: MappingNode, keys: list[str], new: Scalar) -> Edit:
        line = line_at(self.text, parent.start_mark.index)
        if not parent.value or len(keys) > 1:
            raise self._no("no_place", line, f"there is no value to put {keys[0]} beside", "add the key by hand first")
        at = parent.value[0][0].start_mark.index
        added = f"{_key(keys[0])}: {render(new, None, in_flow=True)}, "
        return Edit(self.file, self.text, self.text[:at] + added + self.text[at:], line, "", _shown(new))

    def _sibling(self, parent: MappingNode) -> Node | None:
        """The last key of ``parent`` whose value ends on the key's own line."""
        for key, value in reversed(parent.value):
            after_key = key.end_mark.index
            is_line = isinstance(value, ScalarNode) and value.style not in ("|", ">")
            here = value.start_mark.index >= after_key and is_line
            one_line = "\n" not in self.text[key.start_mark.index : value.end_mark.index].rstrip()
            if here and one_line and value.end_mark.index > value.start_mark.index:
                return key
        return None

    def _prove(self, edit: Edit, where: tuple[Any, ...], wanted: tuple[str, str], *, added: bool) -> None:
        """The new text parses, and differs in meaning at ``where`` and nowhere else."""
        before = _leaves(self.documents, self)
        try:
            again = YamlFile.read(edit.after, self.file)
        except Exception as error:
            raise self._no("unsafe_edit", edit.line, "the edited file would not parse", "change it by hand") from error
        after = _leaves(again.documents, again)
        changed = {p for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
        path = _real(where)
        if changed - {path}:
            others = ", ".join(sorted("/".join(map(str, p[1:])) for p in changed - {path})[:3])
            raise self._no("shared_value", edit.line, f"the value is also used for {others}",
                           "give the workload a value of its own")  # fmt: skip
        fits = after.get(path) == wanted and (path not in before) == added
        if (before.get(path) != wanted and changed != {path}) or not fits:
            raise self._no("unsafe_edit", edit.line, "the edited file would read differently", "change it by hand")

    def _no(self, reason: str, line: int | None, text: str, fix: str) -> Exception:
        return refused(reason, self.file, line, text, fix)


def render(new: Scalar, style: str | None, *, in_flow: bool) -> str:
    """A value as YAML in the style of the old one; text that YAML 1.1 or 1.2 would read as something else is quoted."""
    if not isinstance(new, str):
        return json.dumps(new)
    if style == "'":
        return "'" + new.replace("'", "''") + "'"
    if style == '"' or not _plain(new, in_flow):
        return json.dumps(new, ensure_ascii=False)
    return new


def _plain(new: str, in_flow: bool) -> bool:
    if not _PLAIN.fullmatch(new) or new in _WORDS_11 or (in_flow and "," in new):
        return False
    resolver = Resolver()
    if resolver.resolve(yaml11.ScalarNode, new, (True, False)) != "tag:yaml.org,2002:str":
        return False
    node = YAML(typ="safe", pure=True).compose(new)
    return isinstance(node, ScalarNode) and str(node.tag).endswith(":str") and node.value == new


def _composed(text: str) -> tuple[Node, ...]:
    """The documents. Tabs before comments and line ends, which the parser does not take, count as spaces."""
    spaced = _TABS.sub(lambda m: " " * len(m.group()), text)
    for attempt in (text, spaced):
        try:
            with warnings.catch_warnings():
                # A second anchor of the same name is YAML; an alias means the last one before it.
                warnings.simplefilter("ignore", ReusedAnchorWarning)
                return tuple(d for d in YAML(typ="safe", pure=True).compose_all(attempt) if d is not None)
        except YAMLError:
            if attempt == spaced:
                raise
    raise AssertionError("the last attempt returns or raises")


def _key(key: str) -> str:
    return render(key, None, in_flow=False)


def _shown(new: Scalar) -> str:
    return new if isinstance(new, str) else json.dumps(new)


def _leaf(new: Scalar) -> tuple[str, str]:
    """Tag and text that the new value must be read as."""
    kinds: Mapping[type, str] = {str: "str", bool: "bool", int: "int", float: "float"}
    return kinds[type(new)], _shown(new)


def _child(node: Node | None, step: Step) -> tuple[Any, Node | None]:
    """Key (or index) and node one step down."""
    if isinstance(step, tuple):
        if isinstance(node, SequenceNode):
            for index, item in enumerate(node.value):
                if _text(item, (step[0],)) == step[1]:
                    return index, item
        return step, None
    if isinstance(node, SequenceNode) and isinstance(step, int):
        return step, node.value[step] if step < len(node.value) else None
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if isinstance(key, ScalarNode) and key.value == str(step):
                return key.value, value
    return step, None


def _text(node: Node, steps: Sequence[Step]) -> str | None:
    found: Node | None = node
    for step in steps:
        found = _child(found, step)[1]
    return found.value if isinstance(found, ScalarNode) else None


def _merges(node: MappingNode, key: str) -> bool:
    """Whether the key comes to the mapping by '<<'."""
    merged = _child(node, "<<")[1]
    if merged is None:
        return False
    sources = merged.value if isinstance(merged, SequenceNode) else [merged]
    return any(_child(s, key)[1] is not None or (isinstance(s, MappingNode) and _merges(s, key)) for s in sources)


def _named(steps: Sequence[Step]) -> str:
    return ".".join(f"[{s[0]}={s[1]}]" if isinstance(s, tuple) else str(s) for s in steps)


def _real(where: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(str(w) if i and not isinstance(w, int) else w for i, w in enumerate(where))


def _nodes(top: Node) -> Iterator[tuple[tuple[Any, ...], Node]]:
    """Every node below ``top`` with its path; aliases are followed each time they are used."""
    stack: list[tuple[tuple[Any, ...], Node]] = [((), top)]
    seen = 0
    while stack:
        path, node = stack.pop()
        seen += 1
        if seen > _MOST_LEAVES or len(path) > 200:
            raise RecursionError("too many values")
        yield path, node
        if isinstance(node, SequenceNode):
            stack.extend(((*path, index), item) for index, item in enumerate(node.value))
        elif isinstance(node, MappingNode):
            for key, value in node.value:
                name = key.value if isinstance(key, ScalarNode) else repr(key)
                stack.append(((*path, name), value))


def _leaves(documents: Sequence[Node], source: YamlFile) -> dict[tuple[Any, ...], tuple[str, str]]:
    """Tag and text of every scalar by its path; what two files mean the same by."""
    leaves: dict[tuple[Any, ...], tuple[str, str]] = {}
    try:
        for number, top in enumerate(documents):
            for path, node in _nodes(top):
                full = (number, *path)
                if full in leaves:
                    line = line_at(source.text, node.start_mark.index)
                    raise refused("duplicate_key", source.file, line, f"{path[-1]!r} is there twice", "keep one")
                tag = str(node.tag).rsplit(":", 1)[-1]
                if isinstance(node, ScalarNode):
                    leaves[full] = (tag, node.value)
                elif not node.value:
                    leaves[full] = (tag, "")
    except RecursionError:
        raise refused("unreadable_file", source.file, None, "anchors unfold without end", "map another file") from None
    return leaves


def _in_quotes(text: str, end: int, after: re.Match[str]) -> bool:
    """Whether the '#' found behind the value may stand inside another value of a flow mapping."""
    between = text[end : after.start(1)]
    return between.count('"') % 2 == 1 or between.count("'") % 2 == 1
