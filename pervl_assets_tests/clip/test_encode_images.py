import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.archives.members import open_members
from pervl_assets.clip.encode_images import _lock, clear_chunks, encode_image_shard
from pervl_assets.clip.encoder import describe_encoder
from pervl_assets.clip.prepare_image import prepare_image
from pervl_assets.clip.preprocessing import Preprocessing
from pervl_assets.core.claims import Claim
from pervl_assets.core.errors import ArchiveError, BusyError, PervlError, WriteError
from pervl_assets.inversion.sources import locate_image
from pervl_assets_tests.core.samples import write_zip
from pervl_assets_tests.inversion.kit import FakeEncoder, draw_jpeg, make_passport, write_coco

IDS = sorted(f"{number * 37} " for number in range(1, 31))
PHOTOS = {image_id: draw_jpeg(seed) for seed, image_id in enumerate(IDS)}


def pair(ids):
    return [(image_id, locate_image(image_id)) for image_id in ids]


def encode(members, work, encoder=None, ids=IDS, **options):
    encoder = encoder or FakeEncoder()
    options = {"chunk_size": 8, "batch_size": 3, **options}
    return encode_image_shard(pair(ids), members, encoder.passport, lambda: encoder, work, **options), encoder


def forbid():
    raise AssertionError("the model was loaded")


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "train2014.zip", PHOTOS)


@pytest.fixture
def work(tmp_path):
    return tmp_path / "shard.partial"


def test_every_image_is_encoded_in_text_order_in_fixed_batches(coco, work):
    features, encoder = encode(coco, work)
    assert features.ids == IDS
    assert encoder.batches == [3, 3, 2] * 3 + [3, 3]
    expected = FakeEncoder().encode_images(np.stack([prepare_image(PHOTOS[i]) for i in IDS]))
    assert np.array_equal(features.vectors, expected)
    assert features.crc32s == [zlib.crc32(PHOTOS[image_id]) for image_id in IDS]
    assert features.rejected.is_empty()
    assert features.passport.batch_size == 3


def test_images_that_cannot_be_used_are_rejected_with_a_reason(tmp_path, work):
    damaged = {**PHOTOS, IDS[2]: PHOTOS[IDS[2]][:900], IDS[9]: b"", IDS[10]: draw_jpeg(1, (9000, 10))}
    del damaged[IDS[5]]
    path = tmp_path / "train2014.zip"
    write_coco(path, damaged)
    data = bytearray(path.read_bytes())
    data[data.index(PHOTOS[IDS[20]]) + 300] ^= 255  # one member with a wrong CRC
    path.write_bytes(data)
    coco = open_members(RawArchive(path, identify(path)))
    features, encoder = encode(coco, work)
    rejected = {row["id"]: (row["status"], row["reason"]) for row in features.rejected.iter_rows(named=True)}
    assert list(rejected) == sorted(IDS[row] for row in (2, 5, 9, 10, 20))
    assert rejected[IDS[5]] == ("missing", "not in the archive")
    assert {status for image_id, (status, _) in rejected.items() if image_id != IDS[5]} == {"quarantined"}
    assert "truncated" in rejected[IDS[2]][1]
    assert "not a JPEG" in rejected[IDS[9]][1]
    assert "oversized" in rejected[IDS[10]][1]
    assert "CRC" in rejected[IDS[20]][1]
    assert features.ids == [image_id for image_id in IDS if image_id not in rejected]
    assert encoder.images == 25


@pytest.mark.parametrize(("device", "workers"), [("cpu", 1), ("cuda", 2)])
def test_workers_give_the_same_as_this_process(device, workers, tmp_path, work):
    photos = {f"{number} ": draw_jpeg(number) for number in range(1, 91)}
    photos["17 "] = b"damaged"
    coco, ids = write_coco(tmp_path / "train2014.zip", photos), sorted(photos)
    passport = make_passport(device=device)
    alone, _ = encode(coco, work, FakeEncoder(passport), ids, workers=0)
    clear_chunks(work)
    progress, processes = [], []

    def on_progress(step):
        progress.append(step)
        processes.append(len(multiprocessing.active_children()))

    together, _ = encode(coco, work, FakeEncoder(passport), ids, workers=2, on_progress=on_progress)
    assert together.hash() == alone.hash()
    assert max(processes) == workers
    assert [step.done for step in progress] == sorted(step.done for step in progress)
    assert (progress[-1].done, progress[-1].total) == (90, 90)
    assert progress[-1].images_per_second > 0
    assert 0 < progress[-1].decode_share + progress[-1].device_share <= 1.0


