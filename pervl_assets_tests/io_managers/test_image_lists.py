"""Lists of images in a bucket, which machines make for each other."""

import dagster as dg
import polars as pl

from pervl_assets.core.tables import write_hashed
from pervl_assets.inversion.image_lists import ImageLists, split_images
from pervl_assets.io_managers.image_lists import ImageListsIOManager
from pervl_assets_tests.storage.buckets import DATA, bucket, move_to

__all__ = ["bucket", "move_to"]

TABLE = "data/assets/inversion/sentences.parquet"


def test_a_machine_reads_the_lists_that_another_one_made_and_not_the_table(bucket, move_to, tmp_path):
    def put_table(frame: pl.DataFrame) -> None:
        write_hashed(frame, tmp_path / "table")
        bucket.memory.put(TABLE, tmp_path / "table")

    def list_images(machine: str) -> ImageLists:
        move_to(machine)
        context = dg.build_input_context(asset_key=dg.AssetKey(["inversion", "sentences"]))
        lists = ImageListsIOManager(data=DATA).load_input(context)
        assert lists is not None
        return lists

    old, new = (pl.DataFrame({"image_id": [f"{first + number} " for number in range(40)]}) for first in (0, 7))
    put_table(old)
    assert list_images("a").read_ids("0-of-2").equals(split_images([old], 2)[0])
    bucket.calls.clear()
    for shard in ("0-of-2", "1-of-2"):
        assert list_images("b").read_ids(shard).equals(split_images([old], 2)[int(shard[0])])
    assert ("get", TABLE) not in bucket.calls
    assert bucket.count("put") == 0
    put_table(new)
    assert list_images("b").read_ids("1-of-2").equals(split_images([new], 2)[1])
    assert list_images("a").read_ids("1-of-2").equals(split_images([new], 2)[1])
    assert bucket.count("put") == 2


def test_lists_that_cannot_be_kept_are_made_all_the_same(bucket, tmp_path):
    frame = pl.DataFrame({"image_id": ["1 ", "2 "]})
    write_hashed(frame, tmp_path / "table")
    bucket.memory.put(TABLE, tmp_path / "table")
    context = dg.build_input_context(asset_key=dg.AssetKey(["inversion", "sentences"]))
    bucket.fails = lambda number: bucket.calls[-1][0] == "put"
    assert ImageListsIOManager(data=DATA).load_input(context).read_ids("0-of-1").to_list() == ["1 ", "2 "]
    assert "put" in dict(bucket.calls)
