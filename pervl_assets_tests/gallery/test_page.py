"""The page of the gallery: complete, deterministic, and in which a name is text only."""

import base64
import hashlib
import json
from html.parser import HTMLParser

import pytest
from PIL import Image

from pervl_assets.core.errors import PervlError
from pervl_assets.gallery.collection import collect
from pervl_assets.gallery.page import write_gallery
from pervl_assets_tests.gallery.samples import HOSTILE, make_source


class Page(HTMLParser):
    """The elements of a page, and the text in those of each kind."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        self.elements.append((f"/{tag}", {}))

    def handle_data(self, data):
        if self.elements and self.elements[-1][0] in self.texts:
            self.texts[self.elements[-1][0]][-1] += data


@pytest.fixture
def written(tmp_path):
    source = make_source(tmp_path)
    return write_gallery([collect(source)], ["<b>no licence</b>"], tmp_path / "out")


def read_data(page) -> dict:
    return json.loads(Page(page.read_text()).texts["script"][0])


def test_every_image_has_a_small_copy_or_a_reason(written):
    (collection,) = read_data(written.page)["collections"]
    images = {image["path"]: image for image in collection["images"]}
    assert len(images) == 11
    assert written.images == 10
    assert images["codes_infer/ben_blue/2.jpg"]["fault"] == "quarantined: no JPEG"
    folder = written.page.parent / "images"
    named = {image[kind] for image in images.values() for kind in ("file", "mask") if kind in image}
    assert {file.name for file in folder.iterdir()} == named
    for image in images.values():
        if "file" in image:
            with Image.open(folder / image["file"]) as copy:
                assert [*copy.size] == image["size"] == [40, 30]
    assert written.bytes == sum(file.stat().st_size for file in (written.page, *folder.iterdir()))


def test_the_box_is_in_percent_and_the_mask_is_a_tint_of_the_object(written):
    (collection,) = read_data(written.page)["collections"]
    frame = next(image for image in collection["images"] if image["role"] == "frame")
    assert frame["box"] == [25.0, 16.67, 25.0, 33.33]
    with Image.open(written.page.parent / "images" / frame["mask"]) as opened:
        mask = opened.convert("RGBA")
    assert mask.getpixel((15, 10)) == (255, 0, 120, 110)
    assert mask.getpixel((25, 10))[3] == 0


def test_a_box_of_another_frame_is_not_drawn(tmp_path):
    source = make_source(tmp_path)
    Image.new("RGB", (30, 30)).save(tmp_path / "frames/frame.jpg")
    (collection,) = read_data(write_gallery([collect(source)], [], tmp_path / "out").page)["collections"]
    frame = next(image for image in collection["images"] if image["role"] == "frame")
    assert not frame.keys() & {"box", "mask"}


def test_a_damaged_image_is_shown_as_its_reason(tmp_path):
    source, seen = make_source(tmp_path), []
    (tmp_path / "tree/eval/test/anna_red.jpg").write_bytes(b"no image")
    (tmp_path / "frames/mask.png").write_bytes(b"no mask")
    written = write_gallery([collect(source)], [], tmp_path / "out", lambda *counts: seen.append(counts))
    images = read_data(written.page)["collections"][0]["images"]
    assert images[0]["fault"].startswith("the image cannot be decoded")
    assert images[1].keys() >= {"file", "box"}
    assert "mask" not in images[1]
    assert written.images == 9
    assert sorted(seen) == [(number, 11) for number in range(1, 12)]


def test_names_and_captions_are_data_and_only_the_script_of_the_package_may_run(written):
    html = written.page.read_text()
    page = Page(html)
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert not {"img", "b"} & {tag for tag, _ in page.elements}
    assert "\u202e" not in html
    data = read_data(written.page)
    first = data["collections"][0]["images"][0]
    assert first["captions"][0][1] == HOSTILE.replace("\u202e", r"\u202e")
    assert data["notes"] == ["<b>no licence</b>"]
    (policy,) = [of["content"] for _, of in page.elements if of.get("http-equiv")]
    digest = base64.b64encode(hashlib.sha256(page.texts["script"][1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; img-src 'self' file:;")
    script = page.texts["script"][1]
    assert not [
        word for word in ("innerHTML", "eval(", "outerHTML", "document.write", "fetch", "http") if word in script
    ]


def test_equal_input_gives_equal_bytes_and_earlier_copies_are_removed(written, tmp_path):
    before = {file.name: file.read_bytes() for file in sorted(written.page.parent.rglob("*.*"))}
    Image.new("RGB", (40, 30), "pink").save(tmp_path / "tree/eval/test/anna_red.jpg")
    (written.page.parent / "images/mine.jpg").write_bytes(b"mine")
    (tmp_path / "other").mkdir()
    assert write_gallery([collect(make_source(tmp_path / "other"))], ["<b>no licence</b>"], written.page.parent)
    (written.page.parent / "images/mine.jpg").unlink()
    assert {file.name: file.read_bytes() for file in sorted(written.page.parent.rglob("*.*"))} == before


def test_a_page_of_another_kind_is_not_replaced(tmp_path):
    (tmp_path / "index.html").write_text("<h1>Anna</h1>")
    with pytest.raises(PervlError, match=r"is no gallery.*\n.*--out FOLDER"):
        write_gallery([], [], tmp_path)
    assert (tmp_path / "index.html").read_text() == "<h1>Anna</h1>"
