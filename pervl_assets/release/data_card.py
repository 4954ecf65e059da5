"""Data cards: `README.md` files as the Hugging Face Hub and `datasets.load_dataset` read them, and `LICENSE.md`.

`datasets` reads all configs of a card as files of one kind. So the card of the release has the tables and features,
each a config, and the images have cards of their own, in the folders above their splits:
`load_dataset("views/imagefolder/ytvos", "few_shot", split="test")`. Without these cards it would take the folders
`train` of all splits for one.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

import polars as pl
import rich.filesize
import yaml

from pervl_assets.core.errors import WriteError
from pervl_assets.release.croissant import CITATION, FILE, describe_release
from pervl_assets.release.nodes import KINDS_OF_SPLIT, unbox
from pervl_assets.release.parts import FeaturesPart, Part, Release, TablePart, TreePart
from pervl_assets.trees.views import METADATA_FILE, SUBSETS

CARD: Final = "README.md"
"""Path of the release's card below the data root."""

_LICENCES: Final = "LICENSE.md"
"""The Hub links a file of this name."""

_MARK: Final = "written by pervl_assets"
_MARKED_BYTES: Final = 64

_WHOLE: Final = "full"
"""Split of what has no splits. `datasets` would name it `train`, and `all` has a meaning of its own there."""

_FIRST_SENTENCE: Final = re.compile(r"\n\n|(?<=\.)\s+(?=[A-Z`])")
"""What is behind it."""

_SIZES: Final = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")
_TASKS: Final = ("image-feature-extraction", "zero-shot-image-classification")
_TAGS: Final = ("image-retrieval", "personalization", "vision-language", "few-shot", "textual-inversion", "clip")

_Configs = dict[str, dict[str, list[str]]]
"""Paths of data files below the card's folder, as patterns, by split, by config."""


@dataclass(frozen=True)
class _Images:
    """The images of a split that are a subset of an `imagefolder`: where they are in a card, and of which part."""

    config: str
    split: str
    pattern: str
    count: int
    part: TreePart


def build_cards(release: Release) -> dict[str, str]:
    """Return the cards of a release and its licences, by path below the data root. The first is that of the release.

    Raises:
        MissingInputError: Nothing is materialized.
    """
    release.require_parts()
    images = _find_images(release)
    cards = {f"{folder}/{CARD}": _write_image_card(release, folder, found) for folder, found in images.items()}
    return {CARD: _write_card(release, images), _LICENCES: _write_licences(release), **cards}


def refuse_foreign(file: Path) -> None:
    """Refuse to replace a card that was not made here.

    Raises:
        WriteError: The file exists and is no card of this module.
    """
    if file.is_file() and _MARK.encode() not in file.read_bytes()[:_MARKED_BYTES]:
        raise WriteError(
            f"{file} was not written by pervl, and the data card would replace it.",
            advice="Move it out of the data folder, or rename it.",
        )


def _write_card(release: Release, images: Mapping[str, Sequence[_Images]]) -> str:
    tables = [part for part in release.parts if isinstance(part, TablePart | FeaturesPart)]
    rows = {part.name: sum(_count_rows(release.root / file) for file in part.files) for part in tables}
    # `datasets` refuses a config without rows.
    configs = {part.name.replace("/", "."): _split_files(part) for part in tables if rows[part.name]}
    examples = {"FOLDER": configs, **{f"FOLDER/{folder}": _nest(found) for folder, found in images.items()}}
    lines = [
        *_begin_card(release, release.title, configs, sum(rows.values())),
        describe_release(release),
        "",
        "## Load",
        "",
        "`FOLDER` is the folder of this file; for tables also its name on the Hub.",
        "",
        *_show_loading(examples),
        "",
        "A table with the one split `full` may have a column `split`: filter its rows by that.",
        f"Tables are Parquet files, which polars, pandas and DuckDB read, too. `{FILE}` describes their columns.",
        "",
        "## Content",
        "",
        "| part | holds | rows or files | size | licence |",
        "| --- | --- | ---: | ---: | --- |",
        *(_describe_part(part, release.root, rows.get(part.name)) for part in release.parts),
        "",
        f"Every part has the licences of all raw inputs that it was made from: [{_LICENCES}]({_LICENCES}).",
        "",
        *_describe_barred(release),
        "## Citation",
        "",
        "```bibtex",
        CITATION,
        "```",
        "",
    ]
    return "\n".join(lines)


def _begin_card(release: Release, title: str, configs: _Configs, size: int) -> list[str]:
    """Return the front matter and the heading of a card. Its size is the number of rows or images."""
    licences = dict.fromkeys(one.licence.lower() if one.is_spdx else "other" for one in release.sources)
    files = {
        config: [{"split": split, "path": unbox(paths)} for split, paths in splits.items()]
        for config, splits in configs.items()
    }
    matter = {
        "pretty_name": title,
        "language": ["en"],
        "license": [*licences],
        **({"license_name": "by-part", "license_link": _LICENCES} if "other" in licences else {}),
        "task_categories": [*_TASKS],
        "size_categories": [_SIZES[min(max(0, len(str(size)) - 3), len(_SIZES) - 1)]],
        "tags": [*_TAGS],
        "configs": [{"config_name": config, "data_files": one} for config, one in files.items()],
    }
    return ["---", f"# {_MARK}", yaml.safe_dump(matter, sort_keys=False) + "---", "", f"# {title}", ""]


