"""Span edits: everything outside the value keeps its bytes, and the meaning changes in one place."""

from __future__ import annotations

import string
from typing import Any

import pytest
import yaml
from forge_cases import CRONJOB, MAIN_TF
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from sust_dagster.connectors.forges.cron import Cron, CronError
from sust_dagster.connectors.forges.edits import Edit
from sust_dagster.connectors.forges.hcl_edits import HclFile, hcl_edit, resolve
from sust_dagster.connectors.forges.yaml_edits import parse_path, yaml_edit
from sust_dagster.connectors.targets import TargetRefused

WORDS = st.text(string.ascii_lowercase, min_size=1, max_size=8).map(lambda word: f"k{word}")
VALUES = st.one_of(
    st.text(string.ascii_letters + string.digits + " *,/_.:#'\"-{}[]&!%@é😀", min_size=1, max_size=16),
    st.integers(-999, 999), st.booleans(),
    st.sampled_from(["y", "no", "on", "~", "null", "1e3", "0o7", "2026-01-01", "12:30:00", "*/5 * * * *", "1_0", ".5"]),
)  # fmt: skip
COMMENTS = st.sampled_from(["", " # keep", "   # 02:00, then 3", "\t# tab"])


@st.composite
def manifests(draw: st.DrawFn) -> tuple[str, list[str], Any]:
    """A YAML text of people's kind, the path of one scalar in it, and a new value."""
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    keys = draw(st.lists(WORDS, min_size=2, max_size=5, unique=True))
    values = [draw(st.sampled_from(["1", "'a b'", '"0 2 * * *"', "x-y", "&{key} v", "!!str 7", "true"])) for _ in keys]
    lines = ["# head", "kind: K", "top:"]
    for key, value in zip(keys, values, strict=True):
        lines.append(f"    {key}:  {value.format(key=key)}{draw(COMMENTS)}")
    lines += ["list:", "- a # one", "-   b: {c: 1,  d: 'q'}", "text: |", "  # no comment", "  x: 1", ""]
    chosen = draw(st.sampled_from([["top", draw(st.sampled_from(keys))], ["list", "1", "b", "d"], ["kind"]]))
    text = newline.join(lines)
    if draw(st.booleans()):
        text = f"\ufeff{text}"
    if draw(st.booleans()):
        text += newline.join(["---", "kind: other", ""])
    return text, chosen, draw(VALUES)


def dotted(path: list[str]) -> str:
    return ".".join(path).replace(".1.", "[1].")


def documents(text: str) -> list[Any]:
    return list(YAML(typ="safe", pure=True).load_all(text.replace("\t", " ")))


def at(content: Any, path: list[str]) -> tuple[Any, Any]:
    for step in path[:-1]:
        content = content[int(step) if isinstance(content, list) else step]
    return content, path[-1]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(manifests())
def test_yaml_edits_change_one_value_and_no_other_byte(case: tuple[str, list[str], Any]) -> None:
    text, path, new = case
    kind = documents(text)[0]["kind"]
    holder, key = at(documents(text)[0], path)
    tagged = f"{key}:  !!str 7" in text and holder[key] == "7"
    try:
        edit = yaml_edit(text, dotted(path), new, document={"kind": kind})
    except TargetRefused as error:
        assert error.reason == "unsafe_edit" and tagged and not isinstance(new, str), error
        return
    before, after = edit.before, edit.after
    assert before == text
    old_lines, new_lines = before.split("\n"), after.split("\n")
    assert len(old_lines) == len(new_lines)
    differing = [i for i, (a, b) in enumerate(zip(old_lines, new_lines, strict=True)) if a != b]
    assert differing in ([], [edit.line - 1])
    expected, got = documents(before), documents(after)
    holder, key = at(expected[0], path)
    holder[key] = new
    assert got == expected
    again_holder, again_key = at(got[0], path)
    assert type(again_holder[again_key]) is type(new)
    # Readers of YAML 1.1 (kustomize, kubectl) understand the same.
    elder = list(yaml.safe_load_all(after.removeprefix("\ufeff").replace("\t", " ")))
    holder, key = at(elder[0], path)
    assert holder[key] == new


