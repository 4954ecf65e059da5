"""How the errors of assets and checks reach the person who reads a run.

Belongs here: putting `show_errors` around what every step computes, once, for all assets. Does not belong here: how an
error is shown, which is `io_managers.failures`.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import dagster as dg

from pervl_assets.io_managers.failures import show_errors

_MARK: Final = "_shows_errors"


def show_errors_of(assets: Iterable[dg.AssetsDefinition]) -> None:
    """Let the steps of assets and checks fail with the messages of the project's errors first.

    Dagster has no public place that every step's error passes, and a decorator at every asset would be forgotten at the
    next one; so the functions that their ops call are replaced, in place and once.
    """
    for asset in assets:
        for op in asset.node_def.iterate_op_defs():
            compute: Any = op.compute_fn
            if not hasattr(compute.decorated_fn, _MARK):
                op._compute_fn = compute._replace(decorated_fn=_show_errors(compute.decorated_fn))


def _show_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does the same within `show_errors`; of a generator function, a generator function."""

    @functools.wraps(function)
    def call(*args: Any, **inputs: Any) -> Any:
        with show_errors():
            return function(*args, **inputs)

    @functools.wraps(function)
    def generate(*args: Any, **inputs: Any) -> Iterator[Any]:
        with show_errors():
            yield from function(*args, **inputs)

    shown = generate if inspect.isgeneratorfunction(function) else call
    setattr(shown, _MARK, True)
    return shown
