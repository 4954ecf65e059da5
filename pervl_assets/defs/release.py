"""The release as an asset: `croissant.json`, which describes every published result to other people's tools.

Belongs here: finding what is published in the asset graph, and a thin body around `pervl_assets.release`. Does not
belong here: what the description says.

Nothing is listed by hand: whatever asset keeps a table, features, a tree or a training file is part of the release, and
its licences are those of the raw inputs it descends from. What is not materialized is left out, named in the
description and told by a check: who may not have one of the archives can still publish the rest.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import dagster as dg
import polars as pl

from pervl_assets.clip.features import read_features
from pervl_assets.core.errors import name_some
from pervl_assets.core.files import hash_bytes
from pervl_assets.defs.metadata import OWNERS, make_check_result, preview_table, record_duration
from pervl_assets.defs.pages import list_parents, list_sources, trace_sources
from pervl_assets.defs.raw import RAW
from pervl_assets.defs.resources import Workspace
from pervl_assets.io_managers.base import locate_value
from pervl_assets.io_managers.tables import COLUMN_SCHEMA
from pervl_assets.io_managers.training_files import TrainingFile, read_manifest
from pervl_assets.io_managers.trees import read_tree
from pervl_assets.release.croissant import FILE, build_croissant, encode_croissant, write_croissant
from pervl_assets.release.parts import FeaturesPart, FilePart, Part, Release, Source, TablePart, Tree, TreePart

RELEASE: Final = "release"
CROISSANT_KEY: Final = dg.AssetKey([RELEASE, "croissant"])
WHOLE: Final = "nothing_is_left_out"

_EXTENSIONS: Final = {
    "tables": ".parquet",
    "features": ".parquet",
    "trees": ".parquet",
    "training_files": ".json",
}
"""Extension of the value, or of its manifest, by the key of the IO manager that keeps it."""


@dataclass(frozen=True)
class Published:
    """An asset whose value is published.

    Attributes:
        key: Its key.
        description: What it is.
        kind: Key of the IO manager that keeps its value.
        columns: What each column holds, by its name; of a table only.
        partitions: Its partitions; one without a name where it has none.
        parents: Names of the assets that it is made from.
        sources: Names of the raw inputs that it descends from, in order.
    """

    key: dg.AssetKey
    description: str
    kind: str
    columns: Mapping[str, str]
    partitions: tuple[str | None, ...]
    parents: tuple[str, ...]
    sources: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its key as text."""
        return self.key.to_user_string()

    def locate(self, root: Path) -> dict[str | None, Path]:
        """Return where the value of each partition, or its manifest, belongs."""
        extension = _EXTENSIONS[self.kind]
        return {partition: locate_value(root, self.key.path, extension, partition) for partition in self.partitions}


def find_published(assets: Iterable[dg.AssetsDefinition]) -> list[Published]:
    """Return the assets that are published, in order of their keys: all but the raw inputs."""
    assets = list(assets)
    specs = {spec.key: (spec, asset) for asset in assets for spec in asset.specs}
    sources = trace_sources(assets)
    published = []
    for key, (spec, asset) in sorted(specs.items()):
        kind = asset.get_io_manager_key_for_asset_key(key)
        if key.path[0] == RAW or kind not in _EXTENSIONS:
            continue
        declared: Any = spec.metadata.get(COLUMN_SCHEMA)
        columns = getattr(declared, "schema", declared).columns if declared else ()
        published.append(
            Published(
                key=key,
                description=spec.description or "",
                kind=kind,
                columns={column.name: column.description or "" for column in columns},
                partitions=(*spec.partitions_def.get_partition_keys(),) if spec.partitions_def else (None,),
                parents=tuple(sorted(parent.to_user_string() for parent in list_parents(spec, specs))),
                sources=sources[key],
            )
        )
    return published


def collect_release(published: Sequence[Published], workspace: Workspace) -> Release:
    """Look for every published value on disk; whatever is not there is named as absent."""
    parts: list[Part] = []
    absent: list[str] = []
    sources, root = list_sources(), workspace.root
    for value in published:
        places = value.locate(root)
        there = {partition: place for partition, place in places.items() if _is_there(value.kind, place, root)}
        if there:
            parts.append(_read_part(value, there, tuple(sources[name] for name in value.sources), root))
            absent += [f"{value.name} [{partition}]" for partition in places if partition not in there]
        else:
            absent.append(value.name)
    return Release(root, tuple(parts), tuple(absent), workspace.profile == "demo", version("pervl_assets"))


