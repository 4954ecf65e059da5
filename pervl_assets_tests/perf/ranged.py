"""Members of a zip in a bucket, compared with one request a member, and with downloading the zip.

    python -m pervl_assets_tests.perf.ranged [--delay SECONDS] [--small]

A tenth of the scenes of an archive laid out like YouTube-VOS, with members ten times smaller, is read from a server of
this machine that waits before each answer, as a bucket does. Reading the directory is not counted: the project keeps
it. The limits of a range are ten times smaller, too.
"""

import argparse
import io
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from pervl_assets.archives import sparse_copies
from pervl_assets.archives.inputs import ArchiveSpec, RawArchive, find_archive
from pervl_assets.archives.members import open_members
from pervl_assets.archives.zip_index import read_index
from pervl_assets.core.addresses import Address, open_address
from pervl_assets_tests.archives.range_server import RangeServer, serve_ranges
from pervl_assets_tests.perf.figures import SCRATCH, new_folder, start_table
from pervl_assets_tests.perf.synthetic_inputs import draw_videos

SCALE = 10
SPEC = ArchiveSpec("clips", "Clips", "", "train.zip", "", "", "", "")
Members = Mapping[str, bytes]


@dataclass(frozen=True)
class RunResult:
    """Figures of one way: requests, bytes received and seconds."""

    requests: int
    received: int
    seconds: float


def read_by_project(archive: RawArchive, zipped: Path, needed: Sequence[str]) -> Members:
    """Read the members as the project does, in this process."""
    with open_members(archive) as members, members.select(needed) as chosen:
        return {name: chosen.read(name) for name in needed}


def read_one_by_one(archive: RawArchive, zipped: Path, needed: Sequence[str]) -> Members:
    """Request each member alone."""
    entries, read = read_index(zipped).entries, {}
    store, path = open_bucket(archive)
    for name in needed:
        entry, header = entries[name], 30 + len(name)
        answer = store.get_range(path, start=entry.offset, length=header + entry.stored)
        read[name] = bytes(answer)[header:]
    return read


def read_whole(archive: RawArchive, zipped: Path, needed: Sequence[str]) -> Members:
    """Download the archive, then read it."""
    store, path = open_bucket(archive)
    with zipfile.ZipFile(io.BytesIO(store.get(path).bytes())) as plain:
        return {name: plain.read(name) for name in needed}


def open_bucket(archive: RawArchive):
    """Return the store and the path of an archive in a bucket."""
    assert isinstance(archive.path, Address)
    return open_address(archive.path)


WAYS: dict[str, Callable[[RawArchive, Path, Sequence[str]], Members]] = {
    "one request a member": read_one_by_one,
    "download, then read": read_whole,
    "project": read_by_project,
}


def compare_ways(scenes: int, delay: float, folder: Path) -> tuple[dict[str, RunResult], int]:
    """Read the same members in all ways; return the figures by way, and the bytes of the members.

    Raises:
        RuntimeError: The ways read other bytes.
    """
    zipped = folder / "train.zip"
    needed, size = draw_videos(zipped, scenes, scenes // 10, SCALE)
    expected = dict(_read_plain(zipped, needed))
    outcomes = {}
    with pytest.MonkeyPatch.context() as patch, serve_ranges(patch) as server:
        for limit in ("_LARGEST_GAP", "_LONGEST"):
            patch.setattr(sparse_copies, limit, getattr(sparse_copies, limit) // SCALE)
        server.files[SPEC.file] = zipped.read_bytes()
        archive = find_archive(SPEC, folder / "data", server.root("s3"))
        server.delay = delay
        for title, read in WAYS.items():
            outcomes[title], found = _measure(server, lambda read=read: read(archive, zipped, needed))
            if found != expected:
                raise RuntimeError(f"{title}: other bytes were read.")
    return outcomes, size


def _read_plain(zipped: Path, needed: Sequence[str]) -> Members:
    with zipfile.ZipFile(zipped) as plain:
        return {name: plain.read(name) for name in needed}


def _measure(server: RangeServer, read: Callable[[], Members]) -> tuple[RunResult, Members]:
    server.requests.clear()
    server.sent, start = 0, time.perf_counter()
    found = read()
    return RunResult(len(server.requests), server.sent, time.perf_counter() - start), found


def make_table(outcomes: Mapping[str, RunResult], size: int, delay: float) -> Table:
    """Return the table of all figures."""
    title = f"Members of {size / 1e6:.1f} MB in a bucket that waits {delay * 1000:.0f} ms before each answer"
    table = start_table(title, "way", "", "requests", "MB received", "of needed", "s")
    for way, run in outcomes.items():
        ratio = f"{run.received / size:.2f}"
        table.add_row(way, "", f"{run.requests:,}", f"{run.received / 1e6:.1f}", ratio, f"{run.seconds:.2f}")
    return table


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=SCRATCH / "pervl_perf", help="scratch folder, 1 GB free")
    parser.add_argument("--delay", type=float, default=0.02)
    parser.add_argument("--small", action="store_true", help="few scenes: to test that everything works")
    given = parser.parse_args(arguments)
    with new_folder(given.work, "ranged") as folder:
        outcomes, size = compare_ways(30 if given.small else 400, given.delay, folder)
    Console(width=max(120, Console().width)).print(make_table(outcomes, size, given.delay))


if __name__ == "__main__":
    main()
