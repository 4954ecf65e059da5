"""The descriptions of every published result: in Croissant (`croissant.json`), and as data cards (`README.md`).

Every asset with a table, features, a tree or a training file is part of the release. Results that are not materialized
are left out, named in the description and reported by a check: a user without one of the archives can still publish the
rest.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, Final

import dagster as dg
import polars as pl

from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.core.errors import name_some
from pervl_assets.core.files import hash_bytes, write_bytes_atomically
from pervl_assets.core.text import count_of
from pervl_assets.defs.metadata import OWNERS, make_check_result
from pervl_assets.defs.pages import list_sources, trace_sources
from pervl_assets.defs.raw import RAW
from pervl_assets.defs.resources import Workspace
from pervl_assets.defs.steps import record_step
from pervl_assets.io_managers import find_io_managers
from pervl_assets.io_managers.base import PervlIOManager
from pervl_assets.io_managers.metadata import preview_table
from pervl_assets.io_managers.tables import COLUMN_SCHEMA, TableIOManager
from pervl_assets.io_managers.training_files import CroissantIOManager, TrainingFile, TrainingFileIOManager
from pervl_assets.release.croissant import FILE, build_croissant, encode_croissant
from pervl_assets.release.data_card import CARD, build_cards, refuse_foreign
from pervl_assets.release.images import IMAGES_FILE, LABELS, write_images
from pervl_assets.release.parts import Part, Release
from pervl_assets.release.validation import validate_croissant

_RELEASE: Final = "release"
CROISSANT_KEY: Final = dg.AssetKey([_RELEASE, "croissant"])
RELEASE_KEYS: Final = frozenset({CROISSANT_KEY, dg.AssetKey([_RELEASE, "data_card"])})
"""They are made from what is materialized, whether that is everything or not."""

WHOLE: Final = "nothing_is_left_out"


@dataclass(frozen=True)
class Published:
    """An asset whose value is published: partitions are `(None,)` if it has none, sources the names of raw inputs."""

    key: dg.AssetKey
    name: str
    description: str
    manager: type[PervlIOManager]
    columns: Mapping[str, str]
    partitions: tuple[str | None, ...]
    sources: tuple[str, ...]


def find_published(assets: Iterable[dg.AssetsDefinition]) -> list[Published]:
    """Return the published assets, sorted by key: all but the raw inputs and the descriptions."""
    assets = list(assets)
    specs = {spec.key: (spec, asset) for asset in assets for spec in asset.specs}
    sources, managers = trace_sources(assets), find_io_managers()
    published = []
    for key, (spec, asset) in sorted(specs.items()):
        manager = managers.get(asset.get_io_manager_key_for_asset_key(key))
        if key.path[0] in (RAW, _RELEASE) or manager is None:
            continue
        declared: Any = spec.metadata.get(COLUMN_SCHEMA)
        columns = getattr(declared, "schema", declared).columns if declared else ()
        published.append(
            Published(
                key=key,
                name=key.to_user_string(),
                description=spec.description or "",
                manager=manager,
                columns={column.name: column.description or "" for column in columns},
                partitions=(*spec.partitions_def.get_partition_keys(),) if spec.partitions_def else (None,),
                sources=sources[key],
            )
        )
    return published


def collect_release(published: Sequence[Published], workspace: Workspace) -> Release:
    """Find every published value on disk. Those that do not exist are listed as absent."""
    sources, parts, absent = list_sources(), list[Part](), list[str]()
    listing = workspace.store.list_values()
    for value in published:
        manager = value.manager(data=workspace.data)
        there = [one for one in value.partitions if manager.exists(value.key, one, listing)]
        paths = {one: manager.fetch(value.key, one) for one in there}
        if not paths:
            absent.append(value.name)
            continue
        part = Part(value.name, value.description, tuple(sources[name] for name in value.sources))
        parts.append(manager.publish(part, paths, value.columns, partial(_label, value.key, workspace)))
        absent += [f"{value.name} [{partition}]" for partition in value.partitions if partition not in paths]
    return Release(workspace.root, tuple(parts), tuple(absent), workspace.profile == "demo", version("pervl_assets"))


def _label(key: dg.AssetKey, workspace: Workspace, images: pl.DataFrame) -> pl.DataFrame:
    """Return the images of a tree with class, split and caption, from the tables of the tree.

    Labels are null if a table is missing. The release lists that table as left out.
    """
    stored = TableIOManager(data=workspace.data)
    (tree,) = (tree for one in find_benchmarks() for tree in one.trees if (one.name, tree.name) == tuple(key.path))
    keys = {table: dg.AssetKey([key.path[0], table]) for table in tree.tables}
    tables = {table: frame for table, one in keys.items() if (frame := stored.read_previous(one)) is not None}
    if len(tables) < len(keys):
        return images.with_columns(pl.lit(None, pl.String).alias(label) for label in LABELS)
    classes = pl.col("concept").replace_strict(dict(tree.name_classes(tables)), default=None, return_dtype=pl.String)
    return tree.label_images(tables, images).with_columns(class_name=classes)


def build_release_assets(assets: Iterable[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
    """Return the assets that describe everything these assets publish."""
    published = find_published(assets)
    return [_build_croissant(published), _build_data_card(published)]


def _build_croissant(published: Sequence[Published]) -> dg.AssetsDefinition:
    @dg.asset(
        key=CROISSANT_KEY,
        group_name=_RELEASE,
        deps=[value.key for value in published],
        io_manager_key=CroissantIOManager.key,
        kinds={"json"},
        owners=OWNERS,
        code_version=f"2 of {version('pervl_assets')}",
        check_specs=[
            dg.AssetCheckSpec(
                WHOLE,
                asset=CROISSANT_KEY,
                description="All published results are materialized, so the description is complete. A warning.",
            )
        ],
    )
    @record_step(uses=("profile",))
    def croissant(workspace: Workspace) -> Iterator[dg.MaterializeResult[TrainingFile]]:
        """`croissant.json`: all published files with their sha256, fields, splits, and the licences of the inputs.

        [Croissant](https://docs.mlcommons.org/croissant/) 1.1, as mlcroissant, Hugging Face and others read it. Each
        image has its concept, class, split and caption, from the table `assets/release/images.parquet`. Results that
        are not materialized are left out, and named in the description.
        """
        release = collect_release(published, workspace)
        write_images(release)
        description = build_croissant(release)
        content = encode_croissant(description)
        licences = pl.DataFrame(
            [(source.title, source.licence, ", ".join(parts)) for source, parts in release.sources.items()],
            schema=["input", "licence", "applies to"],
            orient="row",
        )
        yield CroissantIOManager.describe(
            TrainingFile(
                FILE,
                lambda target: write_bytes_atomically(target, content),
                others=(IMAGES_FILE,) if release.trees else (),
            ),
            {"croissant": hash_bytes(content)},
            **{
                "version": description["version"],
                **_count_files(release, description),
                "images": sum(part.images.height for part in release.trees),
                "record_sets": len(description["recordSet"]),
                "licences": preview_table(licences, rows=50),
                "left_out": len(release.absent),
            },
            checks=[_check_complete(release, len(published))],
        )

    return croissant


def _build_data_card(published: Sequence[Published]) -> dg.AssetsDefinition:
    @dg.asset(
        key_prefix=_RELEASE,
        group_name=_RELEASE,
        deps=[value.key for value in published],
        io_manager_key=TrainingFileIOManager.key,
        kinds={"markdown"},
        owners=OWNERS,
        code_version=f"1 of {version('pervl_assets')}",
    )
    @record_step(uses=("profile",))
    def data_card(workspace: Workspace) -> dg.MaterializeResult[TrainingFile]:
        """`README.md` and `LICENSE.md`: the data card of the Hugging Face Hub, and the licences of every part.

        `datasets.load_dataset` reads tables and features by it, each under a name, by split. The images of
        `views/imagefolder` have cards of their own there, with the few-shot images and the evaluation images by split.
        """
        release = collect_release(published, workspace)
        cards = {path: text.encode() for path, text in build_cards(release).items()}
        others = tuple(path for path in cards if path != CARD)
        for path in cards:
            refuse_foreign(workspace.root / path)
        for path in others:
            write_bytes_atomically(workspace.root / path, cards[path])
        absent = pl.DataFrame({"result": release.absent})
        return TrainingFileIOManager.describe(
            TrainingFile(CARD, lambda target: write_bytes_atomically(target, cards[CARD]), others),
            {path: hash_bytes(content) for path, content in cards.items()},
            parts=_tabulate_parts(release),
            left_out=len(release.absent),
            absent=preview_table(absent, rows=50),
        )

    return data_card


def _tabulate_parts(release: Release) -> dg.MetadataValue:
    rows = [(part.name, part.measure(release.root)[0], "; ".join(part.licences)) for part in release.parts]
    return preview_table(pl.DataFrame(rows, schema=["part", "files", "licences"], orient="row"), rows=100)


def _check_complete(release: Release, results: int) -> dg.AssetCheckResult:
    absent = release.absent
    return make_check_result(
        WHOLE,
        not absent,
        f"{count_of(len(absent), 'result')} left out, not materialized: {name_some(absent)}. Materialize them, then "
        "this asset."
        if absent
        else f"each of {results:,} published results is described",
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


@dg.asset_check(
    asset=CROISSANT_KEY,
    description="mlcroissant loads the description without an error. A recommended field that is missing is a warning.",
)
@record_step
def valid_croissant(workspace: Workspace) -> dg.AssetCheckResult:
    """Validate what was written."""
    file = workspace.root / FILE
    CroissantIOManager(data=workspace.data).fetch(CROISSANT_KEY, whole=True)
    if not file.is_file():
        return make_check_result(None, False, f"nothing is materialized: there is no {FILE}")
    errors, warnings = validate_croissant(file)
    named = [*errors, *warnings]
    return make_check_result(
        None,
        not named,
        f"{count_of(len(errors), 'error')} and {count_of(len(warnings), 'warning')}: {name_some(named)}"
        if named
        else "mlcroissant finds neither error nor warning",
        is_error=bool(errors),
        errors=len(errors),
        warnings=len(warnings),
    )