def test_saved_chunks_are_taken_up_and_cleared(coco, work):
    whole, _ = encode(coco, work)
    assert sorted(path.name[:5] for path in work.iterdir()) == ["00000", "00001", "00002", "00003"]
    for lost in ([0], [3], [1, 2], []):
        for path in sorted(work.iterdir())[:4]:
            if int(path.name[:5]) in lost:
                path.unlink()
        again, encoder = encode(coco, work)
        assert again.hash() == whole.hash()
        assert encoder.images == sum(6 if chunk == 3 else 8 for chunk in lost)
    clear_chunks(work)
    assert not work.exists()
    clear_chunks(work)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_prepared_as_the_encoder_says(workers, tmp_path, work):
    photos = {f"{number} ": draw_jpeg(number, (120, 130)) for number in range(1, 71)}
    coco, ids = write_coco(tmp_path / "train2014.zip", photos), sorted(photos)
    preprocessing = Preprocessing("model", 112, 112, "bilinear")
    encoder = FakeEncoder(make_passport(device="cuda"), preprocessing=preprocessing)
    features, _ = encode(coco, work, encoder, ids, workers=workers)
    expected = FakeEncoder().encode_images(np.stack([prepare_image(photos[i], preprocessing) for i in ids]))
    assert np.array_equal(features.vectors, expected)


def test_features_of_another_preprocessing_do_not_mix(coco, work, tiny_folder, caplog):
    stored = None
    for mode in ("upstream", "model"):
        passport = describe_encoder(str(tiny_folder), "", "cpu", None, mode)
        encoder = FakeEncoder(passport)
        with caplog.at_level(logging.INFO):
            stored = encode_image_shard(
                pair(IDS), coco, passport, lambda e=encoder: e, work, previous=stored, workers=0
            )
        assert encoder.images == len(IDS)
        assert stored.passport.preprocessing == passport.preprocessing
    assert caplog.text.count("All images are encoded again: preprocessing resize ") == 1
    assert caplog.text.count("Dropped the saved chunk") == 1


def test_an_encoders_notes_are_stored_and_kept(coco, work):
    def run(ids, previous):
        encoder = FakeEncoder()
        return encode_image_shard(
            pair(ids), coco, make_passport(), lambda: encoder, work, previous=previous, chunk_size=8
        )

    first = run(IDS[:12], None)
    noted = make_passport(batch_size=32)
    assert first.passport.to_json() == noted.to_json()
    resumed = run(IDS[:12], None)  # from chunks alone
    assert resumed.hash() == first.hash()
    clear_chunks(work)
    assert run(IDS[:12], first) is first
    assert run(IDS[:10], first).passport.to_json() == noted.to_json()
    assert run(IDS, first).passport.to_json() == noted.to_json()


def test_chunks_of_another_passport_are_dropped_with_a_reason(coco, work, caplog):
    encode(coco, work)
    with caplog.at_level(logging.WARNING):
        features, encoder = encode(coco, work, FakeEncoder(make_passport(precision="fp16")))
    assert encoder.images == 30
    assert features.passport.precision == "fp16"
    assert len(caplog.messages) == 4
    assert "Dropped the saved chunk 00000-" in caplog.text
    assert "other model, precision" in caplog.text
    assert len(list(work.iterdir())) == 4


def test_damaged_chunks_and_foreign_files_are_dropped(coco, work, caplog):
    whole, _ = encode(coco, work)
    _, short, rotten, _ = sorted(work.iterdir())
    short.write_bytes(short.read_bytes()[:100])
    frame, metadata = pl.read_parquet(rotten), pl.read_parquet_metadata(rotten)
    kept = {name: text for name, text in metadata.items() if name.startswith("pervl_")}
    frame.with_columns(pl.col("vector").reverse()).write_parquet(rotten, metadata=kept)
    (work / ".00009.parquet.partial-123").write_bytes(b"half")
    again, encoder = encode(coco, work)
    assert again.hash() == whole.hash()
    assert encoder.images == 16
    assert "cannot be read as Parquet" in caplog.text
    assert "does not hold the features that were written to it" in caplog.text
    assert len(list(work.iterdir())) == 4


def test_a_finished_shard_is_used_again_without_a_model(coco, work):
    features, encoder = encode(coco, work)
    clear_chunks(work)
    again = encode_image_shard(pair(IDS), coco, encoder.passport, forbid, work, previous=features)
    assert again is features
    assert not work.exists()


