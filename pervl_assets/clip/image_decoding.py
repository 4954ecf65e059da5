"""Images of an archive, read and prepared for CLIP by worker processes. Imports no torch: the workers need none."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pervl_assets.archives.members import MemberError, Members
from pervl_assets.clip.prepare_image import prepare_image
from pervl_assets.clip.preprocessing import UPSTREAM, Preprocessing
from pervl_assets.core.pixels import ImageError
from pervl_assets.core.workers import map_in_processes

Decoded = npt.NDArray[np.uint8] | str
"""Pixels (S, S, 3) as `prepare_image` returns them, or the reason why there are none."""

_GROUP: Final = 16
_MAX_WORKERS: Final = 16


def decode_images(
    members: Members, names: Sequence[str], workers: int | None = None, preprocessing: Preprocessing = UPSTREAM
) -> Iterator[Decoded]:
    """Read and prepare images, yielding them in order while later ones are being decoded.

    At most three groups of 16 images per worker wait (2.4 MB per group for 224 x 224 pixels).

    Args:
        members: Source of the images; each worker opens it again.
        names: Members to decode.
        workers: Number of processes; None: one per CPU core, at most 16. 0: decode in this process.
        preprocessing: Steps from the file to pixels.

    Raises:
        ArchiveError: The source cannot be read any more (a disk error, a vanished or replaced archive).
        PervlError: A worker process died.
    """
    workers = min(os.cpu_count() or 1, _MAX_WORKERS) if workers is None else workers
    return map_in_processes(_Decoder(members, preprocessing), names, workers, _GROUP)


@dataclass(frozen=True)
class _Decoder:
    members: Members
    preprocessing: Preprocessing

    def __call__(self, name: str) -> Decoded:
        try:
            return prepare_image(self.members.read(name), self.preprocessing)
        except (MemberError, ImageError) as error:
            return str(error)
