"""A folder that may not be written to, and a disk that is full, at the moment an asset's value is stored.

Both are real: permission bits are made to bind this process even where it is root's, and the system itself cuts every
file off that grows beyond a limit, wherever in the program it is written (in Python, numpy or polars).
"""

import ctypes
import functools
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest

from pervl_assets.cli.verification import verify_values
from pervl_assets.core.files import PARTIAL
from pervl_assets.definitions import build_definitions
from pervl_assets.defs.resources import ANNOTATIONS
from pervl_assets.testing.fake_clip import FakeClip
from pervl_assets.testing.runs import explain, make_settings, run_selection
from pervl_assets_tests.core.samples import photograph
from pervl_assets_tests.defs.plain import OPENIMAGES, RAW

FAKE_CLIP = {"clip": FakeClip()}
IMAGE_FEATURES = 'key:"inversion/coco_image_features"'
_CAPABILITIES_VERSION_3 = 0x20080522
_OVERRIDE_PERMISSIONS = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Take the right to write into a folder; root is held to it, too."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION_3, 0)  # 0: this thread, and those it starts
    held = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, held) == 0
    fewer = (ctypes.c_uint32 * 6)(held[0] & ~_OVERRIDE_PERMISSIONS, *held[1:])
    mode = folder.stat().st_mode
    folder.chmod(0o555)
    assert libc.capset(header, fewer) == 0
    try:
        with pytest.raises(PermissionError):
            (folder / "probe").touch()
        yield
    finally:
        assert libc.capset(header, held) == 0
        folder.chmod(mode)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Let no file of this process grow beyond 100 bytes; the system answers that it is too large."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def add_openimages_name(data: Path) -> None:
    with (data / OPENIMAGES).open("a") as file:
        file.write("/m/0extra,Unicorn named Fluffy\n")


def encode_fewer_images(data: Path) -> None:
    """Materialize the image features as they are for one class; what comes then is encoding those of two."""
    tables = 'key:"inversion/coco_object_classes" or key:"inversion/coco_object_sentences"'
    one = {"top_objects": 1, "resources": FAKE_CLIP}
    results = [*run_selection(data, tables, **one), *run_selection(data, IMAGE_FEATURES, **one)]
    assert all(result.success for result in results), explain(results[-1])


def write_fewer_annotations(data: Path) -> None:
    """Materialize the tree as it is with fewer evaluation images; what comes then is materializing it with all."""
    own = data / "annotations"
    shutil.copytree(ANNOTATIONS / "demo", own)
    captions = own / "deep_fashion/test_captions.csv"
    whole = captions.read_text().splitlines(keepends=True)
    captions.write_text("".join(whole[:-4]))
    results = run_selection(data, '+key:"deep_fashion/personalized"', annotations=own)
    assert all(result.success for result in results), explain(results[-1])
    captions.write_text("".join(whole))


@functools.cache
def define() -> dg.Definitions:
    """Return the graph, which is the same for every data folder."""
    return build_definitions(make_settings(Path("nowhere")))


@dataclass(frozen=True)
class Kind:
    """A kind of value: what changes, what is materialized before, the asset that cannot be stored, and where."""

    change: Callable[[Path], None]
    before: str
    asset: str
    folder: str
    settings: dict = field(default_factory=dict)
    leaves: tuple[str, ...] = ()
    """What a full disk may leave: finished work that the next run takes over."""


