import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from pervl_assets.cli.commands import main
from pervl_assets.cli.selections import add_inputs, choose_assets, join_words, select_option
from pervl_assets.core.errors import PervlError
from pervl_assets.definitions import defs


@click.command()
@select_option
@click.argument("folder")
def command(words: tuple[str, ...], folder: str) -> None:
    click.echo(f"{words} {folder}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("there", "()"),
        ("ytvos there", "('ytvos',)"),
        ("ytvos palavra/object_names there", "('ytvos', 'palavra/object_names')"),
        ("--select ytvos there --select *", "('ytvos', '*')"),
    ],
)
def test_words_are_positional_or_options(arguments, words):
    assert CliRunner().invoke(command, arguments.split()).output == f"{words} there\n"


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("yt", ["ytvos", "ytvos/captions", "ytvos/concepts"]),
        ("+ytvos/f", ["+ytvos/fsl_seg"]),
        ("training/y", ["training/ytvos", "training/ytvos/concept_tokens"]),
        ("zebra", []),
    ],
)
def test_a_shell_completes_groups_and_keys(typed, names):
    shell = BashComplete(main, {}, "pervl", "_PERVL_COMPLETE")
    found = [one.value for one in shell.get_completions(["materialize", "--force"], typed)]
    assert found[: len(names)] == names
    assert (found == []) == (names == [])


def test_what_a_shell_completes_can_be_selected():
    found = [one.value for one in BashComplete(main, {}, "pervl", "_PERVL_COMPLETE").get_completions(["status"], "")]
    assert len(found) > 50
    assert choose_assets(defs, found) == choose_assets(defs, [])


def test_several_words_choose_what_any_of_them_names():
    keys = [key.to_user_string() for key in choose_assets(defs, ["ytvos/concepts", "ytvos and kind:parquet"])]
    assert keys == ["ytvos/captions", "ytvos/concepts"]
    assert len(choose_assets(defs, [])) == len(choose_assets(defs, ["*"])) > 50
    assert join_words(["a", "b or c"]) == "(a) or (b or c)"


def test_inputs_are_added_to_words():
    assert add_inputs(["ytvos", "+a/b", "*", "a or b"]) == ["+ytvos", "+a/b", "*", "+(a or b)"]


def test_a_word_that_names_nothing_is_an_error():
    with pytest.raises(PervlError, match="Did you mean ytvos"):
        choose_assets(defs, ["palavra", "ytvoss"])