def _show_loading(examples: Mapping[str, _Configs]) -> list[str]:
    """Return Python code that loads the last split of the first config of each folder."""
    calls = [
        f'load_dataset("{folder}", "{config}", split="{[*splits][-1]}")'
        for folder, configs in examples.items()
        for config, splits in [*configs.items()][:1]
    ]
    return ["```python", "from datasets import load_dataset", "", *calls, "```"]


def _split_files(part: TablePart | FeaturesPart) -> dict[str, list[str]]:
    """Return the files of a part by split, if it has one for each."""
    by_split = {PurePosixPath(file).stem: [file] for file in part.files}
    return by_split if by_split.keys() <= KINDS_OF_SPLIT.keys() else {_WHOLE: [*part.files]}


def _count_rows(file: Path) -> int:
    return int(pl.scan_parquet(file, glob=False).select(pl.len()).collect().item())


def _describe_part(part: Part, root: Path, rows: int | None) -> str:
    """Return a part as a row of a table. Files are counted where there are no rows."""
    files, size = part.measure(root)
    count = files if rows is None else rows
    text = " ".join(_FIRST_SENTENCE.split(part.description.strip(), 1)[0].split()).replace("|", r"\|")
    return f"| `{part.name}` | {text} | {count:,} | {rich.filesize.decimal(size)} | {'; '.join(part.licences)} |"


def _describe_barred(release: Release) -> list[str]:
    """Return the section about the trees that were left out, and how to make them."""
    if not release.barred:
        return []
    rows = []
    for part in release.barred:
        files, size = part.measure(release.root)
        owners = ", ".join(f"[{source.title}]({source.homepage})" for source in part.barred_by)
        rows.append(f"| `{part.name}` | {files:,} | {rich.filesize.decimal(size)} | {owners} |")
    return [
        "## Left out",
        "",
        "The images of these folder trees are pieces of raw inputs that their licences do not let us pass on.",
        *(["Here they are synthetic; they are left out as the real ones are."] if release.synthetic else []),
        "",
        "| tree | files | size | because of |",
        "| --- | ---: | ---: | --- |",
        *rows,
        "",
        f"To make them, get these inputs from their owners and run pervl_assets {release.version}, for example",
        f"`pervl materialize +{release.barred[0].name}`. The tables `<tree>/ledger` have the path, size and sha256 of",
        "every file.",
        "",
    ]


def _write_licences(release: Release) -> str:
    lines = [
        f"<!-- {_MARK} -->",
        "# Licences",
        "",
        *_tabulate_sources(release),
        "",
        "Every part has the licences of all raw inputs that it was made from.",
        "",
        "| part | made from |",
        "| --- | --- |",
        *(f"| `{part.name}` | {', '.join(f'`{one.name}`' for one in part.sources)} |" for part in release.parts),
        "",
    ]
    return "\n".join(lines)


def _tabulate_sources(release: Release) -> list[str]:
    return [
        "| raw input | title | licence | pieces of it may be passed on |",
        "| --- | --- | --- | --- |",
        *(
            f"| `{one.name}` | [{one.title}]({one.homepage}) | [{one.licence}]({one.licence_address}) "
            f"| {'yes' if one.redistributable else 'no'} |"
            for one in release.sources
        ),
    ]


def _find_images(release: Release) -> dict[str, list[_Images]]:
    """Return what the cards of the images describe, by their folders: that of a benchmark, and the one above it."""
    found: dict[str, list[_Images]] = defaultdict(list)
    for part, tree in ((one, tree) for one in release.trees for tree in one.trees if tree.split):
        root, written = PurePosixPath(tree.root), tree.rows.filter(status="written")
        for role, subset in SUBSETS.items():
            if f"{subset}/{METADATA_FILE}" in written["path"]:
                count, config = written.filter(rule=role).height, role.removesuffix("_view")
                for folder, name in ((root.parent.parent, f"{root.parent.name}.{config}"), (root.parent, config)):
                    pattern = f"{root.relative_to(folder)}/{subset}/**"
                    found[folder.as_posix()].append(_Images(name, str(tree.split), pattern, count, part))
    return dict(sorted(found.items()))


def _nest(found: Sequence[_Images]) -> _Configs:
    configs: _Configs = defaultdict(dict)
    for images in found:
        configs[images.config][images.split] = [images.pattern]
    return dict(configs)


def _write_image_card(release: Release, folder: str, found: Sequence[_Images]) -> str:
    release = replace(release, parts=tuple({images.part.name: images.part for images in found}.values()))
    configs = _nest(found)
    lines = [
        *_begin_card(release, f"{release.title}: images", configs, sum(images.count for images in found)),
        "A concept is learned from its few-shot images, and searched among the evaluation images. Every image has its",
        "concept, class and captions.",
        "",
        *_show_loading({folder: configs}),
        "",
        "| config | split | images |",
        "| --- | --- | ---: |",
        *(f"| `{images.config}` | {images.split} | {images.count:,} |" for images in found),
        "",
        "## Licences",
        "",
        *_tabulate_sources(release),
        "",
    ]
    return "\n".join(lines)