def test_only_what_changed_is_encoded_again(tmp_path, coco, work):
    before = {**PHOTOS, IDS[4]: b"damaged"}
    del before[IDS[7]]
    first, encoder = encode(write_coco(tmp_path / "before.zip", before), work)
    assert (encoder.images, first.rejected.height) == (28, 2)
    clear_chunks(work)
    after = write_coco(tmp_path / "after.zip", {**PHOTOS, IDS[11]: draw_jpeg(99)})
    repaired, encoder = encode(after, work, previous=first)
    assert encoder.images == 3
    clear_chunks(work)
    assert repaired.hash() == encode(after, work)[0].hash()
    clear_chunks(work)
    other, encoder = encode(coco, work, FakeEncoder(make_passport(weights_sha256="c" * 64)), previous=repaired)
    assert encoder.images == 30
    assert other.passport.weights_sha256 == "c" * 64


def test_fewer_images_than_before_need_no_model(coco, work):
    features, encoder = encode(coco, work)
    clear_chunks(work)
    fewer = encode_image_shard(pair(IDS[::2]), coco, encoder.passport, forbid, work, previous=features)
    assert fewer.ids == IDS[::2]
    assert np.array_equal(fewer.vectors, features.vectors[::2])


def test_an_empty_shard_needs_no_model(coco, work):
    features = encode_image_shard([], coco, make_passport(), forbid, work)
    assert features.vectors.shape == (0, 8)


def test_a_shard_of_which_most_images_are_lost_is_refused_unless_it_is_allowed(tmp_path, work):
    coco = write_coco(tmp_path / "train2014.zip", {"1 ": b"damaged"})
    ids = ["1 ", "2 "]
    with pytest.raises(ArchiveError, match=r"2 of 2 images cannot be made from .*train2014.zip: 100.0%"):
        encode(coco, work, ids=ids)
    features, encoder = encode(coco, work, ids=ids, max_lost=1.0)
    assert (features.ids, encoder.images, features.rejected["status"].to_list()) == ([], 0, ["quarantined", "missing"])


def test_an_archive_without_one_of_the_images_is_refused_before_any_work(tmp_path, work):
    path = write_zip(tmp_path / "train2014.zip", {f"coco/{locate_image('1 ')}": draw_jpeg(1)})
    members = open_members(RawArchive(path, identify(path)))
    with pytest.raises(ArchiveError, match="holds none of the 30 members") as raised:
        encode_image_shard(pair(IDS), members, make_passport(), forbid, work, max_lost=1.0)
    assert "found: coco/train2014/COCO_train2014_000000000001.jpg" in raised.value.details[1]
    assert list(tmp_path.iterdir()) == [tmp_path / "train2014.zip"]


def test_an_encoder_other_than_described_is_refused(coco, work):
    with pytest.raises(PervlError, match="precision fp32 / fp16"):
        encode_image_shard(pair(IDS), coco, make_passport(), lambda: FakeEncoder(make_passport(precision="fp16")), work)


def test_a_second_run_is_refused_while_one_is_encoding(coco, work):
    encode(coco, work)
    with _lock(work):
        with pytest.raises(WriteError, match=f"Another run is encoding {work.stem} right now"):
            encode(coco, work)
        clear_chunks(work)
        assert work.is_dir()
    clear_chunks(work)
    assert list(work.parent.glob("shard.*")) == []


KILLED = """
import multiprocessing, os, sys, time
from pathlib import Path
from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.archives.members import open_members
from pervl_assets.clip.encode_images import encode_image_shard
from pervl_assets.clip.preprocessing import Preprocessing
from pervl_assets.inversion.sources import locate_image
from pervl_assets_tests.core.samples import write_zip
from pervl_assets_tests.inversion.kit import FakeEncoder, make_passport

class Hanging(FakeEncoder):
    def encode_images(self, images):
        if len(self.batches) == 3:
            workers = " ".join(str(child.pid) for child in multiprocessing.active_children())
            Path(sys.argv[2], "hangs").write_text(workers)
            time.sleep(600)
        return super().encode_images(images)

if __name__ == "__main__":
    archive = Path(sys.argv[1])
    members = open_members(RawArchive(archive, identify(archive)))
    encoder, ids = Hanging(make_passport(device="cuda")), sorted(f"{n} " for n in range(1, 101))
    work = Path(sys.argv[2], "shard.partial")
    images = [(image_id, locate_image(image_id)) for image_id in ids]
    sizes = {"batch_size": 16, "chunk_size": 16}
    encode_image_shard(images, members, encoder.passport, lambda: encoder, work, workers=2, **sizes)
"""


