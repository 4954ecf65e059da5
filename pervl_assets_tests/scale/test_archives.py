"""Archives in a bucket of a real S3 server: the same results as from files, few requests, and what a failure costs."""

import threading
import zipfile
from datetime import timedelta
from pathlib import Path

import pytest

from pervl_assets.archives import sparse_copies, zip_index
from pervl_assets.archives.inputs import ArchiveSpec, find_archive
from pervl_assets.archives.members import open_members
from pervl_assets.core import addresses
from pervl_assets.core.addresses import open_address, parse_address
from pervl_assets.core.errors import ArchiveError
from pervl_assets.core.workers import map_in_processes
from pervl_assets.defs.raw import list_specs
from pervl_assets.testing.runs import explain, run_selection
from pervl_assets_tests.perf.synthetic_inputs import draw_videos
from pervl_assets_tests.scale.object_server import Bucket

pytestmark = pytest.mark.scale

SPEC = ArchiveSpec("clips", "Clips", "", "clips/train.zip", "", "", "", "")
PARTS = '+key:"ytvos/fsl_seg" or +key:"deep_fashion/personalized" or +key:"inversion/openimages_classes" or group:raw'


def put(bucket: Bucket, name: str, file: Path) -> None:
    store, path = open_address(parse_address(bucket.address) / name)
    store.put(path, file)


def put_inputs(bucket: Bucket, data: Path) -> int:
    """Put the raw inputs of a data folder into the bucket; return their bytes."""
    files = {spec.file: data / spec.file for spec in list_specs()}
    for name, file in files.items():
        put(bucket, name, file)
    bucket.server.proxy.reset()
    return sum(file.stat().st_size for file in files.values())


def make(data: Path, selection: str, **changes: object) -> None:
    zip_index._recent.clear()
    runs = run_selection(data, selection, **changes)
    if not all(run.success for run in runs):
        raise RuntimeError(explain(*runs))


def read_results(data: Path) -> dict[str, bytes]:
    """Return the bytes of all results by path: of trees, tables and ledgers, not of identity cards."""
    raw = {spec.file for spec in list_specs()}
    files = {path.relative_to(data).as_posix(): path for path in data.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in sorted(files.items())
        if name not in raw and not name.startswith("assets/raw/")
    }


def test_the_demo_made_from_a_bucket_is_that_made_from_files(bucket, data, tmp_path):
    total, proxy = put_inputs(bucket, data), bucket.server.proxy
    make(data, PARTS)
    make(tmp_path / "remote", PARTS, raw=bucket.address)
    local, remote = read_results(data), read_results(tmp_path / "remote")
    assert len(local) > 100
    assert local == remote
    assert proxy.sent < 1.6 * total
    assert proxy.requests["GET"] < 60
    assert proxy.requests["HEAD"] < 60
    assert not [*(tmp_path / "remote").rglob("*.partial*")]
    cards = "".join(path.read_text() for path in (tmp_path / "remote/assets/raw").glob("*.json"))
    assert "made-up" not in cards


SCALE = 10
"""Members are this many times smaller than those of YouTube-VOS, and so are the limits of a range."""


def test_scenes_of_a_large_archive_are_few_requests_and_little_waste(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(sparse_copies, "_LARGEST_GAP", sparse_copies._LARGEST_GAP // SCALE)
    needed, size = draw_videos(tmp_path / "a.zip", scenes=400, needed_scenes=31, scale=SCALE)
    put(bucket, SPEC.file, tmp_path / "a.zip")
    proxy = bucket.server.proxy
    proxy.reset()
    archive = find_archive(SPEC, tmp_path / "data", parse_address(bucket.address))
    directory, requests = proxy.sent, proxy.requests.total()
    assert directory < 1.2 * archive.card.members * 70 + (128 << 10)
    assert requests < 6
    proxy.reset()
    zip_index._recent.clear()
    with zipfile.ZipFile(tmp_path / "a.zip") as plain, open_members(archive) as members:
        chosen = members.select(needed)
        read = dict(zip(needed, map_in_processes(chosen.read, needed, 2), strict=True))
        assert read == {name: plain.read(name) for name in needed}
    assert proxy.requests.total() <= 1_000 * 31 / 270
    assert proxy.sent <= 1.6 * size
    spans = [span for method, _, span in proxy.log if method == "GET"]
    assert len(spans) == len(set(spans))


@pytest.fixture
def small_ranges(monkeypatch):
    """Every member is a range of its own, and failures are final after a second."""
    monkeypatch.setattr(sparse_copies, "_LARGEST_GAP", -1)
    monkeypatch.setattr(addresses, "_RETRIES", {"max_retries": 2, "retry_timeout": timedelta(seconds=2)})


def test_an_archive_that_is_replaced_under_way_ends_the_run(bucket, data, tmp_path, small_ranges):
    put_inputs(bucket, data)
    name = "youtube_vos/train.zip"
    with (
        open_members(find_spec(tmp_path / "data", name, bucket)) as members,
        members.select([*members.names]) as chosen,
    ):
        first, *_, last = chosen.names
        chosen.read(first)
        with (data / name).open("ab") as file:
            file.write(b"more")
        put(bucket, name, data / name)
        with pytest.raises(ArchiveError, match=r"s3://.*/youtube_vos/train\.zip was replaced or changed"):
            chosen.read(last)


def find_spec(data: Path, file: str, bucket: Bucket):
    (spec,) = (spec for spec in list_specs() if spec.file == file)
    return find_archive(spec, data, parse_address(bucket.address))


def test_a_server_that_is_away_for_a_moment_costs_nothing(bucket, data, tmp_path):
    put_inputs(bucket, data)
    proxy = bucket.server.proxy
    with open_members(find_spec(tmp_path / "data", "youtube_vos/train.zip", bucket)) as members:
        proxy.is_down = True
        threading.Timer(1.5, setattr, (proxy, "is_down", False)).start()
        name = next(name for name in members.names if name.endswith(".jpg"))
        assert members.read(name).startswith(b"\xff\xd8")


def test_a_server_that_is_gone_ends_the_run_and_finished_work_is_kept(bucket, data, tmp_path, small_ranges):
    put_inputs(bucket, data)
    proxy, world = bucket.server.proxy, tmp_path / "remote"
    selection = '+key:"ytvos/fsl_seg"'
    proxy.left = 60
    with pytest.raises(RuntimeError, match=r"NoAnswerError.*/youtube_vos/train\.zip cannot be read") as caught:
        make(world, selection, raw=bucket.address)
    assert "made-up" not in str(caught.value)
    kept = len([*world.rglob("*.partial/**/*.jpg")])
    assert kept > 5
    proxy.is_down, proxy.left = False, float("inf")
    proxy.reset()
    make(world, selection, raw=bucket.address)
    resumed = proxy.requests["GET"]
    make(tmp_path / "fresh", selection, raw=bucket.address)
    assert resumed <= proxy.requests["GET"] - resumed - 10
    assert read_results(world) == read_results(tmp_path / "fresh")
