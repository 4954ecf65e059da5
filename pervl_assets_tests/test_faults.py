"""Every system call of a tree build, a feature shard, a download, a table or a training file fails: nothing is lost."""

import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest

from pervl_assets.archives.downloads import fetch_file
from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.archives.members import open_members
from pervl_assets.clip.encode_images import clear_chunks, encode_image_shard
from pervl_assets.clip.features import Features, read_features, write_features
from pervl_assets.core.errors import PervlError
from pervl_assets.core.files import PARTIAL, explain_errors
from pervl_assets.core.tables import read_hashed, write_hashed
from pervl_assets.inversion.sources import locate_image
from pervl_assets.inversion.training_files import write_visual_features
from pervl_assets.trees.build import build_tree, commit_tree
from pervl_assets.trees.ledger import verify_tree
from pervl_assets_tests.core.faults import Faults, Killed, injected
from pervl_assets_tests.core.samples import photograph, plan_copies, write_zip
from pervl_assets_tests.inversion.kit import FakeEncoder, draw_jpeg, write_coco

PHOTOS = {f"{number} ": draw_jpeg(number) for number in range(3)}


@dataclass(frozen=True)
class Kind:
    """How a value is made, for the first time and again from other inputs, and what of it is on disk."""

    make: Callable[[Path, int], object]
    read: Callable[[Path], object]
    exchange: bool = True


def make_tree(root, version):
    names = ["a.txt", "b.txt", *(["c.txt"] if version else [])]
    path = write_zip(
        root.parent / f"{version}.zip", {name: f"{name} {version * (name > 'a')}".encode() for name in names}
    )
    ledger = root / "ledger.parquet"
    previous = read_hashed(ledger)[0] if ledger.is_file() else None
    with open_members(RawArchive(path, identify(path))) as members:
        tree = build_tree(plan_copies(names, listing=True), members, root / "tree", previous)
    commit_tree(tree, ledger)


def read_tree(root):
    ledger = read_hashed(root / "ledger.parquet")[0]
    assert verify_tree(root / "tree", ledger).unchanged
    return ledger.rows()


def make_shard(root, version):
    photos = dict(list(PHOTOS.items())[: 2 + version])
    coco, encoder = write_coco(root.parent / f"{version}.zip", photos), FakeEncoder()
    previous = read_features(root / "shard.parquet") if version and (root / "shard.parquet").exists() else None
    images = [(image_id, locate_image(image_id)) for image_id in photos]
    work = root / "shard.partial"
    options = {"previous": previous, "chunk_size": 1, "workers": 0}
    features = encode_image_shard(images, coco, encoder.passport, lambda: encoder, work, **options)
    write_features(features, root / "shard.parquet")
    clear_chunks(work)


def make_download(root, version):
    body = f"{version} mugs\n".encode()
    headers = {"ETag": f'"{version}"', "Content-Length": str(len(body))}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=iter([body]), headers=headers))
    with httpx.Client(transport=transport) as client:
        fetch_file(
            "https://kittens.org/mugs.csv", root / "new/mugs.csv", root / "mugs.json", client, sleep=lambda _: None
        )


def make_features(version):
    passport = FakeEncoder().passport
    return Features(["7 "], np.full((1, passport.dimension), version, np.float32), passport, [1])


KINDS = {
    "tree": Kind(make_tree, read_tree),
    "tree, no exchange": Kind(make_tree, read_tree, exchange=False),
    "shard": Kind(make_shard, lambda root: read_features(root / "shard.parquet").hash()),
    "download": Kind(make_download, lambda root: (root / "new/mugs.csv").read_bytes()),
    "table": Kind(
        lambda root, version: write_hashed(pl.DataFrame({"mug": [version]}), root / "new/table.parquet"),
        lambda root: read_hashed(root / "new/table.parquet")[0].rows(),
    ),
    "training file": Kind(
        lambda root, version: write_visual_features([make_features(version)], root / "new/file.npz"),
        lambda root: np.load(root / "new/file.npz", allow_pickle=True)["arr_0"].item()["7 "][0].tolist(),
    ),
}


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        *((kind, number) for kind in KINDS for number in (errno.EIO, None)),
        ("tree", errno.EMFILE),
        ("shard", errno.ENOSPC),
    ],
)
def test_a_call_that_fails_or_kills_loses_nothing(tmp_path, kind, number):
    what = KINDS[kind]
    values = []
    for version in (0, 1):  # the old value and the new one
        what.make(tmp_path / "good", version)
        values.append(what.read(tmp_path / "good"))
        if not version:
            shutil.copytree(tmp_path / "good", tmp_path / "old")
    wanted = photograph(tmp_path / "good")
    shutil.copytree(tmp_path / "old", tmp_path / "root")
    counted = Faults(tmp_path / "root")
    with injected(counted, exchange=what.exchange):
        what.make(tmp_path / "root", 1)
    assert counted.calls > 10

    for fail_at in range(counted.calls):
        shutil.rmtree(tmp_path / "root")
        shutil.copytree(tmp_path / "old", tmp_path / "root")
        faults = Faults(tmp_path / "root", fail_at, number)
        with injected(faults, exchange=what.exchange):
            try:
                with explain_errors():  # as every step of a run does
                    what.make(tmp_path / "root", 1)
            except (PervlError, Killed) as error:
                assert isinstance(error, Killed) == (number is None), error
        place = faults.names[: fail_at + 1][-6:]
        if number is not None:  # after a kill between two files of one value, the next run completes it
            assert what.read(tmp_path / "root") in values, place
        with injected(Faults(tmp_path), exchange=what.exchange):
            what.make(tmp_path / "root", 1)
        after = photograph(tmp_path / "root")
        after, expected = ({n: data for n, (data, _) in one.items() if n != "mugs.json"} for one in (after, wanted))
        assert after == expected, place  # the record of a download has its time
        assert not [path for path in (tmp_path / "root").rglob("*") if PARTIAL in path.name], place
