"""Hostile names are shown, and neither obeyed by a terminal nor drawn by the UI."""

import pytest

from pervl_assets.core.text import count_of, escape_markdown, escape_terminal, hide_secrets, unescape_markdown

IMAGE = '![](/graphql?query=mutation{setConcurrencyLimit(concurrencyKey:"gpu",limit:0)})'
MARKUP = [IMAGE, "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "`code`", "a|b", "*b* _c_ ~~d~~", "&lt;"]


@pytest.mark.parametrize("name", MARKUP)
def test_markup_of_a_name_is_literal_text(name):
    shown = escape_markdown(f"dog {name} cat")
    assert not set("<>[]|`*~") & set(shown)
    assert unescape_markdown(shown) == f"dog {name} cat"


def test_plain_names_stay_readable():
    assert escape_markdown("earless_seal_77610860e0_2 (3 of 4), 50 %!") == "earless_seal_77610860e0_2 (3 of 4), 50 %!"
    assert escape_markdown("_init_ a_") == "&#95;init&#95; a&#95;"


def test_markdown_stays_in_one_line():
    assert escape_markdown("a\n\n# b\r\n| c\u2028d") == "a # b &#124; cd".replace("cd", "c d")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("dog\x1b]0;pwned\x07\x1b[2J", r"dog\x1b]0;pwned\x07\x1b[2J"),
        ("a\rb\x9b31m", r"a\rb\x9b31m"),
        ("photo\u202egpj.exe", r"photo\u202egpj.exe"),
        ("caf\udce9", r"caf\udce9"),
        ("two\nlines\tand é 猫", "two\nlines\tand é 猫"),
    ],
)
def test_a_terminal_shows_control_characters(text, shown):
    assert escape_terminal(text) == shown
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(escape_markdown(text))


def test_log_ins_and_queries_of_addresses_are_hidden():
    assert hide_secrets("at https://anna:p@w@host:8/x?key=1 now") == "at https://host:8/x? now"
    assert hide_secrets("https://host/x, mail anna@host") == "https://host/x, mail anna@host"


@pytest.mark.parametrize(
    ("count", "what", "shown"),
    [(1, "file", "1 file"), (0, "file", "0 files"), (1234, "copy", "1,234 copies"), (2, "key", "2 keys")],
)
def test_numbers_and_what_is_counted_agree(count, what, shown):
    assert count_of(count, what) == shown
