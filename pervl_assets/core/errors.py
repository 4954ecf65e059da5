"""Errors that say what is wrong, where, how many, and what to do next.

Belongs here: the exception types of the project and the one way to name many things in one line.
Does not belong here: deciding whether something is an error; that is each module's own rule.
"""

from collections.abc import Collection, Iterable

_SHOWN = 10


class PervlError(Exception):
    """An error a person can act on.

    Args:
        problem: What is wrong and where, with counts.
        advice: What to do next.
        details: Further lines, e.g. the names concerned.
    """

    def __init__(self, problem: str, *, advice: str, details: Iterable[str] = ()) -> None:
        self.problem = problem
        self.advice = advice
        self.details = tuple(details)
        super().__init__("\n".join([problem, *(f"  {line}" for line in self.details), f"What to do: {advice}"]))

    def __reduce__(self) -> tuple[object, ...]:
        """Let the error cross a process boundary whole."""
        return (_rebuild, (type(self), self.problem, self.advice, self.details))


def _rebuild(kind: type[PervlError], problem: str, advice: str, details: tuple[str, ...]) -> PervlError:
    return kind(problem, advice=advice, details=details)


class MissingInputError(PervlError):
    """A raw input is not where it is looked for."""


class ArchiveError(PervlError):
    """An archive cannot be trusted or read: damaged, hostile, or of another kind than expected."""


class TruncatedArchiveError(ArchiveError):
    """An archive ends before its directory: a download that was cut short."""


class PasswordError(ArchiveError):
    """The archive's password is missing or wrong."""


class AnnotationError(PervlError):
    """An annotation or text file does not follow its format."""


class SchemaError(PervlError):
    """A table has other columns or types than declared."""


class CheckpointError(PervlError):
    """A CLIP checkpoint cannot be loaded into the named model."""


class WriteError(PervlError):
    """Results cannot be written: no permission, or no space left."""


def name_some(names: Collection[object], shown: int = _SHOWN) -> str:
    """Name up to `shown` things and count the rest: `a, b, c and 4,126 more`."""
    head = ", ".join(str(name) for _, name in zip(range(shown), names, strict=False))
    rest = len(names) - shown
    return f"{head} and {rest:,} more" if rest > 0 else head
