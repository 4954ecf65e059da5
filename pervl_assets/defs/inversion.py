"""The tables of the inversion model as assets: triplets, classes, sentences, names and matches."""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Final

import dagster as dg
import polars as pl

from pervl_assets.archives.inputs import RawArchive, locate_local
from pervl_assets.clip.features import Features
from pervl_assets.clip.nearest import find_nearest_classes
from pervl_assets.core.tables import TableSchema
from pervl_assets.defs.checks import OFFICIAL_COUNTS, declare_checks, evaluate_checks, evaluate_counts, to_check_result
from pervl_assets.defs.features import INVERSION, TEXT_FEATURES, build_features
from pervl_assets.defs.metadata import OWNERS, make_check_result
from pervl_assets.defs.raw import RAW, build_raw_asset
from pervl_assets.defs.resources import Workspace
from pervl_assets.defs.steps import record_step
from pervl_assets.inversion.checks import (
    OPENIMAGES_NAMES,
    REPEATED_NAMES,
    TRIPLET_CHECKS,
    check_class_number,
    check_class_sums,
    check_ties,
    tabulate_matches,
)
from pervl_assets.inversion.coco_classes import (
    OBJECT_CLASSES,
    OBJECT_SENTENCES,
    TRIPLETS,
    collect_object_sentences,
    count_object_classes,
    read_triplets,
)
from pervl_assets.inversion.open_images import OPENIMAGES_CLASSES, OPENIMAGES_MATCHES, read_class_names
from pervl_assets.inversion.sources import ARCHIVES
from pervl_assets.inversion.text_lines import MALFORMED_LINES, MAX_MALFORMED_SHARE
from pervl_assets.io_managers.metadata import QUARANTINED, preview_table
from pervl_assets.io_managers.tables import TableIOManager, declare_columns

_CLASSES_SHOWN: Final = 30
"""Number of classes whose highest and lowest margin are shown: those with most names."""


def _key(name: str) -> dg.AssetKey:
    return dg.AssetKey([INVERSION, name])


def _table(schema: TableSchema) -> dict[str, Any]:
    """Return what all assets and outputs that are tables have in common."""
    return {
        "key_prefix": INVERSION,
        "group_name": INVERSION,
        "io_manager_key": "tables",
        "kinds": {"polars", "parquet"},
        "owners": OWNERS,
        "code_version": "1",
        "metadata": declare_columns(schema, INVERSION),
    }


