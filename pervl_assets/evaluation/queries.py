"""Queries: the text that is asked for each caption, under every protocol, and the images that are right."""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import polars as pl

from pervl_assets.core.checks import CheckResult
from pervl_assets.core.errors import name_some
from pervl_assets.core.tables import Column, TableSchema
from pervl_assets.evaluation.protocols import Protocol, QuerySet

TOKEN: Final = "*"  # noqa: S105 - a place in a text
"""The place of a learned token in a text."""

QUERIES: Final = TableSchema(
    (
        Column("query_id", pl.String, "protocol, set of queries, form and row of the caption, joined by /; unique"),
        Column("protocol", pl.String, "palavra, polar or concon_chi"),
        Column(
            "query_set",
            pl.String,
            "rich (short captions), rich_detailed, concept_only (no caption, once for each) or concept (once for each "
            "concept, all its images are right)",
        ),
        Column(
            "form",
            pl.String,
            "text (the class instead of the concept), text_twice (the class twice), token (class and *) or token_alone",
        ),
        Column("query", pl.Int32, "row among the captions of the split, from 0; of a concept that of its first"),
        Column("concept", pl.String, "the concept that it asks for"),
        Column("class_name", pl.String, "its class as the protocol reads it"),
        Column("text", pl.String, "what CLIP's tokenizer gets; the first * is the place of the learned token"),
        Column("targets", pl.List(pl.String), "file names of the right images in eval/test"),
    )
)


_NO_CLASS: Final = ("no class", f"{TOKEN} in its class")
_NO_PLACEHOLDER: Final = ("no text", "no placeholder")


def mark_faults(captions: pl.DataFrame, classes: Mapping[str, str], placeholder: str) -> pl.DataFrame:
    """Add `class_name` and `fault` (null if there is none) to captions (schema `QUERY_CAPTIONS`).

    Captions are of unknown origin. Those without text, placeholder or usable class cannot be queries. Several
    placeholders, or a `*` that is none, give the queries that PALAVRA would ask.

    Args:
        captions: The captions.
        classes: Class of every concept.
        placeholder: What stands for the concept in a caption.
    """
    name = pl.col("concept").replace_strict(dict(classes), default=None, return_dtype=pl.String)
    text, found = pl.col("caption"), pl.col("caption").str.count_matches(placeholder, literal=True)
    fault = (
        pl.when(name.is_null() | (name == ""))
        .then(pl.lit(_NO_CLASS[0]))
        .when(name.str.contains(TOKEN, literal=True))
        .then(pl.lit(_NO_CLASS[1]))
        .when(text.is_null())
        .then(pl.lit(_NO_PLACEHOLDER[0]))
        .when(found == 0)
        .then(pl.lit(_NO_PLACEHOLDER[1]))
        .when(found > 1)
        .then(pl.lit("several placeholders"))
        .when((placeholder != TOKEN) & text.str.contains(TOKEN, literal=True))
        .then(pl.lit(f"a {TOKEN} of its own"))
    )
    return captions.with_columns(name.alias("class_name"), fault.alias("fault"))


def list_queries(marked: pl.DataFrame, placeholder: str, protocols: Iterable[Protocol]) -> pl.DataFrame:
    """Return the queries of a split (schema `QUERIES`), by protocol, set of queries and form, in the captions' order.

    A text of a form with a token has a `*`, and one of a form without a token has none. Captions that cannot be queries
    are left out.

    Args:
        marked: What `mark_faults` returned.
        placeholder: What stands for the concept in a caption.
        protocols: Those whose templates fit the placeholder.
    """
    kinds = [
        (protocol, queries, form, template)
        for protocol in protocols
        for queries in protocol.query_sets
        for form, template in queries.forms.items()
    ]
    rows = []
    for protocol, queries, form, template in kinds:
        before = (protocol.name, queries.name, form)
        for number, concept, class_name, caption, images in _list_askable(marked, queries).iter_rows():
            name = protocol.read_class(class_name)
            text = _fill(caption, placeholder, name, queries, template)
            rows.append(("/".join((*before, str(number))), *before, number, concept, name, text, images))
    return pl.DataFrame(rows, schema=QUERIES.to_polars(), orient="row")


def _list_askable(marked: pl.DataFrame, queries: QuerySet) -> pl.DataFrame:
    """Return row, concept, class, caption and right images of each caption, or concept, that can be asked for."""
    faults = _NO_CLASS if queries.alone else _NO_CLASS + _NO_PLACEHOLDER
    mine = marked.filter(~pl.col("fault").fill_null("").is_in(faults), caption_set=queries.caption_set)
    by = "concept" if queries.by_concept else "query"
    kept = pl.first("query", "concept", "class_name", "caption")
    asked = mine.with_columns(key=by).group_by("key", maintain_order=True)
    return asked.agg(kept, images=pl.col("image").unique(maintain_order=True)).drop("key")


def _fill(caption: str, placeholder: str, class_name: str, queries: QuerySet, template: str) -> str:
    """Return the text of a query. The blanks around the placeholder stay, as in PALAVRA."""
    part = template.replace("{class}", class_name)
    text = part if queries.alone else caption.replace(placeholder, part, 1 if queries.first_only else -1)
    return text if TOKEN in template else text.replace(TOKEN, class_name)


def check_placeholders(marked: pl.DataFrame) -> CheckResult:
    """Check that every caption names its concept once (frame of `mark_faults`)."""
    faulty = marked.drop_nulls("fault")
    counts = dict(faulty.group_by("fault").len().sort("fault").iter_rows())
    left_out = faulty.filter(pl.col("fault").is_in(_NO_CLASS + _NO_PLACEHOLDER)).height
    text = f"each of {marked.height:,} captions names its concept once"
    if counts:
        named = ", ".join(f"{fault} in {count:,}" for fault, count in counts.items())
        text = f"of {marked.height:,} captions: {named}. Of these {left_out:,} cannot be asked, so left out"
    rows = faulty.select("caption_set", "query", "concept", "fault", "caption")
    return CheckResult(not counts, text, {"captions": marked.height, "left out": left_out, **counts}, rows)


def check_targets(queries: pl.DataFrame, files: Collection[str]) -> CheckResult:
    """Check that the right images of the queries (schema `QUERIES`) are among files of the tree."""
    wanted = queries["targets"].explode().drop_nulls().unique().sort()
    absent = wanted.filter(~wanted.is_in(list(files))).to_list()
    text = f"all {wanted.len():,} right images in the tree"
    if absent:
        text = f"{len(absent):,} of {wanted.len():,} right images not in the tree: {name_some(absent)}"
    return CheckResult(not absent, text, {"images": wanted.len(), "absent": len(absent)})


def summarize_queries(queries: pl.DataFrame) -> pl.DataFrame:
    """Return number and first text of the queries (schema `QUERIES`) of each protocol, set and form."""
    kinds = queries.group_by("protocol", "query_set", "form", maintain_order=True)
    return kinds.agg(queries=pl.len(), concepts=pl.col("concept").n_unique(), first=pl.col("text").first())
