import io

import pytest
from rich.console import Console

from pervl_assets.cli.tables import AssetRow, print_assets

TITLES = ("state", "made", ">bytes")
ROWS = [
    AssetRow("ytvos/fsl_seg", None, ("[green]up to date[/]", "3 min ago", "5.4 MB")),
    AssetRow("evaluation/deep_fashion/concept_query_features", None, ("missing", "", ""), 2),
    AssetRow("ytvos/retrieval_set", "test", ("stale, [red]run failed[/]", "2 days ago", "1.0 MB")),
]


def show(width: int, *, wide: bool = False, rows=ROWS) -> tuple[list[str], bool]:
    console = Console(file=io.StringIO(), width=width, emoji=False)
    is_whole = print_assets(console, TITLES, rows, 2, wide=wide)
    assert console.width == width
    return [line.rstrip() for line in console.file.getvalue().splitlines()], is_whole


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_table_fits_and_shows_the_state(width):
    lines, is_whole = show(width)
    assert max(map(len, lines)) <= width
    assert is_whole == (width >= 80)
    assert ("5.4 MB" in "".join(lines)) == is_whole
    text = " ".join(lines)
    assert all(word in text for word in ("up to date", "missing", "run failed", "fsl_seg", "retrieval_set [test]"))


def test_groups_are_sections_in_the_order_of_their_first_rows():
    lines, _ = show(80)
    assert [line for line in lines if line.endswith("/")] == ["ytvos/", "evaluation/"]
    assert lines.index("ytvos/") + 3 == lines.index("evaluation/")
    assert "  deep_fashion/concept_query_features \N{MULTIPLICATION SIGN}2  missing" in lines


def test_long_names_are_wrapped_behind_a_slash():
    lines, _ = show(60)
    row = next(number for number, line in enumerate(lines) if line.startswith("  deep_fashion/ "))
    assert lines[row].split() == ["deep_fashion/", "missing"]
    assert lines[row + 1].split() == ["concept_query_features", "\N{MULTIPLICATION SIGN}2"]


def test_a_wide_table_has_whole_names_and_all_columns():
    lines, is_whole = show(40, wide=True)
    assert is_whole
    assert any(line.startswith("ytvos/retrieval_set [test]") and line.endswith("1.0 MB") for line in lines)


def test_names_are_no_markup_and_a_name_without_a_group_has_no_section():
    lines, _ = show(80, rows=[AssetRow("[red]x", None, ("a", "b", "c"))])
    assert lines[-1].split() == ["[red]x", "a", "b", "c"]
    assert show(80, rows=[])[0][0].split() == ["asset", "state", "made", "bytes"]
