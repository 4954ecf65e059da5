"""The views, read as ConCon-Chi, POLAR, torchvision and Hugging Face read them."""

import csv
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.archives.members import open_members
from pervl_assets.benchmarks import deep_fashion, ytvos
from pervl_assets.core.errors import AnnotationError
from pervl_assets.defs.resources import ANNOTATIONS
from pervl_assets.demo import DEMO_PASSWORD
from pervl_assets.trees.build import build_tree, commit_tree
from pervl_assets.trees.members import open_tree, open_trees
from pervl_assets_tests.benchmarks.worlds import read_tables

DEMO = ANNOTATIONS / "demo"
TREES = {tree.name: tree for tree in deep_fashion.BENCHMARK.trees}
SPLITS = deep_fashion.SPLITS


@pytest.fixture(scope="module")
def world(synthetic_raw, tmp_path_factory):
    """A data folder with the personalized trees of the demo data, and its tables. Read-only."""
    root = tmp_path_factory.mktemp("fashion")
    tables = read_tables(deep_fashion.BENCHMARK, DEMO / "deep_fashion")
    path = synthetic_raw / "deep_fashion2/train.zip"
    trees = {}
    for split in SPLITS:
        plan = deep_fashion.plan_personalized(tables, split)
        with open_members(RawArchive(path, identify(path)), DEMO_PASSWORD) as members:
            trees[split] = commit_tree(build_tree(plan, members, root / plan.folder))
    return root, tables, trees


def build_view(world, name, split=None):
    root, tables, trees = world
    plan = TREES[name].plan(tables, split)
    assert plan.folder == TREES[name].folder(split)
    with open_tree(trees[split]) if split else open_trees(trees.values()) as members:
        return commit_tree(build_tree(plan, members, root / plan.folder))


def read_rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def list_concepts(tables, split) -> list[str]:
    return sorted(set(tables["few_shot_split"].filter(split=split)["pair_id"]))


def check_linked(root: Path, view: Path) -> None:
    sources = {path.name: path for path in (root / "deep_fashion2").rglob("*.jpg")}
    images = list(view.rglob("*.jpg"))
    assert images
    assert all(image.samefile(sources[image.name]) for image in images)


@pytest.mark.parametrize("captions", ["shortened", "detailed"])
@pytest.mark.parametrize("split", SPLITS)
def test_concon_chi_finds_concepts_captions_and_images(world, split, captions):
    root, tables, _ = world
    view = build_view(world, "concon_chi_view").root
    tree = view / f"data/deep_fashion2/personalized_{split}"
    concepts = list_concepts(tables, split)
    assert (tree / "concepts.txt").read_text().split() == concepts
    assert sorted(path.name for path in (tree / "codes_infer").iterdir()) == concepts
    classes = {
        row["unique_pair_ids"]: row["pair_id_categories"]
        for row in read_rows(view / "annotations/deep_fashion/train_coarse_grained_names.csv")
    }
    joint = {}
    for row in read_rows(view / f"annotations/deep_fashion/{captions}_deepfashion2_captions.csv"):
        assert joint.setdefault(row["image_name"], row) is row
    queries = read_rows(view / f"annotations/deep_fashion/{split}_captions.csv")
    official = read_rows(DEMO / f"deep_fashion/{split}_captions.csv")
    assert queries == official
    for row in queries:
        assert classes[row["pair_id"]]
        assert row["pair_id"] in concepts
        assert "person" in joint[row["image_name"]]["caption"]
        with Image.open(tree / "eval/test" / row["image_name"].split("/")[-1]) as image:
            image.load()
    check_linked(root, view)


@pytest.mark.parametrize("split", SPLITS)
def test_polar_numbers_the_concepts_in_the_pinned_order_and_finds_its_images(world, split):
    root, tables, _ = world
    view = build_view(world, "polar_view").root
    codes, images, of_concept, number = [], [], [], 0
    for line in (view / f"{split}_fsl_train.txt").read_text().splitlines():
        if line.endswith(":"):
            codes.append(line[:-1].split("/")[-1])
        elif not line:
            number += 1
        else:
            images.append(line)
            of_concept.append(number)
    assert codes == list_concepts(tables, split)
    few_shot = tables["few_shot_split"].filter(split=split)
    assert [(codes[n], image) for n, image in zip(of_concept, images, strict=True)] == few_shot.select(
        "pair_id", "image"
    ).rows()
    assert all((view / "train/image" / image).is_file() for image in images)
    short = {row["image_name"]: row for row in read_rows(view / "shortened_deepfashion2_captions.csv")}
    for row in read_rows(view / f"{split}_captions.csv"):
        assert (view / row["image_name"]).is_file()
        assert short[row["image_name"]]["pair_id"] in codes
    check_linked(root, view)
    # The annotations as a whole say what the official ones say, of the concepts of both splits.
    again = read_tables(deep_fashion.BENCHMARK, view)
    assert again["few_shot_split"].equals(tables["few_shot_split"])
    assert again["captions"].equals(tables["captions"])


@pytest.mark.parametrize("split", SPLITS)
def test_torchvision_finds_the_classes_in_the_pinned_order(world, split):
    datasets = pytest.importorskip("torchvision.datasets")
    root, tables, _ = world
    view = build_view(world, "imagefolder_view", split).root
    few_shot, evaluation = (datasets.ImageFolder(str(view / part)) for part in ("train", "test"))
    assert few_shot.classes == evaluation.classes == list_concepts(tables, split)
    assert len(few_shot) == tables["few_shot_split"].filter(split=split).height
    assert len(evaluation) == tables["captions"].filter(caption_set=split).height
    assert few_shot[0][0].mode == "RGB"
    check_linked(root, view)
    concon_chi = build_view(world, "concon_chi_view").root / f"data/deep_fashion2/personalized_{split}/codes_infer"
    assert datasets.ImageFolder(str(concon_chi)).classes == few_shot.classes


