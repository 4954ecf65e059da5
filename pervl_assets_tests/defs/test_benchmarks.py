"""The benchmark assets through `dagster.materialize`, with the real IO managers, on the archives of the demo data."""

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
import yaml
from PIL import Image

from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.defs.benchmarks import _build_tree_asset
from pervl_assets.defs.resources import ANNOTATIONS
from pervl_assets.defs.run_results import read_run_result
from pervl_assets.demo import DEMO_PASSWORD
from pervl_assets.io_managers.base import locate_value
from pervl_assets.testing.hostile import change_member, cut_jpeg, drop_members
from pervl_assets.testing.runs import explain, list_checks, run_selection
from pervl_assets.testing.worlds import World, locate_raw
from pervl_assets_tests.core.samples import photograph

YTVOS = '+key:"ytvos/fsl_seg"'


@pytest.fixture(scope="module")
def made_ytvos(synthetic_raw, tmp_path_factory) -> World:
    """A world with the trees of YouTube-VOS. Read-only."""
    data = Path(shutil.copytree(synthetic_raw, tmp_path_factory.mktemp("ytvos") / "data"))
    results = run_selection(data, '+key:"ytvos/retrieval_set"')
    assert all(result.success for result in results), explain(*results)
    return World(data, results)


def list_frames(archive: Path, folder: str) -> list[str]:
    """Return the members of YouTube-VOS below `JPEGImages` or `Annotations`."""
    with zipfile.ZipFile(archive) as opened:
        return [name for name in opened.namelist() if f"/{folder}/" in name and not name.endswith("/")]


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read_ledger(data: Path, *key: str) -> pl.DataFrame:
    return pl.read_parquet(locate_value(data, key[:2], ".parquet", *key[2:]))


def test_ytvos_from_the_archive_to_what_palavra_reads(made_ytvos):
    data = made_ytvos.data
    tree = data / "youtube_vos/ytvos_PerVL/fsl_seg"
    concepts = pl.read_parquet(locate_value(data, ["ytvos", "concepts"], ".parquet"))
    assert sorted(path.name for path in (tree / "train").iterdir()) == concepts["concept"].to_list()
    for folder in ("images", "gt_mask", "retrieval", "images_with_bbox"):
        assert len(list((tree / "eval" / folder).iterdir())) == concepts.height
    boxes = yaml.safe_load((tree / "eval/gt_box_labels.yaml").read_text())
    assert list(boxes) == concepts["concept"].to_list()

    for split in ("validation", "test"):
        root = data / "youtube_vos/retrival_sets" / split
        wanted = sorted(concepts.filter(split=split)["concept"])
        assert list_names(root / "eval/test") == [f"{concept}.jpg" for concept in wanted]
        assert list_names(root / "codes_infer") == wanted
        for concept in wanted:
            crops = {path.name: path.read_bytes() for path in (root / "codes_infer" / concept).iterdir()}
            assert crops == {path.name: path.read_bytes() for path in (tree / "train" / concept).iterdir()}
    assert not [path for path in data.rglob("*") if ".partial" in path.name]


def test_materialization_tells_counts_checks_and_shows_a_contact_sheet(made_ytvos):
    results = made_ytvos.results
    (made,) = [made for result in results for made in result.asset_materializations_for_node("ytvos__fsl_seg")]
    assert made.metadata["files"].value > 100
    assert (made.metadata["quarantined"].value, made.metadata["missing"].value) == (0, 0)
    assert next(iter(made.metadata)) == "contact_sheet"
    sheet = made.metadata["contact_sheet"].value
    assert "Pink: its mask" in sheet
    assert sheet.count("](data:image/webp;base64,") == 6
    pages = [name for name in made.metadata if name.startswith("concepts ")]
    concepts = read_ledger(made_ytvos.data, "ytvos", "concepts")["concept"]
    assert pages == [f"concepts 1 to {len(concepts)}"]
    assert all(f" | {concept} | " in made.metadata[pages[0]].value for concept in concepts)
    checks = list_checks(*results)
    for name in ("ledger_adds_up", "nothing_quarantined", "official_counts"):
        assert checks[f"ytvos/fsl_seg:{name}"].passed
    assert checks["raw/pervl_annotations:official_files"].passed


def test_a_tree_made_from_another_one_refers_to_its_pages(made_ytvos):
    for result in made_ytvos.results[-2:]:
        (one,) = result.asset_materializations_for_node("ytvos__retrieval_set")
        assert "[fsl_seg](/assets/ytvos/fsl_seg)" in one.metadata["contact_sheet"].value
        assert not [name for name in one.metadata if name.startswith("concepts ")]


def test_deep_fashion_is_decrypted_and_copied_byte_for_byte(materialize, data, instance):
    result = materialize('+key:"deep_fashion/captions" or +key:"deep_fashion/few_shot_split"', instance=instance)
    assert result.success, explain(result)
    materialize('key:"raw/deep_fashion2_train"', instance=instance)
    with zipfile.ZipFile(data / "deep_fashion2/train.zip") as archive:
        archive.setpassword(DEMO_PASSWORD.encode())
        assert archive.getinfo(archive.namelist()[-1]).flag_bits & 1
        for split in ("validation", "test"):
            result = materialize('key:"deep_fashion/personalized"', partition=split, instance=instance)
            assert result.success, explain(result)
            files = list((data / f"deep_fashion2/personalized_{split}").rglob("*.jpg"))
            assert len(files) > 20
            assert all(path.read_bytes() == archive.read(f"train/image/{path.name}") for path in files)


