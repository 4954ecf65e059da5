import csv
import re

from pervl_assets.demo.scenes import CLASSES
from pervl_assets.demo.sentences import SYNONYMS


def test_class_names_have_the_oddities_of_the_real_list(drawn):
    text = (drawn / "inversion_model_train_data/oidv6-class-descriptions.csv").read_text(encoding="utf-8")
    rows = list(csv.reader(text.splitlines()))
    assert rows[0] == ["LabelName", "DisplayName"]
    assert 140 <= len(rows) - 1 <= 200
    assert all(re.fullmatch(r"/m/0[0-9a-z]+", label) for label, _ in rows[1:])
    names = [name for _, name in rows[1:]]
    assert len(set(names)) == len(names) == len({label for label, _ in rows[1:]})
    assert sum("," in name for name in names) >= 3
    assert sum('"' in name for name in names) >= 2
    assert sum(not name.isascii() for name in names) >= 4
    assert text.count('""') >= 3


def test_class_names_contain_every_class_and_its_synonyms(drawn):
    text = (drawn / "inversion_model_train_data/oidv6-class-descriptions.csv").read_text(encoding="utf-8").lower()
    for name in [*CLASSES, *(synonym for names in SYNONYMS.values() for synonym in names)]:
        assert f",{name}\n" in text
