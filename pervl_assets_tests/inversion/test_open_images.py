import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pervl_assets.core.errors import AnnotationError
from pervl_assets.inversion.open_images import read_class_names
from pervl_assets_tests.inversion.kit import SHARED

NAMES = 'LabelName,DisplayName\n/m/01,Man\n/m/02,"Ducks, geese and swans"\n/m/03,"Fiat 500 ""topolino"""\n/m/04,Man\n'


def write(path, text):
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "variant",
    ["lf", "crlf", "bom", "no final line break", "blank line", "no header", "blank first", "spaces", "other header"],
)
def test_csv_names_are_parsed(tmp_path, variant):
    text = {
        "crlf": NAMES.replace("\n", "\r\n"),
        "bom": "\ufeff" + NAMES,
        "no final line break": NAMES.rstrip(),
        "blank line": NAMES + "\n",
        "no header": NAMES.partition("\n")[2],
        "blank first": "\n \n" + NAMES,
        "spaces": NAMES.replace("LabelName,", "LabelName, "),
        "other header": NAMES.replace("LabelName,DisplayName", "id,name"),
    }.get(variant, NAMES)
    frame, rejected = read_class_names(write(tmp_path / "oid.csv", text), "csv")
    assert frame.rows() == [
        (0, "/m/01", "Man"),
        (1, "/m/02", "Ducks, geese and swans"),
        (2, "/m/03", 'Fiat 500 "topolino"'),
        (3, "/m/04", "Man"),
    ]
    assert rejected.is_empty()


def test_upstream_takes_everything_after_the_first_comma(tmp_path):
    frame, rejected = read_class_names(write(tmp_path / "oid.csv", NAMES), "upstream")
    names = ["DisplayName", "Man", '"Ducks  geese and swans"', '"Fiat 500 ""topolino"""', "Man"]
    assert frame["name"].to_list() == names
    assert rejected.is_empty()


def test_bad_rows_are_rejected_with_number_and_reason(tmp_path):
    text = NAMES + '/m/05,"never closed\n/m/06\n/m/07,\n/m/08,Cat\n'
    frame, rejected = read_class_names(write(tmp_path / "oid.csv", text), "csv")
    assert frame["name"].to_list()[-1] == "Cat"
    assert rejected["line"].to_list() == [6, 7, 8]
    assert [reason[:8] for reason in rejected["reason"]] == ["not CSV:", "1 fields", "an empty"]
    with pytest.raises(AnnotationError, match="4 of 10 lines"):
        read_class_names(write(tmp_path / "oid.csv", text + "x\n"), "csv")
    with pytest.raises(AnnotationError, match="no class name"):
        read_class_names(write(tmp_path / "oid.csv", "LabelName,DisplayName\n"), "csv")


@pytest.mark.parametrize("mode", ["csv", "upstream"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("".join(f"n{number:08},Name {number}\n" for number in range(9)), "8 of 9 lines"),
        ("<!doctype html>\n" + NAMES, "a web page"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "pointer of Git LFS"),
        ("\0" * 900, "zero bytes"),
    ],
)
def test_another_file_is_refused(tmp_path, mode, text, words):
    with pytest.raises(AnnotationError, match=words):
        read_class_names(write(tmp_path / "oid.csv", text), mode)


def test_upstream_keeps_the_few_lines_without_a_label(tmp_path):
    frame, rejected = read_class_names(write(tmp_path / "oid.csv", NAMES + "none,None\n"), "upstream")
    assert frame.rows()[-1] == (5, "none", "None")
    assert rejected.is_empty()


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(["csv", "upstream"]),
    data=st.text('/mn01,"\n\r \0A', max_size=30).map(str.encode) | st.binary(max_size=20),
)
def test_any_bytes_are_read_or_refused(tmp_path_factory, mode, data):
    path = tmp_path_factory.mktemp("names") / "oid.csv"
    path.write_bytes(data)
    with contextlib.suppress(AnnotationError):
        read_class_names(path, mode)


def test_the_real_file(tmp_path):
    path = SHARED / "data/openimages/oidv6-class-descriptions.noheader.csv"
    if not path.is_file():
        pytest.skip(f"the OpenImages names are not at {path}")
    with_header = tmp_path / "oid.csv"
    with_header.write_bytes(b"LabelName,DisplayName\n" + path.read_bytes())
    parsed, rejected = read_class_names(with_header, "csv")
    theirs, _ = read_class_names(with_header, "upstream")
    assert (parsed.height, theirs.height, rejected.height) == (19_994, 19_995, 0)
    assert theirs["name"][0] == "DisplayName"
    assert (parsed["name"] != theirs["name"][1:]).sum() == 14
    assert parsed["name"].is_duplicated().sum() > 0
