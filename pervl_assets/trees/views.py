"""Views: trees whose files are hard links to the files of other trees, with other names and folders.

Also the layout of Hugging Face `imagefolder`. Views for the readers of one benchmark are in `pervl_assets.benchmarks`.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Final

import polars as pl

from pervl_assets.trees.plans import Output, RenderTask, TreePlan, copy_member

FEW_SHOT: Final = "few_shot_view"
EVALUATION: Final = "evaluation_view"

IMAGE_FOLDER_NOTE: Final = (
    "[Hugging Face `imagefolder`](https://huggingface.co/docs/datasets/image_dataset): subsets `train` and `test`; "
    "the annotations of each image are in `metadata.jsonl`."
)
"""Where the layout of `plan_image_folder` is from, for the asset page."""

METADATA_FILE: Final = "metadata.jsonl"
"""In each subset of an `imagefolder`: a line per image, with its annotations."""

SUBSETS: Final = {FEW_SHOT: "train", EVALUATION: "test"}
"""Folder of an `imagefolder` by role."""


def plan_view(
    folder: str,
    files: Iterable[tuple[str, Output]],
    finish: Callable[[pl.DataFrame], Mapping[str, bytes]],
) -> TreePlan:
    """Plan a view.

    Args:
        folder: Its root below `PERVL_DATA`.
        files: Members of the source with their outputs. If outputs have the same path, the first is taken.
        finish: Returns the annotation files of the view from its ledger, so that they name only existing files.
    """
    outputs: dict[str, tuple[str, Output]] = {}
    for member, output in files:
        outputs.setdefault(output.path, (member, output))
    tasks = tuple(RenderTask((member,), (output,)) for member, output in outputs.values())
    return TreePlan(folder, tasks, copy_member, finish=finish, link=True)


def plan_image_folder(
    folder: str,
    source: TreePlan,
    roles: Mapping[str, str],
    describe: Callable[[str, str], Mapping[str, str]],
) -> TreePlan:
    """Plan a Hugging Face `imagefolder`: `{train,test}/<concept>/<image>`, and `metadata.jsonl` in both.

    `train` contains the few-shot images and `test` the evaluation images. torchvision's `ImageFolder` reads both, with
    the concepts sorted by name as text.

    Args:
        folder: Its root below `PERVL_DATA`.
        source: Plan of the tree whose files are linked.
        roles: Role of the source to `FEW_SHOT` or `EVALUATION`.
        describe: Returns the columns of `metadata.jsonl` besides `file_name` and `concept`, from concept and file name.
            They must be the same columns, all text, for every image, because readers infer one type per column.
    """
    files = [
        (
            output.path,
            Output(f"{SUBSETS[role]}/{output.concept}/{PurePosixPath(output.path).name}", output.concept, role),
        )
        for task in source.tasks
        for output in task.outputs
        if (role := roles.get(output.role))
    ]

    def write_metadata(ledger: pl.DataFrame) -> dict[str, bytes]:
        texts = {}
        for role, subset in SUBSETS.items():
            lines = []
            for path, concept in ledger.filter(status="written", rule=role).select("path", "concept").iter_rows():
                name = path.removeprefix(f"{subset}/")
                row = {"file_name": name, "concept": concept, **describe(concept, PurePosixPath(name).name)}
                lines.append(json.dumps(row, ensure_ascii=False) + "\n")
            if lines:
                texts[f"{subset}/{METADATA_FILE}"] = "".join(lines).encode()
        return texts

    return plan_view(folder, files, write_metadata)
