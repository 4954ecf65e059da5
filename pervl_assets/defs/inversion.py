"""The inversion side as assets: triplets, classes, sentences, names and matches.

Belongs here: thin bodies around `pervl_assets.inversion`. Does not belong here: any rule about triplets or names, and
what runs an encoder, which is `defs.clip_features`.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import dagster as dg
import polars as pl

from pervl_assets.archives.inputs import RawArchive
from pervl_assets.clip.features import Features
from pervl_assets.clip.nearest import find_nearest_classes
from pervl_assets.core.checks import CheckResult
from pervl_assets.core.tables import TableSchema
from pervl_assets.defs.checks import OFFICIAL_COUNTS, declare_checks, evaluate_checks, evaluate_counts, report
from pervl_assets.defs.features import (
    INVERSION,
    build_image_features,
    coco_class_text_features,
    openimages_text_features,
)
from pervl_assets.defs.metadata import (
    OWNERS,
    QUARANTINED,
    describe_table,
    make_check_result,
    preview_table,
    record_duration,
)
from pervl_assets.defs.raw import RAW, build_raw_asset
from pervl_assets.defs.resources import Workspace
from pervl_assets.inversion.checks import (
    OPENIMAGES_NAMES,
    REPEATED_NAMES,
    TRIPLET_CHECKS,
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
from pervl_assets.inversion.open_images import (
    OPENIMAGES_CLASSES,
    OPENIMAGES_MATCHES,
    read_class_names,
)
from pervl_assets.inversion.sources import ARCHIVES
from pervl_assets.inversion.text_lines import MALFORMED_LINES, MAX_MALFORMED_SHARE
from pervl_assets.io_managers.tables import declare_columns

_CLASSES_SHOWN: Final = 30
"""Classes of which the surest and the least sure match are shown: those with most names."""


def _key(name: str) -> dg.AssetKey:
    return dg.AssetKey([INVERSION, name])


def _raw(name: str) -> dg.AssetIn:
    return dg.AssetIn([RAW, name])


def _table_asset(
    schema: TableSchema, *checks: dg.AssetCheckSpec
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Return the decorator of an asset that is a table of the inversion side."""
    decorate: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.asset(
        key_prefix=INVERSION,
        group_name=INVERSION,
        io_manager_key="tables",
        kinds={"polars", "parquet"},
        owners=OWNERS,
        code_version="1",
        metadata=declare_columns(schema, INVERSION),
        check_specs=checks,
    )
    return lambda compute: decorate(record_duration(compute))


def _table_out(name: str, schema: TableSchema, description: str) -> dg.AssetOut:
    return dg.AssetOut(
        key=_key(name),
        group_name=INVERSION,
        io_manager_key="tables",
        description=description,
        kinds={"polars", "parquet"},
        owners=OWNERS,
        code_version="1",
        metadata=declare_columns(schema, INVERSION),
    )


