"""Raw inputs of a data root in a bucket: drawn or downloaded once, and read by all machines."""

import json
from pathlib import Path

import dagster as dg
import pytest

from pervl_assets.archives.inputs import RawArchive, identify_contents
from pervl_assets.core.addresses import Address
from pervl_assets.core.errors import ArchiveError, SchemaError
from pervl_assets.definitions import build_definitions
from pervl_assets.defs.raw import list_specs
from pervl_assets.defs.resources import ANNOTATIONS, Workspace
from pervl_assets.demo import DEMO_PASSWORD
from pervl_assets.io_managers.raw_archives import RawArchiveIOManager
from pervl_assets.storage import open_store
from pervl_assets.testing.runs import make_settings, run_assets
from pervl_assets_tests.storage.buckets import DATA, bucket, move_to

__all__ = ["bucket", "move_to"]

SPECS = {spec.name: spec for spec in list_specs()}
NAMES = SPECS["openimages_class_descriptions"]


def make_workspace(**changes) -> Workspace:
    return Workspace.from_settings(make_settings(DATA, **changes))


def test_the_demo_draws_an_input_once_for_all_machines(bucket, move_to):
    found = make_workspace().find_raw(NAMES)
    assert found.path == Address(f"{DATA}/{NAMES.file}")
    assert not (open_store(DATA).folder / NAMES.file).exists()
    assert {NAMES.file, f"assets/raw/{NAMES.name}.synthetic"} <= {*bucket.list_names()}
    move_to("b")
    bucket.calls.clear()
    assert make_workspace().find_raw(NAMES) == found
    assert bucket.count("put") == 0


def test_an_input_that_a_user_put_into_the_bucket_is_used(bucket):
    bucket.memory.put(f"data/{NAMES.file}", b"/m/011k07,Tortoise\n")
    found = make_workspace(profile="full", fetch="off").find_raw(NAMES)
    assert (found.path, found.card.bytes) == (Address(f"{DATA}/{NAMES.file}"), 19)


def test_a_synthetic_input_in_the_bucket_is_no_official_one(bucket, move_to):
    make_workspace().find_raw(NAMES)
    move_to("b")
    with pytest.raises(ArchiveError, match="is synthetic"):
        make_workspace(profile="full").find_raw(NAMES)


def test_the_password_of_a_synthetic_input_is_its_own_on_every_machine(bucket, move_to, monkeypatch):
    spec = SPECS["deep_fashion2_train"]
    monkeypatch.setenv(spec.password_variable, "of another archive")
    assert make_workspace().read_password(spec) == "of another archive"
    bucket.memory.put(f"data/assets/raw/{spec.name}.synthetic", b"3 and its sha256")
    bucket.memory.put(f"data/{spec.file}", b"zip")
    move_to("b")
    assert make_workspace().read_password(spec) == DEMO_PASSWORD
    bucket.memory.put(f"data/{spec.file}", b"the official zip, put over it")
    assert make_workspace().read_password(spec) == "of another archive"


@pytest.mark.parametrize(
    "path", ["../../../etc", "..", "https://a:swordfish@b/x.zip", "file:///etc/passwd", 5, "assets/dagster/\0"]
)
def test_a_damaged_card_is_made_again_and_never_repeated(path, bucket):
    card = {"kind": "folder", "bytes": 1, "members": 1, "sha256": "x", "encrypted": False}
    bucket.memory.put("data/assets/raw/pets.json", json.dumps({"path": path, "card": card}).encode())
    stored, key = RawArchiveIOManager(data=DATA), dg.AssetKey(["raw", "pets"])
    assert not stored.exists(key)
    assert stored.stamp(key) is None
    assert stored.verify(key).changed == ["assets/raw/pets.json"]
    with pytest.raises(SchemaError) as raised:
        stored.read(key)
    assert "swordfish" not in str(raised.value)


KEY = dg.AssetKey(["raw", "photos"])


