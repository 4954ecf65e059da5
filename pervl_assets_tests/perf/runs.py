"""Whole runs of `pervl materialize`: the first one and one with nothing to do, on the demo data and on a kit.

    python -m pervl_assets_tests.perf.runs [--kit KIT] [--work FOLDER] [--small]

Each is a process of its own, from the start of Python to its end. The demo is measured with every executor. The kit has
too few images for PALAVRA's training files, which are left out, and is encoded by the demo's CLIP.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import get_args

from rich.console import Console

from pervl_assets.demo import TINY_CLIP
from pervl_assets.settings import Executor, Settings
from pervl_assets_tests.perf.figures import SCRATCH, new_folder, start_table
from pervl_assets_tests.perf.measure import Measured, measure

KIT_SELECTION = "not group:palavra and not group:release"


def run_pervl(home: Path, executor: str, selection: str = "*", **env: object) -> Measured:
    """Run `pervl materialize` on the data below a folder, which is its Dagster home as well.

    Raises:
        RuntimeError: It failed.
    """
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).parents[2] / "dagster.yaml", home)
    settings = {"DATA": home / "data", "EXECUTOR": executor, "FETCH": "off", "DEVICE": "cpu", **env}
    variables = [f"DAGSTER_HOME={home}", *(f"PERVL_{name}={value}" for name, value in settings.items())]
    return measure(["env", *variables, sys.executable, "-m", "pervl_assets.cli", "materialize", "--select", selection])


def copy_kit(kit: Path, home: Path) -> dict[str, object]:
    """Copy a kit into the data folder of a home and set its password in the environment; returns its settings."""
    os.environ["DEEPFASHION2_PASSWORD"] = (kit / "deep_fashion2/PASSWORD.txt").read_text().strip()
    shutil.copytree(kit, home / "data")
    archive = home / "data/deep_fashion2/train_encrypted.zip"
    archive.rename(archive.with_name("train.zip"))
    return {
        "PROFILE": "full",
        "ANNOTATIONS": kit / "annotations",
        "CLIP_MODEL": TINY_CLIP,
        "PREPROCESSING": "upstream",
    }


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, default=SCRATCH / "raw/full", help="raw archives (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=SCRATCH / "pervl_perf", help="scratch folder, 6 GB free")
    parser.add_argument("--small", action="store_true", help="the demo alone, with the default executor")
    given = parser.parse_args()
    table = start_table("pervl materialize", "data", "run", "executor", "seconds", "CPU s", "peak MB", "load")
    default = str(Settings.from_env({}).executor)

    def add(data: str, run: str, executor: str, one: Measured) -> None:
        table.add_row(
            data, run, executor, f"{one.seconds:.1f}", f"{one.cpu:.1f}", f"{one.peak / 1e6:,.0f}", f"{one.load:.1f}"
        )

    for executor in [default] if given.small else get_args(Executor):
        with new_folder(given.work, "demo") as home:
            add("demo", "first", executor, run_pervl(home, executor))
            add("demo", "nothing to do", executor, run_pervl(home, executor))
    if not given.small:
        with new_folder(given.work, "kit") as home:
            env = copy_kit(given.kit.absolute(), home)
            add("kit", "first", default, run_pervl(home, default, KIT_SELECTION, **env))
            add("kit", "nothing to do", default, run_pervl(home, default, KIT_SELECTION, **env))
    Console().print(table)


if __name__ == "__main__":
    main()
