"""The project's exceptions, and how many names fit into one message."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import ClassVar

from pervl_assets.core.text import escape_terminal

_SHOWN = 10
_SUGGESTED = 5


class PervlError(Exception):
    """An error that you can act on: what is wrong, the names concerned, and what to do next.

    Control characters of names are shown and not obeyed, wherever the error is printed, logged or stored.

    Args:
        problem: What is wrong and where, with counts.
        advice: What to do next.
        details: Further lines, e.g. the names concerned.

    Attributes:
        is_temporary: Whether the same step may succeed later, with nothing changed by anyone.
    """

    is_temporary: ClassVar[bool] = False

    def __init__(self, problem: str, *, advice: str, details: Iterable[str] = ()) -> None:
        self.problem = escape_terminal(problem)
        self.advice = escape_terminal(advice)
        self.details = tuple(map(escape_terminal, details))
        super().__init__(
            "\n".join([self.problem, *(f"  {line}" for line in self.details), f"What to do: {self.advice}"])
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle problem, advice and details, so that the error crosses a process boundary whole."""
        return (_rebuild, (type(self), self.problem, self.advice, self.details))


def _rebuild(kind: type[PervlError], problem: str, advice: str, details: tuple[str, ...]) -> PervlError:
    return kind(problem, advice=advice, details=details)


class MissingInputError(PervlError):
    """A raw input was not found."""


class ArchiveError(PervlError):
    """An archive is unsafe or unreadable: damaged, hostile, or of another kind than expected."""


class AddressError(PervlError):
    """A bucket or server cannot be used: no permission, no credentials, an answer that is not understood."""


class NoAnswerError(AddressError):
    """A bucket or server is away: no connection, no answer in time, or an error of its own."""

    is_temporary = True


class PasswordError(ArchiveError):
    """The archive's password is missing or wrong."""


class AnnotationError(PervlError):
    """An annotation or text file does not follow its format."""


class FailedCheckError(PervlError):
    """A blocking check did not pass. The value is stored, and the result of the check says what is wrong with it."""


class IncompleteInputError(PervlError):
    """A value that a step needs is stored, but a blocking check of it did not pass."""


class SchemaError(PervlError):
    """A table has other columns or types than declared."""


class CheckpointError(PervlError):
    """A CLIP checkpoint cannot be loaded into the named model."""


class WriteError(PervlError):
    """Results cannot be written: no permission, no space left, or another run is writing them."""


class BusyError(WriteError):
    """Another run is at work on the same value, or has just written it."""

    is_temporary = True


class LostProcessError(PervlError):
    """A worker process ended before its work was done."""

    is_temporary = True


def name_some(names: Collection[object], shown: int = _SHOWN) -> str:
    """Return the first `shown` names and the number of the others: `a, b, c and 4,126 more`."""
    head = ", ".join(str(name) for _, name in zip(range(shown), names, strict=False))
    rest = len(names) - shown
    return f"{head} and {rest:,} more" if rest > 0 else head


def list_some(lines: Collection[str], shown: int = _SHOWN) -> list[str]:
    """Return the first `shown` lines, and `and 4,126 more` as the last one where there are others."""
    head = [line for _, line in zip(range(shown), lines, strict=False)]
    rest = len(lines) - len(head)
    return [*head, f"and {rest:,} more"] if rest else head


def suggest(name: str, known: Iterable[str], others: Iterable[str] | None = None) -> str:
    """Return the known names that are like a mistaken one, as a question; others, or all, if there are none."""
    names = list(known)
    inside = [one for one in names if name.casefold() in one.casefold()]
    for cutoff in (0.8, 0.6):
        if similar := dict.fromkeys(inside + get_close_matches(name, names, n=_SUGGESTED, cutoff=cutoff)):
            return f"Did you mean {name_some(similar, _SUGGESTED)}?"
    return f"Choose one of these: {name_some(names if others is None else [*others])}."
