"""The picture of the best and worst queries."""

import io

from PIL import Image

from pervl_assets.evaluation.examples import choose_examples
from pervl_assets.evaluation.pictures import draw_examples, list_images, read_image
from pervl_assets.trees.contact_sheet import MAX_BYTES
from pervl_assets_tests.evaluation.pictured import make_draws, make_queries, make_ranks, make_tree


def choose(seed=1):
    return choose_examples(make_ranks(seed=seed), make_queries(), make_draws())


def test_it_shows_the_images_of_each_query_and_fits_into_the_event_log(tmp_path):
    data = draw_examples(make_tree(tmp_path), choose())
    assert len(data) <= MAX_BYTES
    with Image.open(io.BytesIO(data)) as image:
        assert image.width == 760
        pixels = image.convert("RGB").getcolors(image.width * image.height)
    shown = {name: sum(count for count, colour in pixels if is_near(colour)) for name, is_near in COLOURS.items()}
    assert all(count > 2 * 70 * 100 for count in shown.values()), shown


COLOURS = {
    "red": lambda colour: colour[0] > 200 and max(colour[1:]) < 60,
    "green": lambda colour: 90 < colour[1] < 170 and max(colour[0], colour[2]) < 60,
    "blue": lambda colour: colour[2] > 200 and max(colour[:2]) < 60,
}


def test_an_image_that_is_not_there_leaves_an_empty_tile(tmp_path):
    tree = make_tree(tmp_path)
    (tmp_path / "eval/test/anna_red.jpg").write_bytes(b"damaged")
    (tmp_path / "eval/test/ben_blue.jpg").unlink()
    assert read_image(tree, "eval/test/anna_red.jpg", 50) is None
    assert read_image(tree, "eval/test/ben_blue.jpg", 50) is None
    assert read_image(tree, "eval/test/cleo_green.jpg", 20).size == (20, 15)
    assert draw_examples(tree, choose())


def test_what_was_asked_for_and_found_is_named_once():
    best, worst = choose(2).best[0], choose(2).worst[0]
    assert [label for label, _ in list_images(best)] == ["asked for, found", "few-shot, 2 x"]
    assert [label for label, _ in list_images(worst)] == ["asked for", "found instead", "few-shot, 2 x"]
