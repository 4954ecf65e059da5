"""Write the generated parts of the docs, from the definitions and the commands: `make tables`.

Example: the lines between `<!-- from the definitions: asset ytvos/concepts -->` and the next `<!-- end -->` become the
asset's description, inputs, path, columns and checks. Other markers are `checks above` (all checks of the assets on the
page), `columns MODULE:SCHEMA`, `settings all` and `command NAME` (its `--help`). A test compares the pages with the
output of this module.
"""

import importlib
import re
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import click
import dagster as dg

from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.cli.commands import main
from pervl_assets.core.tables import TableSchema
from pervl_assets.definitions import build_definitions
from pervl_assets.defs.checks import SUMS_HOLD
from pervl_assets.io_managers import find_io_managers
from pervl_assets.settings import Settings, get_variable

PAGES: Final = Path(__file__).parents[2] / "docs/assets"

_PART: Final = re.compile(r"(<!-- from the definitions: (\w+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_DOCS: Final = re.compile(r"\[docs/(\w+)\.md\]\(/docs/[^)]*\)")
_HEADINGS: Final = {"fidelity": "#upstreams-rules"}
"""Of rules, which have no anchors of their own in a repository's pages."""

_LINK: Final = re.compile(r"\]\(/assets/(\w+)/(\w+)\)")
"""A link to an asset's page in the UI. In the docs it becomes a link to the asset's heading."""

_EACH: Final = "<benchmark>"
_BENCHMARK: Final = re.compile(rf"\b(evaluation|training)/(?:{'|'.join(one.name for one in find_benchmarks())})/")
"""A benchmark in the key of an asset that every benchmark has."""

_HELP_WIDTH: Final = 96
"""Columns of the help of a command."""

_LISTED: Final = 4
"""Maximum number of partitions that are listed. Of more only the first and the last are shown."""

_INPUTS: Final = 6
"""Maximum number of inputs that are listed, those of every benchmark counted once. Only the release has more."""


def load_graph() -> Any:
    """Return the asset graph of the full profile with nothing else set."""
    return build_definitions(Settings.from_env({"PERVL_PROFILE": "full"})).resolve_asset_graph()


def fill_page(text: str, graph: Any) -> str:
    """Return a page with everything between the markers written again.

    Raises:
        KeyError: A marker names no asset.
        AttributeError: A marker names no schema.
    """
    documented = {dg.AssetKey(name.split("/")) for name in list_assets(text)}
    writers: dict[str, Callable[[str], Iterable[str]]] = {
        "asset": lambda name: describe_assets(graph, name),
        "checks": lambda _: describe_checks(graph, documented),
        "columns": lambda reference: describe_columns(_import_schema(reference)),
        "settings": lambda _: describe_settings(),
        "command": describe_command,
    }

    def fill(part: re.Match[str]) -> str:
        lines = "\n".join([part[1], *writers[part[2]](part[3]), "", part[4]])
        lines = _LINK.sub(lambda link: f"]({link[1]}.md#{link[1]}{link[2]})", lines)
        return _DOCS.sub(lambda link: f"[{link[1]}](../{link[1]}.md{_HEADINGS.get(link[1], '')})", lines)

    return _PART.sub(fill, text)


def list_parts(text: str) -> list[tuple[str, str]]:
    """Return the markers of a page as (kind, name), e.g. `("asset", "ytvos/concepts")`."""
    return [(part[2], part[3]) for part in _PART.finditer(text)]


def list_assets(text: str) -> list[str]:
    """Return the names of the assets of a page. That of `evaluation/<benchmark>/queries` is that of several."""
    return [one for kind, name in list_parts(text) if kind == "asset" for one in _expand(name)]


def _expand(name: str) -> list[str]:
    evaluated = [benchmark.name for benchmark in find_benchmarks() if benchmark.retrieval]
    return [name.replace(_EACH, one) for one in evaluated] if _EACH in name else [name]


def describe_assets(graph: Any, name: str) -> Iterable[str]:
    """Describe an asset, or one of every benchmark: lines in which these differ are there for each."""
    described = [list(describe_asset(graph, dg.AssetKey(one.split("/")))) for one in _expand(name)]
    for lines in zip(*described, strict=True):
        yield from dict.fromkeys(_BENCHMARK.sub(rf"\1/{_EACH}/", line) if _EACH in name else line for line in lines)


