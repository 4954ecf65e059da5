"""A `PervlError` as `dg.Failure`, where Dagster calls the project: the message comes first, the stack below it.

Without it a step shows "Error occurred while executing op …" and a stack first, and a failed run no message at all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg

from pervl_assets.core.errors import PervlError


def make_failure(error: PervlError, **metadata: Any) -> dg.Failure:
    """Return an error as Dagster's `Failure`: what is wrong, where, how many, and what to do, line by line.

    Its class has the name of the error and no module, because Dagster prints both before the message.
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