@dg.multi_asset(
    name="read_coco_triplets",
    ins={"coco_svo_triplets": _raw("coco_svo_triplets")},
    outs={
        "coco_triplets": _table_out(
            "coco_triplets",
            TRIPLETS,
            "Subject-relation-object triplets of the COCO 2014 train captions, one row a well-formed line, in file "
            "order. Rule: upstream's parse of the text (UTF-8; CRLF, a BOM and a missing final line break are fine).",
        ),
        "coco_malformed_lines": _table_out(
            "coco_malformed_lines",
            MALFORMED_LINES,
            "Lines of the triplet text that do not follow its format: quarantined with line number and reason. More "
            "than 1 % of them is an error.",
        ),
    },
    check_specs=[
        dg.AssetCheckSpec(
            "no_malformed_lines", asset=_key("coco_triplets"), description="Every line follows the format; a warning."
        ),
        dg.AssetCheckSpec(
            "no_empty_objects",
            asset=_key("coco_triplets"),
            description="No subject or object is empty. A warning: upstream counts an empty name like any other.",
        ),
        *declare_checks(_key("coco_triplets"), TRIPLET_CHECKS),
    ],
)
@record_duration
def coco_triplets(coco_svo_triplets: RawArchive) -> Iterator[dg.MaterializeResult[Any]]:
    """Parse the triplet text."""
    triplets = read_triplets(coco_svo_triplets.path)
    bad, empty = triplets.malformed.height, triplets.frame.filter((pl.col("subject") == "") | (pl.col("object") == ""))
    lines = bad + triplets.frame.height
    yield describe_table(
        triplets.frame,
        asset_key=_key("coco_triplets"),
        checks=[
            make_check_result(
                "no_malformed_lines",
                bad == 0,
                f"{bad:,} of {lines:,} lines are quarantined",
                well_formed=triplets.frame.height,
                quarantined=bad,
                lines=triplets.malformed,
                share=bad / lines,
                share_refused_above=MAX_MALFORMED_SHARE,
            ),
            make_check_result(
                "no_empty_objects",
                empty.is_empty(),
                f"{empty.height:,} of {triplets.frame.height:,} triplets have an empty subject or object",
                triplets=triplets.frame.height,
                empty=empty.height,
                share=empty.height / triplets.frame.height,
                lines=empty,
            ),
            *evaluate_checks(TRIPLET_CHECKS, triplets.frame),
        ],
        **{QUARANTINED: bad, "blank_lines": triplets.blank_lines, "images": triplets.frame["image_id"].n_unique()},
    )
    yield describe_table(triplets.malformed, asset_key=_key("coco_malformed_lines"))


@_table_asset(
    OBJECT_CLASSES,
    dg.AssetCheckSpec(
        "as_many_as_asked_for",
        asset=_key("coco_object_classes"),
        description="There are as many classes as `PERVL_TOP_OBJECTS` asks for. A warning: the triplets have no more.",
    ),
)
def coco_object_classes(
    workspace: Workspace, coco_triplets: pl.DataFrame
) -> Iterator[dg.MaterializeResult[pl.DataFrame]]:
    """The most common objects (`PERVL_TOP_OBJECTS`): counts over subjects and objects, most common first.

    Ties stand in order of first appearance in the list of all subjects followed by all objects; names are
    case-sensitive. The row number is the class number in every file made for PALAVRA.
    """
    classes = count_object_classes(coco_triplets, workspace.top_objects)
    text = f"{classes.height:,} classes of {workspace.top_objects:,} asked for"
    numbers = {"classes": classes.height, "asked_for": workspace.top_objects}
    enough = CheckResult(classes.height == workspace.top_objects, text, numbers)
    yield describe_table(classes, checks=[report("as_many_as_asked_for", enough, "warning")])


@_table_asset(
    OBJECT_SENTENCES,
    dg.AssetCheckSpec(
        "counts_add_up",
        asset=_key("coco_object_sentences"),
        description="Every class has as many sentences, of as many images, as were counted when it was chosen.",
    ),
)
def coco_object_sentences(
    coco_triplets: pl.DataFrame, coco_object_classes: pl.DataFrame
) -> Iterator[dg.MaterializeResult[pl.DataFrame]]:
    """Every sentence about each object class, with the first occurrence of the class name masked by `*`.

    The occurrence is a substring, case-sensitive (`woman` masked for `man` is `wo*`), as upstream has it; a sentence
    without the name is left as it is.
    """
    sentences = collect_object_sentences(coco_triplets, coco_object_classes)
    sums = report("counts_add_up", check_class_sums(coco_object_classes, sentences), "error")
    yield describe_table(sentences, checks=[sums], images=sentences["image_id"].n_unique())


