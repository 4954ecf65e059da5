"""Selections: how a user names a part of the graph, e.g. `ytvos`, `+palavra/object_names`, `group:ytvos and kind:csv`.

A bare name is an asset key or, if there is none, a group, the first parts of keys (`evaluation/ytvos`), or a pattern of
keys with `*`. Everything else is Dagster's syntax. What would select nothing is an error that says what is similar.
"""

import re
import warnings
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

import dagster as dg

from pervl_assets.core.errors import PervlError, suggest
from pervl_assets.dagster_private import BaseAssetGraph

_TERM: Final = re.compile(r'(?P<attribute>\w+:)?(?P<name>"[^"]*"(="[^"]*")?|[^\s()"+]+)')
"""A name, or an attribute with its value: `ytvos`, `key:"ytvos/*"`. Parentheses and + are not part of it."""

_SYNTAX: Final = re.compile(r"and|or|not|\*|\d+", re.IGNORECASE)
"""What is no name: the operators, everything, and the number of levels in `2+ytvos`."""


def select_assets(graph: BaseAssetGraph[Any], selection: str) -> frozenset[dg.AssetKey]:
    """Return the keys that a selection string names.

    Raises:
        PervlError: The string is no selection, or it or one of its names has no asset.
    """
    nodes = [graph.get(key) for key in graph.materializable_asset_keys]
    known = {
        "key:": {node.key.to_user_string() for node in nodes},
        "group:": {node.group_name for node in nodes},
        "kind:": {kind for node in nodes for kind in node.kinds or ()},
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)  # of Dagster about itself; a user can do nothing about it
            chosen = dg.AssetSelection.from_string(_TERM.sub(lambda found: _complete(found, known), selection))
            keys = frozenset(chosen.required_multi_asset_neighbors().resolve(graph))
    except (dg.DagsterError, ValueError) as error:
        raise PervlError(f"The selection {selection!r} is not valid.", advice=_explain_syntax(known)) from error
    if not keys:
        both = "X and Y is what is in both; for all of both, write X or Y. " if " and " in selection else ""
        raise PervlError(f"The selection {selection!r} has no asset.", advice=both + _explain_syntax(known))
    return keys


def _complete(found: re.Match[str], known: Mapping[str, Collection[str]]) -> str:
    """Return a term in Dagster's syntax: `ytvos` becomes `group:"ytvos"`.

    Raises:
        PervlError: No asset has this key, group or kind.
    """
    attribute, name = found["attribute"], found["name"].strip('"')
    is_function = found.string[found.end() :].startswith("(")
    if not attribute and (is_function or _SYNTAX.fullmatch(name)):
        return found[0]
    is_group = name in known["group:"] and name not in known["key:"]
    is_known = attribute or is_group or name in known["key:"]
    if not is_known and any(key.startswith(f"{name}/") for key in known["key:"]):
        name += "/*"
    names = known.get(attribute or ("group:" if is_group else "key:"))
    if names is not None and not any(fnmatchcase(one, name) for one in names):
        what = f"has the {attribute[:-1]}" if attribute else "and no group is named"
        groups = sorted(known["group:"])
        choices = (sorted(names), None) if attribute else (groups + sorted(known["key:"]), groups)
        raise PervlError(f"No asset {what} {name!r}.", advice=f"{suggest(name, *choices)} pervl list shows all.")
    return found[0] if attribute else f'{"group" if is_group else "key"}:"{name}"'


def _explain_syntax(known: Mapping[str, Collection[str]]) -> str:
    return (
        f"Name a group ({', '.join(sorted(known['group:']))}), an asset, e.g. ytvos/fsl_seg, "
        "or the first parts of names, e.g. evaluation/ytvos. "
        'Names are combined by "and", "or", "not"; +X adds upstream assets, X+ downstream assets.'
    )
