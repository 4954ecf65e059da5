"""The check of a raw archive: of the demo data's, of the user's own, and of one with missing members."""

import shutil
import zipfile
from dataclasses import replace

import dagster as dg
import pytest

from pervl_assets.archives.official_files import KnownMembers, load_manifest
from pervl_assets.definitions import build_definitions
from pervl_assets.defs import archive_checks
from pervl_assets.defs.raw import ANNOTATIONS_KEY
from pervl_assets.defs.resources import ANNOTATIONS
from pervl_assets.defs.up_to_date import explain_outdated
from pervl_assets.testing.hostile import drop_members
from pervl_assets.testing.runs import explain, list_checks, make_settings, run_assets
from pervl_assets.testing.worlds import locate_raw

OWN = {"profile": "full", "annotations": ANNOTATIONS / "demo"}
ARCHIVES = {"youtube_vos_train", "deep_fashion2_train", "coco_train2014"}


def check(data, names=ARCHIVES, annotated=True, **changes) -> dict[str, dg.AssetCheckEvaluation]:
    """Materialize raw inputs together with the checks of archives; return these by the archive's name."""
    keys = [dg.AssetKey(["raw", name]) for name in [*names, *(["pervl_annotations"] if annotated else [])]]
    checks = archive_checks.build_archive_checks()
    result = run_assets(data, dg.AssetSelection.assets(*keys), assets=checks, **changes)
    assert result.success, explain(result)
    found = list_checks(result).items()
    return {key.split(":")[0].removeprefix("raw/"): one for key, one in found if key.endswith(":known_archive")}


def test_every_zip_has_the_check(data):
    defs = build_definitions(make_settings(data))
    keys = {key.to_user_string() for checks in defs.asset_checks for key in checks.check_keys}
    assert {f"raw/{name}:known_archive" for name in ARCHIVES} <= keys


def test_archives_of_the_demo_data_hold_all_members_that_their_annotations_name(data):
    found = check(data)
    assert found.keys() == ARCHIVES
    assert all(result.passed for result in found.values())
    assert found["youtube_vos_train"].metadata["named_members"].value > 100
    assert found["deep_fashion2_train"].metadata["missing_members"].value == 0
    assert "Demo data" in found["deep_fashion2_train"].description


def test_an_archive_of_ones_own_with_other_counts_is_a_warning_and_needs_no_password(data, monkeypatch):
    monkeypatch.delenv("DEEPFASHION2_PASSWORD", raising=False)
    found = check(data, **OWN)
    fashion = found["deep_fashion2_train"]
    assert (fashion.passed, fashion.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "members that the annotations name" in fashion.description
    assert "the official one 191,961" in fashion.description


def test_an_archive_with_all_members_and_the_official_counts_passes(data, monkeypatch):
    known = {"youtube_vos_train": (KnownMembers(r".*\.png"),)}
    manifest = replace(load_manifest(ANNOTATIONS / "manifest.yaml"), archives=known)
    monkeypatch.setattr(archive_checks, "load_manifest", lambda _: manifest)
    found = check(data, ["youtube_vos_train"], **OWN)["youtube_vos_train"]
    assert found.passed
    assert "No hash of the official archive is recorded" in found.description


@pytest.mark.parametrize("changes", [{}, OWN])
def test_all_members_are_counted_where_no_official_counts_are_recorded(data, monkeypatch, changes):
    manifest = replace(load_manifest(ANNOTATIONS / "manifest.yaml"), archives={})
    monkeypatch.setattr(archive_checks, "load_manifest", lambda _: manifest)
    found = check(data, ["youtube_vos_train"], **changes)["youtube_vos_train"]
    assert found.passed
    assert found.metadata["held_members"].value >= found.metadata["named_members"].value > 100


@pytest.mark.parametrize("changes", [{}, OWN])
def test_missing_members_are_an_error_that_names_them(data, changes):
    path = locate_raw(data, "youtube_vos_train")
    with zipfile.ZipFile(path) as archive:
        gone = [name for name in archive.namelist() if name.endswith(".png")][:3]
    drop_members(path, *gone)
    found = check(data, ["youtube_vos_train"], **changes)["youtube_vos_train"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert 0 < found.metadata["missing_members"].value <= 3
    assert any(name in found.description for name in gone)


def test_without_annotations_the_archive_is_checked_alone(data):
    found = check(data, ["deep_fashion2_train"], annotated=False, **OWN)["deep_fashion2_train"]
    assert found.description.startswith("The annotations have not been materialized yet.")
    assert found.metadata["named_members"].value == 0


def test_an_archive_is_outdated_once_its_check_read_other_annotations(data, instance, tmp_path):
    own = shutil.copytree(ANNOTATIONS / "demo", tmp_path / "annotations")
    options, checks = {"profile": "full", "annotations": own}, archive_checks.build_archive_checks()
    key, resolved = dg.AssetKey(["raw", "youtube_vos_train"]), build_definitions(make_settings(data, **options))

    def make(*keys):
        assert run_assets(data, dg.AssetSelection.assets(*keys), instance, assets=checks, **options).success
        return explain_outdated(resolved.resolve_asset_graph(), instance, [(key, None)], resolved.resources)

    assert make(key, ANNOTATIONS_KEY) == {}
    assert make(ANNOTATIONS_KEY) == {}
    (own / "ytvos/more.txt").write_text("more")
    assert make(ANNOTATIONS_KEY) == {(key, None): "inputs of its check known_archive changed: raw/pervl_annotations"}
    assert make(key) == {}


def test_an_unzipped_folder_is_checked_by_its_names(data):
    path = data / "youtube_vos/train.zip"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(path.parent)
    path.unlink()
    found = check(data, ["youtube_vos_train"], **OWN)["youtube_vos_train"]
    assert found.passed
    assert found.metadata["missing_members"].value == 0
