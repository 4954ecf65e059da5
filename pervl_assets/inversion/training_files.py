"""The training files that PALAVRA reads (upstream rules D8, D11, E2, E3, F6).

Two of the files are pickles. This project never loads a pickle, so the files are never read back.

The pickles are written piece by piece, so that memory holds one class of sentences, or one shard of features, however
many there are. They use the module name of numpy 1: numpy 1.21, which PALAVRA pins, does not know `numpy._core`, and
numpy 2 knows both.
"""

import io
import math
import pickle
import sys
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import polars as pl

from pervl_assets.clip.features import Features
from pervl_assets.clip.merge import iterate_merged
from pervl_assets.core.files import replace_atomically, write_bytes_atomically
from pervl_assets.inversion.coco_classes import OBJECT_SENTENCES
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

_ROWS: Final = 1 << 16
"""Texts written at a time: of 200 characters, 52 MB."""

_PLACE: Final = b"\xa5" * 256
"""Is put for the bytes of an array while its pickle is made. No other part of one has the byte A5."""


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


def summarize_sentences(
    classes: pl.DataFrame, sentences: Iterable[pl.DataFrame], left_out: pl.Series
) -> _SentencesSummary:
    """Return the counts of what `write_object_sentences` writes and leaves out, from the same arguments."""
    rows = rows_left_out = 0
    short = {}
    for name, own, kept in _select_by_class(classes, sentences, left_out):
        rows, rows_left_out = rows + kept.height, rows_left_out + own.height - kept.height
        if (images := kept["image_id"].n_unique()) < IMAGES_NEEDED:
            short[name] = images
    return _SentencesSummary(rows, rows_left_out, tuple(left_out), short)


def write_object_sentences(
    classes: pl.DataFrame, sentences: Iterable[pl.DataFrame], left_out: pl.Series, target: Path
) -> None:
    """Write the dictionary of common objects: name to a list of image ids, sentences and masked sentences.

    Args:
        classes: Frame of `OBJECT_CLASSES`, in the order of the dictionary.
        sentences: Parts of a frame of `OBJECT_SENTENCES`, in its order.
        left_out: Ids of the images without features, in text order. Their sentences are left out, because PALAVRA would
            stop with a KeyError.
        target: Path of the `.npy`: a pickled dictionary whose values are lists of three text arrays, shape (rows,).

    Raises:
        WriteError: No permission, or no space left.
    """

    def pickle_items() -> Iterator[Iterable[bytes]]:
        for name, _, kept in _select_by_class(classes, sentences, left_out):
            columns = [_pickle_texts(kept[column]) for column in ("image_id", "sentence", "masked_sentence")]
            yield chain([_pickle(name), pickle.EMPTY_LIST, pickle.MARK], *columns, [pickle.APPENDS])

    with replace_atomically(target) as partial, partial.open("wb") as file:
        _write_pickled_dict(file, pickle_items())


def _select_by_class(
    classes: pl.DataFrame, sentences: Iterable[pl.DataFrame], left_out: pl.Series
) -> Iterator[tuple[str, pl.DataFrame, pl.DataFrame]]:
    """Yield name, sentences, and sentences that are not left out, of each class, in their order."""
    none = pl.DataFrame(schema=OBJECT_SENTENCES.to_polars())
    groups, of_class, rows = _group_by_class(sentences), -1, none
    for class_row, name in classes.select("class_row", "name").iter_rows():
        while of_class < class_row:
            of_class, rows = next(groups, (sys.maxsize, none))
        own = rows if of_class == class_row else none
        yield name, own, own.filter(~own["image_id"].is_in(left_out.implode()))