def test_a_killed_run_is_taken_up_and_its_workers_end(tmp_path, work):
    ids = sorted(f"{number} " for number in range(1, 101))
    coco = write_coco(tmp_path / "train2014.zip", {image_id: draw_jpeg(int(image_id)) for image_id in ids})
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    root = str(Path(__file__).parents[2])
    run = subprocess.Popen(
        [sys.executable, str(script), str(coco.path), str(tmp_path)], env={**os.environ, "PYTHONPATH": root}
    )
    wait_until((tmp_path / "hangs").exists)
    workers = [int(pid) for pid in (tmp_path / "hangs").read_text().split()]
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert len(workers) == 2
    wait_until(lambda: not any(is_running(pid) for pid in workers))

    def resume():
        encoder = FakeEncoder(make_passport(device="cuda"))
        return encode(coco, work, encoder, ids, batch_size=16, chunk_size=16, workers=0)

    resumed, encoder = resume()
    assert encoder.images == 100 - 3 * 16
    clear_chunks(work)
    assert resumed.hash() == resume()[0].hash()


GIVEN_UP = """
import sys, time
from pathlib import Path
from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.archives.members import open_members
from pervl_assets.clip.encode_images import encode_image_shard
from pervl_assets.core.claims import Claim
from pervl_assets.core.errors import PervlError
from pervl_assets.inversion.sources import locate_image
from pervl_assets_tests.inversion.kit import FakeEncoder

class Slow(FakeEncoder):
    def encode_images(self, images):
        time.sleep(0.2)
        return super().encode_images(images)

if __name__ == "__main__":
    archive, work = Path(sys.argv[1]), Path(sys.argv[2])
    encoder, ids = Slow(), sys.argv[3].split(",")
    members = open_members(RawArchive(archive, identify(archive)))
    images, claim = [(image_id, locate_image(image_id)) for image_id in ids], Claim("run/0", lambda holder: False)
    try:
        encode_image_shard(images, members, encoder.passport, lambda: encoder, work,
                           batch_size=2, chunk_size=4, workers=0, claim=claim)
    except PervlError as error:
        print(encoder.images, error)
"""


def test_a_process_that_was_given_up_stops_at_its_next_chunk_and_nothing_is_encoded_twice(tmp_path, coco, work):
    (tmp_path / "given_up.py").write_text(GIVEN_UP)
    run = subprocess.Popen(
        [sys.executable, str(tmp_path / "given_up.py"), str(coco.path), str(work), ",".join(IDS)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: len([*work.glob("*.parquet")]) >= 2)
    sizes, asked = {"batch_size": 2, "chunk_size": 4}, []
    with pytest.raises(BusyError, match="Another run is encoding"):  # one that lives is not asked
        encode(coco, work, claim=Claim("other/0", lambda holder: bool(asked.append(holder))), **sizes)
    with pytest.raises(BusyError):  # nor is any by one without a claim
        encode(coco, work, **sizes)
    features, encoder = encode(coco, work, claim=Claim("run/1", lambda holder: holder == "run/0"), **sizes)
    text, _ = run.communicate(timeout=60)
    assert (run.returncode, asked) == (0, ["run/0"])
    before, _, reason = text.partition(" ")
    assert "was given up" in reason
    assert 8 <= int(before) < len(IDS)
    assert encoder.images == len(IDS) - int(before)
    clear_chunks(work)
    assert [path.name for path in work.parent.glob("shard*")] == []
    assert features.hash() == encode(coco, work, **sizes)[0].hash()


def test_a_request_stops_whom_it_names_and_nobody_later(coco, work):
    request, claim = work.with_name(f"{work.name}.lock-request"), Claim("run/0", lambda holder: False)
    with pytest.raises(PervlError, match="goes on with encoding shard"):
        encode(coco, work, claim=claim, on_saved=lambda file: request.write_text("run/0"))
    clear_chunks(work)  # a successor needs them
    assert len([*work.glob("*.parquet")]) == 1
    other = Claim("run/1", lambda holder: False)
    _, encoder = encode(coco, work, claim=other, on_saved=lambda file: request.write_text("run/0"))
    assert encoder.images == len(IDS) - 8


def wait_until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def is_running(pid):
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except FileNotFoundError:
        return False
