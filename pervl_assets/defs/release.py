"""The asset `release/croissant`: `croissant.json`, a description of every published result in Croissant.

Every asset with a table, features, a tree or a training file is part of the release. Results that are not materialized
are left out, named in the description and reported by a check: a user without one of the archives can still publish the
rest.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import dagster as dg
import polars as pl

from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.clip.features import read_features
from pervl_assets.core.errors import name_some
from pervl_assets.core.files import hash_bytes
from pervl_assets.defs.metadata import OWNERS, make_check_result, preview_table, record_duration
from pervl_assets.defs.pages import list_sources, trace_sources
from pervl_assets.defs.raw import RAW
from pervl_assets.defs.resources import Workspace
from pervl_assets.io_managers.base import locate_value
from pervl_assets.io_managers.tables import COLUMN_SCHEMA
from pervl_assets.io_managers.training_files import TrainingFile, read_manifest
from pervl_assets.io_managers.trees import read_tree
from pervl_assets.release.croissant import FILE, build_croissant, encode_croissant, write_croissant
from pervl_assets.release.images import LABELS, Labeller, label_images, write_images
from pervl_assets.release.parts import FeaturesPart, FilePart, Part, Release, Source, TablePart, Tree, TreePart

_RELEASE: Final = "release"
CROISSANT_KEY: Final = dg.AssetKey([_RELEASE, "croissant"])
WHOLE: Final = "nothing_is_left_out"

_EXTENSIONS: Final = {
    "tables": ".parquet",
    "features": ".parquet",
    "trees": ".parquet",
    "training_files": ".json",
}
"""Extension of the value, or of its manifest, by key of the IO manager."""


@dataclass(frozen=True)
class Published:
    """An asset whose value is published.

    Attributes:
        key: Asset key.
        description: What the value holds.
        kind: Key of its IO manager.
        columns: Description of each column, by name; empty unless the value is a table.
        partitions: Its partitions; `(None,)` if it has none.
        sources: Names of the raw inputs it derives from, sorted.
    """

    key: dg.AssetKey
    description: str
    kind: str
    columns: Mapping[str, str]
    partitions: tuple[str | None, ...]
    sources: tuple[str, ...]

    @property
    def name(self) -> str:
        """The asset key as text."""
        return self.key.to_user_string()

    def locate(self, root: Path) -> dict[str | None, Path]:
        """Return the path of the value of each partition, or of its manifest."""
        extension = _EXTENSIONS[self.kind]
        return {partition: locate_value(root, self.key.path, extension, partition) for partition in self.partitions}


def find_published(assets: Iterable[dg.AssetsDefinition]) -> list[Published]:
    """Return the published assets, sorted by key: all but the raw inputs."""
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
                sources=sources[key],
            )
        )
    return published


def collect_release(published: Sequence[Published], workspace: Workspace) -> Release:
    """Find every published value on disk. Those that do not exist are listed as absent."""
    parts: list[Part] = []
    absent: list[str] = []
    sources, root = list_sources(), workspace.root
    for value in published:
        paths = value.locate(root)
        present = {partition: path for partition, path in paths.items() if _exists(value.kind, path, root)}
        if present:
            parts.append(_read_part(value, present, tuple(sources[name] for name in value.sources), root))
            absent += [f"{value.name} [{partition}]" for partition in paths if partition not in present]
        else:
            absent.append(value.name)
    return Release(root, tuple(parts), tuple(absent), workspace.profile == "demo", version("pervl_assets"))


def _exists(kind: str, path: Path, root: Path) -> bool:
    """Return whether a value is on disk: its file in `assets/`, and the tree or file that this one refers to."""
    if not path.is_file():
        return False
    match kind:
        case "trees":
            return read_tree(root, path).root.is_dir()
        case "training_files":
            return (root / read_manifest(path).file).is_file()
        case _:
            return True


def _read_part(value: Published, present: Mapping[str | None, Path], sources: tuple[Source, ...], root: Path) -> Part:
    about = value.name, value.description, sources
    files = {partition: path.relative_to(root).as_posix() for partition, path in present.items()}
    first = next(iter(present))
    match value.kind:
        case "tables":
            return TablePart(*about, files[first], value.columns)
        case "trees":
            read = {partition: read_tree(root, path) for partition, path in present.items()}
            trees = tuple(
                Tree(split, tree.root.relative_to(root).as_posix(), files[split], tree.ledger)
                for split, tree in read.items()
            )
            return TreePart(*about, trees, label_images(value.name, trees, _make_labeller(value.key, root)))
        case "training_files":
            return FilePart(*about, read_manifest(present[first]).file)
        case _:
            passports = [asdict(read_features(path).passport) for path in present.values()]
            different = [passport for row, passport in enumerate(passports) if passport not in passports[:row]]
            return FeaturesPart(*about, tuple(files.values()), tuple(different))


def _make_labeller(key: dg.AssetKey, root: Path) -> Labeller:
    """Return the function that adds class, split and caption to the images of a tree, from the tables of the tree.

    If a table was removed, the labels are null; the release reports the table as left out.
    """
    prefix, name = key.path
    trees = {(one.name, tree.name): tree for one in find_benchmarks() for tree in one.trees}
    tree = trees[prefix, name]
    paths = {table: locate_value(root, [prefix, table], ".parquet") for table in tree.tables}
    if not all(path.is_file() for path in paths.values()):
        return lambda images: images.with_columns(pl.lit(None, pl.String).alias(label) for label in LABELS)
    tables = {table: pl.read_parquet(path, glob=False) for table, path in paths.items()}
    classes = pl.col("concept").replace_strict(dict(tree.name_classes(tables)), default=None, return_dtype=pl.String)
    return lambda images: tree.label_images(tables, images).with_columns(class_name=classes)


def build_release_asset(assets: Iterable[dg.AssetsDefinition]) -> dg.AssetsDefinition:
    """Return the asset that describes everything these assets publish."""
    published = find_published(assets)

    @dg.asset(
        key=CROISSANT_KEY,
        group_name=_RELEASE,
        deps=[value.key for value in published],
        io_manager_key="training_files",
        kinds={"json"},
        owners=OWNERS,
        code_version="2",
        check_specs=[
            dg.AssetCheckSpec(
                WHOLE,
                asset=CROISSANT_KEY,
                description="All published results are materialized, so the description is complete. A warning.",
            )
        ],
    )
    @record_duration
    def croissant(workspace: Workspace) -> Iterator[dg.MaterializeResult[TrainingFile]]:
        """`croissant.json`: all published files with their sha256, fields, splits, and the licences of the inputs.

        [Croissant](https://docs.mlcommons.org/croissant/) 1.1, as mlcroissant, Hugging Face and others read it. Each
        image has its concept, class, split and caption, from the table `assets/release/images.parquet`. Results that
        are not materialized are left out, and named in the description.
        """
        release = collect_release(published, workspace)
        write_images(release)
        description = build_croissant(release)
        licences = pl.DataFrame(
            [(source.title, source.licence, ", ".join(parts)) for source, parts in release.sources.items()],
            schema=["input", "licence", "applies to"],
            orient="row",
        )
        yield dg.MaterializeResult(
            value=TrainingFile(FILE, lambda target: write_croissant(description, target)),
            data_version=dg.DataVersion(hash_bytes(encode_croissant(description))[:16]),
            metadata={
                "version": description["version"],
                **_count_files(release, description),
                "images": sum(part.images.height for part in release.trees),
                "record_sets": len(description["recordSet"]),
                "licences": preview_table(licences, rows=50),
                "left_out": len(release.absent),
            },
            check_results=[_check_complete(release, len(published))],
        )

    return croissant


def _check_complete(release: Release, results: int) -> dg.AssetCheckResult:
    absent = release.absent
    return make_check_result(
        WHOLE,
        not absent,
        f"{len(absent):,} results are not materialized and left out: {name_some(absent)}. Materialize them, then this "
        "asset."
        if absent
        else f"all {results:,} published results are described",
        results=results,
        described=len(release.parts),
        left_out=len(absent),
    )


def _count_files(release: Release, croissant: Mapping[str, Any]) -> dict[str, int]:
    """Count the described files and their bytes, including those of the trees."""
    ledgers = [tree.rows.filter(pl.col("concept") != "") for part in release.trees for tree in part.trees]
    single = [node for node in croissant["distribution"] if "sha256" in node]
    return {
        "release_files": len(single) + sum(int((rows["status"] == "written").sum()) for rows in ledgers),
        "release_bytes": sum(int(node["contentSize"].removesuffix(" B")) for node in single)
        + sum(int(rows["bytes"].sum()) for rows in ledgers),
    }
