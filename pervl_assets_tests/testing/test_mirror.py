"""The mirror serves the public inputs, changed files too, and 503 while it is down."""

import httpx

from pervl_assets.testing.worlds import locate_raw

NAMES = "inversion_model_train_data/oidv6-class-descriptions.csv"


def test_public_inputs_are_served_and_can_change(mirror, synthetic_raw):
    assert mirror.url.startswith("http://127.0.0.1:")
    assert httpx.get(mirror.url + NAMES).content == (synthetic_raw / NAMES).read_bytes()
    (mirror.folder / NAMES).write_text("new")
    assert httpx.get(mirror.url + NAMES).text == "new"
    mirror.down = True
    assert httpx.get(mirror.url + NAMES).status_code == 503


def test_inputs_that_are_downloaded_by_hand_are_not_served(mirror):
    assert not locate_raw(mirror.folder, "youtube_vos_train").exists()
    assert httpx.get(mirror.url + "youtube_vos/train.zip").status_code == 404
