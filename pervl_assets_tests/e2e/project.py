"""A data folder and a Dagster home of its own, and `pervl` run in them."""

import os
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pervl_assets_tests.cli.forked import run_pervl
from pervl_assets_tests.core.samples import photograph

SHORT_TRAINING: Final = MappingProxyType({"PERVL_REPETITIONS": "1", "PERVL_TRAINING_EPOCHS": "2"})  # of 3 and of 10


class Project:
    """The path of its data folder is no pattern and no address. The first run, if any, is `first`."""

    def __init__(self, root: Path) -> None:
        self.root, self.data = root, root / "run [1] *?%20#"
        self.first: subprocess.CompletedProcess[str] | None = None
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("PERVL_", "DAGSTER_"))}
        self.env |= {"PERVL_DATA": str(self.data), "DAGSTER_HOME": str(root / "home"), "PERVL_DEVICE": "cpu"}
        self.env |= SHORT_TRAINING

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `pervl` in a process of its own."""
        return run_pervl(arguments, self.root, self.env | env)

    def start(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `pervl` from the start of its interpreter."""
        return subprocess.run(
            [sys.executable, "-m", "pervl_assets.cli", *arguments],
            cwd=self.root,
            env=self.env | env,
            capture_output=True,
            text=True,
            check=False,
        )

    def photograph(self) -> dict[str, tuple[bytes, int]]:
        return photograph(self.data)
