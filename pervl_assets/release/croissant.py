"""`croissant.json`: the whole release in Croissant 1.1, with its authors, licences and missing results."""

import json
from typing import Any, Final

from pervl_assets.core.errors import MissingInputError
from pervl_assets.core.files import hash_bytes
from pervl_assets.release.nodes import Node, describe_files_and_records, unbox
from pervl_assets.release.parts import Release

FILE: Final = "croissant.json"
"""Path below the data root. It is the root itself, because paths in the file are relative to its folder."""

CONFORMS_TO: Final = "http://mlcommons.org/croissant/1.1"

_AUTHORS: Final = ("Niv Cohen", "Rinon Gal", "Eli A. Meirom", "Gal Chechik", "Yuval Atzmon")
_TITLE: Final = '"This is my unicorn, Fluffy": Personalizing frozen vision-language representations'
_HOMEPAGE: Final = "https://github.com/NVlabs/PerVLBenchmark"
_PUBLISHED: Final = "2022-10-23"
"""The first day of ECCV 2022, where the benchmark was published. Not today: the same release has the same bytes."""

_CITATION: Final = f"""@inproceedings{{cohen2022unicorn,
  author    = {{Cohen, Niv and Gal, Rinon and Meirom, Eli A. and Chechik, Gal and Atzmon, Yuval}},
  title     = {{{_TITLE}}},
  booktitle = {{European Conference on Computer Vision (ECCV)}},
  year      = {{2022}}
}}"""

# Terms of Croissant 1.1 that mlcroissant 1.1 reads but does not put into the context it writes.
_TERMS_OF_1_1: Final = {
    "arrayShape": "cr:arrayShape",
    "containedIn": "cr:containedIn",
    "description": {"@container": "@language"},
    "isArray": "cr:isArray",
    "name": {"@container": "@language"},
}


def build_croissant(release: Release) -> dict[str, Any]:
    """Return the description of a release as JSON-LD. The same release always has the same description.

    `release.images.write_images` must have been called before; `release.validation` validates the result.

    Raises:
        MissingInputError: Nothing is materialized.
        FileNotFoundError: A file of a part does not exist.
        SchemaError: A column has a type without a counterpart in Croissant.
    """
    import mlcroissant as mlc

    if not release.parts:
        raise MissingInputError(
            f"There is nothing to release: none of {len(release.absent):,} results is materialized.",
            advice="Materialize the results to release, or everything: pervl materialize.",
        )
    files, records = describe_files_and_records(release)
    croissant = {
        "@context": dict(sorted({**mlc.Rdf().context, **_TERMS_OF_1_1}.items())),
        "@type": "sc:Dataset",
        "name": "PerVL, synthetic demo data" if release.synthetic else "PerVL",
        "description": _describe(release),
        "conformsTo": CONFORMS_TO,
        "citeAs": _CITATION,
        "creator": [{"@type": "sc:Person", "name": name} for name in _AUTHORS],
        "datePublished": _PUBLISHED,
        "inLanguage": "en",
        "keywords": [
            *("personalized vision-language", "image retrieval", "few-shot", "textual inversion", "CLIP features")
        ],
        "license": unbox(_list_licences(release)),
        "rai:dataCollection": "Nothing was collected for this release: every file is derived from the raw inputs "
        "listed in its `isBasedOn`.",
        "rai:dataCollectionMissingData": _describe_missing(release),
        "rai:dataCollectionRawData": "; ".join(f"{source.title}: {source.homepage}" for source in release.sources),
        "url": _HOMEPAGE,
        "version": f"{release.version}+{_hash_content(files)}",
        "distribution": files,
        "recordSet": records,
    }
    return {key: value for key, value in croissant.items() if value}


def encode_croissant(croissant: dict[str, Any]) -> bytes:
    """Return a description as indented JSON in UTF-8."""
    return json.dumps(croissant, indent=1, ensure_ascii=False).encode() + b"\n"


def _hash_content(files: list[Node]) -> str:
    """Return the first 12 digits of a sha256 over all FileObjects. The ledgers among them represent the trees."""
    sums = sorted(f"{node['@id']} {node['sha256']}" for node in files if "sha256" in node)
    return hash_bytes("\n".join(sums).encode())[:12]


def _describe(release: Release) -> str:
    texts = [
        "PerVL is retrieval of images by captions with a personal concept in them. The benchmarks are folder trees and "
        "tables. The release also contains training data of PALAVRA's inversion model: object classes and sentences, "
        "CLIP features, nearest classes, and the files that PALAVRA reads."
    ]
    if release.synthetic:
        texts.append(
            "The raw inputs are synthetic, drawn by the demo of pervl_assets in the layouts of the official ones. "
            "Nothing here is the published data; inputs and licences named here are those of the official data."
        )
    texts.append(
        "Each file and record set names the inputs it derives from, and has their licences. The licence of the code is "
        "a separate matter."
    )
    if release.absent:
        texts.append(
            f"Incomplete: {len(release.absent):,} results are not materialized and not in this release: "
            f"{', '.join(release.absent)}."
        )
    return " ".join(texts)


def _list_licences(release: Release) -> list[Node]:
    """Return the licence of every input, with its address and the parts it applies to."""
    return [
        {
            "@type": "sc:CreativeWork",
            "name": source.licence,
            "description": f"Terms of {source.title}. They apply to everything derived from it: {', '.join(parts)}.",
            "url": source.licence_reference if source.licence_reference != source.licence else source.homepage,
        }
        for source, parts in release.sources.items()
    ]


def _describe_missing(release: Release) -> str:
    """Return the counts of missing and quarantined files by the ledgers, and the names of absent results."""
    texts = []
    for part in release.trees:
        quarantined, missing = (
            sum(int((tree.rows["status"] == status).sum()) for tree in part.trees)
            for status in ("quarantined", "missing")
        )
        if quarantined or missing:
            texts.append(f"{part.name}: {quarantined:,} files quarantined, {missing:,} missing")
    missing_files = "; ".join(texts) or "no expected file of the trees is missing or quarantined"
    return f"By the ledgers: {missing_files}. Results not materialized: {', '.join(release.absent) or 'none'}."
