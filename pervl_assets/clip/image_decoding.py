"""Images of an archive, prepared for CLIP by worker processes, in the order asked for.

Belongs here: processes, bounded queues, and turning an image that cannot be used into a reason. Does not belong here:
what is done to an image (`clip_preprocess`). Imports no torch: the workers need none.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Final

import numpy as np
import numpy.typing as npt

from pervl_assets.archives.members import MemberError, Members
from pervl_assets.clip.prepare_image import prepare_image
from pervl_assets.clip.preprocessing import UPSTREAM, Preprocessing
from pervl_assets.core.errors import PervlError
from pervl_assets.core.pixels import ImageError
from pervl_assets.core.workers import end_with_parent

Decoded = npt.NDArray[np.uint8] | str
"""Pixels (S, S, 3) as `prepare_image` returns them, or the reason why there are none."""

INLINE_IMAGES: Final = 64
"""So few images are decoded in this process: starting workers would take longer."""

_GROUP: Final = 16
_MAX_WORKERS: Final = 16
_work: tuple[Members, Preprocessing] | None = None


def decode_images(
    members: Members, names: Sequence[str], workers: int | None = None, preprocessing: Preprocessing = UPSTREAM
) -> Iterator[Decoded]:
    """Read and prepare images, yielding them in order while later ones are being decoded.

    At most two groups of 16 images a worker (2.4 MB each, for 224 x 224 pixels) wait in the queue.

    Args:
        members: Where the images are; each worker opens it on its own.
        names: Members to decode.
        workers: Number of processes; None: one a CPU core, at most 16. 0: decode in this process.
        preprocessing: What is done to each image.

    Raises:
        PervlError: A worker process died.
    """
    workers = min(os.cpu_count() or 1, _MAX_WORKERS) if workers is None else workers
    if workers == 0 or len(names) <= INLINE_IMAGES:
        yield from (_decode(members, preprocessing, name) for name in names)
        return
    context = multiprocessing.get_context("spawn")
    waiting: deque[Future[list[Decoded]]] = deque()
    try:
        with ProcessPoolExecutor(
            workers, context, initializer=_start_worker, initargs=(members, preprocessing)
        ) as pool:
            for start in range(0, len(names), _GROUP):
                waiting.append(pool.submit(_decode_group, names[start : start + _GROUP]))
                if len(waiting) > 2 * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise PervlError(
            "A process that decodes images died, most likely for want of memory.",
            advice="Run again: what is encoded is kept. If it dies again, free memory or give it fewer CPU cores.",
        ) from error


def _start_worker(members: Members, preprocessing: Preprocessing) -> None:
    """Set up a worker: its own archive; no Ctrl-C of its own; gone when its parent is gone, however that ended."""
    global _work  # noqa: PLW0603 - the one way to hand an open archive to a pool's tasks
    _work = members, preprocessing
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


def _decode_group(names: Sequence[str]) -> list[Decoded]:
    if _work is None:
        raise RuntimeError("the worker was not started with an archive")
    return [_decode(*_work, name) for name in names]


def _decode(members: Members, preprocessing: Preprocessing, name: str) -> Decoded:
    try:
        return prepare_image(members.read(name), preprocessing)
    except (MemberError, ImageError) as error:
        return str(error)