def _group_by_class(parts: Iterable[pl.DataFrame]) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield the rows of each class that has some, from parts that are sorted by class."""
    held: list[pl.DataFrame] = []
    for part in parts:
        for rows in part.partition_by("class_row", maintain_order=True):
            if held and held[0]["class_row"][0] != rows["class_row"][0]:
                yield held[0]["class_row"][0], pl.concat(held)
                held.clear()
            held.append(rows)
    if held:
        yield held[0]["class_row"][0], pl.concat(held)


def write_visual_features(shards: Iterable[Features], target: Path) -> None:
    """Write the image features: id text to a list of one (1, D) array, ids in text order.

    Float32 if they were computed on a CPU, float16 if on CUDA, as upstream's CLIP returns them (rule E2).

    Args:
        shards: Read one after another; beside `target`, their vectors take as much space again meanwhile.
        target: Path of the `.npz`: `arr_0` is a pickled dictionary.

    Raises:
        PervlError: As `iterate_merged`.
        WriteError: No permission, or no space left.
    """
    with replace_atomically(target) as partial:
        vectors = partial.with_name(f"{partial.name}.vectors")
        with vectors.open("w+b") as spill:
            vectors.unlink()  # it ends with this process, however that ends
            blocks = ([_pickle_vectors(block)] for block in iterate_merged(shards, spill))
            with _open_npz(partial) as file:
                _write_pickled_dict(file, blocks)


def _pickle_vectors(features: Features) -> bytes:
    """Pickle an item for each image: its id and the list of its vector."""
    vectors = features.vectors.astype(np.float16 if features.passport.device == "cuda" else np.float32, copy=False)
    before, after = _pickle_array((1, features.passport.dimension), vectors.dtype)
    begin, end = pickle.EMPTY_LIST + pickle.MARK + before, after + pickle.APPENDS
    items = (
        _pickle(image_id) + begin + vector.tobytes() + end
        for image_id, vector in zip(features.ids, vectors, strict=True)
    )
    return (pickle.SETITEMS + pickle.MARK).join(items)


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


def _write_pickled_dict(file: IO[bytes], items: Iterable[Iterable[bytes]]) -> None:
    """Write a dictionary as `np.save` does, as a 0-d object array, but piece by piece.

    Args:
        file: The open file.
        items: The pieces of each item: the pickled key followed by the pickled value. Several items may be one, with
            the end and the beginning of an item between them.
    """
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    array_of_none = _pickle(np.array(None, dtype=object))
    before, after = array_of_none.rsplit(pickle.NONE, 1)
    file.write(pickle.PROTO + bytes([_PROTOCOL]) + before + pickle.EMPTY_DICT)
    for item in items:
        file.writelines((pickle.MARK, *item, pickle.SETITEMS))
    file.write(after + pickle.STOP)


def _pickle_texts(texts: pl.Series) -> Iterator[bytes]:
    """Pickle texts as an array, some thousand at a time: each takes four bytes for every character of the longest."""
    dtype = np.dtype(f"<U{texts.str.len_chars().to_numpy().max(initial=1)}")
    before, after = _pickle_array((len(texts),), dtype)
    yield before
    for start in range(0, len(texts), _ROWS):
        yield np.array(texts[start : start + _ROWS].to_list(), dtype).tobytes()
    yield after


class _Shape:
    """Is pickled as an array of a shape and type is, with `_PLACE` instead of its bytes."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._shape, self._dtype = shape, dtype

    def __reduce__(self) -> tuple[Any, ...]:
        reduced: Any = np.empty(0, self._dtype).__reduce__()
        make, arguments, (version, _, dtype, is_fortran, _) = reduced
        return make, arguments, (version, self._shape, dtype, is_fortran, _PLACE)


def _pickle_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[bytes, bytes]:
    """Return what comes before and after the bytes of an array in its pickle, as `_pickle` makes it."""
    before, _, after = _pickle(_Shape(shape, dtype)).partition(_PLACE)
    size = math.prod(shape) * dtype.itemsize
    if size <= 0xFF:
        stated = pickle.SHORT_BINBYTES + size.to_bytes(1, "little")
    elif size <= 0xFFFFFFFF:
        stated = pickle.BINBYTES + size.to_bytes(4, "little")
    else:
        stated = pickle.BINBYTES8 + size.to_bytes(8, "little")  # of protocol 4, which Python knows since 3.4
    return before.removesuffix(pickle.BINBYTES + len(_PLACE).to_bytes(4, "little")) + stated, after


def _pickle(value: object) -> bytes:
    """Pickle a text or an array without PROTO and STOP, so that it can be embedded in another pickle.

    It refers only to its own memo entries. The next embedded pickle overwrites them when it is loaded.
    """
    buffer = io.BytesIO()
    pickle.Pickler(buffer, _PROTOCOL).dump(value)
    data = buffer.getvalue()[2:-1]
    return _NUMPY_1 + data.removeprefix(_NUMPY_2) if data.startswith(_NUMPY_2) else data
