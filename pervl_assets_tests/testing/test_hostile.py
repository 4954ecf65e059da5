"""Corrupted archives and images: the asset refuses the archive, or only the corrupted member is lost."""

import io
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.archives.members import MemberError, Members, open_members
from pervl_assets.core.errors import ArchiveError, PasswordError
from pervl_assets.demo import DEMO_PASSWORD
from pervl_assets.demo.zips import write_zip
from pervl_assets.io_managers.base import locate_value
from pervl_assets.testing.hostile import (
    REFUSED,
    change_member,
    change_members,
    change_password,
    cut_jpeg,
    damage_member,
    drop_members,
    shrink_image,
    truncate,
    turn_cmyk,
    turn_grey,
)
from pervl_assets.testing.runs import explain, list_checks
from pervl_assets.testing.worlds import locate_raw
from pervl_assets_tests.core.samples import draw_picture, save_jpeg, save_mask

MEMBERS = {"train/a.jpg": b"first" * 40, "train/b.jpg": b"second" * 30, "train/c.jpg": b"third" * 20}


@pytest.fixture(params=[None, "geheim"])
def password(request) -> str | None:
    return request.param


@pytest.fixture
def archive(tmp_path, password) -> Path:
    write_zip(tmp_path / "small.zip", MEMBERS.items(), password)
    return tmp_path / "small.zip"


def open_archive(path: Path, password: str | None) -> Members:
    return open_members(RawArchive(path, identify(path)), password)


@pytest.mark.parametrize("name", REFUSED)
def test_an_unsafe_archive_fails_the_asset_before_any_work(data, materialize, name):
    archive = locate_raw(data, "coco_train2014")
    assert REFUSED[name](archive) == archive
    result = materialize('key:"raw/coco_train2014"')
    assert not result.success
    assert ArchiveError.__module__ in explain(result)
    assert "What to do: " in explain(result)
    assert not (data / "assets").exists()


def test_an_unsafe_encrypted_archive_is_refused_too(tmp_path):
    for number, corrupt in enumerate(REFUSED.values()):
        path = tmp_path / f"{number}.zip"
        write_zip(path, MEMBERS.items(), "geheim")
        with pytest.raises(ArchiveError):
            identify(corrupt(path))


def test_truncate_keeps_the_given_share(archive):
    size = archive.stat().st_size
    assert truncate(archive, 0.25).stat().st_size == size // 4


def test_only_the_damaged_member_is_lost(archive, password):
    assert damage_member(archive, "train/b.jpg") == archive
    with open_archive(archive, password) as members:
        with pytest.raises(MemberError, match="CRC does not match"):
            members.read("train/b.jpg")
        assert members.read("train/a.jpg") == MEMBERS["train/a.jpg"]
        assert members.read("train/c.jpg") == MEMBERS["train/c.jpg"]


def test_a_changed_member_has_a_correct_crc(archive, password):
    change_member(archive, "train/b.jpg", bytes.upper, password=password)
    with open_archive(archive, password) as members:
        members.check_password()
        assert {name: members.read(name) for name in members.names} == MEMBERS | {"train/b.jpg": b"SECOND" * 30}


def test_dropped_members_are_gone_and_the_others_unchanged(archive, password):
    drop_members(archive, "train/a.jpg", "train/c.jpg", password=password)
    with open_archive(archive, password) as members:
        assert {name: members.read(name) for name in members.names} == {"train/b.jpg": MEMBERS["train/b.jpg"]}


def test_an_archive_rewritten_without_changes_has_the_same_bytes(one_archive):
    archive = one_archive("coco_train2014")
    before = archive.read_bytes()
    change_members(archive, lambda _, content: content)
    assert archive.read_bytes() == before


def test_an_unknown_member_is_an_error_and_changes_nothing(archive):
    before = archive.read_bytes()
    for corrupt in (damage_member, drop_members, lambda path, name: change_member(path, name, bytes.upper)):
        with pytest.raises(KeyError, match=r"train/d\.jpg"):
            corrupt(archive, "train/d.jpg")
    assert archive.read_bytes() == before


def test_the_old_password_is_wrong_and_the_new_one_opens(tmp_path):
    write_zip(tmp_path / "a.zip", MEMBERS.items(), DEMO_PASSWORD)
    archive = change_password(tmp_path / "a.zip", DEMO_PASSWORD, "another")
    with open_archive(archive, DEMO_PASSWORD) as members, pytest.raises(PasswordError, match="does not open"):
        members.check_password()
    with zipfile.ZipFile(archive) as opened:
        assert {name: opened.read(name, b"another") for name in opened.namelist()} == MEMBERS


CORRUPTED = {
    cut_jpeg: ("JPEGImages", "the frame cannot be decoded"),
    turn_grey: ("JPEGImages", "the frame has mode L, not RGB"),
    turn_cmyk: ("JPEGImages", "the frame has mode CMYK, not RGB"),
    shrink_image: ("Annotations", "the mask has "),
}


def test_every_corrupted_image_of_a_tree_is_quarantined(data, materialize):
    tables = materialize('+key:"ytvos/concepts"')
    assert tables.success, explain(tables)
    concepts = pl.read_parquet(locate_value(data, ["ytvos", "concepts"], ".parquet"))
    frames = concepts.unique("scene", keep="first", maintain_order=True).select("scene", "evaluation_frame").rows()
    victims = {
        f"train/{folder}/{scene}/{frame}.{'png' if folder == 'Annotations' else 'jpg'}": (corrupt, reason)
        for (corrupt, (folder, reason)), (scene, frame) in zip(CORRUPTED.items(), frames, strict=False)
    }
    archive = locate_raw(data, "youtube_vos_train")
    change_members(archive, lambda name, old: victims[name][0](old) if name in victims else old)
    result = materialize('+key:"ytvos/fsl_seg"')
    assert result.success, explain(result)
    ledger = pl.read_parquet(locate_value(data, ["ytvos", "fsl_seg"], ".parquet"))
    bad = ledger.filter(status="quarantined").explode("source_members").filter(pl.col("source_members").is_in(victims))
    assert set(bad["source_members"]) == set(victims)
    for member, reason in bad.select("source_members", "reason").iter_rows():
        assert victims[member][1] in reason
    assert not list_checks(result)["ytvos/fsl_seg:nothing_quarantined"].passed
    assert ledger.filter(status="quarantined").height == bad.height
    assert ledger["status"].unique().sort().to_list() == ["quarantined", "written"]


def open_image(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def test_corrupted_images_have_the_described_faults():
    jpeg = save_jpeg(draw_picture(40, 30))
    assert (open_image(turn_grey(jpeg)).mode, open_image(turn_cmyk(jpeg)).mode) == ("L", "CMYK")
    assert cut_jpeg(jpeg, 0.75) == jpeg[: len(jpeg) * 3 // 4]
    with pytest.raises(OSError, match="truncated"):
        open_image(cut_jpeg(jpeg))
    mask = save_mask(draw_picture(40, 30)[..., 0] % 3)
    smaller = open_image(shrink_image(mask))
    assert (smaller.format, smaller.mode, smaller.size) == ("PNG", "P", (39, 29))
    assert smaller.getpalette() == open_image(mask).getpalette()
    assert np.array_equal(np.asarray(smaller), np.asarray(open_image(mask))[:29, :39])
