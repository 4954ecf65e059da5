r"""Untrusted text on its way to the Dagster UI and to a terminal.

Names come from archives, CSV files and folders of unknown origin. The UI draws markdown: a name
`![](/graphql?query=…)` would send a request for everyone who opens the page. A terminal obeys `\x1b[2J`.
"""

import html
import re
from typing import Final

_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, marks that turn the direction of text, and bytes that are no UTF-8."""

_BREAK: Final = re.compile(r"\s*[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")

_MARKUP: Final = re.compile(r"[&<>\[\]|`*~\\]|(?<![^\W_])_|_(?![^\W_])")
"""Characters that begin markup. `(` and `!` do not without `[`, and `_` does not between letters."""

_SECRET: Final = re.compile(r"(?<=//)\S*@|(?<=\?)[^\s'\"]+")
"""User name and password of an address, and its query, which can hold a token."""


def hide_secrets(text: str) -> str:
    """Return text whose addresses have no log-in and no query: `https://anna:pw@host/x?key=1` is `https://host/x?`."""
    return _SECRET.sub("", text)


def escape_terminal(text: str) -> str:
    r"""Return text that a terminal shows and does not obey: `a\x1b[2Jb` becomes the visible characters `a\x1b[2Jb`.

    Newlines and tabs stay. Markup of rich is not escaped; `rich.markup.escape` does that.
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def escape_markdown(text: str) -> str:
    """Return text that the Dagster UI shows literally, in one line: `[x](y)` becomes `&#91;x&#93;(y)`.

    For table cells, check results, and every other markdown text that holds names. `unescape_markdown` reverses it.
    """
    line = escape_terminal(_BREAK.sub(" ", text))
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", line)


def unescape_markdown(text: str) -> str:
    """Return the text that `escape_markdown` was called with, but for newlines and control characters."""
    return html.unescape(text)


def count_of(count: int, what: str) -> str:
    """Return a number with what is counted, in the singular: `1 file`, `1,234 files`, `0 copies`."""
    if count == 1:
        return f"1 {what}"
    plural = f"{what[:-1]}ies" if what.endswith("y") and what[-2:-1] not in "aeiou" else f"{what}s"
    return f"{count:,} {plural}"
