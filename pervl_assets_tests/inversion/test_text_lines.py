import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pervl_assets.core.errors import AnnotationError, ArchiveError
from pervl_assets.inversion.text_lines import read_lines

piece = st.sampled_from([b"a", b"bc", b"\n", b"\r", b"\r\n", "é".encode(), b"\xe9", b"\x0c", "\u2028".encode(), b" "])


@settings(max_examples=100, deadline=None)
@given(st.booleans(), st.lists(piece, max_size=12).map(b"".join), st.integers(1, 9))
def test_lines_are_those_of_text_mode_for_any_block_size(tmp_path_factory, mark, data, block):
    path = tmp_path_factory.mktemp("lines") / "text.txt"
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + data)
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        expected = [line.removesuffix("\n") for line in file]
    parts = [*read_lines(path, block)]
    texts = {number: text for lines, _ in parts for number, text in lines.iter_rows()}
    unreadable = {number: text for _, bad in parts for number, _, text in bad.iter_rows()}
    bad = {number: text for number, text in enumerate(expected, 1) if has_surrogates(text)}
    assert texts == {number: text for number, text in enumerate(expected, 1) if number not in bad}
    assert unreadable.keys() == bad.keys()


def has_surrogates(text):
    return any("\udc80" <= letter <= "\udcff" for letter in text)


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_line_numbers_continue_from_block_to_block(tmp_path, block):
    path = tmp_path / "text.txt"
    path.write_bytes(b"one\n\ntwo\xe9\r\nthree")
    parts = [*read_lines(path, block)]
    assert [row for lines, _ in parts for row in lines.iter_rows()] == [(1, "one"), (2, ""), (4, "three")]
    assert [row for _, bad in parts for row in bad.iter_rows()] == [(3, "not UTF-8", "two\ufffd")]


def test_lines_with_zero_bytes_are_set_aside(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"one\n\0\0\0\nthree")
    ((lines, bad),) = read_lines(path)
    assert lines.rows() == [(1, "one"), (3, "three")]
    assert bad.rows() == [(2, "a zero byte", "\0\0\0")]


def test_a_line_without_end_is_refused_in_little_memory(tmp_path):
    path = tmp_path / "text.txt"
    with path.open("wb") as file:
        file.write(b"one\ntwo")
        file.truncate(64 << 30)
    with pytest.raises(AnnotationError, match="Line 2 of"):
        list(read_lines(path))


def test_an_unreadable_file_is_an_error_with_advice(tmp_path):
    with pytest.raises(ArchiveError, match="there is a folder where a file is needed"):
        list(read_lines(tmp_path))
