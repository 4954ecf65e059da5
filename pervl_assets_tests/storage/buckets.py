"""A bucket in memory for tests, which counts requests and lets chosen ones fail."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from pervl_assets.archives import remote_files
from pervl_assets.storage import bucket_client, open_store
from pervl_assets.storage.store import Store

DATA = "s3://pervl/data"


class Bucket:
    """A bucket in memory.

    Attributes:
        calls: Method and path of every request.
        fails: Returns whether a request fails, from its number, counted from 1.
        answer_is_lost: Whether a request that fails was obeyed.
    """

    def __init__(self) -> None:
        self.memory, self.calls = MemoryStore(), list[tuple[str, str]]()
        self.fails: Callable[[int], bool] = lambda number: False
        self.answer_is_lost = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.memory, name)

        def call(*args: Any, **named: Any) -> Any:
            self.calls.append((name, str(args[0] if args else named.get("prefix"))))
            if not self.fails(len(self.calls)):
                return method(*args, **named)
            if self.answer_is_lost:
                method(*args, **named)
            raise GenericError("HTTP error: the cable was bitten through")

        return call

    def list_names(self, folder: str = "") -> dict[str, bytes]:
        """Return the content of all objects by name."""
        found = [meta["path"] for batch in self.memory.list(prefix=f"data/{folder}") for meta in batch]
        return {name.removeprefix("data/"): bytes(self.memory.get(name).bytes()) for name in sorted(found)}

    def count(self, *methods: str) -> int:
        """Return the number of requests of these methods."""
        return sum(method in methods for method, _ in self.calls)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bucket:
    """An empty bucket, which is what is at `DATA`. The working copy is below `tmp_path / "a"`."""
    made = Bucket()
    monkeypatch.setattr(bucket_client, "open_address", lambda address, sent=0: (made, "data"))
    monkeypatch.setattr(remote_files, "open_address", lambda address: (made, f"{address}".removeprefix("s3://pervl/")))
    monkeypatch.setenv("PERVL_SCRATCH", str(tmp_path / "a"))
    return made


@pytest.fixture
def move_to(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Store]:
    """Go on on another machine: `move_to("b")` has a working copy of its own, empty at first."""

    def move(name: str) -> Store:
        monkeypatch.setenv("PERVL_SCRATCH", str(tmp_path / name))
        return open_store(DATA)

    return move
