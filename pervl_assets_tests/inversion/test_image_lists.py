from pathlib import Path

import polars as pl
import pytest

from pervl_assets.core.tables import CONTENT_SHA256, read_in_parts, write_hashed
from pervl_assets.inversion import image_lists
from pervl_assets.inversion.image_lists import ImageLists, split_images
from pervl_assets.inversion.sources import locate_image


def write_table(path, ids):
    write_hashed(pl.DataFrame({"image_id": ids}, schema={"image_id": pl.String}), path)
    reads = []

    def read():
        reads.append(path)
        return read_in_parts(path)

    version = str(pl.read_parquet_metadata(path)[CONTENT_SHA256])
    return ImageLists(path.with_suffix(".images"), version, read, Path.is_file, lambda folder: None), reads


def test_every_image_belongs_to_one_shard_always_the_same(monkeypatch):
    monkeypatch.setattr(image_lists, "_IDS", 300)
    monkeypatch.setattr(image_lists, "_MOST_HELD", 1000)
    ids = [f"{number} " for number in range(4000)]
    sentences = pl.DataFrame({"image_id": ids * 2})
    shards = [part.to_list() for part in split_images(sentences.iter_slices(700), 8)]
    assert min(map(len, shards)) > 400
    assert sorted(image_id for part in shards for image_id in part) == sorted(ids)
    assert all(part == sorted(part) for part in shards)
    assert "57870 " in split_images([pl.DataFrame({"image_id": ["57870 "]})], 8)[3]
    assert "9 " in shards[5]


def test_a_list_is_made_once_for_all_shards(tmp_path):
    ids = [f"{number} " for number in range(60)]
    lists, reads = write_table(tmp_path / "sentences.parquet", ids)
    expected = [
        [(one, locate_image(one)) for one in part] for part in split_images([pl.DataFrame({"image_id": ids})], 3)
    ]
    assert [lists.list_shard(f"{shard}-of-3") for shard in range(3)] == expected
    assert len(reads) == 1
    assert sorted(path.name for path in (tmp_path / "sentences.images").iterdir()) == [
        f"{shard}-of-3.parquet" for shard in range(3)
    ]
    assert lists.list_shard("0-of-1") == sorted(one for part in expected for one in part)
    assert [path.name for path in (tmp_path / "sentences.images").iterdir()] == ["0-of-1.parquet"]


@pytest.mark.parametrize("fault", ["another table", "damaged list", "no space"])
def test_a_list_that_does_not_hold_is_made_again(fault, tmp_path, monkeypatch):
    path, kept = tmp_path / "sentences.parquet", tmp_path / "sentences.images" / "0-of-1.parquet"
    lists, reads = write_table(path, ["1 ", "2 "])
    lists.list_shard("0-of-1")
    if fault == "another table":
        lists, reads = write_table(path, ["3 "])
    elif fault == "damaged list":
        kept.write_bytes(kept.read_bytes()[:-30])
    else:
        kept.unlink()
        monkeypatch.setattr(image_lists, "write_hashed", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    reads.clear()
    assert [one for one, _ in lists.list_shard("0-of-1")] == (["3 "] if fault == "another table" else ["1 ", "2 "])
    assert len(reads) == 1


def test_images_without_features_are_left_out(tmp_path):
    lists, _ = write_table(tmp_path / "sentences.parquet", ["2 ", "1 ", "3 "])
    assert lists.list_left_out("0-of-1", ["2 ", "4 "]).to_list() == ["1 ", "3 "]
    assert lists.list_left_out("0-of-1", []).len() == 3


def test_a_table_without_images_has_empty_lists(tmp_path):
    lists, _ = write_table(tmp_path / "sentences.parquet", [])
    assert [lists.list_shard(f"{shard}-of-2") for shard in range(2)] == [[], []]
