"""The benchmark of preprocessing, on a few synthetic images."""

import zipfile

import numpy as np
import pytest
from rich.console import Console

from pervl_assets_tests.core.samples import save_jpeg
from pervl_assets_tests.inversion.kit import draw_jpeg
from pervl_assets_tests.perf import preprocessing
from pervl_assets_tests.perf.preprocessing import PLAIN, PROJECT, compare_ways, list_ways, make_table, read_photos

pytestmark = pytest.mark.bench


def write_kit(kit):
    noise = np.random.default_rng(0).integers(0, 256, (427, 640, 3), np.uint8)
    images = [draw_jpeg(0, (640, 480)), save_jpeg(noise), draw_jpeg(1, (500, 375), "L"), draw_jpeg(2, (60, 45)), b"cut"]
    (kit / preprocessing.ARCHIVE).parent.mkdir(parents=True)
    with zipfile.ZipFile(kit / preprocessing.ARCHIVE, "w") as archive:
        for number, data in enumerate(images):
            archive.writestr(f"train2014/{number}.jpg", data)
    return kit


def test_every_way_is_timed_and_compared(tmp_path):
    photos = read_photos(write_kit(tmp_path) / preprocessing.ARCHIVE, None)
    assert [photo.size for photo in photos] == [(640, 480), (640, 427), (500, 375)]
    figures = compare_ways(list_ways(), photos, 2)
    assert [figures[name].difference for name in (PLAIN, PROJECT)] == [0, 0]
    assert all(each.seconds.shape == (2, 3) and each.seconds.min() > 0 for each in figures.values())
    assert make_table(figures, photos, 2).row_count == 3


def test_one_command_prints_the_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(preprocessing, "Console", lambda **options: Console(**{"width": 200, **options}))
    preprocessing.main(["--kit", str(write_kit(tmp_path)), "--images", "2", "--runs", "1"])
    printed = capsys.readouterr().out
    assert "2 photos, one process, one thread, medians of 1 runs" in printed
    assert "640 x 480" in printed
