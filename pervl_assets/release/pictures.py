"""The pictures of trees as records: each with its path, its concept and its split, as far as paths and tables tell.

Belongs here: fields that are read from files by their paths. Does not belong here: the expressions (`patterns`).
"""

import re
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from pervl_assets.release.distribution import describe_group, name_group
from pervl_assets.release.parts import Release, TablePart, TreePart
from pervl_assets.release.patterns import FileGroup, find_concept, find_split

if TYPE_CHECKING:
    import mlcroissant as mlc

SPLITS: Final = "splits"
"""Identifier of the record set of the splits."""

SPLIT: Final = "split"
"""Name of the field, and of a table's column, that says a record's split."""


def read_path(file_set: str, expression: str, context: "mlc.Context", *, whole: bool = False) -> "mlc.Source":
    """Return a source: what an expression finds in a file's path below the data root, or in its whole path.

    Where record sets are joined, mlcroissant overwrites the property that they are joined by: a field that is joined
    reads the path below the data root, all others the whole one.
    """
    import mlcroissant as mlc

    return mlc.Source(
        ctx=context,
        file_set=file_set,
        extract=mlc.Extract(ctx=context, file_property="filepath" if whole else "fullpath"),
        transforms=[mlc.Transform(ctx=context, regex=expression)],
    )


def build_pictures(part: TreePart, group: FileGroup, release: Release, context: "mlc.Context") -> "mlc.RecordSet":
    """Describe the pictures of one kind: the picture, its path, its concept and its split, as far as paths tell them.

    Where a tree is not made by split, a table that says the split of each concept is joined by the concept.
    """
    import mlcroissant as mlc

    file_set = name_group(group.name)
    roots = [tree.root for tree in part.trees]
    split = find_split([(tree.split, tree.root) for tree in part.trees], group.patterns)
    concept = find_concept(group.files, roots)
    table = _find_split_table(part, group, release) if concept and not split else None

    def build(name: str, text: str, source: Any, references: Any = None, *, picture: bool = False) -> "mlc.Field":
        return mlc.Field(
            ctx=context,
            id=f"{group.name}/{name}",
            name=name,
            description=text,
            data_types=[mlc.DataType.IMAGE_OBJECT if picture else mlc.DataType.TEXT],
            source=source,
            **({"references": references} if references else {}),
        )

    def look_up(column: str) -> "mlc.Source":
        file = table[0] if table else ""
        return mlc.Source(ctx=context, file_object=file, extract=mlc.Extract(ctx=context, column=column))

    content = mlc.Source(ctx=context, file_set=file_set, extract=mlc.Extract(ctx=context, file_property="content"))
    below = rf"^(?:.*/)?((?:{'|'.join(map(re.escape, roots))})/.*)$"
    fields = [
        build("image", "The picture", content, picture=True),
        build("path", "Its place below the data root", read_path(file_set, below, context, whole=True)),
    ]
    told = describe_group(part, group)
    if concept:
        source = read_path(file_set, concept, context, whole=not table)
        fields.append(build("concept", "The concept that it belongs to", source, look_up(table[1]) if table else None))
    else:
        told += " The path does not tell the concept; the ledger does."
    if split:
        source = read_path(file_set, split, context)
        references = mlc.Source(ctx=context, field=f"{SPLITS}/name")
        fields.append(build(SPLIT, "The split that it belongs to", source, references))
    elif table:
        fields.append(build(SPLIT, "The split of its concept; null if it is in none", look_up(SPLIT)))
    return mlc.RecordSet(ctx=context, id=group.name, name=group.name, description=told, fields=fields)


def _find_split_table(part: TreePart, group: FileGroup, release: Release) -> tuple[str, str] | None:
    """Return a table's file that has the split of each concept of a group, and its column of concepts; None: no such.

    The column holds every concept of the group, and none twice.
    """
    concepts = {concept for _, concept in group.files}
    for table in release.parts:
        if not isinstance(table, TablePart) or table.name not in part.tables or SPLIT not in table.columns:
            continue
        frame = pl.read_parquet(release.root / table.file).drop(SPLIT).select(pl.col(pl.String))
        for column in frame.iter_columns():
            if column.n_unique() == len(column) and concepts <= set(column):
                return table.file, column.name
    return None
