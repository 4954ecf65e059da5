"""Locks whose holder has no name yet, and requests to hand over."""

import threading
from pathlib import Path

import pytest

from pervl_assets.core import claims
from pervl_assets.core.claims import Claim, claim_work, is_asked_for
from pervl_assets.core.errors import BusyError
from pervl_assets.core.files import Lock


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(claims, "_PERIOD", 0.01)
    monkeypatch.setattr(claims, "_NAMELESS_SECONDS", 0.3)
    return tmp_path / "shard.lock"


def test_a_holder_that_has_not_written_its_name_yet_is_asked_once_it_has(lock: Path):
    holder = Lock(lock, "encoding")

    def go_on() -> None:
        holder.rewrite(b"run/0")
        while not is_asked_for(lock):
            pass
        holder.release()

    threading.Timer(0.1, go_on).start()
    with claim_work(lock, "encoding", Claim("run/1", lambda name: name == "run/0")):
        assert lock.read_text() == "run/1"


def test_a_holder_without_a_name_is_not_waited_for(lock: Path):
    holder = Lock(lock, "encoding")
    with pytest.raises(BusyError), claim_work(lock, "encoding", Claim("run/1", lambda name: True)):
        pass
    holder.release()
    assert not is_asked_for(lock)