def test_the_property_would_see_a_second_change() -> None:
    """Negative control: an anchor's value is used twice, and editing it by hand changes both."""
    text = "a: &x 1\nb: *x\n"
    by_hand = documents(text.replace("1", "2"))[0]
    assert by_hand != {"a": 2, "b": 1}
    with pytest.raises(TargetRefused, match="shared_value: f, line 1: the value is also used for b"):
        yaml_edit(text, "a", 2, file="f")


@st.composite
def configurations(draw: st.DrawFn) -> tuple[str, str, str, Any]:
    """A Terraform text, a block's address and attribute, and a new value."""
    names = draw(st.lists(WORDS, min_size=2, max_size=4, unique=True))
    lines = ["# head é", "terraform {", "}"]
    attributes: list[tuple[str, str]] = []
    for name in names:
        lines += ["", f'resource "aws_instance" "{name}" {{']
        keys = draw(st.lists(WORDS, min_size=1, max_size=4, unique=True))
        for key in keys:
            value = draw(st.sampled_from(['"m5.large"', "3", "true", '"a b # no comment"', "2.5"]))
            lines.append(f"  {key}   = {value}{draw(st.sampled_from(['', ' # m5.large', ' // 3', '  /* x */']))}")
            attributes.append((f"aws_instance.{name}", key))
        lines += ["  nested {", "    size = 1", "  }", "  text = <<EOT", "size = 1", "EOT", "}"]
    address, key = draw(st.sampled_from(attributes))
    text = draw(st.sampled_from(["\n", "\r\n"])).join([*lines, ""])
    if draw(st.booleans()):
        text = f"\ufeff{text}"
    new = draw(st.one_of(
        st.text(string.ascii_letters + ' .-"\\${}%#é😀', min_size=1, max_size=12), st.integers(0, 99), st.booleans()
    ))  # fmt: skip
    return text, address, key, new


@settings(max_examples=150, deadline=None, derandomize=True)
@given(configurations())
def test_hcl_edits_change_one_value_and_no_other_byte(case: tuple[str, str, str, Any]) -> None:
    text, address, key, new = case
    edit = hcl_edit(text, address, key, new)
    old_lines, new_lines = text.split("\n"), edit.after.split("\n")
    assert len(old_lines) == len(new_lines)
    assert [i for i, (a, b) in enumerate(zip(old_lines, new_lines, strict=True)) if a != b] in ([], [edit.line - 1])
    before, after = meaning(text), meaning(edit.after)
    assert {k for k in before if before[k] != after[k]} <= {(address, key)}
    assert before.keys() == after.keys()


def meaning(text: str) -> dict[tuple[str, str], str]:
    return {(a.address, a.name): a.text for a in HclFile.read(text, "f").attributes()}


def only(edit: Edit) -> tuple[str, str]:
    """The one line that differs."""
    old, new = edit.before.split("\n"), edit.after.split("\n")
    ((a, b),) = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
    return a.strip(), b.strip()


@pytest.mark.parametrize(
    ("text", "path", "new", "expected"),
    [
        ("a: {b: 1, c: 2}\n", "a.c", "x, y", "a: {b: 1, c: \"x, y\"}"),
        ("a: 'it''s' # it's\n", "a", "it's not", "a: 'it''s not' # it's not"),
        ("a: &n !!str 5\n", "a", "6", 'a: &n !!str "6"'),
        ("on: {schedule: [{cron: '0 1 * * *'}]}\n", "on.schedule[0].cron", "0 2 * * *",
         "on: {schedule: [{cron: '0 2 * * *'}]}"),
        ("a: &n 4\nb: &n 5\nc: *n\n", "a", 2, "a: &n 2\nb: &n 5\nc: *n"),
        ("a: 4 # 4 cores, was 8\n", "a", 2, "a: 2 # 2 cores, was 8"),
        ("a: 4 # was 4 in May\n", "a", 2, "a: 2 # was 4 in May"),
        ("a: 4 # sust: team/4\n", "a", 2, "a: 2 # sust: team/4"),
        ('"a.b/c": x\n', '["a.b/c"]', "z", '"a.b/c": z'),
    ],
)  # fmt: skip
def test_yaml_lines(text: str, path: str, new: Any, expected: str) -> None:
    assert yaml_edit(text, path, new).after == expected + "\n"


