"""A build killed at several moments goes on from where it was, and ends as one that was left in peace."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pervl_assets_tests.core.counted_build import JOBS, WORKERS
from pervl_assets_tests.core.samples import photograph, write_zip

IN_FLIGHT = 2 * WORKERS * 4
"""Jobs handed to worker processes and not yet in the journal: two batches of four for each of them."""


def start(root: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "pervl_assets_tests.core.counted_build", str(root)], cwd=Path(__file__).parents[2]
    )


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def list_children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def is_running(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_a_killed_build_is_finished_by_the_next_one(tmp_path):
    members = {f"{number:03}.txt": os.urandom(40) for number in range(JOBS)}
    for name in ("killed", "peace"):
        write_zip(tmp_path / name / "raw.zip", members)
    undisturbed = start(tmp_path / "peace")
    root, log, journal = tmp_path / "killed", tmp_path / "killed/renders.log", tmp_path / "killed/tree.partial.jsonl"
    orphans: list[int] = []
    for moment in (5, 40, 75):
        process = start(root)
        while count_lines(journal) < moment:
            assert process.poll() is None, "the build ended before it could be killed"
            time.sleep(0.002)
        orphans += list_children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (root / "tree").exists()
    process = start(root)  # killed once more, when all is built and perhaps not yet in place
    while not (root / "built").exists():
        assert process.poll() is None
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    renders = count_lines(log)
    assert start(root).wait(60) == 0
    assert undisturbed.wait(60) == 0

    killed, peace = photograph(root / "tree"), photograph(tmp_path / "peace/tree")
    assert {path: data for path, (data, _) in killed.items()} == {path: data for path, (data, _) in peace.items()}
    assert len(killed) == JOBS
    assert JOBS <= renders <= JOBS + 3 * IN_FLIGHT
    assert count_lines(log) == renders, "all was built before the last kill"
    assert not [path for path in root.iterdir() if "partial" in path.name]
    deadline = time.monotonic() + 5
    while any(is_running(pid) for pid in orphans) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in orphans if is_running(pid)]
