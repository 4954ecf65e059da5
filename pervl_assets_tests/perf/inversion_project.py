"""The project's ways to the training data: the code below Dagster, as its assets call it, from files to files.

Run by `perf.triplets`, `perf.encoding`, `perf.matching`, `perf.scaling` and `perf.kills` as commands of their own;
prints figures as one line of JSON.

    python -m pervl_assets_tests.perf.inversion_project triplets TEXT OUT
    python -m pervl_assets_tests.perf.inversion_project encoding ARCHIVE MODEL WEIGHTS PRECISION OUT
    python -m pervl_assets_tests.perf.inversion_project matching NAMES CLASSES OUT
    python -m pervl_assets_tests.perf.inversion_project shards ARCHIVE IMAGES SHARDS OUT STOP
    python -m pervl_assets_tests.perf.inversion_project recorded ARCHIVE MODEL CHUNK OUT LOG
"""

import os
import sys
import threading
import time
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl

from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.archives.members import Members, open_members
from pervl_assets.clip.encode_images import EncodeProgress, ImageEncoder, clear_chunks, encode_image_shard
from pervl_assets.clip.features import Features, read_features, write_features
from pervl_assets.clip.preprocessing import UPSTREAM
from pervl_assets.core.tables import write_parquet
from pervl_assets.inversion.coco_classes import collect_object_sentences, count_object_classes, read_triplets
from pervl_assets.inversion.image_lists import split_images
from pervl_assets.inversion.sources import locate_image
from pervl_assets_tests.perf.figures import read_status, run_task
from pervl_assets_tests.perf.synthetic_inputs import DIMENSION, name_images

TOP = 1000

SIMULATED = "simulated"
"""The model of the task `recorded` that needs no torch."""


def collect_triplets(text: str, out: str) -> dict[str, float]:
    """Make both tables and write them."""
    start = time.perf_counter()
    triplets = read_triplets(Path(text))
    classes = count_object_classes(triplets.frame, TOP)
    sentences = collect_object_sentences(triplets.frame, classes)
    del triplets
    write_parquet(classes, Path(out, "classes.parquet"), {})
    made = time.perf_counter()
    write_parquet(sentences, Path(out, "sentences.parquet"), {})
    return {"own_seconds": time.perf_counter() - start, "writing": time.perf_counter() - made, "rows": len(sentences)}


def encode_images(archive: str, model: str, weights: str, precision: str, out: str) -> dict[str, float]:
    """Encode an archive's images in one shard, like the op."""
    from pervl_assets.clip.encoder import describe_encoder, load_encoder

    timed: list[float] = []
    progress: list[EncodeProgress] = []

    def load() -> ImageEncoder:
        start = time.perf_counter()
        encoder = load_encoder(model, weights, "cpu", precision)
        timed.append(time.perf_counter() - start)
        return encoder

    passport = describe_encoder(model, weights, "cpu", precision)
    start = time.perf_counter()
    with open_coco(archive) as members:
        features = encode_image_shard(
            list_images(members), members, passport, load, Path(out, "x.partial"), on_progress=progress.append
        )
    write_features(features, Path(out, "features.parquet"))
    last = progress[-1]
    return {
        "images": len(features.ids),
        "seconds": time.perf_counter() - start - timed[0],
        "loading": timed[0],
        "decode_share": last.decode_share,
        "device_share": last.device_share,
    }


def match_names(names: str, classes: str, out: str) -> dict[str, float]:
    """Match names with memory-mapped vectors and measure the memory that the matching itself takes.

    Pages of the vectors belong to their file. Allocations are sampled every 5 ms.
    """
    from pervl_assets.clip.nearest import find_nearest_classes
    from pervl_assets_tests.inversion.kit import make_passport

    a, b, passport = np.load(names, mmap_mode="r"), np.load(classes), make_passport(dimension=DIMENSION)
    queries = Features([f"name {row}" for row in range(len(a))], a, passport)
    others = Features([f"class {row}" for row in range(len(b))], b, passport)
    find_nearest_classes(Features(queries.ids[:2048], a[:2048], passport), others)  # starts threads and pools
    with watch_memory() as seen:
        start = time.perf_counter()
        matches = find_nearest_classes(queries, others)
        seconds = time.perf_counter() - start
    np.save(out, matches["class_row"].to_numpy())
    row = sum(16 if dtype == pl.String else 4 for dtype in matches.dtypes)  # a text of up to 12 letters takes 16 bytes
    return {"own_seconds": seconds, "added": max(seen) - seen[0], "table": len(matches) * row}