def _table_asset(
    schema: TableSchema, uses: Collection[str] = (), **more: Any
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Return the decorator of an asset whose value is a table; `uses` as of `record_step`."""
    decorate: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.asset(**_table(schema), **more)
    return lambda compute: decorate(record_step(compute, uses=uses))


@dg.multi_asset(
    name="read_coco_triplets",
    ins={"coco_svo_triplets": dg.AssetIn([RAW, "coco_svo_triplets"])},
    outs={
        "coco_triplets": dg.AssetOut(
            description="Subject-relation-object triplets of the COCO 2014 train captions, one row per well-formed "
            "line, in file order. The text is parsed as upstream does. CRLF, a BOM and a missing final line break are "
            "accepted.",
            **_table(TRIPLETS),
        ),
        "coco_malformed_lines": dg.AssetOut(
            description="Malformed lines of the triplet text, quarantined with line number and reason. More than 1 % "
            "is an error.",
            **_table(MALFORMED_LINES),
        ),
    },
    check_specs=[
        dg.AssetCheckSpec(
            "no_malformed_lines", asset=_key("coco_triplets"), description="Every line is well-formed. A warning."
        ),
        *declare_checks(_key("coco_triplets"), TRIPLET_CHECKS),
    ],
)
@record_step
def coco_triplets(coco_svo_triplets: RawArchive) -> Iterator[dg.MaterializeResult[Any]]:
    """Parse the triplet text."""
    triplets = read_triplets(locate_local(coco_svo_triplets))
    yield TableIOManager.describe(
        triplets.frame,
        asset_key=_key("coco_triplets"),
        checks=[
            _check_malformed("no_malformed_lines", triplets.malformed, triplets.frame.height),
            *evaluate_checks(TRIPLET_CHECKS, triplets.frame),
        ],
        **{
            QUARANTINED: triplets.malformed.height,
            "blank_lines": triplets.blank_lines,
            "images": triplets.frame["image_id"].n_unique(),
        },
    )
    yield TableIOManager.describe(triplets.malformed, asset_key=_key("coco_malformed_lines"))


def _check_malformed(name: str, malformed: pl.DataFrame, well_formed: int) -> dg.AssetCheckResult:
    """Return the result of a check that no line is malformed (frame of `MALFORMED_LINES`)."""
    lines = malformed.height + well_formed
    return make_check_result(
        name,
        malformed.is_empty(),
        f"{malformed.height:,} of {lines:,} lines malformed and quarantined",
        well_formed=well_formed,
        quarantined=malformed.height,
        lines=malformed,
        share=malformed.height / lines,
        share_refused_above=MAX_MALFORMED_SHARE,
    )


@_table_asset(
    OBJECT_CLASSES,
    uses=("top_objects",),
    check_specs=[
        dg.AssetCheckSpec(
            "as_many_as_asked_for",
            asset=_key("coco_object_classes"),
            description="The number of classes is `PERVL_TOP_OBJECTS`. A warning: the triplets have fewer objects.",
        ),
    ],
)
def coco_object_classes(
    workspace: Workspace, coco_triplets: pl.DataFrame
) -> Iterator[dg.MaterializeResult[pl.DataFrame]]:
    """The most common objects (`PERVL_TOP_OBJECTS` of them), counted over subjects and objects, most common first.

    Ties are in order of first appearance in the list of all subjects followed by all objects. Names are case-sensitive.
    The row number is the class number in every file for PALAVRA.
    """
    classes = count_object_classes(coco_triplets, workspace.top_objects)
    number = check_class_number(classes, workspace.top_objects)
    yield TableIOManager.describe(classes, checks=[to_check_result("as_many_as_asked_for", number, "warning")])


@_table_asset(
    OBJECT_SENTENCES,
    check_specs=[
        dg.AssetCheckSpec(
            "counts_add_up",
            asset=_key("coco_object_sentences"),
            description="Every class has the number of sentences and images that was counted when it was chosen.",
        ),
    ],
)
def coco_object_sentences(
    coco_triplets: pl.DataFrame, coco_object_classes: pl.DataFrame
) -> Iterator[dg.MaterializeResult[pl.DataFrame]]:
    """Every sentence of each object class, with the first occurrence of the class name replaced by `*`.

    The occurrence is a case-sensitive substring, as upstream does it: for the class `man`, `a woman` becomes `a wo*`. A
    sentence without the name is unchanged.
    """
    sentences = collect_object_sentences(coco_triplets, coco_object_classes)
    sums = to_check_result("counts_add_up", check_class_sums(coco_object_classes, sentences), "error")
    yield TableIOManager.describe(sentences, checks=[sums], images=sentences["image_id"].n_unique())


@dg.multi_asset(
    name="read_openimages_classes",
    ins={"openimages_class_descriptions": dg.AssetIn([RAW, "openimages_class_descriptions"])},
    outs={
        "openimages_classes": dg.AssetOut(
            description="OpenImages V6 class names in file order, parsed as CSV. With "
            "`PERVL_OPENIMAGES_NAMES=upstream` they are split as upstream does: the header is a class, commas are lost "
            "and quotes are kept.",
            **_table(OPENIMAGES_CLASSES),
        ),
        "openimages_malformed_rows": dg.AssetOut(
            description="Rows of the OpenImages class list without a name: quarantined with line number and reason.",
            **_table(MALFORMED_LINES),
        ),
    },
    check_specs=[
        dg.AssetCheckSpec(
            "no_malformed_rows", asset=_key("openimages_classes"), description="Every row has a name. A warning."
        ),
        *declare_checks(_key("openimages_classes"), [REPEATED_NAMES]),
        dg.AssetCheckSpec(
            OFFICIAL_COUNTS,
            asset=_key("openimages_classes"),
            description=f"OpenImages V6 has {OPENIMAGES_NAMES:,} names, one more if upstream takes the header as "
            "a name. A warning: with another list the results cannot be compared with published ones.",
        ),
    ],
)
@record_step(uses=("profile", "openimages_names"))
def openimages_classes(
    workspace: Workspace, openimages_class_descriptions: RawArchive
) -> Iterator[dg.MaterializeResult[Any]]:
    """Read the class names."""
    names, malformed = read_class_names(locate_local(openimages_class_descriptions), workspace.openimages_names)
    official = {"names": OPENIMAGES_NAMES + (workspace.openimages_names == "upstream")}
    yield TableIOManager.describe(
        names,
        asset_key=_key("openimages_classes"),
        checks=[
            _check_malformed("no_malformed_rows", malformed, names.height),
            *evaluate_checks([REPEATED_NAMES], names["name"].to_list()),
            evaluate_counts({"names": names.height}, official, synthetic=workspace.profile == "demo"),
        ],
        **{QUARANTINED: malformed.height, "mode": workspace.openimages_names},
    )
    yield TableIOManager.describe(malformed, asset_key=_key("openimages_malformed_rows"))


@_table_asset(
    OPENIMAGES_MATCHES,
    ins={name: dg.AssetIn(_key(name)) for name in TEXT_FEATURES},
    check_specs=[
        dg.AssetCheckSpec(
            "ties",
            asset=_key("openimages_matches"),
            description="Number of names with two equally near classes. The match is the first of them. A warning if "
            "the two have different vectors. Class names that differ only in case have the same vector.",
        ),
    ],
)
def openimages_matches(
    openimages_text_features: Features, coco_class_text_features: Features
) -> Iterator[dg.MaterializeResult[pl.DataFrame]]:
    """The nearest object class of every OpenImages name.

    By squared L2 distance of unnormalised float32 text features. The search is exact, and on a tie the first class is
    taken. The margin is the distance to the runner-up minus the distance to the nearest class.
    """
    matches = find_nearest_classes(openimages_text_features, coco_class_text_features)
    sorted_matches = matches.sort("margin", descending=True)
    by_class = tabulate_matches(matches)
    yield TableIOManager.describe(
        matches,
        checks=[to_check_result("ties", check_ties(matches, coco_class_text_features), "warning")],
        classes_with_names=by_class.height,
        by_class=preview_table(by_class, rows=_CLASSES_SHOWN),
        highest_margin=preview_table(sorted_matches, rows=15),
        lowest_margin=preview_table(sorted_matches.reverse(), rows=15),
    )


def build_inversion_assets(shards: int, encoders: Iterable[str] = ()) -> list[dg.AssetsDefinition]:
    """Return all assets of the group, with the image features in `shards` partitions."""
    return [
        *(build_raw_asset(spec) for spec in ARCHIVES),
        coco_triplets,
        coco_object_classes,
        coco_object_sentences,
        *(asset for encoder in (None, *encoders) for asset in build_features(shards, encoder)),
        openimages_classes,
        openimages_matches,
    ]