def describe_asset(graph: Any, key: dg.AssetKey) -> Iterable[str]:
    """Describe an asset: its description, inputs, paths and columns."""
    node = graph.get(key)
    yield from (node.description or "").splitlines()
    yield ""
    parents = sorted({_BENCHMARK.sub(rf"\1/{_EACH}/", parent.to_user_string()) for parent in node.parent_keys})
    facts = {
        "made from": ", ".join(map(_code, parents)) if len(parents) <= _INPUTS else "everything that is published",
        "partitions": _name_partitions(node.partitions_def.get_partition_keys()) if node.partitions_def else "",
        **{label: _code(node.metadata[label]) for label in ("path",) if label in node.metadata},
        "folder": ", ".join(map(_code, list_folders(key))),
        "stored in": _code(_locate(node)),
        "pool": ", ".join(map(_code, sorted(node.pools or ()))),
    }
    yield from (f"- {label}: {text}" for label, text in facts.items() if text)
    schema = node.metadata.get("dagster/column_schema")
    if schema is not None and key.path[-1].endswith("_features"):
        yield "- columns: [features](README.md#features)"
    elif schema is not None:
        yield ""
        yield from make_table(
            ["column", "type", "holds"],
            [
                # `defs.pages` appends the lineage of a column to its description, for the UI.
                [_code(column.name), _code(column.type), (column.description or "").partition("\n\nFrom ")[0]]
                for column in getattr(schema, "schema", schema).columns
            ],
        )


def describe_checks(graph: Any, keys: Collection[dg.AssetKey]) -> Iterable[str]:
    """Describe the checks of some assets, except `sums_hold`. Assets share the row of a check."""
    described: dict[tuple[str, str], list[str]] = {}
    for check in sorted(graph.asset_check_keys):
        if check.asset_key in keys and check.name != SUMS_HOLD:
            description = graph.get_check_spec(check).description or ""
            described.setdefault((_name_check(graph, check), description), []).append(check.asset_key.path[-1])
    rows = [
        [name, description, ", ".join(map(_code, dict.fromkeys(of)))]
        for (name, description), of in sorted(described.items())
    ]
    return make_table(["check", "description", "assets"], rows)


def describe_columns(schema: TableSchema) -> Iterable[str]:
    """Describe the columns of a schema that belongs to no single asset."""
    return make_table(
        ["column", "type", "holds"], [[_code(c.name), _code(str(c.dtype)), c.description] for c in schema]
    )


def describe_settings() -> Iterable[str]:
    """Describe every setting: variable, meaning, and default in the full profile, with the demo's if that differs."""
    full, demo = (Settings.from_env({"PERVL_PROFILE": profile}).model_dump() for profile in ("full", "demo"))
    rows = []
    for name, field in Settings.model_fields.items():
        other = "" if demo[name] == full[name] else f" (demo: {_code(str(demo[name]))})"
        default = field.title or _code(str(full[name])) + other
        rows.append([_code(get_variable(name)), field.description or "", default])
    return make_table(["variable", "meaning", "default"], rows)


def describe_command(name: str) -> list[str]:
    """Return the help of a command as `--help` prints it, as a block of text."""
    context = click.Context(main, info_name="pervl", terminal_width=_HELP_WIDTH, **main.context_settings)
    command = main.commands[name]
    return ["```text", *command.get_help(click.Context(command, context, name)).splitlines(), "```"]


def list_folders(key: dg.AssetKey) -> list[str]:
    """Return the folders of a tree asset below `PERVL_DATA`, one per split; empty for any other asset."""
    return [
        tree.folder(split)
        for benchmark in find_benchmarks()
        for tree in benchmark.trees
        if [benchmark.name, tree.name] == [*key.path]
        for split in tree.splits or (None,)
    ]


def make_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a markdown table. Line breaks in cells are removed and markup characters are escaped."""
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


def _import_schema(reference: str) -> TableSchema:
    """Import `MODULE:NAME`, a schema or a function that returns one."""
    module, _, name = reference.partition(":")
    found = getattr(importlib.import_module(module), name)
    schema: TableSchema = found if isinstance(found, TableSchema) else found()
    return schema


def _code(text: str) -> str:
    return f"`{text}`"


def _escape(cell: str) -> str:
    """Escape bars everywhere, and tags and emphasis outside of code, unless they are escaped already."""
    parts = re.sub(r"(?<!\\)\|", r"\\|", cell).split("`")
    return "`".join(part if row % 2 else re.sub(r"(?<!\\)[<*]", r"\\\g<0>", part) for row, part in enumerate(parts))


if __name__ == "__main__":
    asset_graph = load_graph()
    for page in sorted(PAGES.parent.rglob("*.md")):
        old = page.read_text(encoding="utf-8")
        if (new := fill_page(old, asset_graph)) != old:
            page.write_text(new, encoding="utf-8")
            sys.stdout.write(f"{page} updated\n")
