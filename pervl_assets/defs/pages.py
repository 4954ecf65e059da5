"""The parts of an asset's page that follow from the whole graph: tags, source, licences of its inputs, column links."""

from collections.abc import Container, Iterable, Mapping
from functools import cache
from pathlib import PurePath
from typing import Any

import dagster as dg

from pervl_assets.archives.official_files import load_manifest
from pervl_assets.benchmarks import find_benchmarks, find_searched
from pervl_assets.benchmarks.benchmark import TableAsset, TreeAsset
from pervl_assets.core.text import escape_markdown
from pervl_assets.defs.raw import ANNOTATIONS_KEY, RAW, list_specs
from pervl_assets.defs.resources import ANNOTATIONS
from pervl_assets.defs.source_notes import EACH, SOURCE_NOTES
from pervl_assets.io_managers import find_io_managers
from pervl_assets.io_managers.tables import COLUMN_LINEAGE, COLUMN_SCHEMA
from pervl_assets.release.parts import Source
from pervl_assets.upstream import link_docs


def complete_pages(assets: Iterable[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
    """Return the assets with tags, source notes, licences of their inputs, and links in their column descriptions.

    Tags: `pervl/value` (kind of value), `pervl/benchmark`, and `pervl/from_<raw input>` for each that it descends from.
    """
    graph = list(assets)
    stores = {key: asset.get_io_manager_key_for_asset_key(key) for asset in graph for key in asset.keys}
    managers = find_io_managers()
    origins, sources, notes = trace_sources(graph), list_sources(), list_source_notes()
    benchmarks = {dg.AssetKey([RAW, spec.name]): one.name for one in find_benchmarks() for spec in one.archives}
    benchmarks |= {key: key.path[0] for key in _list_results()}

    def complete(spec: dg.AssetSpec) -> dg.AssetSpec:
        key = spec.key
        inputs = [sources[name] for name in origins[key]]
        manager = managers.get(stores[key])
        tags = {"pervl/value": manager.kind if manager else stores[key]}
        if key in benchmarks:
            tags["pervl/benchmark"] = benchmarks[key]
        if key.path[0] == RAW:
            metadata: dict[str, dg.MetadataValue] = {
                "homepage": dg.MetadataValue.url(inputs[0].homepage),
                "licence": dg.MetadataValue.md(_link_licence(inputs[0])),
            }
        else:
            metadata = {"raw_inputs": _list_raw_inputs(inputs)}
            tags |= {f"pervl/from_{one.name}": "" for one in inputs}
        metadata["docs"] = dg.MetadataValue.md(link_docs(f"assets/{key.path[0]}", _name_anchor(key)))
        completed = spec.merge_attributes(tags=tags, metadata={**metadata, **_show_columns(spec.metadata)})
        if key not in notes:
            return completed
        return completed.replace_attributes(description=f"{spec.description}\n\n**Source:** {notes[key]}")

    return [*dg.map_asset_specs(complete, graph)]


def _name_anchor(key: dg.AssetKey) -> str:
    """Return the anchor of an asset's heading in the documentation, where those of each benchmark have one heading."""
    benchmarks = [benchmark.name for benchmark, _, _ in find_searched()]
    return key.path[0] + "".join(part for part in key.path[1:] if part not in benchmarks)


def trace_sources(assets: Iterable[dg.AssetsDefinition]) -> dict[dg.AssetKey, tuple[str, ...]]:
    """Return the names of the raw inputs that each asset descends from, in order."""
    specs = {spec.key: spec for asset in assets for spec in asset.specs}

    @cache
    def trace(key: dg.AssetKey) -> frozenset[str]:
        if key.path[0] == RAW:
            return frozenset({key.path[-1]})
        return frozenset(name for parent in list_parents(specs[key], specs) for name in trace(parent))

    return {key: tuple(sorted(trace(key))) for key in specs}


def list_parents(spec: dg.AssetSpec, known: Container[dg.AssetKey]) -> list[dg.AssetKey]:
    """Return the assets that one is made from. As in Dagster, the name of an input means one with its own prefix."""
    keys = [dep.asset_key for dep in spec.deps]
    return [key if key in known else dg.AssetKey([*spec.key.path[:-1], *key.path]) for key in keys]


def list_sources() -> dict[str, Source]:
    """Return every raw input with its licence, by its name."""
    manifest = load_manifest(ANNOTATIONS / "manifest.yaml")
    annotations = Source(
        ANNOTATIONS_KEY.path[-1],
        "The PerVL annotations",
        manifest.licence,
        f"https://github.com/{manifest.repository}",
        redistributable=True,
    )
    found = [
        annotations,
        *(
            Source(
                spec.name,
                spec.title.removesuffix(f", {PurePath(spec.file).name}"),
                spec.licence,
                spec.homepage,
                spec.redistributable,
            )
            for spec in list_specs()
        ),
    ]
    return {source.name: source for source in found}


def list_source_notes() -> dict[dg.AssetKey, str]:
    """Return the source note of every asset that has one."""
    own = {key: asset.source_note for key, asset in _list_results().items() if asset.source_note}
    searched = [benchmark.name for benchmark, _, _ in find_searched()]
    others = {key.replace(EACH, name): note for key, note in SOURCE_NOTES.items() for name in searched}
    return own | {dg.AssetKey.from_user_string(key): note for key, note in others.items()}


def _list_results() -> dict[dg.AssetKey, TableAsset | TreeAsset]:
    """Return every table and tree of every benchmark."""
    results: dict[dg.AssetKey, TableAsset | TreeAsset] = {}
    for benchmark in find_benchmarks():
        assets: list[TableAsset | TreeAsset] = [*benchmark.tables, *benchmark.trees]
        results |= {dg.AssetKey([benchmark.name, asset.name]): asset for asset in assets}
    return results


def _list_raw_inputs(inputs: Iterable[Source]) -> dg.MetadataValue:
    """Return raw inputs, each linked to its page, which has the whole licence, with the licence in a second line.

    A page of 1280 pixels has space for about 40 characters there, which is too little for two columns.
    """
    return dg.MetadataValue.md(
        "\n".join(
            f"- {link_asset(dg.AssetKey([RAW, one.name]), one.name)}\\\n  [{one.short_licence}]({one.licence_address})"
            for one in inputs
        )
    )


def _link_licence(source: Source) -> str:
    if "https://" in source.licence:
        return source.licence
    return f"[{source.licence}]({source.licence_address})"


def link_asset(key: dg.AssetKey, text: str) -> str:
    """Return a markdown link to an asset's page in the UI."""
    return f"[{text}](/assets/{'/'.join(key.path)})"


def _show_columns(metadata: Mapping[str, Any]) -> dict[str, dg.TableSchema]:
    """Return the declared columns with links to the tables that each is made from.

    Only Dagster+ draws `dagster/column_lineage`. The open-source UI hides it. Column descriptions are markdown.
    """
    # Dagster wraps the metadata of some assets, and not of others.
    schema, lineage = (
        getattr(metadata.get(key), "value", metadata.get(key)) for key in (COLUMN_SCHEMA, COLUMN_LINEAGE)
    )
    if schema is None:
        return {}
    deps = lineage.deps_by_column if lineage else {}

    def show(column: dg.TableColumn) -> dg.TableColumn:
        made_from: dict[dg.AssetKey, list[str]] = {}
        for dep in deps.get(column.name, ()):
            made_from.setdefault(dep.asset_key, []).append(f"`{dep.column_name}`")
        sources = "; ".join(f"{link_asset(key, key.path[-1])}: {', '.join(names)}" for key, names in made_from.items())
        description = escape_markdown(column.description or "") + (f"\n\nFrom {sources}" if sources else "")
        return dg.TableColumn(column.name, column.type, description, column.constraints, column.tags)

    return {COLUMN_SCHEMA: dg.TableSchema(columns=[show(column) for column in schema.columns])}
