"""All shards of the image features as one, ids in text order: in memory, or through a file for more than fits there."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import IO, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from pervl_assets.clip.features import Features
from pervl_assets.clip.passport import EmbeddingPassport, gather_notes
from pervl_assets.core.errors import PervlError, name_some
from pervl_assets.core.text import count_of

_BLOCK: Final = 1 << 14
"""Vectors read at a time: of 512 numbers, 32 MB."""


def merge_features(shards: Sequence[Features]) -> Features:
    """Merge the shards of the image features into one value, ids in text order.

    Raises:
        PervlError: There are no shards, their passports differ, or an image occurs in two of them; names both.
    """
    passport = require_same_passport(shard.passport for shard in shards)
    ids, order = _order_ids([pl.Series(shard.ids, dtype=pl.String) for shard in shards])
    place = np.empty_like(order)
    place[order] = np.arange(len(order), dtype=order.dtype)
    vectors, crc32s = np.empty((len(ids), passport.dimension), np.float32), np.zeros(len(ids), np.uint32)
    start = 0
    for shard in shards:  # each vector is copied once
        own = place[start : start + len(shard.ids)]
        vectors[own], crc32s[own] = shard.vectors, shard.crc32s or 0
        start += len(own)
    rejected = pl.concat([shard.rejected for shard in shards]).sort("id")
    return Features(ids.to_list(), vectors, passport, crc32s.tolist(), rejected)


def iterate_merged(shards: Iterable[Features], file: IO[bytes]) -> Iterator[Features]:
    """Yield the features of all shards, ids in text order, some thousand at a time, without CRCs and rejected images.

    Vectors wait in a file until their ids are ordered, so memory holds those of one shard, and some 40 bytes for each
    id. In the file they are sorted by shard, so that a block is a few long reads of each shard's vectors.

    Args:
        shards: Read one after another.
        file: Empty, open for writing and reading; grows to the size of all vectors.

    Raises:
        PervlError: As `merge_features`.
        OSError: The file cannot be written, e.g. there is no space left.
    """
    ids: list[pl.Series] = []
    passports: list[EmbeddingPassport] = []
    for shard in shards:
        own = pl.Series(shard.ids, dtype=pl.String)
        rows = own.arg_sort()
        file.write(shard.vectors[rows.to_numpy()].data)
        ids.append(own.gather(rows))
        passports.append(shard.passport)
        del shard  # before the next one is read
    passport = require_same_passport(passports)
    ordered, order = _order_ids(ids)
    ids.clear()
    for start in range(0, len(order), _BLOCK):
        rows_in_file = order[start : start + _BLOCK]
        placed = np.sort(rows_in_file)
        block = np.empty((len(placed), passport.dimension), np.float32)
        for first, last in pairwise([0, *(np.flatnonzero(np.diff(placed) > 1) + 1).tolist(), len(placed)]):
            file.seek(int(placed[first]) * block.strides[0])
            file.readinto(block[first:last])  # type: ignore[attr-defined]  # every binary file has it
        vectors = block[np.searchsorted(placed, rows_in_file)]
        yield Features(ordered[start : start + _BLOCK].to_list(), vectors, passport)


def require_same_passport(passports: Iterable[EmbeddingPassport]) -> EmbeddingPassport:
    """Return the passport that all shards have, with their notes.

    Raises:
        PervlError: There are no shards, or their passports differ.
    """
    known = [*passports]
    if not known:
        raise PervlError("There are no features to merge.", advice="Materialize at least one shard.")
    first, *others = known
    for number, passport in enumerate(others, 1):
        if differences := first.list_differences(passport):
            raise PervlError(
                f"Shards 0 and {number} of the features were encoded differently: {'; '.join(differences)}.",
                advice="Materialize all shards again with the same model, precision and device, also those that are up "
                "to date: pervl materialize --force, with the asset of the shards.",
            )
    return gather_notes(first, others)


def _order_ids(ids: Sequence[pl.Series]) -> tuple[pl.Series, npt.NDArray[np.uint32]]:
    """Return the ids of all shards in text order, and where each was.

    Columns of polars hold a short text in 16 bytes, a list of Python's own texts in about 70.

    Raises:
        PervlError: An id occurs twice.
    """
    together = pl.concat(ids)
    order = together.arg_sort()
    ordered = together.gather(order)
    twice = ordered.filter(ordered == ordered.shift(1)).unique(maintain_order=True).to_list()
    if twice:
        raise PervlError(
            f"{count_of(len(twice), 'image')} in two shards: {name_some([repr(i) for i in twice])}.",
            advice="Materialize all shards again; PERVL_FEATURE_SHARDS was changed in between.",
        )
    return ordered, order.to_numpy()
