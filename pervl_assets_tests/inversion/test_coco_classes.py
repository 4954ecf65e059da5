import contextlib
import random
import time
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pervl_assets.core.errors import AnnotationError
from pervl_assets.inversion.coco_classes import (
    PYTHON_WHITESPACE,
    collect_object_sentences,
    count_object_classes,
    read_triplets,
)
from pervl_assets_tests.inversion.kit import draw_raw_kit

BASE = [
    "img_id=11 | man, ride, horse | man ride horse | a man riding a horse",
    "img_id=9712 | woman, hold, cat | woman hold cat | a woman holding a cat and a cat",
    "img_id=10136 | dog, on, dog | dog on dog | dogs on a Dog | and more",
    "img_id=5 | , in, man, tail | in man | a woman in a man",
    "img_id=11 | horse, with, man | horse with man | a * horse with a man",
    "img_id=77 | cat, sit, chair | cat sit chair |  cats sitting  ",
]


def apply_rules(text: str, top: int):
    """The upstream rules D1 to D7 in plain Python."""
    rows = []
    for line in text.removesuffix("\n").split("\n"):
        fields = line.split("|")
        parts = fields[1].split(",")
        rows.append((fields[0].split("=")[1], parts[0].strip(), parts[2].strip(), fields[3].strip()))
    joint = [(subject, i, s) for i, subject, _, s in rows] + [(object_, i, s) for i, _, object_, s in rows]
    classes = Counter(name for name, _, _ in joint).most_common(top)
    sentences = {
        name: [(i, s, s.replace(name, "*", 1)) for other, i, s in joint if other == name] for name, _ in classes
    }
    return classes, sentences


def compute(path: Path, top: int):
    triplets = read_triplets(path)
    classes = count_object_classes(triplets.frame, top)
    sentences = collect_object_sentences(triplets.frame, classes)
    assert sentences["class_row"].is_sorted()
    by_name = {
        name: sentences.filter(pl.col("class_row") == row).select("image_id", "sentence", "masked_sentence").rows()
        for row, name in classes.select("class_row", "name").iter_rows()
    }
    assert sentences.height == sum(map(len, by_name.values()))
    return classes.select("name", "triplets").rows(), by_name


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_rules_on_lines_with_every_quirk(tmp_path):
    text = "\n".join(BASE) + "\n"
    classes, sentences = compute(write(tmp_path / "svo.txt", text), 5)
    assert (classes, sentences) == apply_rules(text, 5)
    assert classes[:4] == [("man", 3), ("dog", 2), ("horse", 2), ("cat", 2)]  # ties: subjects come before objects
    assert sentences["man"] == [
        ("11 ", "a man riding a horse", "a * riding a horse"),
        ("5 ", "a woman in a man", "a wo* in a man"),
        ("11 ", "a * horse with a man", "a * horse with a *"),
    ]
    assert sentences["dog"] == [("10136 ", "dogs on a Dog", "*s on a Dog")] * 2
    everything = compute(write(tmp_path / "svo.txt", text), 100)[1]
    assert everything[""] == [("5 ", "a woman in a man", "*a woman in a man")]
    assert everything["chair"] == [("77 ", "cats sitting", "cats sitting")]


def test_counts_different_images_of_a_class(tmp_path):
    classes = count_object_classes(read_triplets(write(tmp_path / "svo.txt", "\n".join(BASE))).frame, 1)
    assert classes.select("name", "triplets", "images").rows() == [("man", 3, 2)]


LINES = "\n".join(BASE)
WELL_FORMED = {
    "no final newline": LINES,
    "crlf": "\r\n".join(BASE) + "\r\n",
    "carriage returns": "\r".join(BASE) + "\r",
    "byte order mark": b"\xef\xbb\xbf" + LINES.encode(),
    "blank lines": "\n \n" + "\n\t\n".join(BASE) + "\n\n\n",
}


@pytest.mark.parametrize("variant", WELL_FORMED)
def test_unusual_but_well_formed_files_have_the_same_result(tmp_path, variant):
    path = write(tmp_path / "svo.txt", WELL_FORMED[variant])
    assert compute(path, 100) == apply_rules(LINES, 100)
    triplets = read_triplets(path)
    assert triplets.malformed.is_empty()
    assert triplets.blank_lines == (9 if variant == "blank lines" else 0)


@pytest.mark.parametrize("blank", ["", "\t", "  "])
def test_the_id_keeps_the_whitespace_before_the_bar(tmp_path, blank):
    path = write(tmp_path / "svo.txt", f"img_id=57870{blank}| man, on, hill | x | a man")
    assert read_triplets(path).frame["image_id"].to_list() == [f"57870{blank}"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"img_id=57870 | man, ride, horse", "2 of 4 fields"),
        (b"img_id=57870 | man, ride, horse | man ride horse", "3 of 4 fields"),
        (b"img_id | triplet | lemma | sentence", "no = before"),
        (b"57870 | man, ride, horse | x=y | a man", "no = before"),
        (b"img_id=57870 | man, ride | man ride | a man riding", "2 of 3 parts"),
        (b"img_id=man | man, ride, horse | x | a man", "not a whole number"),
        (b"img_id=-5 | man, ride, horse | x | a man", "not a whole number"),
        ("img_id=٣ | man, ride, horse | x | a man".encode(), "not a whole number"),
        (b"img_id=1234567890123 | man, ride, horse | x | a man", "not a whole number"),
        (b"img_id= | man, ride, horse | x | a man", "not a whole number"),
        (b"img_id=57870 | man, in, caf\xe9 | x | a man in a caf\xe9", "not UTF-8"),
    ],
)
@pytest.mark.parametrize("position", [0, 3, 6])
def test_malformed_lines_are_quarantined_with_number_and_reason(tmp_path, line, reason, position):
    lines = [one.encode() for one in BASE]
    lines.insert(position, line)
    path = write(tmp_path / "svo.txt", b"\n".join(lines))
    triplets = read_triplets(path)
    assert triplets.malformed["line"].to_list() == [position + 1]
    assert reason in triplets.malformed["reason"].item()
    assert triplets.malformed["text"].item() == line.decode(errors="replace")
    assert triplets.frame["line"].to_list() == [n for n in range(1, 8) if n != position + 1]
    assert compute(path, 100) == apply_rules(LINES, 100)


