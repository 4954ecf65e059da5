"""Annotation files that are not what they should be, and where."""

import re

import pytest

from pervl_assets.archives.annotations import Faults, read_csv, read_text
from pervl_assets.core.errors import AnnotationError, MissingInputError


def test_rows_know_their_lines(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfx,y,z\r\n1,"two\r\nlines",3\r\n4,"a, ""b""",6')
    assert read_csv(tmp_path / "a.csv", ("x", "y")) == [
        (3, {"x": "1", "y": "two\r\nlines"}),
        (4, {"x": "4", "y": 'a, "b"'}),
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("x,z\n1,2\n", "line 1: no column y"),
        ("", "line 1: no column x, y"),
        ("x,y\n1\n", "line 2: more or fewer fields"),
        ("x,y\n1,2\n1,2,3\n", "line 3: more or fewer fields"),
        ('x,y\n1,"open\n', "unexpected end of data"),
    ],
)
def test_faulty_tables_are_refused_with_the_line(tmp_path, text, fault):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(AnnotationError, match=re.escape(fault)):
        read_csv(tmp_path / "a.csv", ("x", "y"))


def test_other_encodings_are_refused_at_the_byte(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(AnnotationError, match="byte 3"):
        read_text(tmp_path / "a.txt")


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
