"""Image features of one shard, encoded in chunks that survive a kill.

A chunk is a fixed list of images, and its file is named after a hash of passport, ids and CRCs. So each file found in
the work folder is either exactly what would be computed again, or dropped.
"""

import contextlib
import itertools
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from pervl_assets.archives.members import Members, select_members
from pervl_assets.clip.features import (
    MISSING,
    QUARANTINED,
    REJECTED_IMAGES,
    Features,
    read_features,
    write_features,
)
from pervl_assets.clip.passport import EmbeddingPassport, gather_notes
from pervl_assets.clip.prepare_image import Decoded, decode_images
from pervl_assets.clip.preprocessing import Preprocessing
from pervl_assets.core.addresses import Place
from pervl_assets.core.checks import MAX_QUARANTINED_SHARE, refuse_losses
from pervl_assets.core.claims import Claim, claim_work, is_asked_for
from pervl_assets.core.errors import PervlError, SchemaError, WriteError
from pervl_assets.core.files import PARTIAL, hash_bytes

_BATCHES: Final = {"cpu": 32, "cuda": 64}
"""Images in one forward pass by device. More of them do not fit a CPU's caches: on two cores, ViT-B/32 in fp32 encodes
18 images a second in batches of 32, and 16 in batches of 64."""

CHUNK: Final = 512

_log = logging.getLogger(__name__)


