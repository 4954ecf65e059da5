"""Synthetic OpenImages: a CSV of class names, many of them kinds of the classes of the demo data.

It has the unusual features of the real file: a header, quoted names with commas, doubled quotes, non-ASCII letters. The
ids are made up.
"""

from pathlib import Path
from random import Random
from typing import Final

from pervl_assets.core.files import write_bytes_atomically
from pervl_assets.core.tables import encode_csv
from pervl_assets.demo.builder import Builder, RawInput
from pervl_assets.demo.scenes import CLASSES
from pervl_assets.demo.sentences import SYNONYMS

_OTHERS: Final = """
Brown dog; White cat; Black horse; Grey elephant; Red bird; Orange fish; Green turtle; Red car; Yellow bus; Blue train
White boat; White airplane; Blue bicycle; Red umbrella; Striped ball; Purple kite; Red balloon; White cup; Pink cake
Wooden chair; Green tree; Yellow flower; Spotted dog; Striped cat; Old car; Small boat; Flying bird; Parked car
Green grass; Busy street; Deep snow; Empty room; Deep sea; Evening sky; Sun; Moon; Rainbow; Standing person
Bird on a horse; Cup on a chair; Cat on a car; Dog in the snow; Boat in the sea; Kite in the sky; Person on the beach
Lantern; Violin; Bridge; Spoon; Window; Mountain; Cheese; Piano; Ladder; Candle; Notebook; Harbour; Basket; Rug
""".replace("\n", ";").split(";")
_ODD: Final = (
    "Cups, mugs and saucers",
    "Cars, buses and trains",
    "Cats, dogs and other pets",
    'Bicycle with 26" wheels',
    'The "little red" car',
    "Café chair",
    "Crème cake",
    "Fjord boat “Ægir”",
    "Jalapeño",
    "Piñata",
)


def list_names() -> list[str]:
    """Return every class name: the object classes, their synonyms, some kinds of them, and others."""
    known = [*CLASSES, *(name for names in SYNONYMS.values() for name in names)]
    names = [name.capitalize() for name in known] + [name.strip() for name in _OTHERS if name.strip()]
    return list(dict.fromkeys([*names, *_ODD]))


def _write_descriptions(target: Path, seed: int) -> None:
    random = Random(f"{seed}/open_images")
    names = list_names()
    random.shuffle(names)
    numbers = random.sample(range(36**4, 36**5), len(names))
    rows = ((f"/m/0{_to_base36(number)}", name) for number, name in zip(numbers, names, strict=True))
    write_bytes_atomically(target, encode_csv(("LabelName", "DisplayName"), rows))


def _to_base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits


BUILDER: Final = Builder(
    raw={
        "openimages_class_descriptions": RawInput(
            "inversion_model_train_data/oidv6-class-descriptions.csv", _write_descriptions
        )
    }
)