def test_an_empty_sentence_is_accepted(tmp_path):
    path = write(tmp_path / "svo.txt", "img_id=57870 | man, ride, horse | x | ")
    assert read_triplets(path).frame["sentence"].to_list() == [""]


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff", "img_id | a\n", "\n".join(["bad"] * 3)])
def test_a_file_without_a_triplet_is_refused(tmp_path, text):
    with pytest.raises(AnnotationError, match="contains no triplet"):
        read_triplets(write(tmp_path / "svo.txt", text))


def test_too_many_malformed_lines_are_refused_with_counts_and_numbers(tmp_path):
    path = write(tmp_path / "svo.txt", "\n".join([BASE[0]] * 96 + ["bad"] * 4))
    with pytest.raises(AnnotationError, match=r"4 of 100 lines .*\(4\.0%;(.|\n)*line 97: 1 of 4 fields") as error:
        read_triplets(path)
    assert "img_id=<id>" in error.value.advice
    many = write(tmp_path / "svo.txt", "\n".join([BASE[0]] * 996 + ["bad"] * 4))
    assert read_triplets(many).malformed.height == 4


def test_whitespace_is_what_python_strips():
    assert set(PYTHON_WHITESPACE) == {chr(code) for code in range(0x110000) if chr(code).isspace()}


word = st.sampled_from(["man", "Man", "woman", "dog", "", " ", "é", "a*", "\x1f", "人", "(", "$1", "a b"])
text = st.lists(word, max_size=6).map(" ".join)
line = st.builds(
    "img_id={}{}|{},{},{}|{}|{}".format,
    st.integers(0, 20),
    st.sampled_from(["", " ", "  ", "\t"]),
    word,
    word,
    word,
    text,
    st.one_of(text, st.just("a man | cut")),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(line, min_size=1, max_size=12), st.integers(1, 8), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_any_well_formed_file_follows_the_rules(tmp_path_factory, lines, top, line_break, ends):
    content = line_break.join(lines) + (line_break if ends else "")
    path = write(tmp_path_factory.mktemp("svo") / "svo.txt", content)
    assert compute(path, top) == apply_rules(path.read_text(encoding="utf-8"), top)


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    return draw_raw_kit(tmp_path_factory.mktemp("raw"), "svo")


@given(st.text("img_id=1|, a\0\r\n\u2028", max_size=60).map(str.encode) | st.binary(max_size=30))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "triplets.txt"
    path.write_bytes(data)
    with contextlib.suppress(AnnotationError):
        collect_object_sentences(triplets := read_triplets(path).frame, count_object_classes(triplets, 3))


def test_values_of_the_raw_kit(kit):
    path = kit / "inversion_model_train_data/mscoco-train2014-svo-2016-02-18.txt"
    expected = apply_rules(path.read_text(encoding="utf-8"), 1000)
    assert compute(path, 1000) == expected
    assert compute(path, 24) == apply_rules(path.read_text(encoding="utf-8"), 24)


QUARANTINED = {"fields2": 31, "fields3": 31, "header_line": 1, "latin1": 61, "no_equals": 31, "two_part_triplet": 31}


def test_every_variant_of_the_raw_kit(kit):
    base = read_triplets(kit / "variants/svo_base60.txt").frame.drop("line")
    same = {"blank_line_end", "blank_line_mid", "bom", "crlf", "no_final_newline", "base60"}
    for path in sorted((kit / "variants").glob("svo_*.txt")):
        name = path.stem.removeprefix("svo_")
        if name == "empty_file":
            with pytest.raises(AnnotationError):
                read_triplets(path)
            continue
        triplets = read_triplets(path)
        assert triplets.malformed["line"].to_list() == ([QUARANTINED[name]] if name in QUARANTINED else []), name
        assert triplets.blank_lines == int(name.startswith("blank_line")), name
        if name in same | QUARANTINED.keys():
            assert triplets.frame.drop("line").equals(base), name
        elif "before_bar" in name:
            stripped = pl.col("image_id").str.strip_chars()
            assert triplets.frame.drop("line").with_columns(stripped).equals(base.with_columns(stripped)), name
        elif name != "images_in_zip":
            assert triplets.frame.height == 61, name


def test_full_size_is_fast(tmp_path):
    draw = random.Random(0).randrange
    triples = [(draw(82783), draw(1500), draw(300)) for _ in range(400_000)]
    lines = [f"img_id={i} | thing{a}, near, thing{b} | x | a thing{a} near a thing{b}\n" for i, a, b in triples]
    path = write(tmp_path / "svo.txt", "".join(lines))
    start = time.perf_counter()
    triplets = read_triplets(path)
    classes = count_object_classes(triplets.frame, 1000)
    sentences = collect_object_sentences(triplets.frame, classes)
    assert time.perf_counter() - start < 5
    assert (triplets.frame.height, classes.height, sentences.height > 400_000) == (400_000, 1000, True)
