"""The training files that PALAVRA reads (upstream rules D8, D11, E2, E3, F6).

Two of the files are pickles. This project never loads a pickle, so the files are never read back.

The pickles are written class by class, or image by image, so memory stays flat. They use the module name of numpy 1:
numpy 1.21, which PALAVRA pins, does not know `numpy._core`, and numpy 2 knows both.
"""

import io
import pickle
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import polars as pl

from pervl_assets.clip.features import Features
from pervl_assets.core.files import replace_atomically, write_bytes_atomically
from pervl_assets.upstream import COMMOM_OBJ_DICT

_ROOT: Final = "inversion_model_train_data"
OBJECT_NAMES_FILE: Final = f"{_ROOT}/txt_for_training/obj_names_only.npy"
OBJECT_SENTENCES_FILE: Final = f"{_ROOT}/txt_for_training/{COMMOM_OBJ_DICT}.npy"
VISUAL_FEATURES_FILE: Final = f"{_ROOT}/visual_features/visual_features_dict_center_crop_300_224.npz"
OPENIMAGES_NAMES_FILE: Final = f"{_ROOT}/open_images/open_images_obj_names.npz"
OPENIMAGES_MAP_FILE: Final = f"{_ROOT}/open_images/open_images_to_mscoco_map.npz"
"""Path of each file below `PERVL_DATA`."""

IMAGES_NEEDED: Final = 8
"""Number of different images that PALAVRA needs for every class (upstream rule D12)."""

_PROTOCOL: Final = 3
_NUMPY_2: Final = b"cnumpy._core.multiarray\n_reconstruct\n"
_NUMPY_1: Final = b"cnumpy.core.multiarray\n_reconstruct\n"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class _SentencesSummary:
    """Counts of the dictionary of common objects.

    Attributes:
        rows: Number of sentences written, over all classes.
        rows_left_out: Number of sentences left out because their image has no features.
        images_left_out: Ids of those images, in text order.
        short_classes: Classes with fewer than `IMAGES_NEEDED` different images: name to number of images.
    """

    rows: int
    rows_left_out: int
    images_left_out: tuple[str, ...]
    short_classes: dict[str, int]


def write_object_names(classes: pl.DataFrame, target: Path) -> None:
    """Write the names of the object classes, in class order.

    Args:
        classes: Frame of `OBJECT_CLASSES`.
        target: Path of the `.npy`: text, shape (N,).

    Raises:
        WriteError: No permission, or no space left.
    """
    buffer = io.BytesIO()  # numpy hides the reason if it cannot write to a file on disk
    np.lib.format.write_array(buffer, np.array(classes["name"].to_list(), np.str_), allow_pickle=False)
    write_bytes_atomically(target, buffer.getvalue())


def summarize_sentences(classes: pl.DataFrame, sentences: pl.DataFrame, encoded: Iterable[str]) -> _SentencesSummary:
    """Return the counts of what `write_object_sentences` writes and leaves out, from the same arguments."""
    kept, left_out = _split_by_features(sentences, encoded)
    images = kept.group_by("class_row").agg(images=pl.col("image_id").n_unique())
    counts = classes.select("class_row", "name").join(images, on="class_row", how="left", maintain_order="left")
    short = counts.with_columns(pl.col("images").fill_null(0)).filter(pl.col("images") < IMAGES_NEEDED)
    return _SentencesSummary(
        rows=kept.height,
        rows_left_out=left_out.height,
        images_left_out=tuple(sorted(left_out["image_id"].unique())),
        short_classes=dict(short.select("name", "images").iter_rows()),
    )


def write_object_sentences(
    classes: pl.DataFrame, sentences: pl.DataFrame, encoded: Iterable[str], target: Path
) -> None:
    """Write the dictionary of common objects: name to a list of image ids, sentences and masked sentences.

    Args:
        classes: Frame of `OBJECT_CLASSES`, in the order of the dictionary.
        sentences: Frame of `OBJECT_SENTENCES`.
        encoded: Ids of the images that have features. Sentences of other images are left out, because PALAVRA would
            stop with a KeyError.
        target: Path of the `.npy`: a pickled dictionary whose values are lists of three text arrays, shape (rows,).

    Raises:
        WriteError: No permission, or no space left.
    """
    kept, _ = _split_by_features(sentences, encoded)
    rows_of = kept.partition_by("class_row", as_dict=True, maintain_order=True)

    def pickle_items() -> Iterator[bytes]:
        for class_row, name in classes.select("class_row", "name").iter_rows():
            rows = rows_of.get((class_row,), kept.clear())
            columns = [rows[column].to_list() for column in ("image_id", "sentence", "masked_sentence")]
            yield _pickle(name) + _pickle_list([np.array(column, np.str_) for column in columns])

    with replace_atomically(target) as partial, partial.open("wb") as file:
        _write_pickled_dict(file, pickle_items())


