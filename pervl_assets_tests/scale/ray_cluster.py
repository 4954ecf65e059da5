"""A Ray cluster in a namespace: a head, and nodes that can be killed.

Also the program `dagster` of its nodes (`python -m pervl_assets_tests.scale.ray_cluster api execute_step`): small
chunks, a slow encoder, and a line in a file for every batch that was encoded.
"""

import os
import runpy
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pervl_assets_tests.scale.servers import Namespace, read_variable

PROJECT = Path(__file__).parents[2]
CHUNK = 32
"""Images in a chunk: those of one batch, so that vectors are those of larger chunks."""

SECONDS = 2.0
"""Pause before every batch, unless `Cluster.slow_down` says another one."""

LOG, NODE = "ENCODED_LOG", "ENCODED_BY"

_START = """
import ray.scripts.scripts as scripts
scripts.get_ray_client_dependency_error = lambda: "its server takes longer than its own limit on a busy machine"
scripts.main()
"""
"""`ray start` without the server of the Ray client, which nothing here uses."""

_SMALL = ("--disable-usage-stats", "--object-store-memory=80000000")
_ADDRESS = "127.0.0.1:6379"


@dataclass(frozen=True)
class Node:
    """A head or a node of the cluster: all processes that inherited its name."""

    name: str
    namespace: Namespace

    def _find(self, *words: str) -> list[int]:
        return [pid for pid in self.namespace.find(*words) if read_variable(pid, NODE) == self.name]

    def kill(self) -> None:
        """Kill everything that runs on it, orphans included, as a power failure does."""
        while found := self._find():
            for pid in found:
                _kill(pid)

    def kill_raylet(self) -> None:
        """Kill what Ray watches it by, and leave alive what it executes.

        Ray's own watcher of a job would end the job a second later: it is killed first, as the machine whose network
        is gone keeps it from being of use.
        """
        for pid in (*self._find("while kill -s 0"), *self._find("raylet/raylet", "--raylet_socket_name")):
            _kill(pid)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Cluster:
    """A head without processors, and nodes with two processors and one declared GPU.

    Attributes:
        log: A line for every batch that a node encoded: the node, the asset's shard and the number of images.
        env: Environment of its commands.
    """

    def __init__(self, namespace: Namespace, root: Path) -> None:
        self._namespace, self._root, self.log = namespace, root, root / "encoded.log"
        (program := root / "bin/dagster").parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m {__name__} "$@"\n')
        program.chmod(0o755)
        self.env = {
            "PATH": f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(PROJECT),
            "HOME": str(root),
            "OMP_NUM_THREADS": "1",
            LOG: str(self.log),
        }

    def start_head(self) -> Node:
        """Start the head; its address for jobs is http://127.0.0.1:8265."""
        folder = f"--temp-dir={self._root / 'ray'}"
        return self._start("head", "--head", "--port=6379", "--num-cpus=0", "--dashboard-host=127.0.0.1", folder)

    def start_node(self, name: str) -> Node:
        """Start a node and let it join."""
        return self._start(name, f"--address={_ADDRESS}", "--num-cpus=2", "--num-gpus=1")

    def _start(self, name: str, *options: str) -> Node:
        command = [sys.executable, "-c", _START, "start", *options, *_SMALL]
        (home := self._root / "homes" / name).mkdir(parents=True)
        done = self._namespace.run(*command, env={**self.env, "HOME": str(home), NODE: name})
        assert done.returncode == 0, done.stdout + done.stderr
        return Node(name, self._namespace)

    def slow_down(self, name: str, seconds: float) -> None:
        """Let a node pause for so long before every batch."""
        self.log.with_name(name).write_text(str(seconds))

    def list_encoded(self) -> list[tuple[str, int]]:
        """Return node and number of images of every batch, in order."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(name, int(images)) for name, images in map(str.split, lines)]

    def wait_for_batches(self, number: int, seconds: float = 240) -> str:
        """Return the node that encodes, once that many batches were encoded."""
        deadline = time.monotonic() + seconds
        while len(encoded := self.list_encoded()) < number:
            assert time.monotonic() < deadline, f"{len(encoded)} batches after {seconds} s"
            time.sleep(0.1)
        return encoded[-1][0]


def main() -> None:
    """Execute a step as `dagster` does, slowly."""
    from pervl_assets.clip import encode_images, encoder

    encode_images.encode_image_shard.__kwdefaults__["chunk_size"] = CHUNK
    encode = encoder.ClipEncoder.encode_images

    def encode_slowly(self, images):
        node, log = os.environ[NODE], Path(os.environ[LOG])
        pause = log.with_name(node)
        time.sleep(float(pause.read_text()) if pause.exists() else SECONDS)
        with log.open("a") as lines:
            lines.write(f"{node} {len(images)}\n")
        return encode(self, images)

    encoder.ClipEncoder.encode_images = encode_slowly
    runpy.run_module("dagster", run_name="__main__")


if __name__ == "__main__":
    main()
