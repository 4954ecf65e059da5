"""A data root in a bucket of a real S3 server: conditional writes, and PerVL-YTVOS made on two machines in turn."""

import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from pervl_assets.cli.status import list_states
from pervl_assets.cli.storage import plan_exports
from pervl_assets.cli.verification import verify_values
from pervl_assets.core.addresses import open_address, parse_address
from pervl_assets.core.errors import AddressError, SchemaError, WriteError
from pervl_assets.core.files import hash_file
from pervl_assets.definitions import build_definitions
from pervl_assets.defs.runs import list_values
from pervl_assets.defs.selections import select_assets
from pervl_assets.io_managers.stored_files import MANIFESTS
from pervl_assets.io_managers.trees import TreeIOManager
from pervl_assets.storage import open_store, pruning
from pervl_assets.storage.store import Store, StoredFile
from pervl_assets.testing.runs import explain, make_settings, run_selection
from pervl_assets_tests.core.samples import photograph
from pervl_assets_tests.io_managers.test_io_managers import make_tree
from pervl_assets_tests.scale.object_server import Bucket, CountingProxy

pytestmark = pytest.mark.scale

BRANCH = "+group:ytvos"
MEGABYTE = 1 << 20
NOW = timedelta(0)


@pytest.fixture
def move_to(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Store]:
    """Go on on another machine, with a working copy of its own."""
    open_address(parse_address(bucket.address))[0].put("makes the bucket", b"")

    def move(name: str) -> Store:
        monkeypatch.setenv("PERVL_SCRATCH", str(tmp_path / name))
        return open_store(f"{bucket.address}/data")

    return move


def push(store: Store, content: bytes) -> None:
    path = store.folder / "assets/value.bin"
    with store.stage(path) as staged:
        staged.parent.mkdir(parents=True)
        staged.write_bytes(content)
        store.push(path, staged, lambda path: ())


@pytest.mark.parametrize("size", [10, 12 * MEGABYTE])
def test_the_second_of_two_writers_is_refused_by_the_server(size, move_to):
    here, there = move_to("a"), move_to("b")
    path = there.folder / "assets/value.bin"
    there.begin(path)
    push(here, b"a" * size)
    with pytest.raises(WriteError, match="Another run has written"):
        push(there, b"b" * size)
    there.pull(path)
    assert path.read_bytes() == b"a" * size
    there.begin(path)
    push(there, b"b" * size)
    here.begin(here.folder / "assets/value.bin")
    push(there, b"c" * size)
    with pytest.raises(WriteError, match="Another run has written"):
        push(here, b"d" * size)
    push(here, b"c" * size)  # equal content is no conflict


def test_of_writers_at_the_same_time_the_server_lets_one_win(move_to):
    stores, start = [move_to(f"{number}") for number in range(12)], threading.Barrier(12)

    def write(content: bytes, store: Store) -> bool:
        start.wait()
        try:
            push(store, content)
        except WriteError:
            return False
        return True

    for turn in range(10):
        for store in stores:
            store.begin(store.folder / "assets/value.bin")
        with ThreadPoolExecutor(len(stores)) as pool:
            won = [*pool.map(write, (f"{turn} {number}".encode() for number in range(12)), stores)]
        assert won.count(True) == 1
        (reader := move_to("reader")).pull(path := reader.folder / "assets/value.bin")
        assert path.read_text() == f"{turn} {won.index(True)}"


def test_tags_are_the_same_however_they_are_asked_for(bucket, move_to):
    store = move_to("a")
    path = store.folder / "assets/value.bin"
    push(store, b"otter")
    assert store.list_values() == {"assets/value.bin": store.stamp(path, tuple)}
    bucket.server.proxy.reset()
    store.pull(path)
    store.pull(path)
    assert bucket.server.proxy.requests == {"GET": 2}
    assert bucket.server.proxy.sent == 0  # the working copy is this object
    for number in range(3):
        (work := store.folder / "assets/value.partial").mkdir(parents=True, exist_ok=True)
        (work / f"{number}").write_bytes(b"part")
        store.push_file(work / f"{number}")
    store.remove_work(work)
    assert [*store.list_values()] == ["assets/value.bin"]
    other = move_to("b")
    other.pull_work(work := other.folder / "assets/value.partial")
    assert not work.exists()


