import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pervl_assets import demo
from pervl_assets.demo import OBJECT_CLASSES, RAW_NAMES, draw_raw, is_drawn, write_annotations
from pervl_assets.demo.builder import find_builders

COMMITTED = Path(__file__).parents[2] / "annotations" / "demo"
OFFICIAL_PLACES = {
    "youtube_vos_train": "youtube_vos/train.zip",
    "deep_fashion2_train": "deep_fashion2/train.zip",
    "coco_train2014": "inversion_model_train_data/train2014.zip",
    "coco_svo_triplets": "inversion_model_train_data/mscoco-train2014-svo-2016-02-18.txt",
    "openimages_class_descriptions": "inversion_model_train_data/oidv6-class-descriptions.csv",
}


def read_tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_raw_input_is_at_its_official_path(drawn):
    places = {name: raw.file for builder in find_builders() for name, raw in builder.raw.items()}
    assert places.items() >= OFFICIAL_PLACES.items()
    assert sorted(RAW_NAMES) == sorted(places)
    files = [name for name in read_tree(drawn) if not name.startswith("annotations/")]
    assert sorted(files) == sorted(places.values())


def test_the_demo_data_is_small(drawn):
    assert sum(path.stat().st_size for path in drawn.rglob("*") if path.is_file()) < 20e6


def test_same_seed_same_bytes_and_another_seed_other_pictures(drawn, tmp_path):
    for name in ("youtube_vos_train", "coco_svo_triplets", "openimages_class_descriptions"):
        for seed in (0, 1):
            draw_raw(name, tmp_path / str(seed), seed)
    for place in [OFFICIAL_PLACES[name] for name in ("youtube_vos_train", "coco_svo_triplets")]:
        original = (drawn / place).read_bytes()
        assert (tmp_path / "0" / place).read_bytes() == original
        assert (tmp_path / "1" / place).read_bytes() != original


@pytest.mark.parametrize("mark", [None, b"", b"3 x y", b"\xff", b"many 0123"])
def test_only_a_drawn_input_is_synthetic(tmp_path, mark):
    name = "coco_svo_triplets"
    draw_raw(name, tmp_path)
    target = tmp_path / OFFICIAL_PLACES[name]
    assert is_drawn(name, target, tmp_path)
    if mark is None:
        target.write_text("mine")
    else:
        (tmp_path / f"assets/raw/{name}.synthetic").write_bytes(mark)
    assert not is_drawn(name, target, tmp_path)


def test_an_existing_input_is_unchanged_and_not_marked(tmp_path):
    target = tmp_path / OFFICIAL_PLACES["coco_svo_triplets"]
    target.parent.mkdir()
    target.write_text("mine")
    draw_raw("coco_svo_triplets", tmp_path)
    assert target.read_text() == "mine"
    assert not is_drawn("coco_svo_triplets", target, tmp_path)


def test_an_input_without_its_mark_is_never_in_place(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(demo, "write_bytes_atomically", stop)
        draw_raw("coco_svo_triplets", tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_unknown_input_is_an_error(tmp_path):
    with pytest.raises(KeyError, match="flickr30k"):
        draw_raw("flickr30k", tmp_path)


def test_committed_annotations_equal_written_ones(drawn):
    assert read_tree(COMMITTED) == read_tree(drawn / "annotations")


def test_writing_annotations_again_changes_no_file(tmp_path):
    write_annotations(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    time.sleep(0.01)
    write_annotations(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_importing_the_demo_loads_no_torch_and_no_dagster():
    code = "import sys, pervl_assets.demo; print(sorted({'torch', 'open_clip', 'dagster'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_demo_has_thirty_object_classes():
    assert OBJECT_CLASSES == 30


def test_a_new_benchmark_is_one_new_module(tmp_path, monkeypatch):
    import pervl_assets.demo.builders as package

    (tmp_path / "zoo.py").write_text(
        "from pervl_assets.demo.builder import Builder, RawInput\n"
        "BUILDER = Builder(raw={'zoo': RawInput('zoo/train.zip', lambda target, seed: None)})\n"
    )
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    found = find_builders.__wrapped__()
    sys.modules.pop("pervl_assets.demo.builders.zoo")
    assert len(found) == len(find_builders()) + 1
    assert "zoo" in found[-1].raw