def test_comments_that_may_have_become_lies_are_reported() -> None:
    assert yaml_edit("a: 4 # was 4 in May\n", "a", 2).stale == ("# was 4 in May",)
    assert yaml_edit("# start at 4\na: 4\n", "a", 2).stale == ("# start at 4",)
    assert yaml_edit("a: 4 # carbon 0.38\n", "a", 2).stale == ("# carbon 0.38",)
    assert yaml_edit("a: 4 # 4 cores\n", "a", 2).stale == ()
    assert yaml_edit("a: 4 # never two at once\n", "a", 2).stale == ()


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        ("a: {{ .Values.x }}\n", "a", "template"),
        ("{{- if .Values.on }}\na: 1\n{{- end }}\n", "a", "template"),
        ('a: "{{ .Values.x }}"\n', "a", "unresolvable_value"),
        ("a: ${SCHEDULE}\n", "a", "unresolvable_value"),
        ("a: |\n  x\n", "a", "block_value"),
        ("a: [1]\n", "a", "not_a_value"),
        ("a:\n", "a", "no_value"),
        ("a: 1\na: 2\n", "a", "duplicate_key"),
        ("a: &x {b: 1}\nc: *x\n", "c.b", "shared_value"),
        ("d: &x {b: 1}\nc:\n  <<: *x\n  e: 2\n", "c.b", "missing_value"),
        ("a: 1\n---\na: 2\n", "a", "ambiguous_document"),
        ("a: [1\n", "a", "unreadable_file"),
        ("a: &x [*x]\nb: 1\n", "b", "unreadable_file"),
        ("a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
            f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n"
            for a, b in zip("abcdefgh", "bcdefghi", strict=True)) + "z: 1\n", "z", "unreadable_file"),
    ],
)  # fmt: skip
def test_what_cannot_be_edited_in_yaml_is_refused_by_name(text: str, path: str, reason: str) -> None:
    with pytest.raises(TargetRefused) as caught:
        yaml_edit(text, path, 5, file="k8s/x.yaml")
    assert caught.value.reason == reason
    assert "k8s/x.yaml" in str(caught.value) and "; " in str(caught.value)


def test_a_missing_key_is_put_beside_its_sibling() -> None:
    text = CRONJOB.replace("\n", "\r\n")
    edit = yaml_edit(text, "spec.timeZone", "Etc/UTC", document={"kind": "CronJob"})
    added = set(edit.after.split("\n")) - set(text.split("\n"))
    assert added == {"  timeZone: Etc/UTC\r"}
    assert edit.after.replace("  timeZone: Etc/UTC\r\n", "") == text
    nested = yaml_edit("a:\n- b: 1 # one", "a[0].c.d", "on")
    assert nested.after == 'a:\n- b: 1 # one\n  c:\n    d: "on"'
    flow = yaml_edit("a: {b: 1}\n", "a.c", 2)
    assert flow.after == "a: {c: 2, b: 1}\n"
    hcl = hcl_edit(MAIN_TF, "module.batch", "size", "x")
    assert hcl.after.replace('  size = "x"\n', "") == MAIN_TF


def test_paths_are_read_or_refused() -> None:
    assert parse_path('a.b[0][name=x y]["k.8/s"].c') == ("a", "b", 0, ("name", "x y"), "k.8/s", "c")
    for bad in ("", "a[", "a..b", 'a["x]'):
        with pytest.raises(ValueError, match="path"):
            parse_path(bad)


# Terraform


def read(**files: str) -> list[HclFile]:
    return [HclFile.read(text, name.replace("__", ".")) for name, text in files.items()]


