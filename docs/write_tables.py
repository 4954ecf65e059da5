"""Write what the pages in `docs/assets/` tell of every asset, from the definitions: `python docs/write_tables.py`.

Belongs here: what is written between a line `<!-- from the definitions: WHAT -->` and the next `<!-- end -->`, where
WHAT is `asset KEY`, `checks above` (of the assets that the page tells of) or `columns MODULE:SCHEMA`. Does not belong
here: prose, which stands in the pages. A test holds the pages against what this would write.
"""

import importlib
import re
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import dagster as dg

from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.core.tables import TableSchema
from pervl_assets.definitions import build_definitions
from pervl_assets.io_managers import find_io_managers
from pervl_assets.settings import Settings, get_variable

PAGES: Final = Path(__file__).parent / "assets"

_PART: Final = re.compile(r"(<!-- from the definitions: (\w+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_LINK: Final = re.compile(r"\]\(/assets/(\w+)/(\w+)\)")
"""A link to an asset's page in the UI; here it leads to the asset's heading."""

_LISTED: Final = 4
"""So many partitions, or assets that one is made from, are listed; of more partitions, the first and the last."""


def load_graph() -> Any:
    """Return the asset graph of the full profile with nothing else set."""
    return build_definitions(Settings.from_env({"PERVL_PROFILE": "full"})).resolve_asset_graph()


def fill_page(text: str, graph: Any) -> str:
    """Return a page with everything between the markers written anew.

    Raises:
        KeyError: A marker names no asset.
        AttributeError: A marker names no schema.
    """
    told = {dg.AssetKey(name.split("/")) for kind, name in list_parts(text) if kind == "asset"}
    writers: dict[str, Callable[[str], Iterable[str]]] = {
        "asset": lambda key: tell_asset(graph, dg.AssetKey(key.split("/"))),
        "checks": lambda _: tell_checks(graph, told),
        "columns": lambda place: tell_columns(_import_schema(place)),
        "settings": lambda _: describe_settings(),
    }

    def fill(part: re.Match[str]) -> str:
        lines = "\n".join([part[1], *writers[part[2]](part[3]), "", part[4]])
        lines = _LINK.sub(lambda link: f"]({link[1]}.md#{link[1]}{link[2]})", lines)
        return lines.replace("`docs/fidelity.md`", "[fidelity](../fidelity.md#upstreams-rules)")

    return _PART.sub(fill, text)


def list_parts(text: str) -> list[tuple[str, str]]:
    """Return what the markers of a page ask for, as kind and name."""
    return [(part[2], part[3]) for part in _PART.finditer(text)]


def tell_asset(graph: Any, key: dg.AssetKey) -> Iterable[str]:
    """Tell what an asset is, what it is made from, where it is, its columns, and the names of its checks."""
    node = graph.get(key)
    yield from (node.description or "").splitlines()
    yield ""
    parents = sorted(parent.to_user_string() for parent in node.parent_keys)
    told = {
        # of more assets than can be listed is made only the release, which takes in whatever there is
        "made from": ", ".join(map(_code, parents)) if len(parents) <= _LISTED else "all that is published",
        "partitions": _name_partitions(node.partitions_def.get_partition_keys()) if node.partitions_def else "",
        "place": _code(node.metadata["place"]) if "place" in node.metadata else "",
        "folder": ", ".join(map(_code, list_folders(key))),
        "kept in": _code(_locate(node)),
        "pool": ", ".join(map(_code, sorted(node.pools or ()))),
        "checks": ", ".join(_name_check(graph, check) for check in sorted(node.check_keys)),
    }
    yield from make_table(["", ""], [[label, text] for label, text in told.items() if text])
    schema = node.metadata.get("dagster/column_schema")
    if schema is not None:
        yield ""
        # What a column is made from stands behind its description, in a paragraph of its own (`defs.pages`).
        rows = [
            [_code(column.name), _code(column.type), *(column.description or "").split("\n\nFrom ", 1)]
            for column in getattr(schema, "schema", schema).columns
        ]
        header = ["column", "type", "holds", "from"][: max(map(len, rows))]
        yield from make_table(header, [row + [""] * (len(header) - len(row)) for row in rows])