TREE = "deep_fashion2/personalized_test"
KINDS = {
    "table": Kind(
        add_openimages_name,
        'key:"raw/openimages_class_descriptions"',
        'key:"inversion/openimages_classes"',
        "assets/inversion",
    ),
    "features": Kind(
        add_openimages_name,
        'key:"raw/openimages_class_descriptions" or key:"inversion/openimages_classes"',
        'key:"inversion/openimages_text_features"',
        "assets/inversion",
    ),
    "image features": Kind(
        encode_fewer_images,
        'key:"inversion/coco_object_classes" or key:"inversion/coco_object_sentences"',
        IMAGE_FEATURES,
        "assets/inversion/coco_image_features",
        {"top_objects": 2},
        leaves=("assets/inversion/coco_image_features/0-of-2.partial",),
    ),
    "tree": Kind(
        write_fewer_annotations,
        'key:"raw/pervl_annotations" or key:"deep_fashion/captions" or key:"deep_fashion/few_shot_split"',
        'key:"deep_fashion/personalized"',
        "deep_fashion2",
        leaves=(f"{TREE}.partial", f"{TREE}.partial.jsonl"),
    ),
    "training file of text": Kind(
        lambda data: None,
        'key:"inversion/coco_object_classes"',
        'key:"palavra/object_names"',
        f"{RAW}/txt_for_training",
        {"top_objects": 5},
    ),
    "pickled training file": Kind(
        lambda data: None,
        'key:"inversion/coco_object_classes" or key:"inversion/coco_object_sentences"',
        'key:"palavra/object_sentences"',
        f"{RAW}/txt_for_training",
        {"top_objects": 5},
    ),
    "zipped training file": Kind(
        add_openimages_name,
        '+key:"inversion/openimages_matches"',
        'key:"palavra/openimages_names"',
        f"{RAW}/open_images",
    ),
}


def photograph_values(data: Path) -> dict:
    """Return the files of a data root without the lists of images by shard, which may be made before a value is."""
    return {name: content for name, content in photograph(data).items() if ".images/" not in name}


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_write_is_reported_and_keeps_the_old_value(made_world, tmp_path, kind):
    what = KINDS[kind]
    data = made_world.copy_to(tmp_path / "data")
    what.change(data)
    own = {"annotations": data / "annotations"} if (data / "annotations").exists() else {}
    settings = {**what.settings, **own}
    run = functools.partial(run_selection, data, resources=FAKE_CLIP, **settings)
    results = run(what.before)
    assert all(result.success for result in results), explain(results[-1])
    before = photograph_values(data)

    for trouble, words in ((locked, "Make the folder writable"), (full, "Allow larger files")):
        with trouble(data / what.folder):
            *_, failed = run(what.asset)
        assert not failed.success
        text = explain(failed)
        assert "WriteError" in text
        assert f"What to do: {words}" in text
        assert str(data / what.folder) in text
        after = photograph_values(data)
        unfinished = {path.relative_to(data).as_posix() for path in data.rglob(f"*{PARTIAL}*")}
        assert unfinished <= (set(what.leaves) if trouble is full else set())
        assert {name: content for name, content in after.items() if PARTIAL not in name} == before

    results = run(what.asset)  # repaired: the same command goes on
    assert all(result.success for result in results), explain(results[-1])
    assert photograph_values(data) != before
    assert not list(data.rglob(f"*{PARTIAL}*"))
    assert all(one.result.unchanged for one in verify_values(define(), data))


def test_raw_inputs_that_cannot_be_drawn_leave_nothing(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    with full(data):
        (failed,) = run_selection(data, 'key:"raw/coco_svo_triplets"')
    assert "File too large" in explain(failed)
    assert not [path for path in data.rglob("*") if path.is_file()]
    with locked(data / RAW):
        (failed,) = run_selection(data, 'key:"raw/coco_svo_triplets"')
    assert f"Cannot write {data / RAW}" in explain(failed)
    assert "Make the folder writable" in explain(failed)


def test_a_data_root_without_permission_is_reported_though_the_inputs_exist(data):
    with locked(data):
        (failed,) = run_selection(data, 'key:"raw/coco_svo_triplets"')
    assert "WriteError" in explain(failed)
    assert f"Cannot write {data / 'assets'}" in explain(failed)
    assert "Make the folder writable" in explain(failed)


def test_a_data_root_that_is_a_file_is_reported(tmp_path):
    data = tmp_path / "data"
    data.write_text("not a folder")
    (failed,) = run_selection(data, 'key:"raw/coco_svo_triplets"')
    assert "a file where a folder is needed" in explain(failed)
