"""How an error of the project reaches the person who reads a run: its message first, and the stack below.

Belongs here: turning a `PervlError` into Dagster's `Failure` where Dagster calls the project. Does not belong here: the
errors themselves, which are `core.errors`. Without it Dagster shows "Error occurred while executing op …" and a stack
before it tells what is missing, and a failed run does not tell it at all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg

from pervl_assets.core.errors import PervlError


def make_failure(error: PervlError, **metadata: Any) -> dg.Failure:
    """Return an error as Dagster's `Failure`: what is wrong, where, how many, and what to do, line by line.

    Its class has the name of the error's and no module, for Dagster prints both before the message.
    """
    kind = type(type(error).__name__, (dg.Failure,), {"__module__": "builtins"})
    failure: dg.Failure = kind(str(error), metadata)
    return failure


@contextmanager
def show_errors() -> Iterator[None]:
    """Turn a `PervlError` into a `Failure` that has it as its cause; also a decorator, `@show_errors()`.

    Raises:
        dg.Failure: Dagster shows its description as it is.
    """
    try:
        yield
    except PervlError as error:
        raise make_failure(error) from error
