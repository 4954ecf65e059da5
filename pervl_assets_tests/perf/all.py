"""All benchmarks, one after another: `make bench`.

    python -m pervl_assets_tests.perf.all [--kit KIT] [--work FOLDER] [--small]

Each benchmark can also run alone. `--small` runs all of them in minutes; its figures mean nothing. On an idle machine
with 2 cores everything takes half an hour, 30 GB of disk and 5 GB of memory. If one fails, the others still run.
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from pervl_assets_tests.perf.figures import SCRATCH

BENCHMARKS = {
    "runs": ("--kit", "--work"),
    "trees": ("--kit", "--work"),
    "triplets": ("--kit", "--work", "--full"),
    "preprocessing": ("--kit",),
    "encoding": ("--kit", "--work"),
    "matching": ("--work",),
    "ranking": ("--work",),
    "evaluation": ("--work",),
    "scaling": ("--work",),
    "many_images": ("--work",),
    "ranged": ("--work",),
    "kills": ("--kit", "--work"),
    "tuning": (),
    "training": (),
}
"""The benchmarks in their order, each with its options."""

SMALL = {"preprocessing": ["--images", "20", "--runs", "1"]}
"""Options for a quick trial of a benchmark that has no `--small`."""


def list_commands(kit: Path, work: Path, small: bool) -> dict[str, list[str]]:
    """Return the command of each benchmark, by name."""
    values = {"--kit": [str(kit)], "--work": [str(work)], "--full": []}
    commands = {}
    for name, options in BENCHMARKS.items():
        wanted = [option for option in options if not (small and option == "--full")]
        given = [text for option in wanted for text in (option, *values[option])]
        size = SMALL.get(name, ["--small"]) if small else []
        commands[name] = [sys.executable, "-m", f"pervl_assets_tests.perf.{name}", *given, *size]
    return commands


def main(arguments: list[str] | None = None) -> None:
    """Run all benchmarks; exit with status 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kit", type=Path, default=SCRATCH / "raw/full", help="a folder of raw archives (default: %(default)s)"
    )
    parser.add_argument("--work", type=Path, default=SCRATCH / "pervl_perf", help="scratch folder, 30 GB free")
    parser.add_argument("--small", action="store_true", help="to test that everything works")
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    console, failed = Console(), []
    for name, command in list_commands(given.kit.absolute(), given.work.absolute(), given.small).items():
        console.rule(f"{name}, load {os.getloadavg()[0]:.1f}")
        console.print(shlex.join(command[1:]), highlight=False)
        if subprocess.run(command, cwd=Path(__file__).parents[2], check=False).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
