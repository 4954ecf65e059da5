"""Time and memory of the bookkeeping for 100,000 to 10 million images, from the table of sentences to training files.

    python -m pervl_assets_tests.perf.many_images [--images N ...] [--dimension D] [--work FOLDER] [--small]

Simulated: the archive, which has every image that is asked for; decoding, of which the pixels are a checksum of the
name; and the encoder, which spreads that checksum over the vector. Real: lists of images, chunks on disk, features of
every shard, their check, PALAVRA's training files. So the tables show the cost of everything that is done for an image
besides reading, decoding and encoding it. Shards have 50,000 images; each size is a process of its own.

Vectors are short (32 numbers) by default: 10 million of 512 numbers are 20 GB, and three times as much while
the training files are written. 10 million short ones take 10 GB of disk, 1 GB of memory, and 6 minutes of CPU time.
"""

import argparse
import json
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from pervl_assets.archives.members import Members
from pervl_assets.clip import encode_images
from pervl_assets.clip.drift import take_sample
from pervl_assets.clip.features import read_features
from pervl_assets.clip.preprocessing import UPSTREAM
from pervl_assets.core.tables import read_in_parts, write_hashed
from pervl_assets.inversion.checks import check_ids
from pervl_assets.inversion.coco_classes import OBJECT_CLASSES, OBJECT_SENTENCES
from pervl_assets.inversion.image_lists import ImageLists
from pervl_assets.inversion.training_files import (
    summarize_sentences,
    write_object_sentences,
    write_visual_features,
)
from pervl_assets_tests.inversion.kit import make_passport
from pervl_assets_tests.perf.figures import SCRATCH, new_folder, read_figures, read_status, run_task, start_table
from pervl_assets_tests.perf.inversion_project import save_shard
from pervl_assets_tests.perf.measure import measure

SIZES = (100_000, 1_000_000)
SHARD = 50_000
"""Images of a shard."""

DIMENSION = 32
CLASSES = 1000
SENTENCES = 2
"""Sentences of an image, each of another class."""


class EveryImage(Members):
    """An archive that has every member that is asked for."""

    def __init__(self) -> None:
        super().__init__(Path("simulated.zip"))

    @property
    def names(self):
        return self

    def __contains__(self, name: object) -> bool:
        return True

    def __len__(self) -> int:
        return sys.maxsize

    def crc32(self, name: str) -> int:
        return zlib.crc32(name.encode())

    def read(self, name: str) -> bytes:
        raise NotImplementedError

    def select(self, names):
        return self


def decode(members: Members, names: Sequence[str], *_: object) -> Iterator[np.ndarray]:
    """Yield the checksum of each name as one pixel of four bytes."""
    return (np.frombuffer(members.crc32(name).to_bytes(4, "little"), np.uint8).reshape(1, 1, 4) for name in names)


class SpreadingEncoder:
    """Makes a vector from a checksum."""

    def __init__(self, dimension: int) -> None:
        self.passport, self.preprocessing = make_passport(dimension=dimension), UPSTREAM

    def encode_images(self, images: np.ndarray) -> np.ndarray:
        return spread(images.reshape(-1).view(np.uint32), self.passport.dimension)


def spread(checksums: np.ndarray, dimension: int) -> np.ndarray:
    """Return a vector for each checksum, with numbers from 0 to 1."""
    factors = np.arange(1, 2 * dimension, 2, dtype=np.uint32) * np.uint32(2_654_435_761)
    return ((checksums[:, None] * factors) >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24)


def write_tables(images: str, folder: str) -> dict[str, float]:
    """Write the tables of object classes and sentences, as `inversion/coco_object_sentences` has them."""
    number = pl.int_range(int(images) * SENTENCES, dtype=pl.UInt32, eager=True).alias("line")
    image = number.cast(pl.UInt64) // SENTENCES + 1
    rows = pl.DataFrame({"line": number, "class_row": (number.cast(pl.UInt64) * 48_271 % CLASSES).cast(pl.UInt32)})
    rows = rows.with_columns(
        name=pl.format("object {}", "class_row"),
        image_id=pl.format("{} ", image),
        sentence=pl.format("an object {} here", "class_row"),
        masked_sentence=pl.lit("an * here"),
    ).sort("class_row", maintain_order=True)
    write_hashed(rows.select(OBJECT_SENTENCES.names), Path(folder, "sentences.parquet"))
    names = [f"object {row}" for row in range(CLASSES)]
    classes = pl.DataFrame({"class_row": range(CLASSES), "name": names, "triplets": 0, "images": 0})
    write_hashed(classes.cast(OBJECT_CLASSES.to_polars()), Path(folder, "classes.parquet"))
    return {}


