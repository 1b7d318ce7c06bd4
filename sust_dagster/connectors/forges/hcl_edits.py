"""One value of a Terraform file replaced by its place in the text; everything else keeps its bytes.

Belongs here: finding an attribute by address, following ``var.x`` and ``local.x`` to the place that sets them,
writing the new literal, adding a missing attribute beside its siblings, proof that nothing else changed. Does not
belong here: whether a plan of the result is safe (``terraform_guard``), what is written (``changes``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import tree_sitter_hcl
from tree_sitter import Language, Node, Parser

from sust_dagster.connectors.forges.edits import (
    Comment,
    Edit,
    line_at,
    line_end,
    line_start,
    newline_at,
    refused,
    splice,
)
from sust_dagster.connectors.targets import TargetRefused

Literal = str | int | float | bool

_LANGUAGE = Language(tree_sitter_hcl.language())
_BOM = "\ufeff"
_REFERENCE = re.compile(r"(?P<kind>var|local)\.(?P<name>[\w-]+)")


@dataclass(frozen=True)
class Attribute:
    """An attribute: its address ('aws_instance.x', '' at the top of a file), its name and the node of its value."""

    address: str
    name: str
    expression: Node
    node: Node

    @property
    def text(self) -> str:
        return (self.expression.text or b"").decode()


@dataclass(frozen=True)
class Use:
    """Where a variable or a local value is read: address and attribute, with the whole expression."""

    file: str
    line: int
    address: str
    name: str
    expression: str


def hcl_edit(
    text: str, address: str, attribute: str, new: Literal, *, file: str = "file",
    words: Mapping[str, str] | None = None, element: str | None = None,
) -> Edit:  # fmt: skip
    """``text`` with the attribute of the block at ``address`` set to ``new``.

    ``address`` is ``aws_instance.x``, ``variable.x``, ``module.x``, ``provider.aws`` (or ``provider.aws.alias``),
    ``locals``, a nested block (``aws_instance.x.root_block_device``), or empty in a file of variable values. With
    ``element`` the value is a list of texts and that element of it is replaced. A missing attribute is added beside
    its siblings. A value that is no literal is refused (``unresolvable_value``).
    """
    return HclFile.read(text, file).set(address, attribute, new, words=words or {}, element=element)


class HclFile:
    """A Terraform file with the place of every attribute."""

    def __init__(self, file: str, text: str, root: Node) -> None:
        self.file, self.text, self.root = file, text, root
        self._raw = text.removeprefix(_BOM).encode()

    @classmethod
    def read(cls, text: str, file: str) -> HclFile:
        if file.endswith(".json"):
            raise refused(
                "unsupported_file", file, None, "Terraform in JSON is not edited", "map a .tf or .tfvars file"
            )
        # A byte order mark and carriage returns are kept in the text; the grammar is not asked about them.
        root = Parser(_LANGUAGE).parse(text.removeprefix(_BOM).encode()).root_node
        if root.has_error:
            bad = next((n for n in _all(root) if n.is_error or n.is_missing), root)
            line = bad.start_point[0] + 1
            reason = "template" if "{{" in text or "%{" in text.split("\n")[line - 1] else "unreadable_file"
            raise refused(reason, file, line, "not Terraform configuration", "repair the file or map another")
        return cls(file, text, root)

    def attributes(self) -> Iterator[Attribute]:
        """Every attribute with the address of its block."""
        body = next((c for c in self.root.children if c.type == "body"), None)
        if body is not None:
            yield from self._below(body, "")

    def _below(self, body: Node, address: str) -> Iterator[Attribute]:
        for child in body.named_children:
            if child.type == "attribute":
                yield Attribute(address, _plain(child.named_children[0]), child.named_children[1], child)
            elif child.type == "block":
                inner = next((c for c in child.children if c.type == "body"), None)
                if inner is not None:
                    yield from self._below(inner, _address(child, address, inner))

    def find(self, address: str, name: str) -> Attribute | None:
        """The attribute; None when it is not there. Refused when there are several."""
        found = [a for a in self.attributes() if a.address == address and a.name == name]
        if len(found) > 1:
            lines = ", ".join(str(a.node.start_point[0] + 1) for a in found)
            raise refused("ambiguous_address", self.file, found[1].node.start_point[0] + 1,
                          f"{_full(address, name)} is set on lines {lines}", "name one of them")  # fmt: skip
        return found[0] if found else None

    def has(self, address: str) -> bool:
        """Whether a block of that address, with something in it, is in the file."""
        return any(a.address == address for a in self.attributes())

    def line_of(self, found: Attribute) -> int:
        """Line of its value, from 1."""
        return found.expression.start_point[0] + 1

    def set(
        self, address: str, name: str, new: Literal, *, words: Mapping[str, str], element: str | None = None
    ) -> Edit:
        """See :func:`hcl_edit`."""
        found = self.find(address, name)
        if found is None:
            return self._insert(address, name, new)
        value = found.expression if element is None else self._element(found, element)
        line = self.line_of(found)
        old = literal(value)
        if old is None:
            raise refused("unresolvable_value", self.file, line, f"{_full(address, name)} = {_short(found.text)} "
                          "is not a literal", "map the place that sets it")  # fmt: skip
        span = (self._index(value.start_byte), self._index(value.end_byte))
        edit = splice(
            self.file, self.text, span, _rendered(new), old=_shown(old), new=_shown(new), words=words,
            comment=self._comment(span[1]), above=self._above(line),
        )  # fmt: skip
        expected = {**self._meaning(), _full(address, name): self._expected(found, value, new)}
        self._prove(edit, expected)
        return edit

    def uses(self, kind: str, name: str) -> Iterator[Use]:
        """Everywhere ``var.name`` or ``local.name`` is read."""
        for attribute in self.attributes():
            reads = {(m["kind"], m["name"]) for m in _REFERENCE.finditer(attribute.text)}
            if (kind, name) in reads:
                line = attribute.node.start_point[0] + 1
                yield Use(self.file, line, attribute.address, attribute.name, attribute.text)

    def _element(self, found: Attribute, element: str) -> Node:
        items = [n for n in _all(found.expression) if n.type == "expression" and n is not found.expression]
        is_list = any(n.type == "tuple" for n in _all(found.expression)) and found.text.startswith("[")
        texts = [n for n in items if literal(n) == element]
        if not is_list or any(literal(n) is None for n in items):
            raise refused("unresolvable_value", self.file, self.line_of(found),
                          f"{_short(found.text)} is not a list of literals", "map the list of regions")  # fmt: skip
        if len(texts) != 1:
            raise refused("missing_value", self.file, self.line_of(found), f"{element!r} is in the list {len(texts)} "
                          "times", "correct the mapping")  # fmt: skip
        return texts[0]

    def _insert(self, address: str, name: str, new: Literal) -> Edit:
        siblings = [a for a in self.attributes() if a.address == address and "\n" not in (a.node.text or b"").decode()]
        if not siblings:
            raise refused(
                "missing_value", self.file, None, f"there is no {_full(address, name)}", "correct the mapping"
            )
        start = self._index(siblings[-1].node.start_byte)
        indent = self.text[line_start(self.text, start) : start]
        end = line_end(self.text, start)
        if indent.strip() or self.text[self._index(siblings[-1].node.end_byte) : end].strip().startswith("}"):
            raise refused("no_place", self.file, line_at(self.text, start), f"there is no line to put {name} beside",
                          "add the attribute by hand first")  # fmt: skip
        added = f"{newline_at(self.text, end)}{indent}{name} = {_rendered(new)}"
        edit = Edit(self.file, self.text, self.text[:end] + added + self.text[end:], line_at(self.text, end) + 1, "",
                    _shown(new))  # fmt: skip
        self._prove(edit, {**self._meaning(), _full(address, name): _rendered(new)})
        return edit

    def _prove(self, edit: Edit, expected: Mapping[str, str]) -> None:
        """The new text parses without an error and says what is expected, no more and no less."""
        try:
            meaning = HclFile.read(edit.after, self.file)._meaning()
        except TargetRefused as error:
            raise refused("unsafe_edit", self.file, edit.line, "the edited file would not parse", "change it by hand"
                          ) from error  # fmt: skip
        if meaning != expected:
            raise refused("unsafe_edit", self.file, edit.line, "the edited file would read differently",
                          "change it by hand")  # fmt: skip

    def _meaning(self) -> dict[str, str]:
        seen: dict[str, str] = {}
        for attribute in self.attributes():
            key = _full(attribute.address, attribute.name)
            while key in seen:
                key += "'"
            seen[key] = attribute.text
        return seen

    def _expected(self, found: Attribute, value: Node, new: Literal) -> str:
        start, whole = found.expression.start_byte, found.expression.text or b""
        return (whole[: value.start_byte - start] + _rendered(new).encode() + whole[value.end_byte - start :]).decode()

    def _comment(self, end: int) -> Comment | None:
        for node in _all(self.root):
            if node.type == "comment":
                start = self._index(node.start_byte)
                if start >= end and "\n" not in self.text[end:start]:
                    return Comment(start, (node.text or b"").decode().rstrip("\r\n"))
        return None

    def _above(self, line: int) -> str:
        lines = self.text.split("\n")
        above = lines[line - 2].strip() if line >= 2 else ""
        return above if above.startswith(("#", "//")) else ""

    def _index(self, byte: int) -> int:
        """Index in the text of a byte of what was parsed."""
        return len(self._raw[:byte].decode()) + (len(self.text) - len(self.text.removeprefix(_BOM)))


@dataclass(frozen=True)
class Setting:
    """The place that sets a value for good: file, address and attribute, and the variables passed on the way."""

    file: HclFile
    address: str
    name: str
    through: tuple[tuple[str, str], ...] = ()


def resolve(files: Sequence[HclFile], address: str, name: str) -> Setting:
    """Follow ``var.x`` and ``local.x`` from an attribute to the literal behind it.

    ``files`` are those of one folder. A variable is set by ``terraform.tfvars``, then by ``*.auto.tfvars`` in order
    of their names (the last wins), else by its default. A value that is read in more than one place is refused
    (``shared_value``): changing it would change others too.
    """
    through: list[tuple[str, str]] = []
    for _ in range(8):
        found = _one(files, address, name)
        if found is None:
            break
        file, attribute = found
        reference = _REFERENCE.fullmatch(attribute.text.strip())
        if reference is None:
            return Setting(file, address, name, tuple(through))
        kind, name_there = reference["kind"], reference["name"]
        readers = [u for f in files for u in f.uses(kind, name_there)]
        if len(readers) > 1:
            others = ", ".join(f"{u.file} line {u.line}" for u in readers if (u.address, u.name) != (address, name))
            raise refused("shared_value", file.file, file.line_of(attribute), f"{kind}.{name_there} is also read in "
                          f"{others}", "give the workload a variable of its own")  # fmt: skip
        through.append((kind, name_there))
        address, name = _set_at(files, kind, name_there)
    if through:
        raise refused("unresolvable_value", files[0].file, None, f"{'.'.join(through[-1])} has no value in this folder",
                      "map the file that sets it")  # fmt: skip
    holder = next((f for f in files if f.has(address)), None)
    if holder is None:
        names = ", ".join(f.file for f in files)
        raise refused("missing_value", names, None, f"there is no {address}", "correct the mapping")
    return Setting(holder, address, name)


def _one(files: Sequence[HclFile], address: str, name: str) -> tuple[HclFile, Attribute] | None:
    if address:
        candidates = [f for f in files if not f.file.endswith(".tfvars")]
    else:
        values = [f for f in files if f.file.endswith(".tfvars")]
        candidates = sorted(values, key=lambda f: (f.file.endswith(".auto.tfvars"), f.file), reverse=True)
    found = [(f, a) for f in candidates if (a := f.find(address, name)) is not None]
    if len(found) > 1 and address:
        raise refused("ambiguous_address", found[1][0].file, found[1][0].line_of(found[1][1]),
                      f"{_full(address, name)} is also set in {found[0][0].file}", "name one of them")  # fmt: skip
    return found[0] if found else None


def _set_at(files: Sequence[HclFile], kind: str, name: str) -> tuple[str, str]:
    if kind == "local":
        return "locals", name
    return ("", name) if _one(files, "", name) is not None else (f"variable.{name}", "default")


def literal(node: Node) -> Literal | None:
    """The value of an expression that is a literal; None for any other."""
    while node.type in ("expression", "literal_value") and len(node.named_children) == 1:
        node = node.named_children[0]
    text = (node.text or b"").decode()
    if node.type == "string_lit":
        inner = text[1:-1]
        return None if "${" in inner or "%{" in inner or "\\" in inner else inner
    if node.type == "numeric_lit":
        return float(text) if re.search(r"[.eE]", text) else int(text)
    if node.type == "bool_lit":
        return text == "true"
    return None


def _rendered(new: Literal) -> str:
    if isinstance(new, str):
        return json.dumps(new, ensure_ascii=False).replace("${", "$${").replace("%{", "%%{")
    return json.dumps(new)


def _shown(value: Literal) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _full(address: str, name: str) -> str:
    return f"{address}.{name}" if address else name


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(node: Node) -> str:
    return (node.text or b"").decode().strip('"')


def _address(block: Node, above: str, inner: Node) -> str:
    """Address of a block: resources without the word, everything else by its words."""
    words = [_plain(c) for c in block.children if c.type in ("identifier", "string_lit")]
    if above:
        return ".".join((above, *words))
    if words[0] == "resource":
        words = words[1:]
    if words[0] == "provider":
        alias = next(
            (
                _plain(a.named_children[1])
                for a in inner.named_children
                if a.type == "attribute" and _plain(a.named_children[0]) == "alias"
            ),
            None,
        )
        words = [*words, alias] if alias else words
    return ".".join(words)


def _all(node: Node) -> Iterator[Node]:
    stack = [node]
    while stack:
        one = stack.pop()
        yield one
        stack.extend(reversed(one.children))