def put_card(bucket, path: str, **changes) -> RawArchiveIOManager:
    card = {"kind": "folder", "bytes": 1, "members": 1, "sha256": "x", "encrypted": False, **changes}
    bucket.memory.put("data/assets/raw/photos.json", json.dumps({"path": path, "card": card}).encode())
    return RawArchiveIOManager(data=DATA)


@pytest.mark.parametrize(
    "path",
    [
        "/etc",
        "../../../etc",
        "a/../../b",
        "s3://other/raw/a.zip",
        "https://127.0.0.1/a.zip",
        "s3://pervl/database/a.zip",
    ],
)
def test_a_card_that_names_an_input_elsewhere_is_refused(path, bucket):
    stored = put_card(bucket, path)
    with pytest.raises(SchemaError, match=r"neither below the data root nor|leads out of"):
        stored.read(KEY)
    assert (stored.exists(KEY), stored.stamp(KEY)) == (False, None)
    assert stored.verify(KEY).changed == ["assets/raw/photos.json"]


def test_an_input_is_where_the_settings_say(bucket, monkeypatch, tmp_path):
    monkeypatch.setenv("PERVL_ANNOTATIONS", str(tmp_path / "own"))
    monkeypatch.setenv("PERVL_RAW", "s3://other/raw/")
    stored, demo = RawArchiveIOManager(data=DATA), ANNOTATIONS / "demo"
    for place in (tmp_path / "own", demo, Address("s3://other/raw/a.zip"), Address(f"{DATA}/a.zip")):
        put_card(bucket, str(place))
        assert stored.load(stored.fetch(KEY)).path == place
    for path in ("/etc", f"{tmp_path}/own/../other", f"{tmp_path}/owner"):
        put_card(bucket, path)
        with pytest.raises(SchemaError):
            stored.load(stored.fetch(KEY))


def test_an_input_that_the_project_moved_into_the_bucket_is_not_materialized_again(bucket):
    defs = build_definitions(make_settings(DATA))
    (sensor,) = (sensor for sensor in defs.sensors if sensor.name == "notice_inputs")
    key, resources = dg.AssetKey(["raw", NAMES.name]), {"workspace": defs.resources["workspace"]}

    def notice(instance) -> list[dg.AssetKey]:
        cursor = None
        for _ in range(2):
            with dg.build_sensor_context(instance=instance, cursor=cursor, resources=resources) as context:
                result = sensor(context)
            cursor = result.cursor
        return [one for request in result.run_requests for one in request.asset_selection]

    with dg.DagsterInstance.ephemeral() as instance:
        assert run_assets(DATA, dg.AssetSelection.assets(key), instance).success
        assert notice(instance) == []
        bucket.memory.put(f"data/{NAMES.file}", b"/m/011k07,Tortoise\n")
        assert notice(instance) == [key]


def test_fetched_annotations_reach_other_machines(bucket, move_to):
    key, names = dg.AssetKey(["raw", "pervl_annotations"]), {"ytvos/concepts.csv", "deep_fashion/captions.csv"}

    def locate() -> Path:
        return open_store(DATA).folder / "assets/annotations/commit"

    for name in names:
        (file := locate() / name).parent.mkdir(parents=True)
        file.write_text(name)
    open_store(DATA).push_folder(locate())
    stored = RawArchiveIOManager(data=DATA)
    here = RawArchive(locate(), identify_contents(locate()))
    stored.handle_output(dg.build_output_context(asset_key=key), here)
    assert str(open_store(DATA).folder) not in str(bucket.list_names())
    move_to("verifier")
    assert stored.verify(key).unchanged
    move_to("b")
    there = stored.read(key)
    assert (there.path, there.card) == (locate(), here.card)
    assert {file.relative_to(there.path).as_posix() for file in there.path.rglob("*.csv")} == names
    bucket.calls.clear()
    open_store(DATA).push_folder(there.path)
    assert bucket.calls == []