def _split_by_features(sentences: pl.DataFrame, encoded: Iterable[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the sentences whose image has features, and the others."""
    has_features = sentences["image_id"].is_in(pl.Series(list(encoded), dtype=pl.String).implode())
    return sentences.filter(has_features), sentences.filter(~has_features)


def write_visual_features(features: Features, target: Path) -> None:
    """Write the image features: id text to a list of one (1, D) array, ids in text order.

    Float32 if they were computed on a CPU, float16 if on CUDA, as upstream's CLIP returns them (rule E2).

    Args:
        features: All shards merged.
        target: Path of the `.npz`: `arr_0` is a pickled dictionary.

    Raises:
        WriteError: No permission, or no space left.
    """
    dtype = np.float16 if features.passport.device == "cuda" else np.float32
    vectors = features.vectors.astype(dtype)
    order = sorted(range(len(features.ids)), key=features.ids.__getitem__)
    items = (_pickle(features.ids[row]) + _pickle_list([vectors[row : row + 1]]) for row in order)
    with replace_atomically(target) as partial, _open_npz(partial) as file:
        _write_pickled_dict(file, items)


def write_openimages_names(matches: pl.DataFrame, target: Path) -> None:
    """Write the names in a frame of `OPENIMAGES_MATCHES`: a `.npz`, `arr_0` is text of shape (M,).

    Raises:
        WriteError: No permission, or no space left.
    """
    _write_npz(np.array(matches["name"].to_list(), np.str_), target)


def write_openimages_map(matches: pl.DataFrame, target: Path) -> None:
    """Write the rows of the nearest object classes: a `.npz`, `arr_0` is int64 of shape (M, 1).

    Raises:
        WriteError: No permission, or no space left.
    """
    _write_npz(matches["class_row"].to_numpy().astype(np.int64).reshape(-1, 1), target)


def _write_npz(array: np.ndarray[Any, np.dtype[Any]], target: Path) -> None:
    with replace_atomically(target) as partial, _open_npz(partial) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


@contextmanager
def _open_npz(path: Path) -> Iterator[IO[bytes]]:
    """Open member `arr_0` of a new `.npz`. Its time is fixed, so that equal content has equal bytes."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive,
        archive.open(zipfile.ZipInfo("arr_0.npy", _EPOCH), "w", force_zip64=True) as member,
    ):
        yield member


def _write_pickled_dict(file: IO[bytes], items: Iterable[bytes]) -> None:
    """Write a dictionary as `np.save` does, as a 0-d object array, but item by item.

    Args:
        file: The open file.
        items: For each item the pickled key followed by the pickled value, both from `_pickle`.
    """
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    array_of_none = _pickle(np.array(None, dtype=object))
    before, after = array_of_none.rsplit(pickle.NONE, 1)
    file.write(pickle.PROTO + bytes([_PROTOCOL]) + before + pickle.EMPTY_DICT)
    for item in items:
        file.write(pickle.MARK + item + pickle.SETITEMS)
    file.write(after + pickle.STOP)


def _pickle_list(arrays: list[np.ndarray[Any, np.dtype[Any]]]) -> bytes:
    return pickle.EMPTY_LIST + pickle.MARK + b"".join(map(_pickle, arrays)) + pickle.APPENDS


def _pickle(value: object) -> bytes:
    """Pickle a text or an array without PROTO and STOP, so that it can be embedded in another pickle.

    It refers only to its own memo entries. The next embedded pickle overwrites them when it is loaded.
    """
    buffer = io.BytesIO()
    pickle.Pickler(buffer, _PROTOCOL).dump(value)
    data = buffer.getvalue()[2:-1]
    return _NUMPY_1 + data.removeprefix(_NUMPY_2) if data.startswith(_NUMPY_2) else data
