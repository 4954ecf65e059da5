"""Training data of the inversion model: images and sentences of every object class, their splits, and what is drawn.

From the typed tables of the group `inversion`, not from the files written for PALAVRA, which are pickles.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from pervl_assets.clip.features import Features
from pervl_assets.core.checks import CheckResult
from pervl_assets.core.errors import PervlError, name_some
from pervl_assets.core.files import hash_bytes
from pervl_assets.core.tables import hash_frame

if TYPE_CHECKING:
    import torch

Splits = Literal["palavra", "disjoint"]

_FIFTH: Final = 5


@dataclass(frozen=True)
class Rows:
    """Rows of all classes, one after another: an image with a sentence about it.

    Attributes:
        starts: First row of every class, and the number of all rows: int64 (C + 1,).
        images: Row of the image's features, int64 (R,).
        sentences: Captions.
        masked: Captions with `*` in place of the class.
    """

    starts: npt.NDArray[np.int64]
    images: npt.NDArray[np.int64]
    sentences: list[str]
    masked: list[str]

    def draw(self, size: int, generator: "torch.Generator") -> npt.NDArray[np.int64]:
        """Draw rows of every class with replacement: row numbers, int64 (C, size)."""
        return _draw(self.starts, size, generator)


@dataclass(frozen=True)
class TrainingData:
    """What f_theta and A are trained on.

    Attributes:
        classes: Names of the C classes.
        features: Image features; `Rows.images` are rows of them.
        train: Rows that are trained on.
        test: Rows that are tested on; the same ones in the split `palavra`.
        names: OpenImages names in small letters, those of a class together.
        names_of: First name of every class, and the number of all names: int64 (C + 1,).
        left_out: Classes without a row to train on.
    """

    classes: list[str]
    features: Features
    train: Rows
    test: Rows
    names: list[str]
    names_of: npt.NDArray[np.int64]
    left_out: list[str]

    def draw_augmented(self, drawn: npt.NDArray[np.int64], generator: "torch.Generator") -> tuple[list[str], list[str]]:
        """Draw an OpenImages name of every class, as its label, and put it into masked sentences.

        It replaces every `*`; a masked sentence without one stays without the name. A class without a name keeps its
        own, and its sentences.

        Args:
            drawn: Rows of `train`, int64 (C, K).
            generator: Of the random numbers.

        Returns:
            Labels, one per class, and K sentences of each, one after another.
        """
        chosen = _draw(self.names_of, 1, generator)[:, 0]
        names = [self.names[row] if count else None for row, count in zip(chosen, np.diff(self.names_of), strict=True)]
        sentences = [self._fill(row, name) for rows, name in zip(drawn, names, strict=True) for row in rows]
        return [name or own for name, own in zip(names, self.classes, strict=True)], sentences

    def list_augmented(self, most: int) -> list[str]:
        """Return every sentence with a name that `draw_augmented` can return, or none if there are more than `most`."""
        if np.diff(self.train.starts) @ np.diff(self.names_of) > most:
            return []
        ranges = zip(pairwise(self.train.starts), pairwise(self.names_of), strict=True)
        return [
            self._fill(row, self.names[name])
            for rows, names in ranges
            for row in range(*rows)
            for name in range(*names)
        ]

    def _fill(self, row: int, name: str | None) -> str:
        """Return a sentence of `train` with a name in place of its class, or as it is."""
        return self.train.sentences[row] if name is None else self.train.masked[row].replace("*", name)

    def hash(self) -> str:
        """Return a sha256 of everything that a training can read."""
        rows = [
            hash_frame(pl.DataFrame({"image": rows.images, "sentence": rows.sentences, "masked": rows.masked}))
            for rows in (self.train, self.test)
        ]
        starts = [counts.tolist() for counts in (self.train.starts, self.test.starts, self.names_of)]
        parts = [*rows, self.features.hash(), self.classes, self.names, starts]
        return hash_bytes(json.dumps(parts).encode())


def _draw(starts: npt.NDArray[np.int64], size: int, generator: "torch.Generator") -> npt.NDArray[np.int64]:
    """Draw numbers of every range between two starts, with replacement; of an empty range its start."""
    import torch

    share = torch.rand(len(starts) - 1, size, generator=generator, dtype=torch.float64).numpy()
    drawn: npt.NDArray[np.int64] = starts[:-1, None] + (share * np.diff(starts)[:, None]).astype(np.int64)
    return drawn


def collect_training_data(
    sentences: pl.DataFrame, matches: pl.DataFrame, features: Features, splits: Splits
) -> TrainingData:
    """Collect rows and names of every class, and split them.

    Of each image of a class only the first row is used, as upstream does. Rows of images without features are left out.

    Args:
        sentences: Frame of `OBJECT_SENTENCES`.
        matches: Frame of `OPENIMAGES_MATCHES`.
        features: Image features of all shards.
        splits: See `split_rows`.

    Raises:
        PervlError: No class has a row to train on.
    """
    images = pl.DataFrame({"image_id": features.ids}).with_row_index("image")
    rows = (
        sentences.join(images, on="image_id", maintain_order="left")
        .unique(["class_row", "image_id"], keep="first", maintain_order=True)
        .sort("class_row", "image_id")
    )
    train, test = split_rows(rows, splits)
    known = sentences.select("class_row", "name").unique("class_row").sort("class_row")
    classes = known.filter(pl.col("class_row").is_in(train["class_row"].implode()))
    left_out = known.filter(~pl.col("class_row").is_in(train["class_row"].implode()))["name"].to_list()
    if classes.is_empty():
        raise PervlError(
            f"None of {known.height:,} object classes has images to train on: {name_some(left_out)}.",
            advice="Materialize the image features, or use more triplets. With PERVL_TRAINING_MODE=palavra a class "
            "needs 8 images with features, with paper 2.",
        )
    names = matches.join(classes, on="class_row", suffix="_class").sort("class_row", "row")
    return TrainingData(
        classes=classes["name"].to_list(),
        features=features,
        train=_gather(train, classes),
        test=_gather(test, classes),
        names=names["name"].str.to_lowercase().to_list(),
        names_of=_count_starts(names, classes),
        left_out=left_out,
    )


def split_rows(rows: pl.DataFrame, splits: Splits) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows to train and to test on, by their place in their class.

    Args:
        rows: Rows with `class_row`, one per image, in text order of the image ids within a class.
        splits: `disjoint`: every fifth row, from the first, is tested on, all others are trained on. `palavra`: quirk
            T1. Upstream cuts one shared dictionary three times, so that training and test read the same rows: of the
            rows that are not every fifth, every fifth, and of these all but every fifth: 12 of 100, 1 of 8, 0 of 7.
    """
    place = pl.int_range(pl.len()).over("class_row") % _FIFTH
    train = rows.filter(place != 0)
    if splits == "disjoint":
        return train, rows.filter(place == 0)
    left = train.filter(place == 0).filter(place != 0)
    return left, left


