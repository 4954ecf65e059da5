from collections import Counter
from random import Random

import numpy as np
import pytest

from pervl_assets.demo.drawing import COLOURS, Look, paint_stamp, shade
from pervl_assets.demo.places import PLACES, RARITIES, paint_place
from pervl_assets.demo.scenes import CLASSES, PAINTERS, THINGS, choose_look, compose_scene, render
from pervl_assets.demo.sentences import SYNONYMS, add_article, describe_scene


@pytest.mark.parametrize("thing", THINGS)
def test_a_stamp_shows_its_colour_on_a_transparent_tile(thing):
    reds, blues = (np.asarray(paint_stamp(PAINTERS[thing], Look(colour), 90)).astype(int) for colour in ("red", "blue"))
    assert reds.shape == (90, 90, 4)
    assert 0.05 < (reds[..., 3] > 128).mean() < 0.85
    assert (reds[..., 3] == blues[..., 3]).all()
    assert (np.abs(reds[..., :3] - blues[..., :3]).sum(2) > 60).mean() > 0.02


def test_a_flipped_stamp_is_the_mirror_image():
    right, left = (paint_stamp(PAINTERS["dog"], Look("brown", flip=flip), 80) for flip in (False, True))
    difference = np.asarray(right).astype(int)[:, ::-1] - np.asarray(left).astype(int)
    assert np.abs(difference).max() <= 2


def test_shades_stay_colours():
    assert shade(COLOURS["white"], 2.0) == (255, 255, 255)
    assert shade(COLOURS["red"], 0.0) == (0, 0, 0)


@pytest.mark.parametrize("place", PLACES)
def test_a_place_depends_on_its_seed_only(place):
    first, same, other = (np.asarray(paint_place(place, seed, 160, 120)) for seed in ("a", "a", "b"))
    assert (first == same).all()
    assert (first != other).any()


@pytest.mark.parametrize("rarity", RARITIES)
def test_a_rarity_is_seen(rarity):
    plain, with_it = (np.asarray(paint_place("sky", "a", 160, 120, name)).astype(int) for name in (None, rarity))
    assert (np.abs(plain - with_it).sum(2) > 40).mean() > 0.01


def test_every_class_has_synonyms_of_its_own():
    assert set(SYNONYMS) == set(CLASSES)
    assert max(Counter(name for names in SYNONYMS.values() for name in names).values()) == 1


@pytest.mark.parametrize("thing", THINGS)
def test_figures_are_seen_within_what_clip_keeps(thing):
    for number in range(6):
        scene = compose_scene(Random(f"{thing}/{number}"), thing, alone=number == 0)
        picture, mask = render(scene)
        assert picture.size == (scene.width, scene.height) == mask.shape[::-1]
        assert thing in {figure.thing for figure in scene.figures}
        side = scene.height * 224 // 300
        top, left = (scene.height - side) // 2, (scene.width - side) // 2
        kept = mask[top : top + side, left : left + side]
        for instance in range(1, len(scene.figures) + 1):
            assert (mask == instance).sum() > 150
            assert (kept == instance).sum() > 0.6 * (mask == instance).sum()


def test_sentences_are_true_of_the_masks():
    counts = Counter()
    for number in range(150):
        random = Random(f"true/{number}")
        scene = compose_scene(random, THINGS[number % len(THINGS)])
        facts = describe_scene(scene, random)
        _, mask = render(scene)
        (y0, x0), (y1, x1) = (np.argwhere(mask == instance).mean(0) for instance in (1, 2))
        first, second = scene.figures
        for fact in facts:
            assert fact.subject in fact.sentence
            assert fact.object in fact.sentence
            counts[fact.relation] += 1
        sentence = facts[0].sentence
        assert first.look.colour in sentence
        assert second.look.colour in sentence
        if "to the left of" in sentence:
            assert x0 < x1
        if "to the right of" in sentence:
            assert x0 > x1
        if facts[0].relation in ("above", "on"):
            assert y0 < y1
        if facts[0].relation == "on":
            touching = np.argwhere(mask == 1)[:, 0].max() - np.argwhere(mask == 2)[:, 0].min()
            assert touching >= -2
    assert min(counts[name] for name in ("near", "beside", "above", "under", "hold", "by", "with")) >= 3


def test_things_of_one_class_look_different():
    looks = {(look.colour, look.marking) for look in (choose_look(Random(k), "fish") for k in range(40))}
    assert len(looks) >= 10


def test_articles():
    assert add_article("orange dog") == "an orange dog"
    assert add_article("green dog") == "a green dog"
