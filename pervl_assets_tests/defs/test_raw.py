import shutil
import zipfile
from dataclasses import replace

import dagster as dg
import pytest

from pervl_assets import demo
from pervl_assets.core.errors import ArchiveError
from pervl_assets.defs.raw import list_specs
from pervl_assets.defs.resources import ANNOTATIONS, Workspace
from pervl_assets.demo import DEMO_PASSWORD, draw_raw
from pervl_assets.demo.builder import find_builders
from pervl_assets.testing.runs import explain, list_checks, make_settings

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
    assert "11 of 11 files are not those of NVlabs/PerVLBenchmark at 06ec7a6" in check.description


def test_real_annotations_are_known_as_official(materialize, shared):
    result = materialize('key:"raw/pervl_annotations"', profile="full", annotations=shared / "data/annotations")
    assert list_checks(result)["raw/pervl_annotations:official_files"].passed


def test_annotations_that_lack_files_name_them(materialize, tmp_path):
    (tmp_path / "own/ytvos").mkdir(parents=True)
    result = materialize('key:"raw/pervl_annotations"', profile="full", annotations=tmp_path / "own")
    assert "11 of 11 annotation files are not in" in explain(result)


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