@contextmanager
def watch_memory(interval: float = 0.005):
    """Yield a list to which the bytes allocated by this process are appended until the end."""
    seen, done = [read_status("RssAnon")], threading.Event()

    def watch() -> None:
        while not done.wait(interval):
            seen.append(read_status("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()
        seen.append(read_status("RssAnon"))


class SimulatedEncoder:
    """Takes some pixels as the vector, in `pause` seconds an image; ends the process after `stop` images."""

    def __init__(self, stop: int = sys.maxsize, pause: float = 0.0) -> None:
        from pervl_assets_tests.inversion.kit import make_passport

        self.passport = make_passport(dimension=DIMENSION)
        self.preprocessing = UPSTREAM
        self.images = 0
        self._stop, self._pause = stop, pause

    def encode_images(self, images):
        if self.images >= self._stop:
            os._exit(0)  # without any clean-up, like a kill
        self.images += len(images)
        time.sleep(self._pause * len(images))
        return images.reshape(len(images), -1)[:, : 4 * DIMENSION : 4].astype(np.float32)


def encode_shards(archive: str, images: str, shards: str, out: str, stop: str) -> dict[str, float]:
    """Encode images with a simulated encoder, shard after shard; each is stored and released before the next."""
    os.environ["PYTHONWARNINGS"] = "ignore"  # multiprocessing warns about killed processes
    encoder, count = SimulatedEncoder(int(stop) or sys.maxsize), int(shards)
    sentences = pl.DataFrame({"image_id": name_images(int(images))})
    start = time.perf_counter()
    split = split_images([sentences], count)
    with open_coco(archive) as members:
        for shard in range(count):
            images = [(one, locate_image(one)) for one in split[shard]]
            save_shard(images, members, encoder, Path(out, f"{shard}.parquet"))
    return {"own_seconds": time.perf_counter() - start, "encoded": encoder.images}


def save_shard(
    images: list[tuple[str, str]], members: Members, encoder: ImageEncoder, target: Path, **options: int
) -> None:
    """Encode a shard, store it and delete its chunks, like the op."""
    work = target.with_suffix(".partial")
    previous = read_features(target) if target.exists() else None
    passport = encoder.passport
    features = encode_image_shard(images, members, passport, lambda: encoder, work, previous=previous, **options)
    if features is not previous:
        write_features(features, target)
    clear_chunks(work)


class RecordedEncoder:
    """An encoder that logs the CRC-32 of every encoded image."""

    def __init__(self, encoder: ImageEncoder, log: Path) -> None:
        self._encoder, self._log = encoder, log.open("a")

    @property
    def passport(self):
        return self._encoder.passport

    @property
    def preprocessing(self):
        return self._encoder.preprocessing

    def encode_images(self, images):
        vectors = self._encoder.encode_images(images)
        self._log.write("".join(f"{zlib.crc32(image.tobytes())}\n" for image in images))
        self._log.flush()
        return vectors


def encode_recorded(archive: str, model: str, chunk: str, out: str, log: str) -> dict[str, float]:
    """Encode all images of an archive in one shard and log them; with a CLIP on the CPU, or a slow simulated one."""
    from pervl_assets.clip.encoder import load_encoder

    clip = SimulatedEncoder(pause=0.02) if model == SIMULATED else load_encoder(model, "", "cpu", "fp32")
    encoder = RecordedEncoder(clip, Path(log))
    with open_coco(archive) as members:
        save_shard(list_images(members), members, encoder, Path(out), chunk_size=int(chunk))
    return {}


def open_coco(archive: str) -> Members:
    """Open an archive in the layout of COCO."""
    return open_members(RawArchive(Path(archive), identify(Path(archive))))


def list_images(members: Members) -> list[tuple[str, str]]:
    """Return id and member of every image of an archive, ids in text order."""
    ids = sorted(f"{int(Path(name).stem[-12:])} " for name in members.names if name.endswith(".jpg"))
    return [(image_id, locate_image(image_id)) for image_id in ids]


TASKS = {
    "triplets": collect_triplets,
    "encoding": encode_images,
    "matching": match_names,
    "shards": encode_shards,
    "recorded": encode_recorded,
}

if __name__ == "__main__":
    run_task(TASKS)
