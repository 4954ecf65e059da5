"""The drift probe: a fixed sample of stored vectors, encoded again today.

Belongs here: choosing the sample and encoding it again. Does not belong here: what to think of the difference
(`drift`), and when a probe is taken, which is `pervl_assets.defs`'s.
"""

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from pervl_assets.archives.members import Members
from pervl_assets.clip.drift import Drift, measure_drift
from pervl_assets.clip.encode_images import BATCHES, ImageEncoder
from pervl_assets.clip.encoder import ClipEncoder
from pervl_assets.clip.features import Features, encode_names
from pervl_assets.clip.image_decoding import decode_images
from pervl_assets.clip.passport import EmbeddingPassport
from pervl_assets.inversion.sources import locate_image

SEED: Final = "pervl"
SAMPLE_SIZE: Final = 64
"""One batch: four seconds on two cores with ViT-B/32, once the model is loaded."""


def choose_sample(ids: Iterable[str], size: int = SAMPLE_SIZE, seed: str = SEED) -> list[str]:
    """Choose the ids with the smallest sha256 of seed and id; the same on every machine, in any order of `ids`.

    One id more or less changes at most one of the sample, and the sample of several sets together is among their
    samples: so shards can be read one at a time.

    Returns:
        At most `size` different ids, by their hash.
    """
    return heapq.nsmallest(size, set(ids), key=lambda text: hashlib.sha256(f"{seed}\n{text}".encode()).digest())


def take_sample(features: Features, size: int = SAMPLE_SIZE, seed: str = SEED) -> Features:
    """Return the vectors of the sample; of an id that stands more than once, the first."""
    return take_rows(features, choose_sample(features.ids, size, seed))


def take_rows(features: Features, ids: Iterable[str]) -> Features:
    """Return the vectors of some ids, in their order; of one that stands more than once, the first."""
    first: dict[str, int] = {}
    for row, one in enumerate(features.ids):
        first.setdefault(one, row)
    rows = [first[one] for one in ids]
    crc32s = features.crc32s and [features.crc32s[row] for row in rows]
    return Features([features.ids[row] for row in rows], features.vectors[rows], features.passport, crc32s)


def share_sample(parts: Sequence[Features], size: int = SAMPLE_SIZE, seed: str = SEED) -> list[Features]:
    """Choose one sample over several parts, each of which is a sample of a shard; returns each part's share."""
    chosen = set(choose_sample((one for part in parts for one in part.ids), size, seed))
    return [take_rows(part, [one for one in part.ids if one in chosen]) for part in parts]


def probe_images(
    stored: Features,
    members: Members,
    encoder: ImageEncoder,
    classes: Features | None = None,
    *,
    batch_size: int | None = None,
    size: int = SAMPLE_SIZE,
) -> Drift:
    """Encode a sample of stored image vectors again, from the archive, and measure how far they moved.

    An image that left the archive, or is another one there now (by its CRC), is no drift: it is not compared, but
    counted.

    Args:
        stored: Features of images, with CRCs.
        members: The COCO archive.
        encoder: The encoder of today.
        classes: Text features of the object classes.
        batch_size: Images in a forward pass; None: as `BATCHES` says.
        size: Size of the sample.
    """
    sample = take_sample(stored, size)
    if sample.passport.dimension != encoder.passport.dimension:
        return _refuse_to_compare(sample, encoder.passport)
    names = {image_id: locate_image(image_id) for image_id in sample.ids}
    present = members.names
    members = members.select(list(dict.fromkeys(name for name in names.values() if name in present)))
    lost: dict[str, str] = {}
    for image_id, crc in zip(sample.ids, sample.crc32s or [], strict=True):
        if names[image_id] not in present:
            lost[image_id] = "not in the archive any more"
        elif members.crc32(names[image_id]) != crc:
            lost[image_id] = "another image in the archive now"
    wanted = [image_id for image_id in sample.ids if image_id not in lost]
    pixels: dict[str, npt.NDArray[np.uint8]] = {}
    prepared = decode_images(members, [names[image_id] for image_id in wanted], 0, encoder.preprocessing)
    for image_id, image in zip(wanted, prepared, strict=True):
        if isinstance(image, str):
            lost[image_id] = image
        else:
            pixels[image_id] = image
    ids, vectors = list(pixels), [np.empty((0, encoder.passport.dimension), np.float32)]
    at_once = batch_size or BATCHES[encoder.passport.device]
    for start in range(0, len(ids), at_once):
        batch = np.stack([pixels[image_id] for image_id in ids[start : start + at_once]])
        vectors.append(encoder.encode_images(batch))
    return measure_drift(
        take_rows(sample, ids), Features(ids, np.concatenate(vectors), encoder.passport), classes, lost
    )


def probe_names(
    stored: Features, encoder: ClipEncoder, classes: Features | None = None, *, size: int = SAMPLE_SIZE
) -> Drift:
    """Encode a sample of stored names again and measure how far their vectors moved. Arguments as of `probe_images`."""
    sample = take_sample(stored, size)
    if sample.passport.dimension != encoder.passport.dimension:
        return _refuse_to_compare(sample, encoder.passport)
    return measure_drift(sample, encode_names(encoder, sample.ids), classes)


def _refuse_to_compare(sample: Features, passport: EmbeddingPassport) -> Drift:
    """Return the drift of vectors that are of another length now."""
    reason = f"its vector has {sample.passport.dimension} numbers, a new one has {passport.dimension}"
    empty = Features([], np.empty((0, sample.passport.dimension), np.float32), sample.passport)
    new = Features([], np.empty((0, passport.dimension), np.float32), passport)
    return measure_drift(empty, new, lost=dict.fromkeys(sample.ids, reason))