@dg.multi_asset(
    name="read_openimages_classes",
    ins={"openimages_class_descriptions": _raw("openimages_class_descriptions")},
    outs={
        "openimages_classes": _table_out(
            "openimages_classes",
            OPENIMAGES_CLASSES,
            "OpenImages V6 class names in file order, read as CSV (quotes, commas, header), or by upstream's own rule "
            "with `PERVL_OPENIMAGES_NAMES=upstream` (header as a class, commas lost, quotes kept).",
        ),
        "openimages_malformed_rows": _table_out(
            "openimages_malformed_rows",
            MALFORMED_LINES,
            "Rows of the OpenImages class list without a name: quarantined with line number and reason.",
        ),
    },
    check_specs=[
        dg.AssetCheckSpec(
            "no_malformed_rows", asset=_key("openimages_classes"), description="Every row has a name; a warning."
        ),
        *declare_checks(_key("openimages_classes"), [REPEATED_NAMES]),
        dg.AssetCheckSpec(
            OFFICIAL_COUNTS,
            asset=_key("openimages_classes"),
            description=f"OpenImages V6 has {OPENIMAGES_NAMES:,} names (upstream's own rule takes the header for one "
            "more). A warning: with another list the results cannot be compared with published ones.",
        ),
    ],
)
@record_duration
def openimages_classes(
    workspace: Workspace, openimages_class_descriptions: RawArchive
) -> Iterator[dg.MaterializeResult[Any]]:
    """Read the class names."""
    names, malformed = read_class_names(openimages_class_descriptions.path, workspace.openimages_names)
    rows = malformed.height + names.height
    text = f"{malformed.height:,} of {rows:,} rows have no name and are quarantined"
    official = {"names": OPENIMAGES_NAMES + (workspace.openimages_names == "upstream")}
    yield describe_table(
        names,
        asset_key=_key("openimages_classes"),
        checks=[
            make_check_result(
                "no_malformed_rows",
                malformed.is_empty(),
                text,
                names=names.height,
                quarantined=malformed.height,
                rows=malformed,
                share=malformed.height / rows,
                share_refused_above=MAX_MALFORMED_SHARE,
            ),
            *evaluate_checks([REPEATED_NAMES], names["name"].to_list()),
            evaluate_counts({"names": names.height}, official, drawn=workspace.profile == "demo"),
        ],
        **{QUARANTINED: malformed.height, "rule": workspace.openimages_names},
    )
    yield describe_table(malformed, asset_key=_key("openimages_malformed_rows"))


@_table_asset(
    OPENIMAGES_MATCHES,
    dg.AssetCheckSpec(
        "ties",
        asset=_key("openimages_matches"),
        description="How many names have two nearest classes, the first of which is the match. A warning only where "
        "the two have different vectors: class names that differ in case alone have one.",
    ),
)
def openimages_matches(
    openimages_text_features: Features, coco_class_text_features: Features
) -> Iterator[dg.MaterializeResult[pl.DataFrame]]:
    """For every OpenImages name the nearest object class, by squared L2 between unnormalised float32 text features.

    Exact, the first class on a tie; with distance, runner-up and margin (runner-up's distance minus nearest's).
    """
    matches = find_nearest_classes(openimages_text_features, coco_class_text_features)
    surest = matches.sort("margin", descending=True)
    by_class = tabulate_matches(matches)
    yield describe_table(
        matches,
        checks=[report("ties", check_ties(matches, coco_class_text_features), "warning")],
        classes_with_names=by_class.height,
        by_class=preview_table(by_class, rows=_CLASSES_SHOWN),
        surest=preview_table(surest, rows=15),
        least_sure=preview_table(surest.reverse(), rows=15),
    )


def build_inversion_assets(shards: int) -> list[dg.AssetsDefinition]:
    """Return all assets of the inversion side, with the image features in so many shards."""
    return [
        *(build_raw_asset(spec) for spec in ARCHIVES),
        coco_triplets,
        coco_object_classes,
        coco_object_sentences,
        build_image_features(shards),
        openimages_classes,
        coco_class_text_features,
        openimages_text_features,
        openimages_matches,
    ]
