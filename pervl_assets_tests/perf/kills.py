"""Encoding that is killed ten times at random moments ends with the same bytes as an undisturbed run.

    python -m pervl_assets_tests.perf.kills [--kit KIT] [--work FOLDER] [--seed N] [--small]

5,000 synthetic photographs, and the kit's archive if there is one, each as one shard in chunks, through a CLIP with
real forward passes (the demo's). The seed decides the moments. Every encoded image is recorded by the CRC-32 of its
pixels, which shows whether a saved one is encoded again.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pervl_assets.clip.features import read_features
from pervl_assets.demo import TINY_CLIP
from pervl_assets.inversion.sources import COCO_TRAIN2014
from pervl_assets_tests.perf.figures import SCRATCH, command, new_folder, start_table
from pervl_assets_tests.perf.synthetic_inputs import draw_jpeg, write_coco

FULL, SMALL = (5_000, 128, 10), (200, 16, 3)
"""Images, images per chunk, kills."""

KIT_CHUNK = 8

EARLY = 0.3
"""Share of the kills while libraries and model are loading."""

ENCODING = 0.6
"""Largest share of the images that is encoded before the last kill, plus one chunk per kill."""


@dataclass(frozen=True)
class Step:
    """A run up to its kill or its end.

    Attributes:
        seconds: Duration.
        waited: Seconds before the first image was encoded.
        saved_before: Images that were saved when it started.
        encoded: Images that it encoded.
        again: Encoded images that had been saved before.
        saved_after: Images that were saved when it ended.
    """

    seconds: float
    waited: float
    saved_before: int
    encoded: int
    again: int
    saved_after: int


@dataclass(frozen=True)
class RunResult:
    """The undisturbed run, the killed runs with the last one, and the sha256 of both results."""

    chunk: int
    undisturbed: Step
    steps: list[Step]
    sha256s: tuple[str, str]


class Encoding:
    """A shard that is encoded by child processes, which can be killed.

    Args:
        archive: The images.
        chunk: Images per chunk.
        folder: Folder of the result, the chunks and the log.
        ids: The id of every image by the CRC-32 of its pixels.
        model: Folder of the model, or `simulated`.
    """

    def __init__(self, archive: Path, chunk: int, folder: Path, ids: dict[str, str], model: object) -> None:
        folder.mkdir()
        self.result, self.log, self._work, self._ids = folder / "0.parquet", folder / "log", folder / "0.partial", ids
        self.log.touch()
        self._command = command("project", "recorded", archive, model, chunk, self.result, self.log)

    def run(self, kill_after: float | None = None, images: int = 1) -> Step:
        """Run to the end, or kill the process `kill_after` seconds after it has encoded `images` images.

        Raises:
            RuntimeError: The process failed, or ended before it was killed.
        """
        saved, before = self._list_saved(), len(self._read_log())
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}  # about killed processes
        start = time.perf_counter()
        process = subprocess.Popen(
            self._command, cwd=Path(__file__).parents[2], env=environment, stdout=subprocess.PIPE
        )
        while process.poll() is None and len(self._read_log()) < before + images:
            time.sleep(0.01)
        waited = time.perf_counter() - start
        try:
            process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        seconds = time.perf_counter() - start
        if process.returncode != (0 if kill_after is None else -signal.SIGKILL):
            raise RuntimeError(f"It ended with status {process.returncode}, kill after {kill_after}: {self._command}")
        encoded = [self._ids.get(crc) for crc in self._read_log()[before:]]
        return Step(seconds, waited, len(saved), len(encoded), len(saved & {*encoded}), len(self._list_saved()))

    def _read_log(self) -> list[str]:
        return self.log.read_text().split()

    def _list_saved(self) -> set[str]:
        """Return the ids of the images in chunks or in the result."""
        files = [*self._work.glob("*.parquet"), *([self.result] if self.result.exists() else [])]
        return {image_id for file in files for image_id in read_features(file).ids}


def kill_often(archive: Path, chunk: int, kills: int, seed: int, folder: Path, model: object = TINY_CLIP) -> RunResult:
    """Encode undisturbed once; then kill and continue repeatedly.

    Raises:
        RuntimeError: A saved image was encoded again, or the results differ.
    """
    folder.mkdir()
    chance, calm = random.Random(seed), Encoding(archive, chunk, folder / "calm", {}, model)
    undisturbed = calm.run()
    ids = dict(zip(calm.log.read_text().split(), read_features(calm.result).ids, strict=True))  # in this order
    if len(ids) != undisturbed.encoded:
        raise RuntimeError("Two images have the same pixels: they cannot be distinguished.")
    killed = Encoding(archive, chunk, folder / "killed", ids, model)
    early = round(EARLY * kills)
    moments = [(chance.uniform(0, undisturbed.waited), 0) for _ in range(early)]
    a_chunk = (undisturbed.seconds - undisturbed.waited) / undisturbed.encoded * chunk
    share = int(ENCODING / kills * undisturbed.encoded)
    moments += [(chance.uniform(0, a_chunk), chance.randint(1, share)) for _ in range(kills - early)]
    chance.shuffle(moments)
    steps = [*(killed.run(*moment) for moment in moments), killed.run()]
    sha256s = tuple(hashlib.sha256(one.result.read_bytes()).hexdigest() for one in (calm, killed))
    if sha256s[0] != sha256s[1] or any(step.again for step in steps):
        raise RuntimeError(f"Other bytes, or encoded twice: {sha256s}, {steps}")
    return RunResult(chunk, undisturbed, steps, sha256s)


def make_table(outcome: RunResult, what: str, seed: int) -> Table:
    """Return the table of all runs."""
    headings = ("run", "", "seconds", "saved before", "encoded", "of these saved before", "saved after")
    images, kills = outcome.undisturbed.encoded, len(outcome.steps) - 1
    title = f"{images:,} {what} in chunks of {outcome.chunk}, killed {kills} times, seed {seed}"
    table = start_table(title, *headings)
    names = [*(f"killed, {number}" for number in range(1, len(outcome.steps))), "to the end"]
    for name, step in zip(["undisturbed", *names], [outcome.undisturbed, *outcome.steps], strict=True):
        counts = (step.saved_before, step.encoded, step.again, step.saved_after)
        table.add_row(
            name,
            "" if step.encoded else "before any image",
            f"{step.seconds:.1f}",
            *(f"{count:,}" for count in counts),
            end_section=name == "undisturbed",
        )
    lost = sum(step.encoded for step in outcome.steps) - images
    table.caption = (
        f"sha256 undisturbed {outcome.sha256s[0]}\nsha256 killed      {outcome.sha256s[1]}\n"
        f"Lost with unfinished chunks and encoded again: {lost:,} images. Load {os.getloadavg()[0]:.1f}."
    )
    return table


def main(arguments: list[str] | None = None) -> None:
    """Run the kills and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kit", type=Path, default=SCRATCH / "raw/full", help="a folder of raw archives (default: %(default)s)"
    )
    parser.add_argument("--work", type=Path, default=SCRATCH / "pervl_perf", help="scratch folder")
    parser.add_argument("--seed", type=int, default=2022, help="of the moments")
    parser.add_argument("--small", action="store_true", help="few images, three kills: to test that everything works")
    given = parser.parse_args(arguments)
    images, chunk, kills = SMALL if given.small else FULL
    console, official = Console(width=max(110, Console().width)), given.kit / COCO_TRAIN2014.file
    with new_folder(given.work, "kills") as folder:
        drawn = folder / "drawn.zip"
        write_coco(map(draw_jpeg, range(images)), drawn)
        outcome = kill_often(drawn, chunk, kills, given.seed, folder / "drawn")
        console.print(make_table(outcome, "synthetic images", given.seed))
        if official.exists() and not given.small:
            outcome = kill_often(official, KIT_CHUNK, kills, given.seed, folder / "kit")
            console.print(make_table(outcome, "images of the kit", given.seed))


if __name__ == "__main__":
    main()