def keep_books(images: str, dimension: str, folder: str) -> dict[str, object]:
    """Do everything that is done for images besides reading, decoding and encoding them."""
    count, root, stages = int(images), Path(folder), dict[str, dict[str, float]]()
    total = max(1, count // SHARD)
    shards = [f"{shard}-of-{total}" for shard in range(total)]
    table, start = root / "sentences.parquet", read_status("VmRSS")
    lists = ImageLists(root / "lists", "1", partial(read_in_parts, table), Path.is_file, bool)
    encoder, classes = SpreadingEncoder(int(dimension)), pl.read_parquet(root / "classes.parquet")
    files = [root / f"{shard}.parquet" for shard in shards]
    with watch(stages, "lists of images"):
        found = sum(map(len, map(lists.list_shard, shards)))
    with watch(stages, "features by shard"), patch.object(encode_images, "decode_images", decode):
        for shard, file in zip(shards, files, strict=True):
            save_shard(lists.list_shard(shard), EveryImage(), encoder, file)
    with watch(stages, "checks of ids and drift"):
        wanted = (lists.read_ids(shard).to_list() for shard in shards)
        checked = check_ids(zip(shards, map(read_features, files), wanted, strict=True), total)
        for file in files:
            take_sample(read_features(file))
    with watch(stages, "training file of features"):
        rows = sum(len(features.ids) for features in map(read_features, files) if features.hash())
        write_visual_features(map(read_features, files), root / "visual.npz")
    with watch(stages, "training file of sentences"):
        found_ids = (read_features(file).ids for file in files)
        left_out = pl.concat(map(lists.list_left_out, shards, found_ids))
        sentences = lists.read()
        summary = summarize_sentences(classes, sentences, left_out)
        write_object_sentences(classes, sentences, left_out, root / "dict.npy")
    if (found, rows, summary.rows, checked.passed) != (count, count, count * SENTENCES, True):
        raise RuntimeError(f"{found}, {rows} and {summary.rows} of {count} images: {checked.text}")
    return {"stages": stages, "shards": total, "start": start}


@contextmanager
def watch(stages: dict[str, dict[str, float]], name: str) -> Iterator[None]:
    """Record seconds, CPU seconds and largest memory of this process in a stage."""
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to the memory of now
    seconds, cpu = time.perf_counter(), time.process_time()
    yield
    stages[name] = {
        "seconds": time.perf_counter() - seconds,
        "cpu": time.process_time() - cpu,
        "peak": read_status("VmHWM"),
    }


def run_size(images: int, dimension: int, work: Path) -> dict:
    """Simulate a collection in processes of its own; returns the figures of `keep_books`.

    Raises:
        RuntimeError: It failed, or images were lost.
    """
    own = [sys.executable, "-m", __spec__.name if __spec__ else __name__]
    with new_folder(work, "many_images") as folder:
        measure([*own, "tables", str(images), str(folder)])
        return read_figures(measure([*own, "books", str(images), str(dimension), str(folder)]))


def make_table(figures: dict[int, dict], dimension: int) -> Table:
    """Return the table of all stages and sizes."""
    headings = (
        "stage",
        "images",
        "shards",
        "seconds",
        "µs per image",
        "CPU µs per image",
        "peak MB",
        "bytes per image",
    )
    table = start_table(f"Bookkeeping of many images: vectors of {dimension}, simulated decoder and encoder", *headings)
    for stage in [*next(iter(figures.values()))["stages"], "all"]:
        for images, one in figures.items():
            stages = one["stages"].values()
            whole = {"peak": max(s["peak"] for s in stages)} | {
                key: sum(s[key] for s in stages) for key in ("seconds", "cpu")
            }
            measured = one["stages"].get(stage, whole)
            table.add_row(
                stage,
                f"{images:,}",
                f"{one['shards']}",
                f"{measured['seconds']:,.1f}",
                f"{measured['seconds'] / images * 1e6:.1f}",
                f"{measured['cpu'] / images * 1e6:.1f}",
                f"{measured['peak'] / 1e6:,.0f}",
                f"{(measured['peak'] - one['start']) / images:,.0f}",
                end_section=images == [*figures][-1],
            )
    table.caption = (
        f"Shards of {SHARD:,} images, {SENTENCES} sentences an image. Peak: of the process in that stage, "
        f"{next(iter(figures.values()))['start'] / 1e6:,.0f} MB of it before the first one. Bytes per image: the rest "
        "of the peak."
    )
    return table


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=SIZES, help="(default: %(default)s)")
    parser.add_argument("--dimension", type=int, default=DIMENSION, help="length of a vector (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=SCRATCH / "pervl_perf", help="scratch folder, 3 GB free")
    parser.add_argument("--small", action="store_true", help="few images: to test that everything works")
    given = parser.parse_args(arguments)
    console, figures = Console(width=max(130, Console().width)), {}
    for images in (2_000, 4_000) if given.small else given.images:
        figures[images] = run_size(images, given.dimension, given.work)
        console.log(json.dumps({images: figures[images]}))
    console.print(make_table(figures, given.dimension))


if __name__ == "__main__":
    if sys.argv[1:2] in (["tables"], ["books"]):
        run_task({"tables": write_tables, "books": keep_books})
    else:
        main()