class ImageEncoder(Protocol):
    """Interface of an image encoder, e.g. `ClipEncoder`."""

    @property
    def passport(self) -> EmbeddingPassport:
        """Everything the vectors depend on."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How images must be prepared."""

    def encode_images(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Turn pixels, uint8 (B, S, S, 3), S = `preprocessing.crop`, into vectors, float32 (B, D)."""


@dataclass(frozen=True)
class EncodeProgress:
    """Progress of a shard.

    Attributes:
        done: Images that need no more work: encoded now or before, or rejected.
        total: Images of the shard.
        images_per_second: Rate of this run, decoding and encoding together.
        decode_share: Share of the time in which the encoder waited for decoded images, from 0 to 1.
        device_share: Share of the time spent in forward passes, from 0 to 1.
    """

    done: int
    total: int
    images_per_second: float
    decode_share: float
    device_share: float


def encode_image_shard(
    images: Sequence[tuple[str, str]],
    members: Members,
    passport: EmbeddingPassport,
    load_encoder: Callable[[], ImageEncoder],
    work: Path,
    *,
    previous: Features | None = None,
    batch_size: int | None = None,
    chunk_size: int = CHUNK,
    workers: int | None = None,
    max_lost: float = MAX_QUARANTINED_SHARE,
    claim: Claim | None = None,
    on_progress: Callable[[EncodeProgress], None] = lambda progress: None,
    on_saved: Callable[[Path], object] = lambda file: None,
) -> Features:
    """Encode the images of a shard, except those that were encoded before.

    Vectors of `previous` with the same passport and the same CRC are reused. If none is missing, `previous` itself is
    returned and no model is loaded. The other images are encoded in chunks, each saved in `work` as soon as it is done.
    After a kill only unsaved chunks are encoded, and the bytes of the result are the same. Call `clear_chunks(work)`
    once the result is stored.

    Args:
        images: Id and archive member of each image, e.g. `("0001", "photos/0001.jpg")`.
        members: The archive.
        passport: The encoder's passport, from `describe_encoder`.
        load_encoder: Loads the encoder; called only if there is something to encode.
        work: Folder of the chunks, with `.partial` in its name.
        previous: The shard as it was stored last.
        batch_size: Images in one forward pass; None for the value of `_BATCHES`.
        chunk_size: Images in one chunk.
        workers: See `decode_images`; at most one where the CPU itself encodes.
        max_lost: Share of the images that may be quarantined or missing, 0 to 1.
        claim: Who encodes, where a run that was given up may be at work; it stops at its next chunk.
        on_progress: Called after every batch.
        on_saved: Called with the file of every chunk that is encoded and saved.

    Returns:
        Features in the order of `images`; images that are missing or cannot be used are in `rejected`.

    Raises:
        PervlError: The encoder is not the one the passport describes, its device is too small, or a worker died.
        ArchiveError: None of the images is in the archive, more of them are lost than `max_lost`, or it cannot be read.
        WriteError: A chunk cannot be saved, or another run is encoding this shard.
    """
    with _lock(work, claim) as stop_if_asked:
        names, present = dict(images), members.names
        members = select_members(members, {*names.values()}, f"{work.parent.name}/{work.name.removesuffix(PARTIAL)}")
        crc32s = {image_id: members.crc32(name) for image_id, name in names.items() if name in present}
        kept = _keep_previous(previous, passport, names, crc32s)
        _refuse_losses(kept, len(names), members.path, max_lost)
        known = {*kept.ids, *kept.rejected["id"]}
        chunks = _plan_chunks({i: crc for i, crc in crc32s.items() if i not in known}, passport, chunk_size, work)
        finished = _find_finished(chunks, work)
        if pending := {file: chunk for file, chunk in chunks.items() if file not in finished}:
            encoder = _load_as_described(load_encoder, passport)
            meter = _Meter(len(names), len(names) - sum(map(len, pending.values())), on_progress)

            def keep(file: Path) -> None:
                on_saved(file)
                stop_if_asked()

            _encode_chunks(
                pending, names, members, encoder, batch_size or _BATCHES[passport.device], workers, meter, keep
            )
        saved = map(read_features, chunks)  # one at a time in memory
        features = _assemble(list(names), passport, itertools.chain([kept], saved))
        _refuse_losses(features, len(names), members.path, max_lost)
    return previous if previous is not None and features.hash() == previous.hash() else features


def _refuse_losses(features: Features, total: int, source: Place, max_lost: float) -> None:
    lost = [f"{member}: {reason}" for member, reason in features.rejected.select("member", "reason").iter_rows()]
    refuse_losses(lost, total, "images", source, max_lost)


def _load_as_described(load_encoder: Callable[[], ImageEncoder], passport: EmbeddingPassport) -> ImageEncoder:
    encoder = load_encoder()
    if differences := passport.list_differences(encoder.passport):
        raise PervlError(
            f"The loaded encoder differs from its description: {'; '.join(differences)}.",
            advice="Do not change checkpoint or device during a run; run again.",
        )
    return encoder


@contextlib.contextmanager
def _lock(work: Path, claim: Claim | None = None) -> Iterator[Callable[[], None]]:
    """Hold the lock of a shard, see `claim_work`. A folder in which nothing was stored is removed at the end."""
    try:
        with claim_work(_locate_lock(work), f"encoding {work.name.removesuffix(PARTIAL)}", claim) as stop_if_asked:
            yield stop_if_asked
    finally:
        with contextlib.suppress(OSError):
            work.parent.rmdir()


def _locate_lock(work: Path) -> Path:
    return work.with_name(f"{work.name}.lock")


def clear_chunks(work: Path) -> None:
    """Remove the work folder of a shard whose result is stored, unless another run encodes it or is about to."""
    if work.is_dir() and not is_asked_for(_locate_lock(work)):
        with contextlib.suppress(WriteError), _lock(work):
            shutil.rmtree(work, ignore_errors=True)


def _keep_previous(
    previous: Features | None, passport: EmbeddingPassport, names: Mapping[str, str], crc32s: Mapping[str, int]
) -> Features:
    """Keep what needs no work: vectors and quarantined images whose passport and CRC still hold; missing images."""
    missing = [(i, name, MISSING, "not in the archive", None) for i, name in names.items() if i not in crc32s]
    rejected = pl.DataFrame(missing, schema=REJECTED_IMAGES.to_polars(), orient="row")
    if previous is None or previous.passport != passport or previous.crc32s is None:
        if previous is not None and (differences := passport.list_differences(previous.passport)):
            _log.info("All images are encoded again: %s.", "; ".join(differences))
        return Features([], np.empty((0, passport.dimension), np.float32), passport, [], rejected)
    quarantined = previous.rejected.filter(status=QUARANTINED)
    same = [crc32s.get(image_id) == crc for image_id, crc in quarantined.select("id", "crc32").iter_rows()]
    rejected = pl.concat([rejected, quarantined.filter(pl.Series(same, dtype=pl.Boolean))])
    rows = [r for r, (i, crc) in enumerate(zip(previous.ids, previous.crc32s, strict=True)) if crc32s.get(i) == crc]
    return replace(previous.take(rows), rejected=rejected)


def _plan_chunks(
    crc32s: Mapping[str, int], passport: EmbeddingPassport, chunk_size: int, work: Path
) -> dict[Path, dict[str, int]]:
    """Return the chunks: ids and CRCs of each by its file."""
    chunks = {}
    for number, start in enumerate(range(0, len(crc32s), chunk_size)):
        chunk = dict(itertools.islice(crc32s.items(), start, start + chunk_size))
        digest = hash_bytes(json.dumps([passport.to_json(), list(chunk), list(chunk.values())]).encode())
        chunks[work / f"{number:05d}-{digest[:16]}.parquet"] = chunk
    return chunks


def _find_finished(chunks: Mapping[Path, Mapping[str, int]], work: Path) -> set[Path]:
    """Find the saved chunks that are whole and still needed; delete all other files of the work folder, and log why."""
    finished = set()
    for file in sorted(work.glob("*")) if work.is_dir() else []:
        try:
            if file in chunks:
                read_features(file)
                finished.add(file)
                continue
            reason = "other model, precision, device, versions or images"
        except SchemaError as error:
            reason = error.problem
        _log.warning("Dropped the saved chunk %s: %s.", file.name, reason)
        file.unlink()
    if finished:
        images = sum(len(chunks[file]) for file in finished)
        _log.info("Resumed: %d of %d chunks (%d images) were encoded before.", len(finished), len(chunks), images)
    return finished


def _encode_chunks(
    chunks: Mapping[Path, Mapping[str, int]],
    names: Mapping[str, str],
    members: Members,
    encoder: ImageEncoder,
    batch_size: int,
    workers: int | None,
    meter: "_Meter",
    on_saved: Callable[[Path], object],
) -> None:
    """Encode chunks, and save each as soon as it is done."""
    if encoder.passport.device == "cpu" and workers != 0:
        workers = 1  # decoding takes a twentieth of the time; more processes would take cores from the encoder
    wanted = [names[image_id] for chunk in chunks.values() for image_id in chunk]
    decoded = decode_images(members, wanted, workers, encoder.preprocessing)
    passport = replace(encoder.passport, batch_size=batch_size)
    for file, chunk in chunks.items():
        rejected: list[tuple[str, str, str, str, int]] = []
        batch: list[npt.NDArray[np.uint8]] = []
        vectors = [np.empty((0, passport.dimension), np.float32)]
        for number, (image_id, crc) in enumerate(chunk.items(), 1):
            pixels = meter.wait_for(decoded)
            if isinstance(pixels, str):
                rejected.append((image_id, names[image_id], QUARANTINED, pixels, crc))
            else:
                batch.append(pixels)
            if batch and (len(batch) == batch_size or number == len(chunk)):
                vectors.append(meter.encode(encoder, np.stack(batch)))
                batch.clear()
        frame = pl.DataFrame(rejected, schema=REJECTED_IMAGES.to_polars(), orient="row")
        lost = set(frame["id"])
        own = {image_id: crc for image_id, crc in chunk.items() if image_id not in lost}
        write_features(Features(list(own), np.concatenate(vectors), passport, list(own.values()), frame), file)
        on_saved(file)


def _assemble(ids: Sequence[str], passport: EmbeddingPassport, parts: Iterable[Features]) -> Features:
    """Put everything into the order of `ids`; the parts' passports are equal, notes apart.

    Vectors are copied once, into their final row, so that a shard needs little more memory than its vectors.
    """
    row_of = {image_id: row for row, image_id in enumerate(ids)}
    vectors, crc32s = np.empty((len(ids), passport.dimension), np.float32), np.empty(len(ids), np.uint32)
    is_there = np.zeros(len(ids), np.bool_)
    rejected, passports = [], []
    for part in parts:
        own = [row_of[image_id] for image_id in part.ids]
        vectors[own], crc32s[own], is_there[own] = part.vectors, part.crc32s or [], True
        rejected.append(part.rejected)
        passports.append(part.passport)
    if not is_there.all():
        vectors, crc32s = vectors[is_there], crc32s[is_there]
    return Features(
        list(itertools.compress(ids, is_there)),
        vectors,
        gather_notes(passport, passports),
        crc32s.tolist(),
        pl.concat(rejected).sort("id"),
    )


class _Meter:
    """Counts images, and measures waiting and encoding."""

    def __init__(self, total: int, done: int, on_progress: Callable[[EncodeProgress], None]) -> None:
        self._total, self._done, self._on_progress = total, done, on_progress
        self._start, self._before = time.perf_counter(), done
        self._waiting = self._encoding = 0.0

    def wait_for(self, decoded: Iterator[Decoded]) -> Decoded:
        """Return the next image, and add the time until it was ready."""
        start = time.perf_counter()
        image = next(decoded)
        self._waiting += time.perf_counter() - start
        self._done += 1
        return image

    def encode(self, encoder: ImageEncoder, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Encode a batch, add its time, and report progress."""
        start = time.perf_counter()
        vectors = encoder.encode_images(images)
        now = time.perf_counter()
        self._encoding += now - start
        whole = now - self._start
        rate = (self._done - self._before) / whole
        self._on_progress(EncodeProgress(self._done, self._total, rate, self._waiting / whole, self._encoding / whole))
        return vectors
