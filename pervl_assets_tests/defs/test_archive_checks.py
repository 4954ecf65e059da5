"""The check of a raw archive: what it says of the miniature world's, of the user's own, and of what lacks members."""

import zipfile

import dagster as dg
import pytest

from pervl_assets.archives.inputs import identify
from pervl_assets.archives.known_archives import KnownArchive, load_known_archives
from pervl_assets.definitions import build_definitions
from pervl_assets.defs import archive_checks
from pervl_assets.defs.resources import ANNOTATIONS
from pervl_assets.testing.hostile_archives import drop_members
from pervl_assets.testing.runs import explain, list_checks, make_settings, run_assets
from pervl_assets.testing.worlds import locate_raw

OWN = {"profile": "full", "annotations": ANNOTATIONS / "demo"}
ARCHIVES = {"youtube_vos_train", "deep_fashion2_train", "coco_train2014"}


def judge(data, names=ARCHIVES, annotated=True, **changes) -> dict[str, dg.AssetCheckEvaluation]:
    """Materialize raw inputs together with the checks of archives; return these by the archive's name."""
    keys = [dg.AssetKey(["raw", name]) for name in [*names, *(["pervl_annotations"] if annotated else [])]]
    checks = archive_checks.build_archive_checks()
    result = run_assets(data, dg.AssetSelection.assets(*keys), assets=checks, **changes)
    assert result.success, explain(result)
    checks = list_checks(result).items()
    return {key.split(":")[0].removeprefix("raw/"): check for key, check in checks if key.endswith(":known_archive")}


def test_every_zip_has_the_check(data):
    defs = build_definitions(make_settings(data))
    keys = {key.to_user_string() for checks in defs.asset_checks for key in checks.check_keys}
    assert {f"raw/{name}:known_archive" for name in ARCHIVES} <= keys


def test_archives_of_the_miniature_world_hold_what_their_annotations_name(data):
    checks = judge(data)
    assert checks.keys() == ARCHIVES
    assert all(check.passed for check in checks.values())
    assert checks["youtube_vos_train"].metadata["named_members"].value > 100
    assert checks["deep_fashion2_train"].metadata["lacking_members"].value == 0
    assert "miniature world" in checks["deep_fashion2_train"].description


def test_an_archive_of_ones_own_that_holds_all_is_a_warning_and_needs_no_password(data, monkeypatch):
    monkeypatch.delenv("DEEPFASHION2_PASSWORD", raising=False)
    check = judge(data, **OWN)["deep_fashion2_train"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.metadata["state"].value == "unknown"
    assert "It holds all " in check.description
    assert "the official one 191,961" in check.description


@pytest.mark.parametrize(("recorded", "state"), [("its own", "official"), ("0" * 64, "re-released")])
def test_a_recorded_archive_is_told_from_a_re_release(data, monkeypatch, recorded, state):
    path = data / "youtube_vos/train.zip"
    known = load_known_archives(ANNOTATIONS / "manifest.yaml")["youtube_vos_train"]
    sha256 = identify(path).sha256 if recorded == "its own" else recorded
    recorded_now = {"youtube_vos_train": KnownArchive(known.members, sha256)}
    monkeypatch.setattr(archive_checks, "load_known_archives", lambda _: recorded_now)
    check = judge(data, ["youtube_vos_train"], **OWN)["youtube_vos_train"]
    assert check.metadata["state"].value == state
    assert check.passed == (state == "official")
    assert check.severity == dg.AssetCheckSeverity.WARN


@pytest.mark.parametrize("changes", [{}, OWN])
def test_an_archive_that_lacks_members_is_an_error_that_names_them(data, changes):
    path = locate_raw(data, "youtube_vos_train")
    with zipfile.ZipFile(path) as archive:
        gone = [name for name in archive.namelist() if name.endswith(".png")][:3]
    drop_members(path, *gone)
    check = judge(data, ["youtube_vos_train"], **changes)["youtube_vos_train"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert 0 < check.metadata["lacking_members"].value <= 3
    assert "lacks" in check.description
    assert any(name in check.description for name in gone)


def test_without_annotations_the_archive_is_judged_alone(data):
    check = judge(data, ["deep_fashion2_train"], annotated=False, **OWN)["deep_fashion2_train"]
    assert check.description.startswith("The annotations have not been materialized yet.")
    assert check.metadata["named_members"].value == 0


def test_an_unzipped_folder_is_judged_by_its_names(data):
    path = data / "youtube_vos/train.zip"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(path.parent)
    path.unlink()
    check = judge(data, ["youtube_vos_train"], **OWN)["youtube_vos_train"]
    assert "only its names can be judged" in check.description
    assert check.metadata["lacking_members"].value == 0
