"""Sentences about a scene. Every sentence is true of the picture."""

from dataclasses import dataclass
from random import Random
from typing import Final

from pervl_assets.demo.creatures import CREATURES
from pervl_assets.demo.places import PLACES
from pervl_assets.demo.scenes import Figure, Scene

SYNONYMS: Final[dict[str, tuple[str, ...]]] = {
    "dog": ("puppy", "hound"), "cat": ("kitten", "tabby cat"), "horse": ("pony", "stallion"),
    "elephant": ("african elephant", "indian elephant"), "bird": ("sparrow", "songbird"),
    "fish": ("goldfish", "reef fish"), "turtle": ("tortoise", "sea turtle"), "person": ("human", "pedestrian"),
    "car": ("automobile", "sedan"), "bus": ("coach", "minibus"), "train": ("locomotive", "steam engine"),
    "boat": ("sailboat", "yacht"), "airplane": ("aircraft", "jet"), "bicycle": ("bike", "city bike"),
    "umbrella": ("parasol", "rain umbrella"), "ball": ("beach ball", "toy ball"),
    "kite": ("paper kite", "diamond kite"), "balloon": ("hot-air balloon", "montgolfier"), "cup": ("mug", "teacup"),
    "cake": ("birthday cake", "torte"), "chair": ("seat", "kitchen chair"), "tree": ("fruit tree", "apple tree"),
    "flower": ("blossom", "daisy"), "grass": ("meadow", "lawn"), "beach": ("seashore", "sandy coast"),
    "street": ("road", "town street"), "snow": ("snowy mountains", "winter landscape"),
    "room": ("living room", "interior"), "sea": ("ocean", "underwater"), "sky": ("clouds", "blue sky"),
}  # fmt: skip
"""Other names of every class: synonyms, or kinds of it."""

_VERBS: Final = {
    "cat": "sits", "car": "is parked", "bus": "is parked", "bicycle": "is parked", "boat": "sails",
    "airplane": "flies", "kite": "flies", "balloon": "floats", "fish": "swims", "umbrella": "is", "ball": "lies",
    "cup": "is", "cake": "is", "chair": "is", "flower": "grows",
}  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """A statement about a scene: subject, relation and object as a triplet, and the sentence it comes from."""

    subject: str
    relation: str
    object: str
    sentence: str


def add_article(words: str) -> str:
    """Return the words with `a` or `an` before them."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def describe(figure: Figure, name: str | None = None) -> str:
    """Return words for a figure without its article: `spotted brown dog`, `person in red`."""
    name = name or figure.thing
    if figure.thing == "person":
        return f"{name} in {figure.look.colour}"
    marked = figure.thing in CREATURES and figure.thing != "turtle" and figure.look.marking != "plain"
    return f"{figure.look.marking} {figure.look.colour} {name}" if marked else f"{figure.look.colour} {name}"


def choose_verb(figure: Figure, place: str) -> str:
    """Return the verb of a figure in a place: `stands`, `is parked`, `swims` and so on."""
    if figure.thing == "turtle" and place == "sea":
        return "swims"
    if figure.thing == "bird" and (place == "sky" or not figure.grounded):
        return "flies"
    if figure.thing == "flower" and place == "room":
        return "stands"
    return _VERBS.get(figure.thing, "stands")


def _describe_place(scene: Scene) -> Fact:
    """Return the place of the lowest figure of a scene."""
    figure, where = max(scene.figures, key=lambda figure: figure.y), PLACES[scene.place].phrase
    sentence = f"{add_article(describe(figure))} {choose_verb(figure, scene.place)} {where}"
    return Fact(figure.thing, where.split()[0], scene.place, sentence)


def describe_scene(scene: Scene, random: Random) -> list[Fact]:
    """Return the facts of a scene: relations of its figures in both directions, their place, sun, moon or rainbow."""
    where = PLACES[scene.place].phrase
    facts: list[Fact] = []
    if scene.relation is not None:
        first, second = scene.figures
        a, b = add_article(describe(first)), add_article(describe(second))
        verb_a, verb_b = choose_verb(first, scene.place), choose_verb(second, scene.place)
        if scene.relation == "above":
            there, back = ("above", f"{a} {verb_a} above {b} {where}"), ("under", f"{b} {verb_b} under {a} {where}")
        elif scene.relation == "on":
            sits = "sits" if first.thing in CREATURES else "is"
            there, back = ("on", f"{a} {sits} on {b} {where}"), ("with", f"{b} with {a} on it {where}")
        elif scene.relation == "hold":
            there, back = ("hold", f"{a} holds {b} {where}"), ("by", f"{b} held by {a} {where}")
        else:
            side, other = ("left", "right") if first.x < second.x else ("right", "left")
            there = ("near", random.choice([f"{a} {verb_a} next to {b} {where}", f"{a} to the {side} of {b} {where}"]))
            back = ("beside", random.choice([f"{b} {verb_b} beside {a} {where}", f"{b} to the {other} of {a} {where}"]))
        facts = [Fact(first.thing, there[0], second.thing, there[1]), Fact(second.thing, back[0], first.thing, back[1])]
    facts.append(_describe_place(scene))
    if scene.rarity is not None:
        figure = scene.figures[-1]
        sentence = f"{add_article(describe(figure))} {choose_verb(figure, scene.place)} under the {scene.rarity}"
        facts.append(Fact(figure.thing, "under", scene.rarity, sentence))
    return facts
