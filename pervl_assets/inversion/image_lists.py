"""The images of every shard, kept beside the table that names them: a shard reads its own list, not the table.

The table need not be on this machine as long as a list holds.
"""

import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from pervl_assets.core.errors import PervlError, SchemaError
from pervl_assets.core.tables import TableParts, read_hashed, write_hashed
from pervl_assets.inversion.sources import locate_image

_TABLE: Final = "pervl_table"
"""Key of a list's metadata: version of the table that it was made from."""

_IDS: Final = 100_000
"""Ids that are texts of Python at a time."""

_MOST_HELD: Final = 1 << 22
"""Ids that are collected before repeated ones are dropped: 67 MB."""


@dataclass(frozen=True)
class ImageLists:
    """The images that a frame of `OBJECT_SENTENCES` names, by shard.

    Attributes:
        folder: Folder of the lists.
        table: Version of the frame: another one whenever it was written.
        read: Reads the frame in parts, compared with its recorded hash.
        pull: Brings a list to its path, if another machine has made it.
        push: Keeps the lists in the folder for other machines.
    """

    folder: Path
    table: str
    read: Callable[[], TableParts]
    pull: Callable[[Path], object]
    push: Callable[[Path], None]

    def list_shard(self, partition: str) -> list[tuple[str, str]]:
        """Return id and archive member of each image of a shard; see `read_ids`."""
        return [(one, locate_image(one)) for one in self.read_ids(partition)]

    def list_left_out(self, partition: str, encoded: list[str]) -> pl.Series:
        """Return the ids of the images of a shard that are not among `encoded`; see `read_ids`."""
        ids = self.read_ids(partition)
        return ids.filter(~ids.is_in(pl.Series(encoded, dtype=pl.String).implode()))

    def read_ids(self, partition: str) -> pl.Series:
        """Return the ids of the images of a shard, in text order (upstream rules E3, E4).

        An image belongs to the same shard on every machine. The first shard that needs its list makes those of all.

        Args:
            partition: For example `0-of-8`.

        Raises:
            PervlError: As `read`.
        """
        shard, shards = map(int, partition.split("-of-"))
        self.pull(kept := self._locate(shards, shard))
        with suppress(OSError, SchemaError, pl.exceptions.PolarsError, KeyError):
            frame, metadata = read_hashed(kept)
            if metadata[_TABLE] == self.table:
                return frame["image_id"]
        return self._make(shards)[shard]

    def _locate(self, shards: int, shard: int) -> Path:
        return self.folder / f"{shard}-of-{shards}.parquet"

    def _make(self, shards: int) -> list[pl.Series]:
        """Return the ids of all shards, and keep them."""
        ids = split_images(self.read(), shards)
        files = [self._locate(shards, shard) for shard in range(shards)]
        with suppress(PervlError, OSError):  # the lists save time and nothing else
            for file, own in zip(files, ids, strict=True):
                write_hashed(own.to_frame("image_id"), file, {_TABLE: self.table})
            for file in {*self.folder.glob("*-of-*.parquet")}.difference(files):
                file.unlink()  # of another number of shards
            self.push(self.folder)
        return ids


def split_images(sentences: Iterable[pl.DataFrame], shards: int) -> list[pl.Series]:
    """Return the ids of the images of every shard, in text order.

    Args:
        sentences: Parts of a frame of `OBJECT_SENTENCES`.
        shards: Number of shards.
    """
    ids = _collect_ids(sentences).sort()
    shard_of = np.empty(len(ids), np.uint32)
    for start in range(0, len(ids), _IDS):
        shard_of[start : start + _IDS] = [zlib.crc32(one.encode()) % shards for one in ids[start : start + _IDS]]
    return [ids.filter(pl.Series(shard_of == shard)) for shard in range(shards)]


def _collect_ids(sentences: Iterable[pl.DataFrame]) -> pl.Series:
    """Return the different ids of images in parts of a frame of `OBJECT_SENTENCES`, in no order."""
    known = pl.Series("image_id", [], dtype=pl.String)
    held, size = [known], 0
    for part in sentences:
        held.append(part["image_id"].unique())
        size += len(held[-1])
        if size > len(known) + _MOST_HELD:
            known = pl.concat(held).unique()
            held, size = [known], 0
    return pl.concat(held).unique()