def test_a_second_run_writes_no_file_and_a_repair_changes_only_damaged_files(materialize, made_ytvos, tmp_path):
    data = made_ytvos.copy_to(tmp_path / "data")
    assert materialize('key:"raw/youtube_vos_train"', data=data).success  # of a copied archive, members are read again
    before = photograph(data)
    assert materialize(YTVOS, data=data).success
    assert photograph(data) == before
    tree = data / "youtube_vos/ytvos_PerVL/fsl_seg"
    crops = sorted((tree / "train").rglob("*.jpg"))
    crops[0].unlink()
    crops[1].write_bytes(b"x" * crops[1].stat().st_size)
    (tree / "train/stray.txt").write_text("not of the tree")
    assert materialize(YTVOS, data=data).success
    after = photograph(data)
    assert {name: content for name, (content, _) in after.items()} == {name: c for name, (c, _) in before.items()}
    changed = {name for name in before if after[name][1] != before[name][1]}
    assert changed == {crop.relative_to(data).as_posix() for crop in crops[:2]}


@pytest.mark.parametrize(("password", "words"), [("", "no password is given"), ("Secr3t", "password does not open")])
def test_missing_or_wrong_password_is_found_before_any_work(materialize, data, monkeypatch, instance, password, words):
    monkeypatch.setenv("DEEPFASHION2_PASSWORD", password)
    own = {"profile": "full", "annotations": ANNOTATIONS / "demo", "instance": instance}
    tables = '+key:"deep_fashion/captions" or +key:"deep_fashion/few_shot_split" or key:"raw/deep_fashion2_train"'
    assert materialize(tables, **own).success
    result = materialize('key:"deep_fashion/personalized"', "test", **own)
    assert words in explain(result)
    assert "DEEPFASHION2_PASSWORD" in explain(result)
    assert not list((data / "deep_fashion2").glob("personalized*"))
    assert not password or password not in "".join(str(event) for event in result.all_events)


def test_members_that_are_not_in_the_archive_are_all_named_and_fail_the_run(materialize, data, instance):
    archive = locate_raw(data, "youtube_vos_train")
    gone = list_frames(archive, "Annotations")[:2]
    drop_members(archive, *gone)
    result = materialize(YTVOS, instance=instance)
    assert not result.success
    check = list_checks(result)["ytvos/fsl_seg:ledger_adds_up"]
    assert not check.passed
    ledger = read_ledger(data, "ytvos", "fsl_seg")
    missing = ledger.filter(status="missing")
    assert check.metadata["missing"].value == missing.height > 0
    reasons = ", ".join(f"not in train.zip: {name}" for name in sorted(gone))
    assert (
        f"= {ledger.height:,} expected: {reasons}. Replace the archive" in check.description
    )  # no image: they are there
    (failure,) = (event.step_failure_data for event in result.all_events if event.is_step_failure)
    assert failure.error.cls_name == "FailedCheckError"  # not Dagster's, which names the check alone
    assert f"nothing is made from it: {missing.height:,} of {ledger.height:,} files missing" in failure.error.message
    assert failure.user_failure_data is not None  # shown without a stack
    assert [one.text for one in read_run_result(instance, result.run_id).errors if one.asset == "ytvos/fsl_seg"] == [
        f"ledger_adds_up: {check.description}"
    ]
    assert ledger.height == sum((ledger["status"] == status).sum() for status in ("written", "quarantined", "missing"))
    # Nothing is made from a tree with missing files, in another run either.
    assert materialize('key:"ytvos/captions"', instance=instance).success
    downstream = materialize('key:"ytvos/retrieval_set"', partition="test", instance=instance)
    assert not downstream.success
    assert "IncompleteInputError: ytvos/fsl_seg is incomplete" in explain(downstream)
    (error,) = read_run_result(instance, downstream.run_id).errors
    assert error.text.startswith("ytvos/fsl_seg is incomplete, so nothing is made from it")


def test_a_corrupt_frame_is_quarantined_counted_and_repaired_later(materialize, data, instance):
    archive, intact = locate_raw(data, "youtube_vos_train"), data / "intact.zip"
    shutil.copy(archive, intact)
    broken = list_frames(archive, "JPEGImages")[0]
    change_member(archive, broken, cut_jpeg)
    result = materialize(YTVOS, instance=instance)
    assert result.success, explain(result)
    check = list_checks(result)["ytvos/fsl_seg:nothing_quarantined"]
    rows = read_ledger(data, "ytvos", "fsl_seg").filter(status="quarantined")
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.metadata["quarantined"].value == rows.height > 0
    assert broken in set(rows["source_members"].explode())
    assert all(rows["reason"].is_not_null())
    shutil.copy(intact, archive)
    assert materialize(YTVOS, instance=instance).success
    assert read_ledger(data, "ytvos", "fsl_seg")["status"].unique().to_list() == ["written"]


def test_every_evaluation_frame_decodes_and_has_its_own_box(made_ytvos):
    data = made_ytvos.data
    ledger = read_ledger(data, "ytvos", "fsl_seg").filter(rule="evaluation_frame")
    for path, width, height, (x0, y0, x1, y1) in ledger.select("path", "width", "height", "box").iter_rows():
        with Image.open(data / "youtube_vos/ytvos_PerVL/fsl_seg" / path) as image:
            assert image.size == (width, height)
        assert 0 <= x0 <= x1 < width
        assert 0 <= y0 <= y1 < height


def test_a_raised_version_of_a_tree_is_another_code_version():
    """An asset of another code version is made again, with another recipe of each file."""
    for benchmark in find_benchmarks():
        for tree in benchmark.trees:
            before, after = (_build_tree_asset(benchmark, one) for one in (tree, replace(tree, version=2)))
            assert before.code_versions_by_key != after.code_versions_by_key
