"""A build killed at any moment leaves the old tree or the new one; the next goes on, and ends as if left in peace."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from pervl_assets.trees.ledger import verify_tree
from pervl_assets_tests.core.samples import photograph, write_zip
from pervl_assets_tests.trees import killed_build
from pervl_assets_tests.trees.counted_build import JOBS, WORKERS

IN_FLIGHT = 2 * WORKERS * 4
"""Jobs handed to worker processes and not yet in the journal: two batches of four for each of them."""


def start(root: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "pervl_assets_tests.trees.counted_build", str(root)], cwd=Path(__file__).parents[2]
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


MOMENTS_PER_PHASE = 5
"""Of four phases: twenty lines at which the process ends."""

ALARMS = 4
"""Times at which it ends wherever it is, amid a system call too; a run may be done before."""


def kill(moments: list[tuple[Path, str, float]]) -> list[int]:
    """Run each build until its moment; hashes are seeded, so that a line's number means the same each time."""
    done = subprocess.run(
        [sys.executable, "-m", "pervl_assets_tests.trees.killed_build"],
        input="".join(f"{json.dumps([str(root), *moment])}\n" for root, *moment in moments),
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [int(line) for line in done.stdout.split()]


def read_files(root: Path) -> dict[str, bytes]:
    return {path: data for path, (data, _) in photograph(root).items()}


def draw_moments(old: Path, scratch: Path, seed: int) -> list[tuple[str, float]]:
    """Draw moments: a line from every quarter of every phase, and times within the run."""
    chance = random.Random(seed)
    timed, counted = scratch / "timed", scratch / "counted"
    for root in (timed, counted):
        shutil.copytree(old, root)
    assert kill([(timed, "alarm", 60), (counted, "nothing", 0)]) == [0, 0]
    seconds = json.loads((timed / "figures.json").read_text())["seconds"]
    counts = json.loads((counted / "figures.json").read_text())["lines"]
    lines = [
        (phase, 1 + int(counts[phase] * (part + chance.random()) / MOMENTS_PER_PHASE))
        for phase in killed_build.PHASES
        for part in range(MOMENTS_PER_PHASE)
    ]
    return [*lines, *(("alarm", chance.uniform(0.001, 0.6 * seconds)) for _ in range(ALARMS))]


def test_a_build_killed_at_random_moments_leaves_the_old_tree_or_the_new_one(tmp_path):
    """The new tree takes 16 files over, makes 4 others again, and adds 4 and a new listing."""
    names, old = killed_build.NAMES, tmp_path / "old"
    members = {name: os.urandom(40) for name in names[:20]}
    write_zip(old / "raw.zip", members)
    killed_build.build(old)
    before = photograph(old / "tree")
    changed = [*names[:4], *names[20:]]
    write_zip(old / "raw.zip", {**members, **{name: os.urandom(40) for name in changed}})

    moments = draw_moments(old, tmp_path / "undisturbed", seed=2022)
    after = read_files(tmp_path / "undisturbed/counted/tree")
    roots = [tmp_path / f"killed{number}" for number in range(len(moments))]
    for root in roots:
        shutil.copytree(old, root)
    killed = kill([(root, *moment) for root, moment in zip(roots, moments, strict=True)])

    ends = set()
    for root, moment, status in zip(roots, moments, killed, strict=True):
        assert status in ((0, -signal.SIGALRM) if moment[0] == "alarm" else (-signal.SIGKILL,)), moment
        found = read_files(root / "tree")
        is_new = found == after
        assert is_new or found == read_files(old / "tree"), moment
        finished = 0 if is_new else count_lines(root / "tree.partial.jsonl")
        tree = killed_build.build(root)
        assert tree.rendered == (0 if is_new else len(changed) - finished), moment
        assert read_files(root / "tree") == after, moment
        assert verify_tree(root / "tree", tree.ledger).unchanged, moment
        assert not [path for path in root.iterdir() if "partial" in path.name], moment
        kept = {path: mark for path, mark in photograph(root / "tree").items() if before.get(path, mark) == mark}
        assert len(kept) >= 16, moment
        ends.add((is_new, finished > 0))
    assert ends == {(False, False), (False, True), (True, False)}, "moments before, between and after"
