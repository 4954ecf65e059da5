"""Annotation files that are not what they should be, and where."""

import contextlib
import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pervl_assets.archives.annotations import Faults, read_csv, read_text, read_yaml
from pervl_assets.core.errors import AnnotationError, ArchiveError, MissingInputError


def test_rows_know_their_lines(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfx,y,z\r\n1,"two\r\nlines",3\r\n4,"a, ""b""",6')
    assert read_csv(tmp_path / "a.csv", ("x", "y")) == [
        (3, {"x": "1", "y": "two\r\nlines"}),
        (4, {"x": "4", "y": 'a, "b"'}),
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("x,z\n1,2\n", "line 1: no column y in 'x,z'"),
        ("x;y\n1;2\n", "line 1: no column x, y in 'x;y'"),
        ("", "it is empty"),
        ("x,y,y\n1,2,3\n", "line 1: two columns y"),
        ("x,y\n1," + "z" * 200_000 + "\n", "line 2: field larger than field limit"),
        ("x,y\n1\n", "line 2: more or fewer fields"),
        ("x,y\n1,2\n1,2,3\n", "line 3: more or fewer fields"),
        ('x,y\n1,"open\n', "unexpected end of data"),
    ],
)
def test_faulty_tables_are_refused_with_the_line(tmp_path, text, fault):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(AnnotationError, match=re.escape(fault)):
        read_csv(tmp_path / "a.csv", ("x", "y"))


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"tea\ncaf\xe9", "not UTF-8 at byte 7, in line 2"),
        ("caf\u00e9".encode("utf-16"), "not UTF-8 at byte 0"),
        ("cafe".encode("utf-16-le"), "a zero byte at byte 1"),
        (b"tea\n\0\0\0", "a zero byte at byte 4, in line 2"),
        (bytes(9), "full of zero bytes"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "pointer of Git LFS"),
    ],
)
def test_other_content_is_refused_and_named(tmp_path, data, fault):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(AnnotationError, match=fault):
        read_text(tmp_path / "a.txt")


def test_a_file_too_large_for_annotations_is_not_read(tmp_path):
    with (tmp_path / "a.csv").open("wb") as file:
        file.write(b"x")
        file.truncate(64 << 30)
    with pytest.raises(AnnotationError, match="more than 33,554,432 bytes"):
        read_text(tmp_path / "a.csv")


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    with pytest.raises(ArchiveError, match="there is a folder where a file is needed"):
        read_text(tmp_path)


def test_yaml_is_text_whatever_it_looks_like(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "\ufeffa: {x: &n [no, 1e10, '012', !!int 7], y: ~, z: *n}\n2: |\n  two\n  lines\nnull: &t on\n? b\n: *t\n"
    )
    frames = ["no", "1e10", "012", "7"]
    fields = {"x": frames, "y": "~", "z": frames}
    assert read_yaml(tmp_path / "a.yaml") == [
        (1, "a", fields),
        (2, "2", "two\nlines\n"),
        (5, "null", "on"),
        (6, "b", "on"),
    ]


LAUGHS = "".join(f"k{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' occurs twice"),
        ("a:\n  x: 1\n  x: 2\n", "line 3: the key 'x' occurs twice"),
        ("a: &b {x: 1}\nc:\n  <<: *b\n", "line 3: a key that is not text; merge keys"),
        ("? [a]\n: 1\n", "line 1: a key that is not text"),
        ("a: 1\n---\nb: 2\n", "line 2: a second document"),
        ("- a\n", "line 1: not a mapping"),
        ("{}", "line 1: not a mapping"),
        ("# nothing\n", "line 1: not a mapping"),
        ("a:\n  b: &x [*x]\n", "line 2: *x is of no anchor"),
        ("a: *x\n", "line 1: *x is of no anchor"),
        ("a: " + "[" * 100_000, "line 1: nested more than 8 deep"),
        ("a:\n" + "".join(f"{'  ' * n}b:\n" for n in range(1, 500)), "line 9: nested more than 8 deep"),
        ("k0: &a0 x\n" + LAUGHS, "line 8: more than 1,000,000 values"),
        ("a: [1\nb: 2", "is not YAML at line 2"),
        ("\ta: 1", "is not YAML at line 1"),
        ("a: \x01", "is not YAML"),
        ("a: !<", "is not YAML at line 1"),
    ],
)
def test_faulty_yaml_is_refused_with_the_line(tmp_path, text, fault):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(AnnotationError, match=re.escape(fault)):
        read_yaml(tmp_path / "a.yaml")


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=9)
VALUES = st.recursive(
    TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=9
)


@settings(max_examples=60, deadline=None)
@given(value=st.dictionaries(TEXTS, VALUES, min_size=1, max_size=4))
def test_yaml_is_read_as_it_was_written(tmp_path_factory, value):
    file = tmp_path_factory.mktemp("yaml") / "a.yaml"
    file.write_text(yaml.safe_dump(value, allow_unicode=True), encoding="utf-8")
    if "<<" in str(value):
        return
    assert {key: one for _, key, one in read_yaml(file)} == value


@settings(max_examples=100, deadline=None)
@given(data=st.text("ab:-[]{}&*!|?#,<'\"\n\t \\", max_size=30).map(str.encode) | st.binary(max_size=30))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("any") / "a.yaml"
    file.write_bytes(data)
    for read in (read_yaml, lambda file: read_csv(file, ("a",))):
        with contextlib.suppress(AnnotationError):
            read(file)


def test_a_missing_file_says_what_to_set(tmp_path):
    with pytest.raises(MissingInputError, match="PERVL_ANNOTATIONS"):
        read_text(tmp_path / "a.txt")


def test_all_faults_are_counted_and_ten_are_shown(tmp_path):
    faults = Faults(tmp_path / "a.txt")
    faults.raise_any()
    for line in range(1, 38):
        faults.check(line, re.compile(r"[0-9]+"), "x", "pair_id")
    with pytest.raises(AnnotationError, match="37 faults") as caught:
        faults.raise_any()
    assert caught.value.details[0] == "line 1: pair_id 'x' is not of the form [0-9]+"
    assert caught.value.details[10:] == ("and 27 more",)
