"""The description of a release as a whole: what it is, who made it, under which licences, and what it lacks.

Belongs here: what is said of the data set, and the bytes of `croissant.json`. Does not belong here: what is said of its
files (`distribution`) and records (`record_sets`).
"""

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pervl_assets.core.errors import MissingInputError
from pervl_assets.core.files import hash_bytes, write_bytes_atomically
from pervl_assets.release.distribution import build_distribution
from pervl_assets.release.parts import Release, TreePart
from pervl_assets.release.record_sets import build_passports, build_record_sets, build_splits, list_splits

if TYPE_CHECKING:
    import mlcroissant as mlc

FILE: Final = "croissant.json"
"""Place below the data root: the root itself, since all places in it are below the folder it stands in."""

CONFORMS_TO: Final = "http://mlcommons.org/croissant/1.1"

_AUTHORS: Final = ("Niv Cohen", "Rinon Gal", "Eli A. Meirom", "Gal Chechik", "Yuval Atzmon")
_TITLE: Final = '"This is my unicorn, Fluffy": Personalizing frozen vision-language representations'
_HOMEPAGE: Final = "https://github.com/NVlabs/PerVLBenchmark"
_PUBLISHED: Final = datetime.datetime(2022, 10, 23)
"""The first day of ECCV 2022, where the benchmark was published: a description has no clock."""

_CITATION: Final = f"""@inproceedings{{cohen2022unicorn,
  author    = {{Cohen, Niv and Gal, Rinon and Meirom, Eli A. and Chechik, Gal and Atzmon, Yuval}},
  title     = {{{_TITLE}}},
  booktitle = {{European Conference on Computer Vision (ECCV)}},
  year      = {{2022}}
}}"""

# Words of Croissant 1.1 that mlcroissant 1.1 reads but does not put into a context of its own.
_WORDS_OF_1_1: Final = {
    "arrayShape": "cr:arrayShape",
    "containedIn": "cr:containedIn",
    "description": {"@container": "@language"},
    "isArray": "cr:isArray",
    "name": {"@container": "@language"},
}


def build_croissant(release: Release) -> dict[str, Any]:
    """Describe a release in Croissant 1.1: the same release gives the same description, whenever and wherever.

    Raises:
        MissingInputError: Nothing of it is there.
        FileNotFoundError: A file of a part is not there.
        SchemaError: A column has a type that Croissant has no word for.
        mlcroissant.ValidationError: The description would break the library's rules.
    """
    import mlcroissant as mlc

    if not release.parts:
        raise MissingInputError(
            f"There is nothing to release: none of {len(release.absent):,} results is materialized.",
            advice="Materialize what shall be released, or everything: pervl materialize.",
        )
    context = mlc.Context(conforms_to=CONFORMS_TO)
    context.rdf = mlc.Rdf(context=dict(sorted({**context.rdf.context, **_WORDS_OF_1_1}.items())))
    files = [node for part in release.parts for node in build_distribution(part, release.root, context)]
    records = [node for part in release.parts for node in build_record_sets(part, release, context)]
    splits = list_splits(release)
    passports = build_passports(release, context)
    metadata = mlc.Metadata(
        ctx=context,
        name="PerVL, drawn in miniature" if release.drawn else "PerVL",
        description=_describe(release),
        url=_HOMEPAGE,
        creators=[mlc.Person(ctx=context, name=name) for name in _AUTHORS],
        cite_as=_CITATION,
        date_published=_PUBLISHED,
        version=f"{release.version}+{_hash_content(files)}",
        in_language=["en"],
        keywords=["personalized vision-language", "image retrieval", "few-shot", "textual inversion", "CLIP features"],
        license=_list_licences(release, context),
        data_collection="Nothing was collected for this release: every file is made from the raw inputs that its "
        "`isBasedOn` names.",
        data_collection_raw_data="; ".join(f"{source.title}: {source.homepage}" for source in release.sources),
        data_collection_missing_data=_tell_missing(release),
        distribution=files,
        record_sets=[
            *([build_splits(splits, context)] if splits else []),
            *([passports] if passports else []),
            *records,
        ],
    )
    plain: dict[str, Any] = metadata.to_json()
    return plain


def write_croissant(croissant: dict[str, Any], target: Path) -> None:
    """Write a description as JSON, whole or not at all; an unchanged one rewrites nothing.

    Raises:
        WriteError: No permission, or no space left.
    """
    write_bytes_atomically(target, encode_croissant(croissant))


def encode_croissant(croissant: dict[str, Any]) -> bytes:
    """Return a description as JSON, for people too: indented, UTF-8."""
    return json.dumps(croissant, indent=1, ensure_ascii=False).encode() + b"\n"


def _hash_content(files: "list[mlc.FileObject | mlc.FileSet]") -> str:
    """Return the beginning of a sha256 over all FileObjects; the ledgers among them stand for the trees."""
    sums = sorted(f"{node.id} {node.sha256}" for node in files if hasattr(node, "sha256"))
    return hash_bytes("\n".join(sums).encode())[:12]


def _describe(release: Release) -> str:
    told = [
        "PerVL asks for images that a caption with a personal concept in it describes. Its benchmarks are given as "
        "folder trees with their tables; beside them stand the data that PALAVRA's inversion model is trained on: "
        "object classes and sentences, CLIP features, nearest classes, and the files that PALAVRA reads."
    ]
    if release.drawn:
        told.append(
            "The raw inputs were drawn by the miniature world of pervl_assets, in the layouts of the official ones: "
            "nothing here is the published data, and the inputs and licences named are those of what was drawn after."
        )
    told.append(
        "Each file and record set names the inputs it derives from and keeps their licences; the licence of the code "
        "that made it is another matter."
    )
    if release.absent:
        told.append(
            f"Not whole: {len(release.absent):,} results are not materialized and not in this release: "
            f"{', '.join(release.absent)}."
        )
    return " ".join(told)


def _list_licences(release: Release, context: "mlc.Context") -> "list[mlc.CreativeWork]":
    """Return the licence of every input, with its address and what it applies to."""
    import mlcroissant as mlc

    return [
        mlc.CreativeWork(
            ctx=context,
            name=source.licence,
            description=f"Terms of {source.title}. Applies to what derives from it: {', '.join(parts)}.",
            url=source.licence_reference if source.licence_reference != source.licence else source.homepage,
        )
        for source, parts in release.sources.items()
    ]


def _tell_missing(release: Release) -> str:
    """Count what the trees lack, by their ledgers, and name the results that are not there."""
    told = []
    for part in release.parts:
        if isinstance(part, TreePart):
            counts = {
                status: sum(int((tree.rows["status"] == status).sum()) for tree in part.trees)
                for status in ("quarantined", "missing")
            }
            if any(counts.values()):
                told.append(f"{part.name}: {counts['quarantined']:,} files quarantined, {counts['missing']:,} missing")
    lacking = "; ".join(told) or "no expected file of the trees is missing or quarantined"
    absent = ", ".join(release.absent) or "none"
    return f"By the ledgers: {lacking}. Results not materialized: {absent}."