def test_indirections_are_followed_to_the_literal() -> None:
    main = 'resource "aws_instance" "w" {\n  instance_type = var.size\n}\nvariable "size" { default = "a" }\n'
    there = resolve(read(main__tf=main), "aws_instance.w", "instance_type")
    assert (there.file.file, there.address, there.name) == ("main.tf", "variable.size", "default")
    values = read(main__tf=main, terraform__tfvars='size = "b"\n', x__auto__tfvars='size = "c" # c\n')
    there = resolve(values, "aws_instance.w", "instance_type")
    assert there.file.file == "x.auto.tfvars"
    assert only(there.file.set(there.address, there.name, "d", words={})) == ('size = "c" # c', 'size = "d" # d')
    through = main.replace("var.size", "local.s") + "locals {\n  s = var.size\n}\n"
    there = resolve(read(main__tf=through), "aws_instance.w", "instance_type")
    assert (there.address, there.through) == ("variable.size", (("local", "s"), ("var", "size")))


@pytest.mark.parametrize(
    ("value", "more", "reason"),
    [
        ("var.size", "", "unresolvable_value"),
        ("var.size", 'variable "size" { default = "a" }\noutput "o" { value = var.size }\n', "shared_value"),
        ('"${var.size}.large"', "", "unresolvable_value"),
        ('lookup(var.sizes, "a")', "", "unresolvable_value"),
        ("data.x.y.z", "", "unresolvable_value"),
        ('"a"', 'resource "aws_instance" "w" {\n  instance_type = "b"\n}\n', "ambiguous_address"),
    ],
)
def test_values_that_cannot_be_resolved_are_refused(value: str, more: str, reason: str) -> None:
    text = f'resource "aws_instance" "w" {{\n  instance_type = {value}\n}}\n{more}'
    with pytest.raises(TargetRefused) as caught:
        there = resolve(read(main__tf=text), "aws_instance.w", "instance_type")
        there.file.set(there.address, there.name, "x", words={})
    assert caught.value.reason == reason and "main.tf" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("a.tf.json", "{}", "unsupported_file"),
        ("a.tf", 'resource "x" {', "unreadable_file"),
        ("a.tf", "a = {{ .Values.x }}\n", "template"),
    ],
)
def test_files_that_are_no_terraform_are_refused(file: str, text: str, reason: str) -> None:
    with pytest.raises(TargetRefused) as caught:
        HclFile.read(text, file)
    assert caught.value.reason == reason


# Cron


@pytest.mark.parametrize(
    ("line", "minutes", "expected"),
    [
        ("0 2 * * *", 540, "0 11 * * *"),
        ("0 22 * * *", 180, "0 1 * * *"),
        ("30 22 * * 1-5", 180, "30 1 * * 2,3,4,5,6"),
        ("30 22 * * fri", 120, "30 0 * * 6"),
        ("15 2,14 * * *", 60, "15 3,15 * * *"),
        ("0 */6 * * *", 120, "0 2,8,14,20 * * *"),
        ("0 4 1 * *", 90, "30 5 1 * *"),
        ("@daily", 300, "0 5 * * *"),
    ],
)
def test_cron_lines_move(line: str, minutes: int, expected: str) -> None:
    assert Cron.read(line).later(minutes).text == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 * * * *", "no_fixed_hour"),
        ("*/5 2 * * *", "unresolvable_value"),
        ("H 2 * * *", "unresolvable_value"),
        ("0 2 * *", "unresolvable_value"),
        ("0 25 * * *", "unresolvable_value"),
        ("CRON_TZ=UTC 0 2 * * *", "unresolvable_value"),
        ("0 20 1 * *", "crosses_midnight"),
        ("0 2,20 * * 1", "crosses_midnight"),
    ],
)
def test_cron_lines_that_cannot_move_say_why(line: str, reason: str) -> None:
    with pytest.raises(CronError) as caught:
        Cron.read(line).later(480)
    assert caught.value.reason == reason


@given(st.integers(0, 23), st.integers(0, 59), st.integers(0, 1439))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_daily_start_moves_round_the_clock(hour: int, minute: int, by: int) -> None:
    later = Cron.read(f"{minute} {hour} * * *").later(by)
    assert later.hours[0] * 60 + later.minute == (hour * 60 + minute + by) % 1440