def _is_there(kind: str, place: Path, root: Path) -> bool:
    """Tell whether a value is on disk: what stands in `assets/`, and what that tells of elsewhere."""
    if not place.is_file():
        return False
    match kind:
        case "trees":
            return read_tree(root, place).root.is_dir()
        case "training_files":
            return (root / read_manifest(place).file).is_file()
        case _:
            return True


def _read_part(value: Published, there: Mapping[str | None, Path], sources: tuple[Source, ...], root: Path) -> Part:
    told = value.name, value.description, sources
    files = {partition: place.relative_to(root).as_posix() for partition, place in there.items()}
    first = next(iter(there))
    match value.kind:
        case "tables":
            return TablePart(*told, files[first], value.columns)
        case "trees":
            trees = [(partition, read_tree(root, place)) for partition, place in there.items()]
            return TreePart(
                *told,
                tuple(
                    Tree(split, tree.root.relative_to(root).as_posix(), files[split], tree.ledger)
                    for split, tree in trees
                ),
                value.parents,
            )
        case "training_files":
            return FilePart(*told, read_manifest(there[first]).file)
        case _:
            passports = [asdict(read_features(place).passport) for place in there.values()]
            different = [passport for row, passport in enumerate(passports) if passport not in passports[:row]]
            return FeaturesPart(*told, tuple(files.values()), tuple(different))


def build_release_asset(assets: Iterable[dg.AssetsDefinition]) -> dg.AssetsDefinition:
    """Return the asset that describes everything that these assets publish."""
    published = find_published(assets)

    @dg.asset(
        key=CROISSANT_KEY,
        group_name=RELEASE,
        deps=[value.key for value in published],
        io_manager_key="training_files",
        kinds={"json"},
        owners=OWNERS,
        code_version="1",
        check_specs=[
            dg.AssetCheckSpec(
                WHOLE,
                asset=CROISSANT_KEY,
                description="Every published result is materialized, so the description leaves none out. A warning.",
            )
        ],
    )
    @record_duration
    def croissant(workspace: Workspace) -> Iterator[dg.MaterializeResult[TrainingFile]]:
        """`croissant.json`: all published files with their sha256, their fields, splits, and the inputs' licences.

        [Croissant](https://docs.mlcommons.org/croissant/) 1.1, as mlcroissant, Hugging Face and others read it. Results
        that are not materialized are left out, and named in the description.
        """
        release = collect_release(published, workspace)
        told = build_croissant(release)
        licences = pl.DataFrame(
            [(source.title, source.licence, ", ".join(parts)) for source, parts in release.sources.items()],
            schema=["input", "licence", "carried to"],
            orient="row",
        )
        yield dg.MaterializeResult(
            value=TrainingFile(FILE, lambda target: write_croissant(told, target)),
            data_version=dg.DataVersion(hash_bytes(encode_croissant(told))[:16]),
            metadata={
                "version": told["version"],
                **count_files(release, told),
                "record_sets": len(told["recordSet"]),
                "licences": preview_table(licences, rows=50),
                "left_out": len(release.absent),
            },
            check_results=[
                make_check_result(
                    WHOLE,
                    not release.absent,
                    f"{len(release.absent):,} results are not materialized and left out: {name_some(release.absent)}. "
                    "Materialize them, then this."
                    if release.absent
                    else f"all {len(published):,} published results are described",
                    results=len(published),
                    described=len(release.parts),
                    left_out=len(release.absent),
                )
            ],
        )

    return croissant


def count_files(release: Release, croissant: Mapping[str, Any]) -> dict[str, int]:
    """Count the files that a description tells of, and their bytes, those of the trees included."""
    ledgers = [
        tree.rows.filter(pl.col("concept") != "")
        for part in release.parts
        if isinstance(part, TreePart)
        for tree in part.trees
    ]
    single = [node for node in croissant["distribution"] if "sha256" in node]
    return {
        "release_files": len(single) + sum(int((rows["status"] == "written").sum()) for rows in ledgers),
        "release_bytes": sum(int(node["contentSize"].removesuffix(" B")) for node in single)
        + sum(int(rows["bytes"].sum()) for rows in ledgers),
    }
