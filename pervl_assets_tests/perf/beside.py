"""Runs, `pervl verify` and the UI at the same time on one data root: nothing may be lost.

    python -m pervl_assets_tests.perf.beside [--minutes 10] [--work FOLDER]

Two processes materialize parts of the demo graph with `--force` again and again, from two Dagster homes. A third one
runs `pervl verify`. A fourth one asks the UI. A reader checks that no tree is ever absent or incomplete. At the end all
files must have the bytes that a single run had made, and no output may have a stack.
"""

import argparse
import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import polars as pl
from rich.console import Console

from pervl_assets.io_managers.trees import TreeIOManager
from pervl_assets.trees.ledger import LEDGER
from pervl_assets_tests.perf.figures import SCRATCH

SELECTIONS = ("group:ytvos", "group:deep_fashion", "group:inversion", '+key:"ytvos/fsl_seg"', "*")
QUERY = {"query": "{ assetNodes { assetKey { path } assetMaterializations(limit: 1) { timestamp } } }"}
PORT = 3917


def hash_files(data: Path) -> dict[str, str]:
    """Return the sha256 of each value below `data`, without manifests, which hold times and run ids."""
    files = (path for path in data.rglob("*") if path.is_file() and path.suffix not in {".json", ".lock"})
    return {str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Actors:
    """Processes and threads that work on one data root until the time is over."""

    def __init__(self, work: Path, seconds: float) -> None:
        """Start nothing yet."""
        self.data, self.logs, self.end = work / "data", work / "logs", time.monotonic() + seconds
        self.work = work
        self.ends: Counter[str] = Counter()
        self.errors: list[str] = []
        self.logs.mkdir()

    def run_pervl(self, name: str, home: str, *arguments: str) -> None:
        """Run a command once. Record its exit code, and a stack if it printed one."""
        (self.work / home).mkdir(exist_ok=True)
        env = {**os.environ, "PERVL_DATA": str(self.data), "DAGSTER_HOME": str(self.work / home)}
        command = [sys.executable, "-m", "pervl_assets.cli", *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, errors="replace", check=False)
        text = done.stdout + done.stderr
        self.ends[f"{name}: exit {done.returncode}"] += 1
        if "Traceback" in text or done.returncode not in (0, 1):
            self.errors.append(f"{name} {arguments}: exit {done.returncode}\n{text[-3000:]}")
        if done.returncode:
            (self.logs / f"{name}_{time.time():.0f}").write_text(f"{command}\n{text}")

    def repeat(self, action: Callable[[], None]) -> Callable[[], None]:
        """Return a thread's body: the action, again and again, until the time is over."""

        def body() -> None:
            while time.monotonic() < self.end:
                action()

        return body

    def materialize(self, name: str, home: str) -> Callable[[], None]:
        """Return the body of a thread that materializes parts of the graph again and again."""
        chosen = random.Random(name)
        return self.repeat(
            lambda: self.run_pervl(name, home, "materialize", "--force", "--select", chosen.choice(SELECTIONS))
        )

    def ask_ui(self) -> None:
        """Ask the UI for the state of all assets."""
        try:
            answer = httpx.post(f"http://127.0.0.1:{PORT}/graphql", json=QUERY, timeout=60)
            self.ends[f"UI: {answer.status_code}{' with errors' if 'errors' in answer.json() else ''}"] += 1
        except httpx.HTTPError as error:
            self.ends[f"UI: {type(error).__name__}"] += 1
        time.sleep(1)

    def read_trees(self, expected: dict[str, set[str]]) -> Callable[[], None]:
        """Return a body that lists each tree and records one that is absent or incomplete."""

        def list_missing() -> None:
            for tree, names in expected.items():
                missing = names - {str(path.relative_to(self.data / tree)) for path in list_tree(self.data / tree)}
                self.ends["reader: tree whole" if not missing else "reader: files missing"] += 1
                if missing:
                    self.errors.append(f"{tree}: {len(missing)} of {len(names)} files missing: {sorted(missing)[:3]}")
            time.sleep(0.05)

        return list_missing


def is_ledger(path: Path) -> bool:
    """Return whether a Parquet file is the ledger of a tree."""
    return {*pl.read_parquet_schema(path)} == {*LEDGER.to_polars()}


def list_tree(folder: Path) -> Iterator[Path]:
    """Yield the files of the folder that is at this path now, even if it is exchanged meanwhile."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for root, _, files, _ in os.fwalk(".", dir_fd=opened):
            yield from (folder / root / file for file in files)
    finally:
        os.close(opened)


@contextlib.contextmanager
def serve_ui(work: Path) -> Iterator[None]:
    """Serve the UI on the first Dagster home."""
    env = {**os.environ, "PERVL_DATA": str(work / "data"), "DAGSTER_HOME": str(work / "home1")}
    command = [sys.executable, "-m", "pervl_assets.cli", "ui", "--port", str(PORT)]
    with (work / "logs/ui.log").open("w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            yield
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)


def main() -> None:
    """Run everything and print what happened. Exit with 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--work", type=Path, default=SCRATCH / "pervl_beside")
    given = parser.parse_args()
    shutil.rmtree(given.work, ignore_errors=True)
    work = given.work.absolute()
    work.mkdir(parents=True)
    console = Console()
    env = {**os.environ, "PERVL_DATA": str(work / "data"), "DAGSTER_HOME": str(work / "home1")}
    (work / "home1").mkdir()
    subprocess.run([sys.executable, "-m", "pervl_assets.cli", "demo"], env=env, check=True, capture_output=True)
    before = hash_files(work / "data")
    manager = TreeIOManager(data=str(work / "data"))
    ledgers = [path for path in (work / "data/assets").rglob("*.parquet") if is_ledger(path)]
    roots = sorted(str(root.relative_to(work / "data")) for path in ledgers for root in manager.list_parts(path))
    expected = {
        root: {str(path.relative_to(work / "data" / root)) for path in list_tree(work / "data" / root)}
        for root in roots
    }

    actors = Actors(work, given.minutes * 60)
    with serve_ui(work):
        bodies = [
            actors.materialize("run A", "home1"),
            actors.materialize("run B", "home2"),
            actors.repeat(lambda: actors.run_pervl("verify", "home2", "verify")),
            actors.repeat(actors.ask_ui),
            actors.repeat(actors.read_trees(expected)),
        ]
        threads = [threading.Thread(target=body) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    actors.run_pervl("at the end, materialize", "home1", "materialize")
    actors.run_pervl("at the end, verify", "home1", "verify")
    after = hash_files(work / "data")
    differ = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    for name, count in sorted(actors.ends.items()):
        console.print(f"{name}: {count:,} times")
    console.print(f"{len(before):,} files before, {len(after):,} after, {len(differ):,} differ: {differ[:5]}")
    console.print(f"{len(actors.errors)} errors", *actors.errors[:5], sep="\n", markup=False)
    sys.exit(bool(differ or actors.errors))


if __name__ == "__main__":
    main()