def test_hugging_face_reads_the_images_with_their_captions(world, tmp_path):
    datasets = pytest.importorskip("datasets", reason="the Hugging Face library `datasets` is not installed")
    _, tables, _ = world
    view = build_view(world, "imagefolder_view", "test").root
    loaded = datasets.load_dataset("imagefolder", data_dir=str(view), cache_dir=str(tmp_path))
    assert set(loaded) == {"train", "test"}
    assert loaded["train"].num_rows == tables["few_shot_split"].filter(split="test").height
    assert loaded["test"].num_rows == tables["captions"].filter(caption_set="test").height
    columns = {"image", "concept", "class_name", "shortened_caption", "detailed_caption"}
    assert set(loaded["train"].column_names) == set(loaded["test"].column_names) == columns
    captions = {(row["concept"], row["detailed_caption"]) for row in loaded["test"].remove_columns("image")}
    assert captions == set(tables["captions"].filter(caption_set="test").select("pair_id", "caption").iter_rows())
    assert loaded["test"][0]["image"].size[0] > 50


def test_hugging_face_reads_the_ytvos_retrieval_sets(synthetic_raw, tmp_path):
    datasets = pytest.importorskip("datasets", reason="the Hugging Face library `datasets` is not installed")
    view, tables = build_ytvos_view(synthetic_raw, tmp_path)
    loaded = datasets.load_dataset("imagefolder", data_dir=str(view), cache_dir=str(tmp_path / "cache"))
    captions = set(tables["captions"].filter(split="test").select("concept", "class_name", "caption").iter_rows())
    assert {(r["concept"], r["class_name"], r["query"]) for r in loaded["test"].remove_columns("image")} == captions


def test_torchvision_reads_the_ytvos_retrieval_sets(synthetic_raw, tmp_path):
    datasets = pytest.importorskip("torchvision.datasets")
    view, tables = build_ytvos_view(synthetic_raw, tmp_path)
    concepts = sorted(tables["captions"].filter(split="test")["concept"])
    few_shot, evaluation = (datasets.ImageFolder(str(view / part)) for part in ("train", "test"))
    assert few_shot.classes == evaluation.classes == concepts
    assert len(evaluation) == len(concepts)


def build_ytvos_view(synthetic_raw, tmp_path):
    """Build the view of the test split from the raw archive; return its root and the tables."""
    tables = read_tables(ytvos.BENCHMARK, DEMO / "ytvos")
    path, trees = synthetic_raw / "youtube_vos/train.zip", []
    for plan in (
        ytvos.plan_fsl_seg(tables),
        ytvos.plan_retrieval_set(tables, "test"),
        ytvos.plan_images(tables, "test"),
    ):
        source = open_tree(trees[-1]) if trees else open_members(RawArchive(path, identify(path)))
        with source:
            trees.append(commit_tree(build_tree(plan, source, tmp_path / plan.folder)))
    assert all(not tree.missing and not tree.quarantined for tree in trees)
    return trees[-1].root, tables


def test_annotation_files_name_only_existing_images(world, tmp_path):
    _, tables, trees = world
    lost = list_concepts(tables, "test")[0]
    image = tables["captions"].filter(pl.col("caption_set") == "test", pl.col("pair_id") != lost)["image"][0]
    bad = pl.col("path").str.contains(f"codes_infer/{lost}/") | (pl.col("path") == f"eval/test/{image}")
    columns = {
        "status": pl.when(bad).then(pl.lit("quarantined")).otherwise("status"),
        "reason": pl.when(bad).then(pl.lit("not an image")).otherwise("reason"),
    }
    damaged = [replace(tree, ledger=tree.ledger.with_columns(**columns)) for tree in trees.values()]
    for name, folder in (("concon_chi_view", "annotations/deep_fashion/"), ("polar_view", "")):
        plan = TREES[name].plan(tables, None)
        with open_trees(damaged) as members:
            view = commit_tree(build_tree(plan, members, tmp_path / plan.folder))
        assert view.quarantined > 1
        rows = read_rows(view.root / f"{folder}test_captions.csv")
        assert rows
        assert not [row for row in rows if row["pair_id"] == lost or row["image_name"].endswith(image)]
        text = (view.root / f"{folder}test_fsl_train.txt").read_text()
        assert f"codes_infer/{lost}:" not in text
        assert text.count("\n\n") == text.count(":") - 1


@pytest.mark.parametrize("harm", ["missing", "twice", "class"])
def test_annotations_at_which_the_readers_would_stop_are_refused(world, harm):
    _, tables, _ = world
    captions, few_shot = tables["captions"], tables["few_shot_split"]
    image = captions.filter(caption_set="test")["image"][0]
    short = (pl.col("caption_set") == "shortened") & (pl.col("image") == image)
    if harm == "missing":
        captions, words = captions.filter(~short), f"1 evaluation images without exactly one shortened caption: {image}"
    elif harm == "twice":
        captions, words = pl.concat([captions, captions.filter(short)]), f"one shortened caption: {image}"
    else:
        words = "concepts without a class"
        few_shot = few_shot.with_columns(class_name=pl.lit(None, pl.String))
    with pytest.raises(AnnotationError, match=words):
        TREES["polar_view"].plan({"captions": captions, "few_shot_split": few_shot}, None)
