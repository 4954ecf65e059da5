"""Synthetic inputs for the benchmarks of the training data, from seeds: triplet lines, photographs, vectors."""

import io
import random
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pervl_assets.inversion.sources import COCO_SVO_TRIPLETS, COCO_TRAIN2014, locate_image

DIMENSION = 512
"""Length of a vector of ViT-B/32."""

COCO_IMAGES = 82_783

_NAMES = 6_800
"""Number of different objects in the kit's triplets."""

_VERBS = ("hold", "near", "on", "ride", "watch", "with")
_PLACES = ("a field", "a road", "a room", "the rain", "the snow", "the sun", "the water")


def list_lines(kit: Path) -> list[str]:
    """Return the kit's triplet lines, or the same number of synthetic ones if there is no kit."""
    text = kit / COCO_SVO_TRIPLETS.file
    return text.read_text(encoding="utf-8").splitlines() if text.exists() else [*draw_lines(400_000)]


def draw_lines(count: int, seed: int = 0) -> Iterator[str]:
    """Generate lines in the official format. As in the official file, few objects are very common."""
    chance = random.Random(seed)
    parts = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u", "an", "el", "in", "or", "us")]
    names = ["".join(chance.choices(parts, k=chance.randint(1, 4))) for _ in range(_NAMES)]
    rarity = [1 / (rank + 20) for rank in range(_NAMES)]
    for subject, other in zip(*(chance.choices(names, rarity, k=count) for _ in range(2)), strict=True):
        verb, place = chance.choice(_VERBS), chance.choice(_PLACES)
        said = f"one {subject} seen to {verb} another {other} in {place}"
        image = chance.randrange(1, COCO_IMAGES + 1)
        yield f"img_id={image} | {subject}, {verb}, {other} | {subject} {verb} {other} | {said}"


def write_sample(lines: list[str], count: int, target: Path) -> None:
    """Write `count` of the lines in their order, or random repetitions if there are too few."""
    chance = random.Random(count)
    if count <= len(lines):
        chosen = [lines[row] for row in sorted(chance.sample(range(len(lines)), count))]
    else:
        chosen = chance.choices(lines, k=count)
    with target.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in chosen)


def draw_jpeg(seed: int, size: tuple[int, int] = (96, 72)) -> bytes:
    """Return smooth noise as JPEG."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def list_photographs(kit: Path, count: int) -> list[bytes]:
    """Return `count` photographs: the kit's valid ones, repeated, or synthetic ones if there is no kit."""
    path = kit / COCO_TRAIN2014.file
    if not path.exists():
        return [draw_jpeg(seed, (640, 480)) for seed in range(count)]
    with zipfile.ZipFile(path) as archive:
        usable = [data for info in archive.infolist() if info.file_size and is_image(data := archive.read(info))]
    return [usable[number % len(usable)] for number in range(count)]


def is_image(data: bytes) -> bool:
    """Return whether Pillow decodes the bytes."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except OSError:
        return False
    return True


def name_images(count: int) -> list[str]:
    """Return image ids as text, in text order."""
    return sorted(f"{number} " for number in range(1, count + 1))


def write_coco(images: Iterable[bytes], target: Path) -> None:
    """Write an archive in the layout of COCO, with images 1, 2, 3 and so on."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w") as archive:
        for number, data in enumerate(images, start=1):
            archive.writestr(locate_image(str(number)), data)


def draw_vectors(count: int, seed: int) -> npt.NDArray[np.float32]:
    """Return random vectors like CLIP's: their common part is larger than their differences."""
    common = np.random.default_rng(2022).normal(size=DIMENSION)
    return np.asarray(common + np.random.default_rng(seed).normal(0, 0.4, (count, DIMENSION)), np.float32)


def write_vectors(count: int, target: Path, block: int = 20_000) -> None:
    """Write `count` vectors to a `.npy`, in blocks that differ."""
    vectors = draw_vectors(min(block, count), seed=1)
    array = np.lib.format.open_memmap(target, "w+", np.float32, (count, DIMENSION))
    for number, start in enumerate(range(0, count, block)):
        part = vectors[: count - start]
        array[start : start + len(part)] = np.roll(part, number, axis=1)
    array.flush()


def draw_videos(path: Path, scenes: int, needed_scenes: int, scale: int) -> tuple[list[str], int]:
    """Write a zip of videos laid out like YouTube-VOS, its members `scale` times smaller.

    Returns:
        The names of the needed members (most of the frames of some scenes, with their masks), and their bytes.
    """
    rng = np.random.default_rng(0)
    noise = rng.bytes(1 << 20)
    chosen = set(rng.choice(scenes, needed_scenes, replace=False).tolist())
    lengths = rng.integers(20, 38, scenes).tolist()
    needed, size = [], 0
    with zipfile.ZipFile(path, "w") as archive:
        for folder, extension, smallest, largest in (("M", "png", 5_000, 10_000), ("F", "jpg", 80_000, 150_000)):
            for scene, length in enumerate(lengths):
                for frame in range(length):
                    name = f"{folder}/{scene:04d}/{frame:05d}.{extension}"
                    data = noise[frame : frame + int(rng.integers(smallest, largest)) // scale]
                    archive.writestr(name, data)
                    if scene in chosen and 5 <= frame < 20 and frame not in (8, 9):
                        needed.append(name)
                        size += len(data)
    return needed, size