def tell_checks(graph: Any, keys: Collection[dg.AssetKey]) -> Iterable[str]:
    """Tell what every check of some assets asks, those that ask the same of several assets in one row."""
    asked: dict[tuple[str, str], list[str]] = {}
    for check in sorted(graph.asset_check_keys):
        if check.asset_key in keys:
            description = graph.get_check_spec(check).description or ""
            asked.setdefault((_name_check(graph, check), description), []).append(check.asset_key.path[-1])
    rows = [[name, description, ", ".join(map(_code, of))] for (name, description), of in sorted(asked.items())]
    return make_table(["check", "asks", "of"], rows)


def tell_columns(schema: TableSchema) -> Iterable[str]:
    """Tell the columns of a schema that is not an asset's own."""
    return make_table(
        ["column", "type", "holds"], [[_code(c.name), _code(str(c.dtype)), c.description] for c in schema]
    )


def describe_settings() -> Iterable[str]:
    """Describe every setting: variable, meaning, and default in the full profile; the demo's, where it is another."""
    full, demo = (Settings.from_env({"PERVL_PROFILE": profile}).model_dump() for profile in ("full", "demo"))
    rows = []
    for name, field in Settings.model_fields.items():
        other = "" if demo[name] == full[name] else f" (demo: {_code(str(demo[name]))})"
        default = field.title or _code(str(full[name])) + other
        rows.append([_code(get_variable(name)), field.description or "", default])
    return make_table(["variable", "meaning", "default"], rows)


def list_folders(key: dg.AssetKey) -> list[str]:
    """Return the folders of a tree asset below `PERVL_DATA`, one for each split; of any other asset none."""
    return [
        tree.folder(split)
        for benchmark in find_benchmarks()
        for tree in benchmark.trees
        if [benchmark.name, tree.name] == [*key.path]
        for split in tree.splits or (None,)
    ]


def make_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table in markdown: cells without line breaks, and what would be taken for markup escaped."""
    cells = [[_escape(" ".join(cell.split())) for cell in row] for row in (header, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return [lines[0], "|" + " --- |" * len(header), *lines[1:]]


def _locate(node: Any) -> str:
    """Return the path of a value or of its manifest, of all partitions by one name."""
    manager = find_io_managers()[node.assets_def.get_io_manager_key_for_asset_key(node.key)]
    return manager(data=".").locate(node.key, "<partition>" if node.partitions_def else None).as_posix()


def _name_partitions(keys: Sequence[str]) -> str:
    shown = keys if len(keys) <= _LISTED else [keys[0], "…", keys[-1]]
    return ", ".join(key if key == "…" else _code(key) for key in shown)


def _name_check(graph: Any, check: dg.AssetCheckKey) -> str:
    return _code(check.name) + (" (blocking)" if graph.get_check_spec(check).blocking else "")


def _import_schema(place: str) -> TableSchema:
    """Import a schema, or call the function that returns it."""
    module, _, name = place.partition(":")
    found = getattr(importlib.import_module(module), name)
    schema: TableSchema = found if isinstance(found, TableSchema) else found()
    return schema


def _code(text: str) -> str:
    return f"`{text}`"


def _escape(cell: str) -> str:
    """Escape bars everywhere, and what begins a tag or an emphasis outside of code, unless it is escaped already."""
    parts = re.sub(r"(?<!\\)\|", r"\\|", cell).split("`")
    return "`".join(part if row % 2 else re.sub(r"(?<!\\)[<*]", r"\\\g<0>", part) for row, part in enumerate(parts))


if __name__ == "__main__":
    asset_graph = load_graph()
    for page in sorted(PAGES.parent.rglob("*.md")):
        old = page.read_text(encoding="utf-8")
        if (new := fill_page(old, asset_graph)) != old:
            page.write_text(new, encoding="utf-8")
            sys.stdout.write(f"{page} is written anew\n")
