import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from pervl_assets import demo
from pervl_assets.cli.status import list_inputs
from pervl_assets.core.errors import ArchiveError, MissingInputError
from pervl_assets.defs.automation import stat_inputs
from pervl_assets.defs.raw import list_specs
from pervl_assets.defs.resources import ANNOTATIONS, Workspace
from pervl_assets.demo import DEMO_PASSWORD, draw_raw
from pervl_assets.demo.builder import find_builders
from pervl_assets.io_managers.raw_archives import RawArchiveIOManager
from pervl_assets.testing.runs import explain, list_checks, make_settings
from pervl_assets_tests.archives.range_server import serve_ranges

ARCHIVES = {
    "youtube_vos_train": "youtube_vos/train.zip",
    "deep_fashion2_train": "deep_fashion2/train.zip",
    "coco_train2014": "inversion_model_train_data/train2014.zip",
    "coco_svo_triplets": "inversion_model_train_data/mscoco-train2014-svo-2016-02-18.txt",
    "openimages_class_descriptions": "inversion_model_train_data/oidv6-class-descriptions.csv",
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_missing_archive_says_where_to_get_and_put_it_and_its_licence(materialize, tmp_path, name):
    result = materialize(f'key:"raw/{name}"', data=tmp_path / "empty", profile="full")
    assert not result.success
    text = explain(result)
    assert "MissingInputError" in text
    assert str(tmp_path / "empty" / ARCHIVES[name]) in text
    assert "https://" in text
    assert "licence" in text
    assert "What to do: " in text


@pytest.mark.parametrize("name", ARCHIVES)
def test_the_demo_draws_what_is_missing_and_gives_its_identity_card(materialize, data, name):
    result = materialize(f'key:"raw/{name}"')
    assert result.success, explain(result)
    (made,) = result.asset_materializations_for_node(f"raw__{name}")
    assert made.metadata["bytes"].value == (data / ARCHIVES[name]).stat().st_size
    assert len(made.metadata["identity_sha256"].value) == 64
    assert made.metadata["encrypted"].value == (name == "deep_fashion2_train")


def test_an_unzipped_folder_is_as_good_as_the_archive(materialize, data, instance):
    archive = data / "youtube_vos/train.zip"
    assert materialize('+key:"ytvos/fsl_seg"', instance=instance).success
    tree = data / "youtube_vos/ytvos_PerVL/fsl_seg"
    files = {path.relative_to(tree): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(archive.parent)
    archive.unlink()
    own = {"profile": "full", "annotations": ANNOTATIONS / "demo"}
    assert materialize('+key:"ytvos/fsl_seg"', instance=instance, **own).success
    assert {path.relative_to(tree): path.read_bytes() for path in tree.rglob("*") if path.is_file()} == files


def test_annotations_of_ones_own_are_held_against_the_manifest(materialize, data):
    result = materialize('key:"raw/pervl_annotations"', profile="full", annotations=ANNOTATIONS / "demo")
    assert result.success, explain(result)
    check = list_checks(result)["raw/pervl_annotations:official_files"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.metadata["different"].value == 11
    assert "11 of 11 files not those of NVlabs/PerVLBenchmark at 06ec7a6" in check.description


def test_real_annotations_are_known_as_official(materialize, shared):
    result = materialize('key:"raw/pervl_annotations"', profile="full", annotations=shared / "data/annotations")
    assert list_checks(result)["raw/pervl_annotations:official_files"].passed


def test_annotations_that_lack_files_name_them(materialize, tmp_path):
    (tmp_path / "own/ytvos").mkdir(parents=True)
    result = materialize('key:"raw/pervl_annotations"', profile="full", annotations=tmp_path / "own")
    assert "11 of 11 annotation files not in" in explain(result)


@pytest.fixture
def draws_copies(synthetic_raw, monkeypatch) -> None:
    """Lets `draw_raw` copy what was drawn before."""

    def copy(raw):
        return replace(raw, draw=lambda target, seed: shutil.copy(synthetic_raw / raw.file, target))

    copying = [replace(one, raw={name: copy(raw) for name, raw in one.raw.items()}) for one in find_builders()]
    monkeypatch.setattr(demo, "find_builders", lambda: copying)


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.usefixtures("draws_copies")
def test_the_full_profile_refuses_what_was_drawn_for_the_demo(tmp_path, name, monkeypatch):
    draw_raw(name, tmp_path)
    (spec,) = [spec for spec in list_specs() if spec.name == name]
    own, full = (
        Workspace.from_settings(make_settings(tmp_path, profile=profile, fetch="off")) for profile in ("demo", "full")
    )
    assert own.find_raw(spec).path == tmp_path / ARCHIVES[name]
    with pytest.raises(ArchiveError, match=f"{ARCHIVES[name]} is synthetic") as raised:
        full.find_raw(spec)
    assert "Set PERVL_DATA" in raised.value.advice
    monkeypatch.setenv("DEEPFASHION2_PASSWORD", "official")
    assert own.read_password(spec) == (DEMO_PASSWORD if spec.password_variable else None)
    (tmp_path / ARCHIVES[name]).write_bytes(b"PK\5\6" + bytes(18))  # the official one, in the same place
    assert full.find_raw(spec).card.bytes == 22
    assert own.read_password(spec) == ("official" if spec.password_variable else None)


@pytest.fixture
def server(monkeypatch, data):
    with serve_ranges(monkeypatch) as server:
        server.files |= {file: (data / file).read_bytes() for file in ARCHIVES.values()}
        yield server


@pytest.mark.parametrize("scheme", ["s3", "http"])
def test_inputs_at_an_address_have_the_identity_of_files_and_are_not_copied(
    materialize, server, data, tmp_path, instance, scheme
):
    world, raw = tmp_path / "remote", server.root(scheme)
    selection = " or ".join(f'key:"raw/{name}"' for name in ARCHIVES)
    local, remote = materialize(selection), materialize(selection, data=world, instance=instance, raw=raw)
    assert remote.success, explain(remote)
    for name, file in ARCHIVES.items():
        (mine,), (theirs,) = (run.asset_materializations_for_node(f"raw__{name}") for run in (remote, local))
        assert mine.metadata["identity_sha256"] == theirs.metadata["identity_sha256"]
        assert mine.metadata["input"].value == f"{raw}/{file}"
        assert "etag" not in (data / f"assets/raw/{name}.json").read_text()
    copied = [path for path in world.rglob("*") if path.suffix in (".zip", ".txt", ".csv")]
    assert copied == []
    server.requests.clear()
    manager = RawArchiveIOManager(data=str(world))
    key = dg.AssetKey(["raw", "coco_train2014"])
    stamp = manager.stamp(key)
    assert stamp
    assert stamp == manager.stamp(key)
    assert manager.exists(key)
    assert manager.verify(key).unchanged
    assert manager.read(key).path == raw / ARCHIVES["coco_train2014"]
    assert len(server.requests) == 5
    server.files[ARCHIVES["coco_train2014"]] += b"more"
    assert manager.stamp(key) not in (stamp, None)
    assert manager.verify(key).changed == [f"{raw}/{ARCHIVES['coco_train2014']}"]
    with pytest.raises(MissingInputError, match=r"has changed: [0-9,]+ bytes now"):
        manager.read(key)
    del server.files[ARCHIVES["coco_train2014"]]
    assert manager.stamp(key) is None
    assert not manager.exists(key)
    assert manager.verify(key).missing == [f"{raw}/{ARCHIVES['coco_train2014']}"]
    with pytest.raises(MissingInputError, match="and is gone"):
        manager.read(key)


def test_a_missing_input_names_its_address_and_nothing_is_drawn(materialize, server, tmp_path):
    del server.files[ARCHIVES["coco_train2014"]]
    result = materialize('key:"raw/coco_train2014"', data=tmp_path / "remote", raw=server.root("s3"))
    assert f"Put it at s3://pervl/{ARCHIVES['coco_train2014']}" in explain(result)
    assert not [*(tmp_path / "remote").rglob("*.zip")]
    settings = make_settings(tmp_path / "remote", raw=server.root("s3"))
    assert {one.name for one in list_inputs(settings) if not one.found} == {"coco_train2014"}
    states = stat_inputs(list_specs(), server.root("s3"))
    assert set(states) == ARCHIVES.keys() - {"coco_train2014"}
    names = ARCHIVES["openimages_class_descriptions"]
    assert states["openimages_class_descriptions"][0] == len(server.files[names])


def test_inputs_may_be_in_a_folder_of_their_own(materialize, data, tmp_path):
    result = materialize('key:"raw/coco_train2014"', data=tmp_path / "results", raw=data)
    assert result.success, explain(result)
    assert not [*(tmp_path / "results").rglob("*.zip")]
    assert (tmp_path / "results/assets/raw/coco_train2014.members.parquet").is_file()


@pytest.mark.parametrize("name", ["coco_train2014", "pervl_annotations"])
def test_where_nothing_is_downloaded_the_setting_is_named(materialize, tmp_path, name):
    own = {"data": tmp_path / "empty", "profile": "full", "fetch": "off"}
    text = explain(materialize(f'key:"raw/{name}"', **own))
    assert "nset PERVL_FETCH to have" in text
    assert "PERVL_ANNOTATIONS" not in text
    assert ("not downloaded, because PERVL_FETCH=off" in text) == (name == "coco_train2014")


def test_where_raw_inputs_are_elsewhere_that_is_why_none_is_downloaded(materialize, tmp_path):
    own = {"data": tmp_path / "data", "raw": tmp_path / "raw", "profile": "full"}
    text = explain(materialize('key:"raw/coco_train2014"', **own))
    assert "nothing is downloaded or drawn, because PERVL_RAW is set" in text
    assert "PERVL_FETCH" not in text


@pytest.mark.parametrize("spec", list_specs(), ids=lambda spec: spec.name)
def test_sizes_in_messages_are_those_of_the_docs(spec):
    page = Path(__file__).parents[2] / "docs/full_data.md"
    (row,) = (line for line in page.read_text().splitlines() if line.startswith(f"| `{spec.file}` |"))
    assert f"| {spec.disk} |" in row