def check_classes(data: TrainingData) -> CheckResult:
    """Check that no object class is left out of the training because it has too few images with features."""
    total, left_out = len(data.classes) + len(data.left_out), len(data.left_out)
    text = f"{total:,} classes, each with images to train on"
    if left_out:
        text = f"{left_out:,} of {total:,} classes with too few images to train on: {name_some(data.left_out)}"
    rows = [int(one.starts[-1]) for one in (data.train, data.test)]
    numbers = {"classes": total, "left_out": left_out, "rows_to_train_on": rows[0], "rows_to_test_on": rows[1]}
    return CheckResult(not left_out, text, numbers, pl.DataFrame({"class": data.left_out}))


def _gather(rows: pl.DataFrame, classes: pl.DataFrame) -> Rows:
    rows = rows.filter(pl.col("class_row").is_in(classes["class_row"].implode()))
    images = rows["image"].cast(pl.Int64).to_numpy()
    return Rows(_count_starts(rows, classes), images, rows["sentence"].to_list(), rows["masked_sentence"].to_list())


def _count_starts(rows: pl.DataFrame, classes: pl.DataFrame) -> npt.NDArray[np.int64]:
    """Return where the rows of every class begin that are sorted by class, and their number."""
    counts = classes.join(rows.group_by("class_row").len(), on="class_row", how="left", maintain_order="left")
    return np.concatenate([[0], np.cumsum(counts["len"].fill_null(0).to_numpy(), dtype=np.int64)])