def materialize_in_turn(
    address: str, instance: dg.DagsterInstance, move_to: Callable[[str], Store]
) -> Iterator[dg.AssetMaterialization]:
    """Materialize the branch asset by asset, every one on the other of two machines."""
    graph = build_definitions(make_settings(address)).resolve_asset_graph()
    keys = dict.fromkeys(key for key, _ in list_values(graph, select_assets(graph, BRANCH)))
    for key, machine in zip(keys, itertools.cycle("ab")):
        move_to(machine)
        results = run_selection(address, f'key:"{key.to_user_string()}"', instance)
        assert all(result.success for result in results), explain(*results)
        yield from list_materializations(results)


def list_materializations(results) -> Iterator[dg.AssetMaterialization]:
    for result in results:
        yield from (event.materialization for event in result.get_asset_materialization_events())


def list_versions(materializations) -> dict[tuple[str, str | None], str]:
    return {
        (one.asset_key.to_user_string(), one.partition): one.tags["dagster/data_version"] for one in materializations
    }


def test_ytvos_in_a_bucket_is_that_of_a_folder(bucket, move_to, tmp_path, instance):
    results = run_selection(tmp_path / "folder", BRANCH)
    assert all(result.success for result in results), explain(*results)
    address, proxy = f"{bucket.address}/data", bucket.server.proxy
    versions = list_versions(materialize_in_turn(address, instance, move_to))
    assert versions == list_versions(list_materializations(results))

    defs = build_definitions(make_settings(address))
    move_to("c")
    proxy.reset()
    reasons = {one.why for one in list_states(defs, instance) if (one.asset, one.partition) in versions}
    assert reasons == {"", "its check known_archive was not evaluated"}  # which `run_selection` leaves out
    assert sum(proxy.requests.values()) <= 10

    move_to("d")
    proxy.reset()
    found = {one.name: one.result for one in verify_values(defs, address)}
    assert all(one.unchanged for one in found.values()), found
    assert sum(one.files for one in found.values()) > 100
    check_export(defs, address, proxy, tmp_path)


def check_export(defs: dg.Definitions, address: str, proxy: CountingProxy, tmp_path: Path) -> None:
    """Check that an export is cut off without harm, goes on where it was, and is as the trees of the folder."""
    exports = plan_exports(defs, parse_address(address), ["ytvos"], None)
    proxy.left = 60
    with pytest.raises((AddressError, SchemaError)):
        for one in exports:
            one.copy_to(tmp_path / "out")
    proxy.is_down, proxy.left = False, math.inf
    proxy.reset()
    copied = sum(one.copy_to(tmp_path / "out").copied for one in exports)
    assert 0 < copied <= proxy.requests["GET"] < sum(len(one.files) for one in exports)  # as far as it was, it is kept
    for one in exports:
        tree = one.root.relative_to(open_store(address).folder)
        made, expected = (
            {name: content for name, (content, _) in photograph(root / tree).items()}
            for root in (tmp_path / "out", tmp_path / "folder")
        )
        assert made == expected


@pytest.mark.usefixtures("move_to")
def test_a_replaced_tree_is_pruned_from_the_server(bucket, monkeypatch):
    trees, key = TreeIOManager(data=f"{bucket.address}/data"), dg.AssetKey("tree")
    monkeypatch.setattr(pruning, "SAFE", NOW)
    trees.store.folder.mkdir(parents=True)
    for seed in range(2):
        trees.handle_output(dg.build_output_context(asset_key=key), make_tree(trees.store.folder, seed))
    time.sleep(1.1)  # the server's times are whole seconds
    assert trees.store.prune(MANIFESTS, NOW, dry_run=True).objects == 2
    assert trees.store.prune(MANIFESTS, NOW, dry_run=False).objects == 2
    assert trees.store.prune(MANIFESTS, NOW, dry_run=False).objects == 0
    assert trees.verify(key).unchanged


def test_an_answer_that_is_cut_off_is_no_damage(bucket, move_to):
    store = move_to("a")
    source = store.folder / "file"
    source.parent.mkdir(parents=True)
    source.write_bytes(bytes(range(256)) * 40_000)
    file = StoredFile(source, source.stat().st_size, hash_file(source))
    store.push_files([file])
    source.unlink()
    bucket.server.proxy.cut_next = 1
    with contextlib.suppress(AddressError):  # obstore may go on where it was cut
        store.pull_files([file])
    assert not source.exists() or hash_file(source) == file.sha256
    store.pull_files([file])
    assert hash_file(source) == file.sha256
