import pytest

from pervl_assets.core.errors import AnnotationError, MissingInputError
from pervl_assets.training.modes import PROMPTS, read_prompts


@pytest.fixture
def file(tmp_path):
    return tmp_path / "prompts.txt"


def test_prompts_are_as_many_as_palavras():
    assert (len(PROMPTS), len(set(PROMPTS))) == (24, 24)
    assert all(prompt.count("*") == 1 for prompt in PROMPTS)
    assert [prompt[-1] for prompt in PROMPTS] == ["*"] * 15 + [" "] * 9


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_prompts_are_read_with_their_blanks_at_the_end(file, end):
    file.write_bytes(("\ufeff" + end.join(("A *", "", "  ", "See a * here ", " a *"))).encode())
    assert read_prompts(file) == (" a *", "A *", "See a * here ")


def test_the_order_of_prompts_makes_no_difference(file):
    found = set()
    for prompts in (["A *", "a *"], ["a *", "A *"]):
        file.write_text("\n".join(prompts))
        found.add(read_prompts(file))
    assert len(found) == 1
    file.write_text("\n".join(reversed(PROMPTS)))
    assert read_prompts(file) == PROMPTS  # drawn as without a file


def test_lines_that_are_no_prompts_are_named(file):
    file.write_bytes(b"A *\nno star\nA * and a *\n\nA * here\nA \xff *\n")
    with pytest.raises(AnnotationError, match="has 4 lines with text, and 4 unusable") as raised:
        read_prompts(file)
    assert list(raised.value.details) == [
        "line 2: 0 * instead of one",
        "line 3: 2 * instead of one",
        "line 5: it ends neither in * nor in a blank, so its last letter would be cut off",
        "line 6: not UTF-8",
    ]


def test_a_file_that_is_none_of_prompts_is_refused(file):
    with pytest.raises(MissingInputError, match="does not exist"):
        read_prompts(file)
    file.write_text("\n \n")
    with pytest.raises(AnnotationError, match="has 0 lines with text"):
        read_prompts(file)
    file.write_text("A *\n" * 100_000)
    with pytest.raises(AnnotationError, match="400,000 bytes, more than 100,000"):
        read_prompts(file)
